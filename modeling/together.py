"""Several texts, blocks or images computed together, as rows of one forward.

Linear layers then read their weights once for all rows; attention goes row by row, each over its
own context. Results are those of one by one, up to the rounding of products of other sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from modeling.attention import Sequences
from modeling.bagel import Bagel
from modeling.bagel.bagel import Rotaries
from modeling.bagel.drawing import Branches, Canvas, follow
from modeling.choice import Choice, no_id
from modeling.context import Context, draft
from modeling.flow import FlowStep, ImageOptions, euler_step, guide, schedule
from modeling.inference import inference
from modeling.kv_store import Tail

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

MOST_TOKENS = 4096  # of a forward: beyond, rows gain nothing and take memory


class Line:
    """A text that is written beside others.

    Args:
        context: what it is written over.
        first: (1,) id that is fed first, on the model's device.
        choose: picks the next id.

    Attributes:
        context: with everything fed so far, which the newest id is not.
        newest: (1,), the id that is fed next.
    """

    def __init__(self, context: Context, first: Tensor, choose: Choice) -> None:
        self.context = context
        self.newest = first
        self._written = first[:0]
        self._choose = choose

    def pick(self, logits: Tensor) -> Tensor:
        """Return the next (1,) id by (vocabulary,) logits; a negative number where there is none.

        Nobody has looked at it yet.
        """
        return self._choose(self._written, logits).to(self.newest.device)

    def go_on(self, model: Bagel, id_: int, picked: Tensor, context: Context) -> int:
        """Take what was picked, and the context with all before it.

        Raises:
            NotANumberError: if there was nothing to pick, because a logit is no number.
        """
        if id_ < 0:
            raise no_id(model, id_, f"after {len(self._written)} tokens")
        self.context, self.newest = context, picked
        self._written = torch.cat([self._written, picked])
        return id_

    def close(self) -> None:
        """Keep nothing; there is nothing that would stay open."""


@inference
def write_together(model: Bagel, lines: Sequence[Line]) -> list[tuple[int, Context] | Exception]:
    """Write the next token of each text.

    Returns:
        For each the id, and the context with everything fed so far (not yet that id); or what kept
        this one text from going on.
    """
    fed = torch.cat([line.newest for line in lines])
    contexts, logits = model.feed([line.context for line in lines], fed)
    picked = [_tried(line.pick, row) for line, row in zip(lines, logits, strict=True)]
    whole = [ids for ids in picked if not isinstance(ids, Exception)]
    seen = iter(torch.cat(whole).tolist() if whole else [])  # the host waits for the device once
    results: list[tuple[int, Context] | Exception] = []
    for line, ids, context in zip(lines, picked, contexts, strict=True):
        if isinstance(ids, Exception):
            results.append(ids)
            continue
        id_ = _tried(line.go_on, model, next(seen), ids, context)
        results.append(id_ if isinstance(id_, Exception) else (id_, context))
    return results


@dataclass(frozen=True, eq=False, kw_only=True)
class _Arranged:
    """What rows of one forward have in common at every step.

    Attributes:
        tails: of the rows.
        sequences, rotaries: see `Bagel.arrange`.
        markers: (rows * markers, hidden), embedded.
        places: (latent tokens of all images, hidden), their rows of the position table.
        tokens: which of all images' latent tokens stands where in the rows.
    """

    tails: Sequence[Tail]
    sequences: Sequences
    rotaries: Rotaries
    markers: Tensor
    places: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, samplings: Sequence[Sampling], tails: Sequence[Tail]) -> _Arranged:
        """Arrange the rows of images, one after another."""
        canvases = [s.canvas for s in samplings]
        each = torch.arange(sum(c.shape.num_latent for c in canvases)).split(
            [c.shape.num_latent for c in canvases]
        )
        rows = [(s, own) for s, own in zip(samplings, each, strict=True) for _ in s.tails]
        model = canvases[0].model
        shapes = [s.canvas.shape for s, _ in rows]
        sequences, rotaries = model.arrange(list(zip(tails, shapes, strict=True)), of_draft=True)
        return cls(
            tails=tails,
            sequences=sequences,
            rotaries=rotaries,
            markers=torch.cat([s.canvas.markers for s, _ in rows]),
            places=torch.cat([c.places for c in canvases]),
            tokens=torch.cat([own for _, own in rows]).to(model.device),
        )


class Sampling:
    """One image on its way from noise to latents, whose steps are computed beside others'.

    Args:
        canvas: what it is drawn on.
        tails, branches: of an open draft; see `drawing.Branches`.
        noise: (latent tokens, patch values).
        options: times and guidance, without TaylorSeer.

    Attributes:
        latent: the state, (latent tokens, patch values), float32.
        beside: how the rows of this image and of others after it were last arranged.
    """

    beside: _Arranged | None = None

    def __init__(
        self,
        canvas: Canvas,
        tails: Sequence[Tail],
        branches: Sequence[int],
        noise: Tensor,
        options: ImageOptions,
    ) -> None:
        self.canvas = canvas
        self.latent = noise.to(canvas.model.device, torch.float32)
        self._tails = tails
        self._branches = branches
        self._options = options
        self._times = schedule(options.num_timesteps, options.timestep_shift)
        self._index = 0

    @property
    def time(self) -> float:
        """The time of the state."""
        return self._times[self._index]

    @property
    def tails(self) -> Sequence[Tail]:
        """Where the rows of the next evaluation are written, one a context that it is over."""
        return self._tails if self._options.guided(self.time) else self._tails[:1]

    def step(self, velocities: Tensor) -> FlowStep:
        """Go a step along the velocities (rows, latent tokens, patch values) over `tails`."""
        velocity = velocities[0]
        if self._options.guided(self.time):
            full, without_text, *rest = (velocities[branch] for branch in self._branches)
            velocity = guide(full, without_text, rest[0] if rest else None, self._options)
        step = euler_step(self.latent, velocity, self._times, self._index)
        self._index += 1
        self.latent = step.latent
        return step


class Sheet:
    """Images of one size on their way in one draft, so that no prefix is copied for any of them.

    Small ones are rows of one forward. Of large ones each evaluates by itself: every evaluation
    writes its keys and values over those of the one before, in the same slots.

    Args:
        canvas: what they are drawn on.
        over: the contexts of each.
        noises: what each begins with, (latent tokens, patch values).
        options: times and guidance.

    Attributes:
        samplings: the images where they are small, to be computed beside others'; else none.
    """

    def __init__(
        self,
        canvas: Canvas,
        over: Sequence[Branches],
        noises: Sequence[Tensor],
        options: ImageOptions,
    ) -> None:
        self.samplings: list[Sampling] = []
        self._steps: list[Generator[FlowStep, Tensor | None, None]] = []
        contexts = list(dict.fromkeys(c for branches in over for c in branches.contexts))
        with ExitStack() as opening:
            opened = opening.enter_context(draft(contexts, canvas.num_tokens))
            tails = dict(zip(contexts, opened, strict=True))
            for branches, noise in zip(over, noises, strict=True):
                own = [tails[context] for context in branches.contexts]
                if canvas.packs and not options.enable_taylorseer:
                    self.samplings.append(Sampling(canvas, own, branches.places, noise, options))
                else:
                    self._steps.append(follow(canvas, own, branches.places, noise, options))
            self._draft = opening.pop_all()

    def step(self) -> list[FlowStep]:
        """Take a step of each image."""
        if self.samplings:
            return step_together(self.samplings)
        return [next(steps) for steps in self._steps]

    def close(self) -> None:
        """Close the draft; the contexts are as they were."""
        for steps in self._steps:
            steps.close()
        self._draft.close()


def step_together(samplings: Sequence[Sampling]) -> list[FlowStep]:
    """Take a step of each image, in as many forwards as keep each at a bearable size."""
    largest = max(sampling.canvas.shape.num_latent for sampling in samplings)
    most = max(1, MOST_TOKENS // (3 * largest))  # three contexts each at most
    parts = [samplings[first : first + most] for first in range(0, len(samplings), most)]
    velocities = [own for part in parts for own in _velocities(part)]
    # Not within inference mode: whoever is shown a step may write into it.
    return [sampling.step(own) for sampling, own in zip(samplings, velocities, strict=True)]


@inference
def _velocities(samplings: Sequence[Sampling]) -> list[Tensor]:
    """Return each image's velocities (rows, latent tokens, patch values), one row a tail."""
    model, beside = samplings[0].canvas.model, _arranged(samplings)
    states = torch.cat([s.latent for s in samplings])
    # Filled where it is needed: what is copied from the host makes that wait.
    times = torch.cat([torch.full_like(s.latent[:, 0], s.time) for s in samplings])
    tokens = model.latent_tokens(states, times, beside.places)
    _, drawn = model.language_model.model(
        beside.markers, tokens[beside.tokens], beside.rotaries, beside.sequences
    )
    counts = [len(s.tails) for s in samplings]
    lengths = [count * len(s.latent) for count, s in zip(counts, samplings, strict=True)]
    velocities = model.velocity(drawn).split(lengths)
    return [
        velocity.unflatten(0, (count, -1))
        for velocity, count in zip(velocities, counts, strict=True)
    ]


def _arranged(samplings: Sequence[Sampling]) -> _Arranged:
    """Return what the rows of images have in common at every step; the first image keeps it."""
    first, tails = samplings[0], [tail for s in samplings for tail in s.tails]
    if first.beside is None or first.beside.tails != tails:
        first.beside = None  # not two sets of copies at a time
        first.beside = _Arranged.of(samplings, tails)
    return first.beside


def _tried(
    action: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result | Exception:
    """Do something that may fail for one row alone, and return the failure."""
    try:
        return action(*arguments, **named)
    except Exception as error:
        return error
