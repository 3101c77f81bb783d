"""Writing one text: tokens become events, and something decides that the text is over."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Literal

from auto_interleaved.contexts import Contexts, Reader
from auto_interleaved.options import GenerationOptions
from auto_interleaved.record import RunRecord
from data.events import Event, TextDelta, TextDone, ThoughtDelta
from data.output import Segment
from data.protocols import EveryText, Marker, Protocol, Sampled, Written
from data.segments import SegmentRole
from data.text_stream import TextStream
from inferencer import InterleaveInferencer
from modeling.context import Context
from modeling.decoding import Choice

Verdict = Literal["draw", "more", "stop", "length", "stop_string", "context_full"]


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """What came of a text.

    Attributes:
        contexts: with the text in them.
        verdict: what follows.
    """

    contexts: Contexts
    verdict: Verdict


@dataclass(eq=False, kw_only=True)
class _Draft:
    """A text while it is written.

    Attributes:
        context: what was fed so far.
        stream: the ids as text.
        shown: what was released, with what sets it off from the text before.
        fed: how many of the ids are in `context`.
        ending: why the text is over; None while it goes on, or where the model ended it.
    """

    context: Context
    stream: TextStream
    shown: str = ""
    fed: int = 0
    ending: Verdict | None = None
    started: float = field(default_factory=time.perf_counter)

    def release(self, text: str) -> str:
        """Note text as shown, and return it."""
        self.shown += text
        return text

    def segment(self, role: SegmentRole) -> Segment:
        """Return what there is as a segment, held-back text included."""
        self.release(self.stream.finish())
        seconds = time.perf_counter() - self.started
        return Segment(
            kind="text",
            role=role,
            text=self.shown,
            token_ids=self.stream.ids,
            seconds=seconds,
        )


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

    def think(self, contexts: Contexts) -> Generator[Event, None, Contexts]:
        """Write a plan, keep it in the full context, and return the new contexts."""
        decode = self._inferencer.tokenizer.decode
        draft = _Draft(context=contexts.view, stream=TextStream(decode, hidden_ids=self._hidden))
        try:
            for token in self._tokens(draft, self._options.max_think_token_n):
                text = draft.release(draft.stream.push(token))
                yield ThoughtDelta(text=text, token_ids=(token,))
        finally:
            self._record.segments.append(draft.segment("thought"))
        ids, (after, _) = self._framed(draft), self._close(draft)
        return self._reader.keep_thought(contexts, ids, after)

    def write(self, contexts: Contexts, separator: str = "") -> Generator[Event, None, WrittenText]:
        """Write a text, keep it, and say what follows.

        Args:
            contexts: what came before.
            separator: sets the text's first character off from a text right before it.
        """
        block = self._record.num_texts
        draft = _Draft(context=contexts.view, stream=self._new_stream())
        segment = None
        try:
            for token in self._tokens(draft, self._options.max_text_length):
                yield from _delta(draft, block, draft.stream.push(token), token, separator)
                draft.ending = draft.ending or self._decided(draft)
                if draft.ending is not None:
                    break
            yield from _delta(draft, block, draft.stream.finish(), None, separator)
        except Exception:
            yield from _delta(draft, block, draft.stream.finish(), None, separator)
            raise
        finally:  # also where the run is interrupted or its iterator closed
            segment = draft.segment("generated")
            self._record.segments.append(segment)
        ids, (after, next_id) = self._framed(draft), self._close(draft)
        verdict = self._verdict(draft, next_id)
        kept = self._reader.keep_text(contexts, ids, after)
        yield TextDone(block=block, segment=segment, requested_image=verdict == "draw")
        return WrittenText(contexts=kept, verdict=verdict)

    def _new_stream(self) -> TextStream:
        trigger = self._protocol.trigger
        return TextStream(
            self._inferencer.tokenizer.decode,
            marker=trigger.pattern if isinstance(trigger, Marker) else None,
            stop_strings=self._options.stop_strings,
            final_marks=self._protocol.final_marks,
            hidden_ids=self._hidden,
        )

    def _tokens(self, draft: _Draft, limit: int) -> Iterator[int]:
        """Sample ids that belong to the text, until the model ends it or a limit is reached."""
        trigger = self._protocol.trigger
        wants_marker = isinstance(trigger, Sampled) and trigger.in_text
        start_of_image, _ = self._inferencer.markers
        for count, (token, context) in enumerate(
            self._inferencer.write(draft.context, self._choose), start=1
        ):
            draft.context, draft.fed = context, count - 1
            if token in self._ends:
                return
            if token == start_of_image and wants_marker:
                draft.ending = "draw"
                return
            yield token
            if count == limit:
                draft.ending = draft.ending or "length"
                return
            # This token, the eos and one image's worth of positions must still fit.
            if context.position + 2 > self._inferencer.max_positions:
                draft.ending = draft.ending or "context_full"
                return

    def _decided(self, draft: _Draft) -> Verdict | None:
        """Say whether the text is over although the model did not end it."""
        hit = draft.stream.hit
        if hit is not None:
            return "draw" if hit == "marker" else "stop_string"
        return _DECISIONS[self._ask(draft, next_id=None)]

    def _ask(self, draft: _Draft, next_id: int | None) -> str:
        trigger = self._protocol.trigger
        if isinstance(trigger, Sampled | Marker | EveryText):
            return "write"
        return trigger(
            Written(
                token_ids=draft.stream.ids,
                text=draft.shown,
                ended=next_id is not None,
                next_id=next_id,
                num_images=self._record.num_images,
            )
        )

    def _framed(self, draft: _Draft) -> list[int]:
        """Return all ids of the text with bos and eos, as they stand in the context."""
        return [self._inferencer.bos, *draft.stream.ids, self._inferencer.eos]

    def _close(self, draft: _Draft) -> tuple[Context, int]:
        """Feed what was sampled but not fed, and eos; return the likeliest id to follow."""
        unfed = draft.stream.ids[draft.fed :]
        return self._inferencer.read_ids([*unfed, self._inferencer.eos], draft.context)

    def _verdict(self, draft: _Draft, next_id: int) -> Verdict:
        protocol = self._protocol
        if draft.ending in ("stop", "stop_string", "context_full"):
            return draft.ending
        if draft.stream.is_final:
            return "stop"
        if isinstance(protocol.trigger, EveryText) or draft.ending == "draw":
            return "draw"
        if draft.ending == "length":
            return "length"
        return self._after_eos(draft, next_id)

    def _after_eos(self, draft: _Draft, next_id: int) -> Verdict:
        """Read what the model itself would put after a text that it ended."""
        trigger = self._protocol.trigger
        start_of_image, _ = self._inferencer.markers
        if isinstance(trigger, Sampled) and trigger.after_text and next_id == start_of_image:
            return "draw"
        if not isinstance(trigger, Sampled | Marker | EveryText):
            return _DECISIONS[self._ask(draft, next_id)] or "more"
        return "more" if self._protocol.more_text and next_id == self._inferencer.bos else "stop"


_DECISIONS: dict[str, Verdict | None] = {"write": None, "draw": "draw", "stop": "stop"}


def _delta(
    draft: _Draft, block: int, text: str, token: int | None, separator: str
) -> Iterator[Event]:
    """Show text, if there is any; the separator comes with the first."""
    if text:
        text = draft.release(text if draft.shown else separator + text)
        yield TextDelta(block=block, text=text, token_ids=() if token is None else (token,))
