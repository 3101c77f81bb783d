"""Writing one text: tokens become events, and something decides that the text is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.run.asks import NextToken, ReadIds, Text, Work, ask
from auto_interleaved.run.contexts import Contexts, Reader
from auto_interleaved.run.draft import Draft, Released, Verdict
from auto_interleaved.run.record import RunRecord
from data.output.events import Event, TextDelta, TextDone, ThoughtDelta
from data.protocols import EveryText, Marker, Protocol, Sampled, Written
from data.text_stream import Hit, TextStream
from inferencer import InterleaveInferencer
from modeling.context import Context
from modeling.decoding import Choice


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """What came of a text.

    Attributes:
        contexts: with the text in them.
        verdict: what follows.
        text: its characters.
    """

    contexts: Contexts
    verdict: Verdict
    text: str


class Writer:
    """Writes texts and thoughts over contexts.

    Args:
        inferencer: the verbs.
        reader: extends the contexts by what was written.
        protocol: when a text asks for an image, when it is the last.
        options: limits and stop strings.
        choose: picks the next id.
        record: where the segments go.
    """

    def __init__(  # noqa: PLR0913 - one collaborator each
        self,
        inferencer: InterleaveInferencer,
        reader: Reader,
        protocol: Protocol,
        options: GenerationOptions,
        choose: Choice,
        record: RunRecord,
    ) -> None:
        self._inferencer = inferencer
        self._reader = reader
        self._protocol = protocol
        self._options = options
        self._choose = choose
        self._record = record
        tokenizer = inferencer.tokenizer
        self._hidden = {*tokenizer.all_special_ids, *inferencer.new_token_ids.values()}
        ends = {inferencer.bos, inferencer.eos, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._ends = ends - {None, *inferencer.markers}

    def think(self, contexts: Contexts) -> Work[Contexts]:
        """Write a plan, keep it in the full context, and return the new contexts."""
        decode = self._inferencer.tokenizer.decode
        draft = Draft(context=contexts.view, stream=TextStream(decode, hidden_ids=self._hidden))
        self._record.pending = partial(draft.so_far, "thought")
        try:
            limit = self._options.max_think_token_n
            yield from self._fill(draft, contexts, limit, lambda id_: _thought(draft.push(id_)))
            yield from _thought(draft.finish())
        except Exception:
            yield from _thought(draft.finish())
            raise
        finally:
            self._record.pending = None
            self._record.segments.append(draft.segment("thought"))
        after, _ = yield from self._close(draft)
        return (yield from self._reader.keep_thought(contexts, self._framed(draft), after))

    def write(
        self, contexts: Contexts, separator: str = "", *, in_text: bool = True
    ) -> Work[WrittenText]:
        """Write a text, keep it, and say what follows.

        Args:
            contexts: what came before.
            separator: sets the text's first character off from the text before it.
            in_text: whether that is a part of this text, or shown between the two alone.
        """
        block = self._record.num_texts
        draft = Draft(
            context=contexts.view,
            stream=self._new_stream(),
            separator=separator,
            in_text=in_text,
        )
        self._record.pending = partial(draft.so_far, "generated")

        def push(id_: int) -> Iterator[Event]:
            yield from _delta(block, draft.push(id_))
            draft.ending = self._decided(draft)

        try:
            yield from self._fill(draft, contexts, self._options.max_text_length, push)
            yield from _delta(block, draft.finish())
        except Exception:
            yield from _delta(block, draft.finish())
            raise
        finally:  # also where the run is interrupted or its iterator closed
            self._record.pending = None
            segment = draft.segment("generated")
            self._record.segments.append(segment)
        after, next_id = yield from self._close(draft)
        verdict = self._verdict(draft, next_id)
        kept = yield from self._reader.keep_text(contexts, self._framed(draft), after)
        yield TextDone(block=block, segment=segment, requested_image=verdict == "draw")
        return WrittenText(contexts=kept, verdict=verdict, text=draft.text)

    def _space(self, contexts: Contexts) -> int:
        """Return how many tokens of a text still fit, beside its bos and eos.

        Whatever the text is written over, it enters the full context, which is the longest.
        """
        return self._inferencer.max_positions - contexts.full.position - 2

    def _new_stream(self) -> TextStream:
        trigger = self._protocol.trigger
        return TextStream(
            self._inferencer.tokenizer.decode,
            marker=trigger.pattern if isinstance(trigger, Marker) else None,
            stop_strings=self._options.stop_strings,
            final_marks=self._protocol.final_marks,
            hidden_ids=self._hidden,
        )

    def _fill(
        self,
        draft: Draft,
        contexts: Contexts,
        limit: int,
        push: Callable[[int], Iterator[Event]],
    ) -> Work[None]:
        """Sample ids that belong to the text, until it is over for whatever reason.

        Args:
            draft: the text.
            contexts: what came before.
            limit: ids at most.
            push: takes an id, yields what it releases, and may set the draft's ending.
        """
        most = min(limit, self._space(contexts))
        with closing(Text(context=draft.context, choose=self._choose, at_most=most)) as text:
            for count in range(most):
                token, draft.context = yield from ask(NextToken(text))
                draft.fed = count
                if self._is_last(draft, token):
                    return
                yield from push(token)
                if draft.ending is not None:
                    return
        draft.ending = "length" if most == limit else "context_full"

    def _is_last(self, draft: Draft, token: int) -> bool:
        """Say whether an id ends the text, and note why."""
        trigger = self._protocol.trigger
        start_of_image, _ = self._inferencer.markers
        if token in self._ends:
            draft.last_id = token
            return True
        if token == start_of_image and isinstance(trigger, Sampled) and trigger.in_text:
            draft.ending = "draw"
            return True
        return False

    def _decided(self, draft: Draft) -> Verdict | None:
        """Say whether the text is over although the model did not end it."""
        return _HEARD[draft.stream.hit] or self._ask(draft, next_id=None)

    def _ask(self, draft: Draft, next_id: int | None) -> Verdict | None:
        """Ask a trigger that is a function; None is to write on."""
        trigger = self._protocol.trigger
        if isinstance(trigger, Sampled | Marker | EveryText):
            return None
        answer = trigger(
            Written(
                token_ids=draft.stream.ids,
                text=draft.stream.text,
                ended=next_id is not None,
                next_id=next_id,
                num_images=self._record.num_images,
            )
        )
        if not isinstance(answer, str) or answer not in _DECISIONS:
            raise ValueError(
                f"the trigger of protocol {self._protocol.name!r} must answer one of "
                f"{', '.join(_DECISIONS)}; got {answer!r}"
            )
        return _DECISIONS[answer]

    def _framed(self, draft: Draft) -> list[int]:
        """Return all ids of the text with bos and eos, as they stand in the context."""
        return [self._inferencer.bos, *draft.stream.ids, self._inferencer.eos]

    def _close(self, draft: Draft) -> Work[tuple[Context, int]]:
        """Feed what was sampled but not fed, and eos; return the likeliest id to follow."""
        ids = [*draft.stream.ids[draft.fed :], self._inferencer.eos]
        return (yield from ask(ReadIds(ids=ids, context=draft.context)))

    def _verdict(self, draft: Draft, next_id: int) -> Verdict:
        # A mark that might have become a longer one is heard only when the text is over.
        ending = _HEARD[draft.stream.hit] or draft.ending
        if ending in ("stop", "stop_string", "context_full"):
            return ending
        if draft.stream.is_final:
            return "stop"
        if isinstance(self._protocol.trigger, EveryText):
            return "draw"
        return ending or self._after_eos(draft, next_id)

    def _after_eos(self, draft: Draft, next_id: int) -> Verdict:
        """Read what the model itself would put after a text that it ended."""
        trigger = self._protocol.trigger
        if not isinstance(trigger, Sampled | Marker | EveryText):
            return self._ask(draft, next_id) or "more"
        if draft.last_id not in (self._inferencer.bos, self._inferencer.eos):
            return "stop"  # it ended everything, not this text alone
        start_of_image, _ = self._inferencer.markers
        if isinstance(trigger, Sampled) and trigger.after_text and next_id == start_of_image:
            return "draw"
        return "more" if self._protocol.more_text and next_id == self._inferencer.bos else "stop"


_HEARD: dict[Hit | None, Verdict | None] = {
    None: None,
    "marker": "draw",
    "stop_string": "stop_string",
}
_DECISIONS: dict[str, Verdict | None] = {"write": None, "draw": "draw", "stop": "stop"}


def _delta(block: int, new: Released) -> Iterator[Event]:
    if new.text:
        yield TextDelta(block=block, text=new.text, token_ids=new.ids, apart=new.apart)


def _thought(new: Released) -> Iterator[Event]:
    if new.text:
        yield ThoughtDelta(text=new.text, token_ids=new.ids)
