"""Drawing one image: steps become events, previews and bars; the result waits to be read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.options.seeds import Randomness
from auto_interleaved.run.asks import (
    DecodeImage,
    DecodePreview,
    Drawing,
    EncodeImage,
    NextStep,
    Work,
    ask,
)
from auto_interleaved.run.contexts import Contexts, ReadImage
from auto_interleaved.run.progress import Progress
from auto_interleaved.run.record import RunRecord
from data.output import Segment
from data.output.events import ImageDone, ImagePreview, ImageStarted, ImageStep
from data.output.segments import describe_error
from inferencer import InterleaveInferencer
from modeling.flow import FlowStep, schedule
from modeling.numbers import NotANumberError, all_numbers

BLANK = 1, 1  # (width, height): the transforms make it as small as images can be


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

    def draw(
        self, contexts: Contexts, shape: tuple[int, int], size: tuple[int, int] | None = None
    ) -> Work[ReadImage]:
        """Draw an image of (height, width) and return it.

        Shown and recorded it is resized to a size (width, height), if one is given.

        A failure leaves a segment that says so, and goes on to the caller.
        """
        index = self._record.num_images
        seed = self._randomness.image_seed(index)
        segment = Segment(
            kind="image", role="generated", seed=seed, size=shape, error="interrupted"
        )
        started = time.perf_counter()
        self._record.pending = lambda: segment
        try:
            yield ImageStarted(index=index, height=shape[0], width=shape[1], seed=seed)
            with _Answers(index) as answers:
                latent = yield from self._sample(contexts, index, shape, answers)
                picture = yield from ask(DecodeImage(latent=latent, shape=shape))
            segment = replace(segment, image=_resized(picture, size), error=None)
        except Exception as error:
            segment = replace(segment, error=describe_error(error))
            raise
        finally:
            self._record.pending = None
            self._record.segments.append(replace(segment, seconds=time.perf_counter() - started))
        yield ImageDone(index=index, segment=self._record.segments[-1])
        grid = self._inferencer.model.latent_grid(*shape)
        return ReadImage(picture=picture, latent=latent, grid=grid, drawn=True)

    def feed_back(self, image: ReadImage) -> Work[ReadImage]:
        """Return a drawn image as it is to be read."""
        if self._options.image_feedback == "latent":
            return image
        picture = self._inferencer.vae_transform.resize_transform(image.picture)
        latent, grid = yield from ask(EncodeImage(picture=picture))
        return replace(image, picture=picture, latent=latent, grid=grid)

    def begin(
        self, contexts: Contexts, shape: tuple[int, int], generator: Generator | None = None
    ) -> Drawing:
        """Return the drawing of an image over contexts, with noise from a generator."""
        return Drawing(
            shape=shape,
            full=contexts.full,
            without_text=contexts.without_text,
            without_images=contexts.without_images,
            options=self._options.image_options(),
            generator=generator,
        )

    def _sample(
        self, contexts: Contexts, index: int, shape: tuple[int, int], answers: _Answers
    ) -> Work[Tensor]:
        options = self._options
        num_steps = options.num_timesteps - 1
        every = options.preview_every or num_steps + 1
        changed, generator = None, self._randomness.for_image(index)
        with (
            self._progress.image(index, num_steps) as bar,
            closing(self.begin(contexts, shape, generator)) as drawing,
        ):
            for number in range(1, num_steps + 1):
                step = yield from ask(NextStep(drawing, changed))
                changed = self._call_back(answers, step)
                latent = step.latent if changed is None else changed
                bar.update()
                yield ImageStep(index=index, step=number, num_steps=num_steps)
                if number % every == 0:
                    preview = yield from ask(DecodePreview(latent=step.clean, shape=shape))
                    yield ImagePreview(index=index, step=number, image=preview)
        self._progress.image_done()
        return latent

    def _call_back(self, answers: _Answers, step: FlowStep) -> Tensor | None:
        """Show a step to the caller, in diffusers' convention; return what it changed."""
        options = self._options
        if options.callback_on_step_end is None:
            return None
        index = step.index - 1
        time = schedule(options.num_timesteps, options.timestep_shift)[index]
        shown = all_numbers(step.latent)
        answer = options.callback_on_step_end(
            self._inferencer, index, time, {"latents": step.latent}
        )
        changed = _changed_latent(answer, step.latent)
        # It may also have written into what it was shown.
        answers.note(shown, all_numbers(step.latent if changed is None else changed))
        return changed


class _Answers:
    """Knows after which step the callback made an image's latents nan or inf, if it did.

    It is asked where the image turns out not to be made of numbers, and says so in the error, with
    the image's number. Until then nobody waits for what it notes.

    Args:
        index: of the image.
    """

    def __init__(self, index: int) -> None:
        self._image = f"image {index + 1}"
        self._noted: list[tuple[Tensor, Tensor]] = []

    def note(self, before: Tensor, after: Tensor) -> None:
        """Take whether latents were all numbers before and after a call."""
        self._noted.append((before, after))

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        if not issubclass(type(error), NotANumberError):  # a caller's error may lie about its class
            return
        assert isinstance(error, NotANumberError)
        for step, (before, after) in enumerate(self._noted):
            if before and not after:
                what = f"what callback_on_step_end returned at step {step} of {self._image}"
                advice = "it must return latents that are all finite numbers, or None"
                raise NotANumberError(what, advice) from None
            if not before:
                break
        raise NotANumberError(f"{error.what} of {self._image}", error.advice) from None


def blank_image(*, seen: bool) -> Work[ReadImage]:
    """Make a blank picture, to be read where a model asks for one and texts alone are wanted.

    The model was taught to go on after a picture: with nothing in its place it turns in circles,
    with a blank one it comes to its end.

    Args:
        seen: whether it is read through the vision encoder; else by its latents.
    """
    picture = Image.new("RGB", BLANK, "white")
    latent, grid = torch.empty(0, device="cpu"), (0, 0)
    if not seen:
        latent, grid = yield from ask(EncodeImage(picture=picture))
    return ReadImage(picture=picture, latent=latent, grid=grid, drawn=True)


def _resized(picture: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


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
    is_latent = isinstance(changed, Tensor) and changed.is_floating_point()
    if not is_latent or changed.shape != latent.shape:
        given = type(changed).__name__
        if isinstance(changed, Tensor):
            given = f"{changed.dtype} of shape {tuple(changed.shape)}"
        raise ValueError(
            f"callback_on_step_end must return latents of shape {tuple(latent.shape)} in floating "
            f"point, as they were shown to it; got {given}"
        )
    return changed.detach()
