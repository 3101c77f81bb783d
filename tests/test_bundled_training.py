"""What the bundled model learnt from is what it meets in the loop: training's forward as an oracle.

One sequence without a cache against contexts that grow, fork and are dropped: if a position, a
mask, an order or a context is off by anything, these numbers differ.
"""

from collections.abc import Sequence
from random import Random

import pytest
import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from data.packing import LatentPart, Part, TextPart, VisionPart, pack
from inferencer import GEN_THINK_SYSTEM_PROMPT
from modeling.bagel.blocks import patchify
from modeling.context import Context
from modeling.flow import ImageOptions, schedule
from modeling.published.dictionaries import value_in
from picturebook import render, sample_edit, sample_question, sample_story
from tests.bundled import bundled
from tests.teacher import POINTS, SHIFT, Heard, Lesson, lesson_of, taught
from training.tokenizer import special_ids

TOLERANCE = 5e-5  # float32, summed in another order over four layers
TIMES = schedule(POINTS, SHIFT)[1:-1]  # the first step's noise is the loop's own
GRID = (4, 4)


@pytest.fixture(scope="module")
def inferencer() -> AutoInterleavedInferencer:
    return bundled(torch.float32)


@pytest.fixture(scope="module", params=["composition", "adventure", "scenes", "howto"])
def lesson(inferencer: AutoInterleavedInferencer, request: pytest.FixtureRequest) -> Lesson:
    return lesson_of(inferencer, sample_story(Random(request.param), request.param))


def noised(lesson: Lesson, number: int) -> list[LatentPart]:
    latent = lesson.pictures[number]
    return [LatentPart(latent=latent, grid=GRID, time=time) for time in TIMES]


def read_again(
    inferencer: AutoInterleavedInferencer, lesson: Lesson, number: int
) -> tuple[Part, Part]:
    pixels = inferencer.vit_transform(lesson.seen[number])
    patch = inferencer.model.vit_patch_size
    return (
        LatentPart(latent=lesson.pictures[number], grid=GRID),
        VisionPart(patches=patchify(pixels, patch), grid=GRID),
    )


def sequence(
    inferencer: AutoInterleavedInferencer, lesson: Lesson, *, images: bool = True
) -> list[Part]:
    """Lay a lesson out as training does; with `images` noised copies without the text as well."""
    asked = [inferencer.encode_text(lesson.prompt)]
    if lesson.thinks:
        asked.insert(0, inferencer.encode_text(GEN_THINK_SYSTEM_PROMPT))
    parts: list[Part] = [TextPart(ids=tuple(ids), loss=False) for ids in asked]
    *steps, closing = lesson.texts[lesson.thinks :]
    parts += [TextPart(ids=thought) for thought in lesson.texts[: lesson.thinks]]
    for number, text in enumerate(steps):
        if images:
            parts += noised(lesson, number)
        parts += [TextPart(ids=text), *noised(lesson, number)]
        if images:
            parts += read_again(inferencer, lesson, number)
    return [*parts, TextPart(ids=closing)]


def forward(
    inferencer: AutoInterleavedInferencer, parts: Sequence[Part], lesson: Lesson
) -> tuple[list[float], Tensor]:
    """Return training's cross entropies, and its velocities (copies, tokens, patch values)."""
    copies = [part for part in parts if isinstance(part, LatentPart)]
    noise = torch.cat(
        [
            lesson.noises[next(n for n, p in enumerate(lesson.pictures) if p is copy.latent)]
            for copy in copies
        ]
    )
    velocities: list[Tensor] = []
    hook = inferencer.model.llm2vae.register_forward_hook(
        lambda module, inputs, output: velocities.append(output)
    )
    try:
        with torch.inference_mode():
            ce = inferencer.model(pack([parts], special_ids(inferencer.tokenizer)[0]), noise).ce
    finally:
        hook.remove()
    return ce.tolist(), velocities[0].unflatten(0, (-1, GRID[0] * GRID[1]))


def stacked(heard: Heard) -> Tensor:
    """The velocities that a run gave, (pictures, times, tokens, patch values)."""
    return torch.stack([torch.stack(drawn) for drawn in heard.velocities])


def close(actual: object, expected: object) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def test_texts_are_as_likely_in_the_loop_as_in_training(
    inferencer: AutoInterleavedInferencer, lesson: Lesson
) -> None:
    ce, _ = forward(inferencer, sequence(inferencer, lesson), lesson)
    heard, _ = taught(inferencer, lesson)
    close(torch.tensor(heard.text), torch.tensor(ce))


def test_a_plan_and_what_follows_are_as_likely_in_the_loop_as_in_training(
    inferencer: AutoInterleavedInferencer,
) -> None:
    story = sample_story(Random("plan"), "composition")
    lesson = lesson_of(inferencer, story, think=True)
    ce, velocities = forward(inferencer, sequence(inferencer, lesson), lesson)
    heard, output = taught(inferencer, lesson)
    assert output.thoughts == [f"<think>{story.thought}</think>"]
    close(torch.tensor(heard.text), torch.tensor(ce))
    close(stacked(heard), velocities.unflatten(0, (-1, 2, len(TIMES)))[:, 1])


