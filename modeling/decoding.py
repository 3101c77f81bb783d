"""Writing: the runs of steps that feed the tokens that were chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeling.choice import Choice, Processor, choice, greedy, no_id
from modeling.context import Context
from modeling.decode_graph import Feed, fastest_feed
from modeling.device import execution_device
from modeling.kv_store import Tail

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

__all__ = ["Choice", "Processor", "choice", "decode", "greedy"]

RUN_LENGTH = 16  # tokens; on CUDA the host looks at so many at a time


def decode(  # noqa: PLR0913 - what to write after what, and how fast
    model: Bagel,
    context: Context,
    first_id: int,
    choose: Choice,
    *,
    at_most: int | None = None,
    run_length: int | None = None,
    feed: Feed | None = None,
) -> Iterator[tuple[int, Context]]:
    """Write after a context, token by token, until the caller stops asking.

    Tokens are computed in runs, and the host looks at them when a run is over. Nothing shows of a
    run's surplus: contexts end where they should, a failure is raised when its token is asked for,
    and whenever a token is given out the generator has made the draws up to it and no more.

    Args:
        model: the model.
        context: what came before; it stays as it is.
        first_id: the id fed first, bos for a new text.
        choose: picks an id from what was written and (vocabulary,) logits.
        at_most: how many ids to write; None is without end.
        run_length: steps of a run at most; None is what suits the model. A text begins with
            shorter ones. With a logits processor of the caller's a run is one step: it may count
            its calls, and would see tokens that never come.
        feed: how an id enters the model; None is the fastest way that the model permits.

    Yields:
        The next id, and the context with everything fed so far (not yet the id itself).

    Raises:
        NotANumberError: if no id has a probability, because a logit is no number.
    """
    pen = _Pen(
        feed=feed or fastest_feed(model),
        choose=choose,
        source=choose.source(execution_device(model.language_model.lm_head)),
    )
    longest = _run_length(model, choose, run_length)
    positions = model.language_model.config.max_position_embeddings
    last = _Step.first(context, torch.tensor([first_id], device=model.device))
    while at_most is None or len(last.written) < at_most:
        wanted = longest if at_most is None else at_most - len(last.written)
        # Runs grow with the text: its first token comes soon, and a short one has little surplus.
        count = min(longest, wanted, len(last.written), positions - last.context.position)
        steps, failure = pen.run(last, max(count, 1))
        for last, id_ in zip(steps, _looked_at(model, steps), strict=True):
            last.drawn.restore()
            yield id_, last.context
            if not last.drawn.holds():  # somebody drew meanwhile: what follows comes out anew
                failure = None
                steps.clear()  # else the surplus would make the text go on in a copy
                break
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it knows this frame, and both together would keep the contexts


def _run_length(model: Bagel, choose: Choice, wished: int | None) -> int:
    if choose.is_watched or model.device.type not in ("cpu", "cuda"):
        return 1  # it must see no token that never comes; elsewhere no generator can be set back
    devices = {parameter.device.type for parameter in model.language_model.parameters()}
    # A surplus costs, most of all where weights come from a disk; without CUDA nothing is won.
    return wished or (RUN_LENGTH if devices == {"cuda"} else 1)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """How a generator stood after a draw; nothing where none draws or it needs no going back."""

    generator: torch.Generator | None = None
    state: Tensor | None = None

    @classmethod
    def of(cls, generator: torch.Generator | None) -> _Drawn:
        return cls() if generator is None else cls(generator, generator.get_state())

    def restore(self) -> None:
        if self.generator is not None and self.state is not None:
            self.generator.set_state(self.state)

    def holds(self) -> bool:
        if self.generator is None or self.state is None:
            return True
        return torch.equal(self.generator.get_state(), self.state)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Step:
    """One step of a run.

    Attributes:
        picked: (1,) id, or a negative number where there is none.
        written: (written,) ids with this one.
        context: with everything fed, which this id is not yet.
        drawn: how the generator stood after it.
    """

    picked: Tensor
    written: Tensor
    context: Context
    drawn: _Drawn

    @classmethod
    def first(cls, context: Context, picked: Tensor) -> _Step:
        return cls(picked=picked, written=picked[:0], context=context, drawn=_Drawn())


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pen:
    """Makes steps without a look at any id."""

    feed: Feed
    choose: Choice
    source: torch.Generator | None

    def run(self, last: _Step, count: int) -> tuple[list[_Step], Exception | None]:
        """Return up to `count` steps after the last one, and what kept off the others."""
        steps: list[_Step] = []
        ids = torch.cat([last.written, last.written.new_zeros(count)])
        try:
            with last.context.room(count) as tail:
                for offset in range(count):
                    part = tail.part(offset, 1, last.context.position)
                    # After a run of one step there is nothing to go back from.
                    last = self._step(last, part, ids, self.source if count > 1 else None)
                    steps.append(last)
        except Exception as error:
            return steps, error
        return steps, None

    def _step(self, last: _Step, part: Tail, ids: Tensor, source: torch.Generator | None) -> _Step:
        logits = self.feed(part, last.picked.clamp(min=0))  # no id at all could not be fed
        picked = self.choose(last.written, logits).to(ids.device)
        end = len(last.written) + 1
        ids[end - 1 : end] = picked.clamp(min=0)
        return _Step(
            picked=picked,
            written=ids[:end],
            context=last.context.after(part, _OneToken()),
            drawn=_Drawn.of(source),
        )


class _OneToken:
    advance = 1


def _looked_at(model: Bagel, steps: list[_Step]) -> Iterator[int]:
    """Yield the steps' ids; this is where the host waits for the device."""
    ids = torch.cat([step.picked for step in steps]).tolist() if steps else ()
    for step, id_ in zip(steps, ids, strict=True):
        if id_ < 0:
            raise no_id(model, id_, f"after {len(step.written) - 1} tokens")
        yield id_
