"""What a run asks for: small values that say what is to be computed, and what answers them.

A run computes nothing itself. It yields asks beside its events, and a driver sends the answers
back, or throws a failure in at that very place. Nothing here knows a model, and no driver knows a
protocol.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from data.output.events import Event
from modeling.context import Context
from modeling.decoding import Choice
from modeling.flow import FlowStep, ImageOptions

Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Ask(Generic[Answer]):
    """Something to be computed; what it is answered with is its type's parameter."""


# What the parts of a run are: they tell of events, ask, and return something.
Work = Generator[Event | Ask[Any], Any, Result]


def ask(question: Ask[Answer]) -> Generator[Ask[Answer], Answer, Answer]:
    """Put a question to the driver: `yield from` it, and it returns the answer."""
    return (yield question)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadIds(Ask[tuple[Context, int]]):
    """Read ids after a context; answered with the new context and the likeliest id to follow."""

    ids: Sequence[int]
    context: Context


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadLatent(Ask[Context]):
    """Read latent tokens (rows * columns, patch values) of a clean image."""

    latent: Tensor
    grid: tuple[int, int]
    context: Context


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadVision(Ask[Context]):
    """Read an RGB image through the vision encoder.

    Attributes:
        picture: the image.
        context: what it is read after.
        passing: whether it is looked at and forgotten, so that no other prompt begins with it.
    """

    picture: Image.Image
    context: Context
    passing: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Forget(Ask[list[Context]]):
    """Leave slots out of contexts; see `modeling.context.without`."""

    contexts: Sequence[Context]
    spans: Sequence[Sequence[range]]


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodeImage(Ask[tuple[Tensor, tuple[int, int]]]):
    """Turn an image into latent tokens (rows * columns, patch values) and (rows, columns)."""

    picture: Image.Image


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodeImage(Ask[Image.Image]):
    """Turn latent tokens into an image of (height, width)."""

    latent: Tensor
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodePreview(Ask[Image.Image]):
    """Turn latent tokens of an image of (height, width) into a small one."""

    latent: Tensor
    shape: tuple[int, int]


@dataclass(eq=False, kw_only=True)
class Job:
    """Something that takes several asks.

    Whoever began a job closes it, in whatever way it ends: `with closing(job)`.

    Attributes:
        state: what the driver keeps between the asks, with a `close` of its own; None before the
            first.
    """

    state: Any = field(default=None, init=False)

    def close(self) -> None:
        """End the job, and what the driver keeps of it."""
        state, self.state = self.state, None
        if state is not None:
            state.close()


@dataclass(eq=False, kw_only=True)
class Text(Job):
    """A text to be written.

    Attributes:
        context: what it is written over.
        choose: picks the next id.
        at_most: how many ids will be asked for at most.
    """

    context: Context
    choose: Choice
    at_most: int


@dataclass(frozen=True, eq=False)
class NextToken(Ask[tuple[int, Context]]):
    """The next id of a text, and the context with everything fed so far (not yet that id)."""

    text: Text


@dataclass(eq=False, kw_only=True)
class Drawing(Job):
    """An image to be drawn.

    Attributes:
        shape: (height, width) in pixels.
        full, without_text, without_images: what it is drawn over.
        options: times and guidance.
        generator: a CPU generator for the initial noise; None is torch's global one.
    """

    shape: tuple[int, int]
    full: Context
    without_text: Context
    without_images: Context
    options: ImageOptions
    generator: torch.Generator | None = None


@dataclass(eq=False, kw_only=True)
class Drawings(Job):
    """Images to be drawn together, in one draft of all their contexts.

    Attributes:
        each: one at least; of one shape, and with the same options.
    """

    each: Sequence[Drawing]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.each[0].shape

    @property
    def options(self) -> ImageOptions:
        """Times and guidance."""
        return self.each[0].options

    def close(self) -> None:
        """End all of them."""
        super().close()
        for drawing in self.each:
            drawing.close()


@dataclass(frozen=True, eq=False)
class NextStep(Ask[FlowStep]):
    """The next step of a drawing, the last one of which has `index == num_steps`.

    Attributes:
        drawing: the image.
        changed: a latent that takes the place of the last step's; None leaves it.
    """

    drawing: Drawing
    changed: Tensor | None = None


@dataclass(frozen=True, eq=False)
class NextSteps(Ask[list[FlowStep]]):
    """The next step of each of several drawings."""

    drawing: Drawings