def test_pictures_are_drawn_in_the_loop_as_in_training(
    inferencer: AutoInterleavedInferencer, lesson: Lesson
) -> None:
    _, velocities = forward(inferencer, sequence(inferencer, lesson), lesson)
    heard, _ = taught(inferencer, lesson)
    close(stacked(heard), velocities.unflatten(0, (-1, 2, len(TIMES)))[:, 1])


def test_guidance_takes_its_contexts_as_training_dropped_them(
    inferencer: AutoInterleavedInferencer, lesson: Lesson
) -> None:
    """Catches a context of guidance that holds too much or too little, or at other positions."""
    _, velocities = forward(inferencer, sequence(inferencer, lesson), lesson)
    without_text, full = velocities.unflatten(0, (-1, 2, len(TIMES))).unbind(1)
    _, velocities = forward(inferencer, sequence(inferencer, lesson, images=False), lesson)
    without_images = velocities.unflatten(0, (-1, len(TIMES)))
    guided = without_text + 2.5 * (full - without_text)
    expected = without_images + 1.5 * (guided - without_images)
    heard, _ = taught(
        inferencer,
        lesson,
        cfg_text_scale=2.5,
        cfg_img_scale=1.5,
        cfg_interval=(0.0, 1.0),
        cfg_renorm_min=1.0,  # leaves the norm as it is
    )
    close(stacked(heard), expected)
    assert (full - without_text).abs().mean() > 400 * TOLERANCE
    assert (without_images[1:] - full[1:]).abs().mean() > 400 * TOLERANCE


# The published call: one answer, without the loop.


def test_an_answer_is_as_likely_in_the_published_call_as_in_training(
    inferencer: AutoInterleavedInferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call reads a picture it answers about by vision alone."""
    sample = sample_question(Random("answer"))
    picture, seen = render(sample.scene), []
    monkeypatch.setattr(inferencer, "gen_text", lambda context, *_: seen.append(context) or "")
    inferencer.interleave_inference([picture, sample.question], understanding_output=True)
    question, answer = (inferencer.encode_text(text) for text in (sample.question, sample.answer))
    block = inferencer.model.text_block([inferencer.bos, *answer])
    logits = inferencer.model.logits(inferencer.model.read(value_in(seen[0]), block)[1])
    right = torch.tensor([*answer, inferencer.eos])
    vision = VisionPart(patches=patchify(inferencer.vit_transform(picture), 16), grid=GRID)
    parts = [vision, TextPart(ids=tuple(question), loss=False), TextPart(ids=tuple(answer))]
    with torch.inference_mode():
        ce = inferencer.model(pack([parts], special_ids(inferencer.tokenizer)[0])).ce
    close(torch.nn.functional.cross_entropy(logits, right, reduction="none"), ce)


def test_an_edit_is_drawn_in_the_published_call_as_in_training(
    inferencer: AutoInterleavedInferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three contexts: everything, the picture alone, the instruction alone."""
    sample = sample_edit(Random("edit"))
    picture, contexts = render(sample.before), {}
    monkeypatch.setattr(
        inferencer, "gen_image", lambda _, full, **named: contexts.update(named, full=full)
    )
    monkeypatch.setattr(inferencer, "sample_posterior", False)  # training reads the mean
    inferencer.interleave_inference([picture, sample.instruction])
    latent = inferencer.encode_image(picture)[0]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    drawn = LatentPart(latent=torch.zeros_like(latent), grid=GRID, time=1.0)
    vision = VisionPart(patches=patchify(inferencer.vit_transform(picture), 16), grid=GRID)
    text = TextPart(ids=tuple(inferencer.encode_text(sample.instruction)))
    lesson = Lesson(
        prompt="", texts=(), pictures=(latent, drawn.latent), seen=(), noises=(noise, noise)
    )
    read = LatentPart(latent=latent, grid=GRID)
    _, with_picture = forward(inferencer, [read, vision, drawn, text, drawn], lesson)
    _, without = forward(inferencer, [text, drawn], lesson)

    def velocity(context: Context) -> Tensor:
        """One step over one context goes from the noise to what it takes for the picture."""
        options = ImageOptions(cfg_text_scale=1.0, cfg_img_scale=1.0, num_timesteps=2)
        generator = torch.Generator().manual_seed(1)
        [step] = inferencer.draw_latent((64, 64), context, None, None, options, generator)
        return noise - step.latent

    names = ("cfg_text_precontext", "full", "cfg_img_precontext")
    close(
        torch.stack([velocity(value_in(contexts[name])) for name in names]),
        torch.cat([with_picture, without]),
    )
