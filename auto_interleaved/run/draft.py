"""A text while it is written: what was sampled, what was shown of it, and why it is over."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from data.output import Segment
from data.output.segments import SegmentRole
from data.text_stream import TextStream
from modeling.context import Context

Ending = Literal["stop", "length", "stop_string", "context_full"]
Verdict = Ending | Literal["draw", "more"]


class Released(NamedTuple):
    """Text that may be shown.

    Attributes:
        text: all of it; "" for none.
        ids: those that came since the last text.
        apart: what of the text only sets it off from an image before it.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    apart: str = ""


@dataclass(eq=False, kw_only=True)
class Draft:
    """A text while it is written.

    Attributes:
        context: what was fed so far.
        stream: the ids as text.
        separator: sets the first character off from the text before it.
        in_text: whether the separator is a part of this text: right after a text it is, after an
            image it is shown between the two, and only where they have no space there.
        text: what was released.
        told: how many of the ids were told of.
        fed: how many of the ids are in `context`.
        ending: why the text is over; None while it goes on, or where the model ended it.
        last_id: the id by which the model ended it; None if it did not.
    """

    context: Context
    stream: TextStream
    separator: str = ""
    in_text: bool = True
    text: str = ""
    told: int = 0
    fed: int = 0
    ending: Verdict | None = None
    last_id: int | None = None
    started: float = field(default_factory=time.perf_counter)

    def push(self, token: int) -> Released:
        """Take the next id; return what it releases."""
        return self._released(self.stream.push(token))

    def finish(self) -> Released:
        """Release what was held back."""
        return self._released(self.stream.finish())

    def _released(self, text: str) -> Released:
        if not text:
            return Released()
        apart = "" if self.text else self._apart(text)
        self.text += apart + text if self.in_text else text
        ids, self.told = self.stream.ids[self.told :], len(self.stream.ids)
        return Released(apart + text, ids, "" if self.in_text else apart)

    def _apart(self, text: str) -> str:
        return self.separator if self.in_text or not text[0].isspace() else ""

    def segment(self, role: SegmentRole) -> Segment:
        """Return what there is as a segment, held-back text included."""
        self.finish()
        return self.so_far(role)

    def so_far(self, role: SegmentRole) -> Segment:
        """Return what was shown as a segment; more may come."""
        seconds = time.perf_counter() - self.started
        return Segment(
            kind="text",
            role=role,
            text=self.text,
            token_ids=self.stream.ids,
            seconds=seconds,
        )
