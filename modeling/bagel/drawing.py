"""Drawing one image: a noised block in a draft, guided over up to three contexts."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from modeling.bagel.bagel import Bagel, Grid, Shape
from modeling.context import Context, draft
from modeling.flow import FlowStep, ImageOptions, TaylorSeer, Velocity, guide, integrate, schedule
from modeling.kv_store import Tail


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
    others = _guidance_contexts(without_text, without_images, options)
    contexts = list(dict.fromkeys([full, *others]))
    with draft(contexts, len(markers) + noise.shape[0]) as tails:
        canvas = _Canvas(model, grid, markers)
        velocities = {
            c: canvas.velocity(tail, options) for c, tail in zip(contexts, tails, strict=True)
        }
        branches = [velocities[context] for context in (full, *others)]
        if options.enable_taylorseer and options.cfg_interval[1] < 1:
            # A guidance branch counts its own evaluations, and begins later than the full one.
            branches[1:] = [
                canvas.velocity(tails[contexts.index(context)], options) for context in others
            ]
        yield from integrate(
            _guided(branches, options),
            noise.to(model.device),
            schedule(options.num_timesteps, options.timestep_shift),
        )


def _guidance_contexts(
    without_text: Context | None, without_images: Context | None, options: ImageOptions
) -> list[Context]:
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


def _guided(branches: list[Velocity], options: ImageOptions) -> Velocity:
    """Combine the branches' velocities; a branch that stands for two is computed once."""

    def velocity(latent: Tensor, time: float) -> Tensor:
        if not options.guided(time):
            return branches[0](latent, time)
        computed = {branch: branch(latent, time) for branch in dict.fromkeys(branches)}
        full, without_text, *rest = (computed[branch] for branch in branches)
        return guide(full, without_text, rest[0] if rest else None, options)

    return velocity


class _Canvas:
    """What every step of one image has in common: markers, places and row layouts."""

    def __init__(self, model: Bagel, grid: Grid, markers: tuple[int, int]) -> None:
        self._model = model
        self._markers = model.embed(markers)
        self._places = model.latent_places(grid)
        self._shape = Shape(num_text=len(markers), num_latent=len(self._places), causal=False)

    def velocity(self, tail: Tail, options: ImageOptions) -> Callable[[Tensor, float], Tensor]:
        """Return a branch's velocity: (tokens, patch values) and a time in, velocities out."""
        model = self._model
        sequences, rotaries = model.arrange([(tail, self._shape)])

        @torch.inference_mode()
        def last_layer(latent: Tensor, time: float) -> Tensor:
            tokens = model.latent_tokens(latent, time, self._places)
            _, drawn = model.language_model.model(self._markers, tokens, rotaries, sequences)
            return drawn

        hidden = TaylorSeer(last_layer) if options.enable_taylorseer else last_layer
        return lambda latent, time: model.velocity(hidden(latent, time))
