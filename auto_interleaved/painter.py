"""Drawing one image: steps become events, previews and bars; the result waits to be read."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from auto_interleaved.contexts import Contexts, ReadImage
from auto_interleaved.options import GenerationOptions
from auto_interleaved.progress import Progress
from auto_interleaved.record import RunRecord
from auto_interleaved.seeds import Randomness
from data.output import Segment
from data.output.events import Event, ImageDone, ImagePreview, ImageStarted, ImageStep
from data.output.segments import describe_error
from inferencer import InterleaveInferencer
from modeling.flow import FlowStep, schedule


class Painter:
    """Draws images over contexts.

    Args:
        inferencer: the verbs.
        options: sampling, feedback, previews and the callback.
        randomness: where noise comes from.
        progress: the bars.
        record: where the segments go.
    """

    def __init__(  # noqa: PLR0913 - one collaborator each
        self,
        inferencer: InterleaveInferencer,
        options: GenerationOptions,
        randomness: Randomness,
        progress: Progress,
        record: RunRecord,
    ) -> None:
        self._inferencer = inferencer
        self._options = options
        self._randomness = randomness
        self._progress = progress
        self._record = record

    def draw(self, contexts: Contexts, shape: tuple[int, int]) -> Generator[Event, None, ReadImage]:
        """Draw an image of (height, width) and return it.

        A failure leaves a segment that says so, and goes on to the caller.
        """
        index = self._record.num_images
        seed = self._randomness.image_seed(index)
        segment = Segment(
            kind="image", role="generated", seed=seed, size=shape, error="interrupted"
        )
        started = time.perf_counter()
        try:
            yield ImageStarted(index=index, height=shape[0], width=shape[1], seed=seed)
            latent = yield from self._sample(contexts, index, shape)
            picture = self._inferencer.decode_image(latent, shape)
            segment = replace(segment, image=picture, error=None)
        except Exception as error:
            segment = replace(segment, error=describe_error(error))
            raise
        finally:
            self._record.segments.append(replace(segment, seconds=time.perf_counter() - started))
        yield ImageDone(index=index, segment=self._record.segments[-1])
        grid = self._inferencer.model.latent_grid(*shape)
        return ReadImage(picture=picture, latent=latent, grid=grid, drawn=True)

    def feed_back(self, image: ReadImage) -> ReadImage:
        """Return a drawn image as it is to be read."""
        if self._options.image_feedback == "latent":
            return image
        picture = self._inferencer.vae_transform.resize_transform(image.picture)
        latent, grid = self._inferencer.encode_image(picture)
        return replace(image, picture=picture, latent=latent, grid=grid)

    def _sample(
        self, contexts: Contexts, index: int, shape: tuple[int, int]
    ) -> Generator[Event, None, Tensor]:
        options = self._options
        num_steps = options.num_timesteps - 1
        steps = self._inferencer.draw_latent(
            shape,
            contexts.full,
            contexts.without_text,
            contexts.without_images,
            options.image_options(),
            self._randomness.for_image(index),
        )
        latent = None
        with self._progress.image(index, num_steps) as bar:
            for step in _answered(steps, self._call_back):
                latent = step.latent
                bar.update()
                yield ImageStep(index=index, step=step.index, num_steps=num_steps)
                if options.preview_every and step.index % options.preview_every == 0:
                    preview = self._inferencer.preview_image(step.clean, shape)
                    yield ImagePreview(index=index, step=step.index, image=preview)
        assert latent is not None  # options ask for one step at least
        return latent

    def _call_back(self, step: FlowStep) -> Tensor | None:
        """Show a step to the caller, in diffusers' convention; return what it changed."""
        options = self._options
        if options.callback_on_step_end is None:
            return None
        index = step.index - 1
        time = schedule(options.num_timesteps, options.timestep_shift)[index]
        answer = options.callback_on_step_end(
            self._inferencer, index, time, {"latents": step.latent}
        )
        return _changed_latent(answer, step.latent)


def _changed_latent(answer: Any, latent: Tensor) -> Tensor | None:
    """Return the latents that a callback wants instead; None where it changes nothing."""
    if answer is None:
        return None
    if not isinstance(answer, Mapping):
        raise TypeError(
            'callback_on_step_end must return None or a dictionary, such as {"latents": latents}; '
            f"got {type(answer).__name__}"
        )
    changed = answer.get("latents")
    if changed is None:
        return None
    if not isinstance(changed, Tensor) or changed.shape != latent.shape:
        given = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(
            f"callback_on_step_end must return latents of shape {tuple(latent.shape)}, as they "
            f"were shown to it; got {given}"
        )
    return changed


def _answered(
    steps: Generator[FlowStep, Tensor | None, None], call_back: Any
) -> Iterator[FlowStep]:
    """Iterate over steps, sending each step's answer back before the next one is made."""
    try:
        step = next(steps, None)
        while step is not None:
            answer = call_back(step)
            changed = step if answer is None else replace(step, latent=answer)
            yield changed
            step = _send(steps, answer)
    finally:
        steps.close()


def _send(
    steps: Generator[FlowStep, Tensor | None, None], answer: Tensor | None
) -> FlowStep | None:
    try:
        return steps.send(answer)
    except StopIteration:
        return None
