"""Drawing one image: a noised block in a draft, guided over up to three contexts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeling.bagel.blocks import Grid, Shape
from modeling.bagel.flow_graph import SMALL_IMAGE_TOKENS, steady
from modeling.context import Context, draft
from modeling.flow import (
    Evaluation,
    FlowStep,
    ImageOptions,
    TaylorSeer,
    guide,
    integrate,
    schedule,
)
from modeling.inference import inference
from modeling.kv_store import Tail

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

# A CPU gains from weights that are read once for all branches: 1.7 times at 16 latent tokens, 1.25
# at 64, nothing at 256 (measured with hidden size 512 and 8 layers on one thread).
_PACKED_TOKENS_ON_CPU = 64


def draw(  # noqa: PLR0913 - three contexts and what to draw in them
    model: Bagel,
    *,
    full: Context,
    without_text: Context | None,
    without_images: Context | None,
    noise: Tensor,
    grid: Grid,
    markers: tuple[int, int],
    options: ImageOptions,
) -> Generator[FlowStep, Tensor | None, None]:
    """Sample the latent tokens of one image.

    Nothing is kept in any context, and closing the iterator early leaves all of them as they were.

    Args:
        model: the model.
        full: everything the image should follow.
        without_text: the context for text guidance; needed if `options.cfg_text_scale > 1`.
        without_images: the context for image guidance; needed if `options.cfg_img_scale > 1` too.
        noise: (rows * columns, patch values).
        grid: (rows, columns) of latent tokens.
        markers: ids of vision_start and vision_end.
        options: times and guidance.

    Yields:
        The state after each step; the last one's `latent` is the image. A latent that is sent back
        takes its place.

    Raises:
        ValueError: if a context is missing that the guidance needs.
    """
    yield from paint(
        Canvas.of(model, grid, markers),
        full=full,
        without_text=without_text,
        without_images=without_images,
        noise=noise,
        options=options,
    )


def paint(
    canvas: Canvas,
    *,
    full: Context,
    without_text: Context | None,
    without_images: Context | None,
    noise: Tensor,
    options: ImageOptions,
) -> Generator[FlowStep, Tensor | None, None]:
    """Sample the latent tokens of one image on a canvas; see `draw`."""
    over = Branches.of(full, without_text, without_images, options)
    with draft(over.contexts, canvas.num_tokens) as tails:
        yield from follow(canvas, tails, over.places, noise, options)


def follow(
    canvas: Canvas,
    tails: Sequence[Tail],
    branches: Sequence[int],
    noise: Tensor,
    options: ImageOptions,
) -> Generator[FlowStep, Tensor | None, None]:
    """Sample the latent tokens of one image in an open draft.

    Nothing but keys and values stands in the draft, and each evaluation writes its own anew: others
    may use it between two steps.

    Args:
        canvas: what is drawn on.
        tails: where the contexts of the image's `Branches` are written.
        branches: their places.
        noise: (latent tokens, patch values).
        options: times and guidance.
    """
    model = canvas.model
    noise = noise.to(model.device, torch.float32)
    times = schedule(options.num_timesteps, options.timestep_shift)
    plain, guided = _evaluations(canvas, tails, branches, options)
    num_guided = sum(map(options.guided, times[:-1]))
    repeats = not options.enable_taylorseer  # which counts its calls
    without = steady(model, plain, noise, repeats * (len(times) - 1 - num_guided))
    with_guidance = steady(model, guided, noise, repeats * num_guided)

    def velocity(latent: Tensor, time: float) -> Tensor:
        return (with_guidance if options.guided(time) else without)(latent, time)

    yield from integrate(velocity, noise, times)


@dataclass(frozen=True, eq=False, kw_only=True)
class Branches:
    """What one image is drawn over.

    Attributes:
        contexts: that are computed; the full one comes first.
        places: which of them is full, which without text and which without images, as far as
            guidance needs them.
    """

    contexts: Sequence[Context]
    places: Sequence[int]

    @classmethod
    def of(
        cls,
        full: Context,
        without_text: Context | None,
        without_images: Context | None,
        options: ImageOptions,
    ) -> Branches:
        """Arrange contexts; those that are equal are computed once.

        Raises:
            ValueError: if a context is missing that the guidance needs.
        """
        others = guidance_contexts(without_text, without_images, options)
        contexts = list(dict.fromkeys([full, *others]))
        first = 0
        if options.enable_taylorseer and options.cfg_interval[1] < 1:
            # A guidance branch counts its own evaluations, and begins later than the full one.
            contexts = [full, *dict.fromkeys(others)]
            first = 1
        places = [0, *(contexts.index(context, first) for context in others)]
        return cls(contexts=contexts, places=places)


def guidance_contexts(
    without_text: Context | None, without_images: Context | None, options: ImageOptions
) -> list[Context]:
    """Return the contexts that guidance needs beside the full one.

    Raises:
        ValueError: if one is missing.
    """
    needed: list[Context] = []
    for context, scale, what in (
        (without_text, "cfg_text_scale", "a context without the text"),
        (without_images, "cfg_img_scale", "a context without the images"),
    ):
        if getattr(options, scale) <= 1:
            break  # without text guidance there is no image guidance either, as published
        if context is None:
            raise ValueError(
                f"{scale}={getattr(options, scale)} needs {what}; pass one, or set {scale}=1"
            )
        needed.append(context)
    return needed


def _evaluations(
    canvas: Canvas, tails: Sequence[Tail], branches: Sequence[int], options: ImageOptions
) -> tuple[Evaluation, Evaluation]:
    """Return the velocity without guidance, and the one with it.

    Args:
        canvas: what is drawn on.
        tails: where each context that is computed is written.
        branches: which of them is full, which without text and which without images.
        options: guidance.
    """
    alone = [canvas.last_layer([tail]) for tail in tails]
    together = [canvas.last_layer(tails)] if canvas.packs else alone
    if options.enable_taylorseer:
        # Each branch counts its own evaluations, so each runs by itself.
        alone = together = [TaylorSeer(evaluate) for evaluate in alone]
    first, every = canvas.velocities(alone[:1]), canvas.velocities(together)

    def guided(latent: Tensor, time: Tensor) -> Tensor:
        found = every(latent, time)
        full, without_text, *rest = (found[branch] for branch in branches)
        return guide(full, without_text, rest[0] if rest else None, options)

    return (lambda latent, time: first(latent, time)[0]), guided


def draws_small(model: Bagel, num_latent: int) -> bool:
    """Say whether an image has so few tokens that several rows of it pay in one forward."""
    on_cpu = model.device.type == "cpu"
    return num_latent <= (_PACKED_TOKENS_ON_CPU if on_cpu else SMALL_IMAGE_TOKENS)


class Canvas:
    """What every step of one image has in common: markers, places and row layouts.

    Args:
        model: the model.
        markers: (markers,) ids that stand around the image.
        places: (latent tokens, hidden), their rows of the position table.

    Attributes:
        markers: (markers, hidden), embedded.
        places: (latent tokens, hidden), in the dtype of tokens.
        shape: of the image's block.
    """

    @inference
    def __init__(self, model: Bagel, markers: Tensor, places: Tensor) -> None:
        self.model = model
        self.markers = model.embed(markers)
        self.places = places.to(self.markers)
        self.shape = Shape(num_text=len(markers), num_latent=len(places), causal=False)

    @classmethod
    def of(cls, model: Bagel, grid: Grid, markers: tuple[int, int]) -> Canvas:
        """Return the canvas of an image of (rows, columns) of latent tokens."""
        return cls(model, torch.tensor(markers, device="cpu"), model.latent_places(grid))

    @property
    def num_tokens(self) -> int:
        """Tokens of the image, its markers included."""
        return self.shape.num_text + self.shape.num_latent

    @property
    def packs(self) -> bool:
        """Whether branches run faster as rows of one forward than one after the other."""
        return draws_small(self.model, self.shape.num_latent)

    def tokens(self, latent: Tensor, time: float | Tensor) -> Tensor:
        """Embed a state (latent tokens, patch values) at a time, (latent tokens, hidden)."""
        return self.model.latent_tokens(latent, time, self.places)

    def last_layer(self, tails: Sequence[Tail]) -> Evaluation:
        """Return what the last layer says, (contexts, tokens, hidden), from one forward."""
        model, count = self.model, len(tails)
        sequences, rotaries = model.arrange([(tail, self.shape) for tail in tails])
        markers = self.markers.repeat(count, 1)

        @inference
        def evaluate(latent: Tensor, time: Tensor) -> Tensor:
            tokens = self.tokens(latent, time)
            rows = tokens.expand(count, -1, -1).flatten(0, 1)  # (contexts * tokens, hidden)
            _, drawn = model.language_model.model(markers, rows, rotaries, sequences)
            return drawn.unflatten(0, (count, -1))

        return evaluate

    def velocities(self, last_layers: Sequence[Evaluation]) -> Evaluation:
        """Return the velocities, (contexts, tokens, patch values), of all contexts in order."""
        model = self.model
        return lambda latent, time: torch.cat(
            [model.velocity(last_layer(latent, time)) for last_layer in last_layers]
        )
