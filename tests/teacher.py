"""A run of the loop whose every choice is made for it, and what the model thinks of the choices.

Nothing but the public interface: a logits processor picks the right ids, a callback turns every
step's latents into the right picture with known noise on it, a trigger says when to draw. What is
recorded is exactly what training minimises.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from data.protocols import PROTOCOLS, Decision, Protocol, Written
from modeling.flow import schedule
from picturebook import Story, render

POINTS, SHIFT = 4, 2.0  # of the times at which velocities are compared


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A story as tokens and latents.

    Attributes:
        prompt: what the caller gives.
        texts: the right ids of each text, with a thought in front where there is a plan.
        pictures: the right latents, (tokens, patch values), one a picture.
        seen: each as it is seen again once drawn, decoded from its latents.
        noises: the noise on each, of the latents' shape.
    """

    prompt: str
    texts: tuple[tuple[int, ...], ...]
    pictures: tuple[Tensor, ...]
    seen: tuple[Image.Image, ...]
    noises: tuple[Tensor, ...]
    thinks: bool = False


def lesson_of(
    inferencer: AutoInterleavedInferencer, story: Story, *, think: bool = False
) -> Lesson:
    """Encode a story that the model writes itself."""
    texts = [step.text for step in story.steps] + [story.closing]
    if think:
        texts = [f"<think>{story.thought}</think>", *texts]
    latents = [inferencer.encode_image(render(step.scene))[0] for step in story.steps]
    generator = torch.Generator().manual_seed(7)
    return Lesson(
        prompt=story.prompt,
        texts=tuple(tuple(inferencer.encode_text(text)) for text in texts),
        pictures=tuple(latents),
        seen=tuple(inferencer.decode_image(latent, inferencer.image_shape) for latent in latents),
        noises=tuple(torch.randn(latent.shape, generator=generator) for latent in latents),
        thinks=think,
    )


@dataclass(kw_only=True)
class Heard:
    """What the model thought.

    Attributes:
        text: negative log-likelihood of every token, eos included.
        velocities: of every picture at every time but the first, (tokens, patch values) each.
        next_ids: the likeliest id after the eos of each text.
    """

    text: list[float] = field(default_factory=list)
    velocities: list[list[Tensor]] = field(default_factory=list)
    next_ids: list[int] = field(default_factory=list)

    def text_loss(self) -> float:
        return sum(self.text) / len(self.text)

    def picture_loss(self, lesson: Lesson) -> float:
        """The mean squared error of all velocities."""
        errors = [
            (velocity - (noise - clean)).square().mean()
            for drawn, clean, noise in zip(
                self.velocities, lesson.pictures, lesson.noises, strict=True
            )
            for velocity in drawn
        ]
        return float(torch.stack(errors).mean())


class Teacher:
    """Makes every choice of one run."""

    def __init__(self, lesson: Lesson, eos: int) -> None:
        self.lesson = lesson
        self.heard = Heard()
        self._expected = [id_ for text in lesson.texts for id_ in (*text, eos)]
        self._times = schedule(POINTS, SHIFT)

    def choose(self, ids: Tensor, scores: Tensor) -> Tensor:
        right = self._expected[len(self.heard.text)]
        self.heard.text.append(-float(scores.log_softmax(-1)[0, right]))
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([right]), 0.0)

    def trigger(self, written: Written) -> Decision:
        if not written.ended:
            return "write"
        assert written.next_id is not None
        self.heard.next_ids.append(written.next_id)
        return "draw" if written.num_images < len(self.lesson.pictures) else "stop"

    def after_step(
        self, _: object, step: int, time: float, state: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if step == 0:
            self.heard.velocities.append([])
        number, following = len(self.heard.velocities) - 1, self._times[step + 1]
        if step:
            velocity = (self._noised(number, time) - state["latents"]) / (time - following)
            self.heard.velocities[-1].append(velocity)
        return {"latents": self._noised(number, following)}

    def _noised(self, number: int, time: float) -> Tensor:
        clean, noise = self.lesson.pictures[number], self.lesson.noises[number]
        return (1 - time) * clean + time * noise


def taught(
    inferencer: AutoInterleavedInferencer,
    lesson: Lesson,
    *,
    protocol: Protocol = PROTOCOLS["native"],
    **options: Any,
) -> tuple[Heard, InterleavedOutput]:
    """Run the loop over a lesson; without guidance unless `options` say so."""
    teacher = Teacher(lesson, inferencer.eos)
    output = inferencer.auto_interleaved_generation(
        lesson.prompt,
        protocol=replace(protocol, trigger=teacher.trigger),
        logits_processor=teacher.choose,
        callback_on_step_end=teacher.after_step,
        think=lesson.thinks,
        num_timesteps=POINTS,
        timestep_shift=SHIFT,
        seed=0,
        on_error="raise",
        **{"cfg_text_scale": 1.0, "cfg_img_scale": 1.0, **options},
    )
    return teacher.heard, output
