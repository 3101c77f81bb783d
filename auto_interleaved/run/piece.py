"""One image on its way: where it is to stand, its candidates, and what the record says of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from auto_interleaved.run.contexts import Contexts
from data.output import Segment
from data.output.segments import describe_error
from modeling.numbers import NotANumberError


@dataclass(frozen=True, eq=False, kw_only=True)
class Place:
    """Where an image is to stand.

    Attributes:
        contexts: what it is drawn over.
        shape: (height, width) in pixels.
        size: (width, height) that it is resized to where it is shown and recorded; None: as it is.
        text: what it is to show, the nearest text before it; None: one that nobody knows yet.
    """

    contexts: Contexts
    shape: tuple[int, int]
    size: tuple[int, int] | None = None
    text: str | None = ""


class Piece:
    """One image on its way.

    Args:
        index: of the image.
        place: where it is to stand; its contexts are not kept.
        seeds: of its candidates, one at least.

    Attributes:
        pictures: candidates that are decoded, as they are shown.
        chosen: which of them the image is; None until that is known.
        answers: what is known of the caller's changes to it.
    """

    def __init__(self, index: int, place: Place, seeds: Sequence[int | None]) -> None:
        self.index, self.seeds = index, seeds
        self.shape, self.size, self.text = place.shape, place.size, place.text
        self.answers = Answers(index)
        self.pictures: list[Image.Image] = []
        self.chosen: int | None = None
        self._seconds = 0.0
        self._error = "interrupted"
        self._told: list[Segment] | None = None

    def end(self, started: float, error: BaseException | None = None) -> None:
        """Note that nothing comes any more, and why.

        Args:
            started: when it began, by `time.perf_counter`.
            error: what kept it from being done.
        """
        self._seconds = time.perf_counter() - started
        if isinstance(error, Exception):
            self._error = describe_error(error)
        self._told = self.told()

    def told(self) -> list[Segment]:
        """Return what there is: the image, which may be missing, and candidates beside it."""
        if self._told is not None:
            return self._told
        image = Segment(
            kind="image",
            role="generated",
            image=None if self.chosen is None else self.pictures[self.chosen],
            seed=self.seeds[self.chosen or 0],
            size=self.shape,
            seconds=self._seconds,
            error=self._error if self.chosen is None else None,
        )
        others = [
            Segment(kind="image", role="candidate", image=picture, seed=seed, size=self.shape)
            for number, (picture, seed) in enumerate(zip(self.pictures, self.seeds, strict=False))
            if number != self.chosen
        ]
        return [image, *others]


class Answers:
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

    def __enter__(self) -> Answers:
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


def resized(picture: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Return a picture at (width, height); as it is where no size is given."""
    if size is None or size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


def changed_latent(answer: Any, latent: Tensor) -> Tensor | None:
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
