"""One image whose guidance branches are computed in several places, a part of them here."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from modeling.bagel.drawing import Branches, Canvas
from modeling.bagel.flow_graph import steady
from modeling.context import Context, draft
from modeling.flow import (
    Evaluation,
    FlowStep,
    ImageOptions,
    TaylorSeer,
    Velocity,
    euler_step,
    guide,
    schedule,
)
from modeling.inference import inference


class Share:
    """One image on its way from noise to latents, in one of the places that share its branches.

    All places go through the same steps: each computes the velocities of its own branches, gets
    those of the others, and takes the step itself. A branch has a forward of its own wherever it is
    computed, over a draft as wide as where it is drawn alone: the numbers are the same ones.

    The draft is open until `close`.

    Args:
        canvas: what it is drawn on.
        full, without_text, without_images: what it is drawn over; see `drawing.draw`.
        noise: (latent tokens, patch values).
        options: times and guidance.
        place: the number of this place.
        num_places: how many there are.

    Attributes:
        latent: the state, (latent tokens, patch values), float32.

    Raises:
        ValueError: if a context is missing that the guidance needs.
    """

    def __init__(  # noqa: PLR0913 - three contexts, what to draw in them, and where
        self,
        canvas: Canvas,
        *,
        full: Context,
        without_text: Context | None,
        without_images: Context | None,
        noise: Tensor,
        options: ImageOptions,
        place: int,
        num_places: int,
    ) -> None:
        over = Branches.of(full, without_text, without_images, options)
        contexts, self._branches = over.contexts, over.places
        self._options = options
        self._times = schedule(options.num_timesteps, options.timestep_shift)
        self._index = 0
        self._own = range(place, len(contexts), num_places)
        self._num_contexts = len(contexts)
        self.latent = noise.to(canvas.model.device, torch.float32)
        with ExitStack() as stack:
            # Over all contexts, as in the other places: it decides the order of the keys.
            tails = stack.enter_context(draft(contexts, canvas.num_tokens))
            evaluations = [canvas.last_layer([tails[index]]) for index in self._own]
            if options.enable_taylorseer:
                evaluations = [TaylorSeer(evaluate) for evaluate in evaluations]
            num_guided = sum(map(options.guided, self._times[:-1]))
            first = evaluations[:1] if place == 0 else []
            self._without = self._steady(canvas, first, self.num_steps - num_guided)
            self._guided = self._steady(canvas, evaluations, num_guided)
            self._draft = stack.pop_all()

    @property
    def num_steps(self) -> int:
        """Steps from noise to picture."""
        return len(self._times) - 1

    @property
    def index(self) -> int:
        """Steps done."""
        return self._index

    @property
    def needed(self) -> int:
        """How many velocities the next step takes, of all places together."""
        return self._num_contexts if self._guides else 1

    @property
    def own(self) -> list[int]:
        """Which of the velocities of the next step are computed here."""
        return [index for index in self._own if index < self.needed]

    def evaluate(self) -> Tensor | None:
        """Return the own velocities at the state, (own, latent tokens, patch values), if any."""
        velocity = self._guided if self._guides else self._without
        return None if velocity is None else velocity(self.latent, self._times[self._index])

    def step(self, velocities: Tensor) -> FlowStep:
        """Go a step along all velocities, (needed, latent tokens, patch values)."""
        velocities = velocities.to(self.latent.device)
        velocity = self._guide(velocities) if self._guides else velocities[0]
        step = euler_step(self.latent, velocity, self._times, self._index)
        self._index += 1
        self.latent = step.latent
        return step

    def close(self) -> None:
        """Close the draft; the contexts are as they were."""
        self._draft.close()

    @property
    def _guides(self) -> bool:
        return self._options.guided(self._times[self._index])

    @inference
    def _guide(self, velocities: Tensor) -> Tensor:
        full, without_text, *rest = (velocities[branch] for branch in self._branches)
        return guide(full, without_text, rest[0] if rest else None, self._options)

    def _steady(
        self, canvas: Canvas, evaluations: list[Evaluation], num_calls: int
    ) -> Velocity | None:
        if not evaluations:
            return None
        repeats = not self._options.enable_taylorseer  # which counts its calls
        velocities = canvas.velocities(evaluations)
        return steady(canvas.model, velocities, self.latent, repeats * num_calls)
