"""Writing: the choice of the next token, and the runs of steps that feed what was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modeling.bagel.bagel import Bagel, execution_device
from modeling.context import Context
from modeling.cuda_graph import can_repeat
from modeling.decode_graph import Feed, GraphFeed, feed_token
from modeling.kv_store import Tail

Processor = Callable[[Tensor, Tensor], Tensor]

RUN_LENGTH = 16  # tokens; on CUDA the host looks at so many at a time
_NO_ID = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """How the next id is picked, on the device that the logits are on.

    Attributes:
        processors: change scores (1, vocabulary), one after the other.
        do_sample: draw from the distribution; False takes the likeliest id.
        generator: where randomness comes from; None is torch's global one for the device.
        is_watched: whether a processor is the caller's own, who may count its calls.
    """

    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    do_sample: bool = False
    generator: torch.Generator | None = None
    is_watched: bool = False

    def __call__(self, written: Tensor, logits: Tensor) -> Tensor:
        """Pick an id without a look at it.

        Args:
            written: (written,) ids so far.
            logits: (vocabulary,).

        Returns:
            A (1,) id, or -1 where no id has a probability.
        """
        if not (self.processors or self.do_sample):
            return logits.argmax(-1, keepdim=True)
        # Copies, because a processor may write into what it is given.
        ids, scores = written.to(logits.device, copy=True), logits.to(torch.float32, copy=True)
        scores = self.processors(ids[None], scores[None])[0]
        if not self.do_sample:
            return scores.argmax(-1, keepdim=True)
        probabilities = scores.softmax(-1)
        # What torch.multinomial does, without its checks, for which the host would have to wait.
        drawn = (probabilities / self._noise(probabilities)).argmax(-1, keepdim=True)
        # One score that is no number makes every probability none.
        return torch.where(probabilities[:1].isnan(), _NO_ID, drawn)

    def source(self, device: torch.device) -> torch.Generator | None:
        """Return the generator that moves when logits on a device are drawn from; None if none."""
        if self.generator is not None or not self.do_sample:
            return self.generator if self.do_sample else None
        if device.type == "cuda":
            return torch.cuda.default_generators[device.index]
        return torch.default_generator

    def _noise(self, like: Tensor) -> Tensor:
        device = like.device if self.generator is None else self.generator.device
        noise = torch.empty_like(like, device=device).exponential_(generator=self.generator)
        if noise.device == like.device:
            return noise
        if noise.device.type == "cpu":
            noise = noise.pin_memory()  # else the copy would wait for all that was begun before
        return noise.to(like.device, non_blocking=True)


greedy = Choice()


def choice(  # noqa: PLR0913 - the usual knobs of sampling
    *,
    do_sample: bool,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    logits_processor: Processor | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """Say how the next id is picked.

    Args:
        do_sample: draw from the distribution; False takes the likeliest id.
        temperature: above 0; below 1 sharpens. Plays no part without sampling, as top_k and top_p.
        top_k: draw among so many likeliest ids; 0 is all.
        top_p: draw among the likeliest ids that together have this probability; 1 is all.
        repetition_penalty: above 1 makes ids less likely that were written before.
        logits_processor: called with ids (1, written) and scores (1, vocabulary) before all
            others, as transformers' processors are; returns scores. One or a LogitsProcessorList.
        generator: where randomness comes from; None is torch's global generator.

    Raises:
        ValueError: if a number is out of range.
    """
    if do_sample and not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature must be above 0 when sampling, got {temperature}; "
            "for the likeliest token set do_sample=False"
        )
    processors = LogitsProcessorList(_each(logits_processor))
    is_watched = bool(processors)
    if repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if do_sample:
        processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            processors.append(TopPLogitsWarper(top_p))
    return Choice(
        processors=processors, do_sample=do_sample, generator=generator, is_watched=is_watched
    )


def _each(processor: Processor | None) -> list[Processor]:
    # A list within a list would be called with what its members do not take.
    if isinstance(processor, LogitsProcessorList):
        return list(processor)
    return [] if processor is None else [processor]


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
        RuntimeError: if no id has a probability, because a logit is no number.
    """
    pen = _Pen(
        feed=feed
        or (GraphFeed(model) if can_repeat(model.language_model) else partial(feed_token, model)),
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
        for last, id_ in zip(steps, _looked_at(steps), strict=True):
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
        picked: (1,) id, or -1.
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


def _looked_at(steps: list[_Step]) -> Iterator[int]:
    """Yield the steps' ids; this is where the host waits for the device."""
    for id_ in torch.cat([step.picked for step in steps]).tolist() if steps else ():
        if id_ == _NO_ID:
            raise RuntimeError("no id has a probability, because a logit is inf or nan")
        yield id_
