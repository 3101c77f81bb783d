"""Text streams: which characters of a text that is still being sampled may already be shown.

Sampled ids go in one at a time, text comes out. Two things hold text back. A tokenizer splits
characters over ids, so the last character may be unfinished; and the end of the text may be the
beginning of a mark that is to be cut. Whatever turns out to be neither is released, in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from data.characters import CharacterDecoder
from data.protocols import Pattern
from data.wording import shown

Hit = Literal["marker", "stop_string"]

REGEX_REACH = 64  # characters held back where a regular expression is looked for


class TextStream:
    """Decodes ids as they come; releases whole characters that can no longer become a mark.

    Of the marks, the earliest in the text is the one that counts; of several at the same place the
    longest; of two equal ones the marker. A string is hit as soon as no earlier or longer one is
    possible any more, so which one it is does not depend on how the text is split into ids.

    A marker is cut out: what the model wrote behind it, in the last of the ids pushed, is released
    as well. At a stop string the text ends: neither it nor what stands behind it is released.

    Where a regular expression is among the marks, the last 64 characters are held back. It is hit
    as soon as it matches what has been written so far; the beginning of a match that is longer
    than these 64 characters has been released before and stays.

    Args:
        decode: turns ids into text, as a tokenizer's `decode` does. An unfinished character at the
            end must show as U+FFFD, and text before it must not change when more ids follow: a
            tokenizer must not clean up spaces.
        marker: a string, or a compiled regular expression, that asks for an image.
        stop_strings: strings or compiled regular expressions at which the text ends.
        final_marks: strings or compiled regular expressions that `is_final` looks for; they stay
            in the text and hold nothing back.
        hidden_ids: ids that are no text, such as control tokens. They are not decoded: a character
            or a mark whose parts have one between them is found all the same.

    Raises:
        TypeError: a pattern is neither a string nor a regular expression over strings, or a
            single pattern stands where a sequence of them is due.
        ValueError: a pattern matches the empty text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        marker: Pattern | None = None,
        stop_strings: Sequence[Pattern] = (),
        final_marks: Sequence[Pattern] = (),
        hidden_ids: Collection[int] = (),
    ) -> None:
        markers = () if marker is None else (marker,)
        _check_patterns("marker", markers)
        _check_patterns("stop_strings", stop_strings)
        _check_patterns("final_marks", final_marks)
        self._decoder = CharacterDecoder(decode)
        self._marks: list[tuple[Pattern, Hit]] = [
            *((pattern, "marker") for pattern in markers),
            *((pattern, "stop_string") for pattern in stop_strings),
        ]
        self._final_marks = tuple(final_marks)
        self._hidden_ids = frozenset(hidden_ids)
        self._ids: list[int] = []
        self._text = ""
        self._held = ""
        self._hit: Hit | None = None
        self._finished = False

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids pushed so far, hidden ones included."""
        return tuple(self._ids)

    @property
    def text(self) -> str:
        """Everything released so far: what `push` and `finish` returned, joined."""
        return self._text

    @property
    def hit(self) -> Hit | None:
        """Which kind of mark was cut; None as long as there was none."""
        return self._hit

    @property
    def is_final(self) -> bool:
        """Whether one of the final marks occurs in `text`."""
        return any(_find(pattern, self._text) for pattern in self._final_marks)

    def push(self, token_id: int) -> str:
        """Take the next id of the text.

        Args:
            token_id: the id as it was sampled.

        Returns:
            The text that is released by it; "" if all is held back.

        Raises:
            RuntimeError: a mark was hit, or the stream was finished.
            Exception: whatever `decode` raised. The id was not taken then, and nothing is lost.
        """
        if self._finished or self._hit:
            cause = "it was finished" if self._hit is None else f"a {self._hit} was hit"
            raise RuntimeError(
                f"nothing can be pushed to this text any more: {cause}; "
                "begin the next text with a new TextStream"
            )
        piece = "" if token_id in self._hidden_ids else self._decoder.push(token_id)
        self._ids.append(token_id)
        return self._release(piece) if piece else ""

    def finish(self) -> str:
        """End the text; doing so again, or after a hit, changes nothing.

        Returns:
            What was held back, unfinished characters as U+FFFD. A mark that only waited for a
            longer one is hit now, and cut.
        """
        if self._finished or self._hit:
            return ""
        self._finished = True
        return self._release(self._decoder.finish())

    def _release(self, piece: str) -> str:
        self._held += piece
        written = self._text + self._held
        undecided = len(written) if self._finished else self._undecided(written)
        mark = self._first_mark(written)
        if mark is not None and (self._finished or mark.start < undecided):
            return self._cut(mark, written)
        return self._show(written[len(self._text) : self._reach_back(undecided, len(written))])

    def _undecided(self, written: str) -> int:
        """Where the earliest string begins that more text could make a mark; the end if none."""
        strings = (pattern for pattern, _ in self._marks if isinstance(pattern, str))
        starts = (_open_start(string, written, len(self._text)) for string in strings)
        return min(starts, default=len(written))

    def _first_mark(self, written: str) -> _Mark | None:
        # A string cannot begin in what was released. A regular expression is looked for in all of
        # the text: a long match may begin there, and it may look behind itself.
        found = [
            _Mark(*span, hit)
            for pattern, hit in self._marks
            if (span := _find(pattern, written, len(self._text) if isinstance(pattern, str) else 0))
        ]
        return min(found, key=lambda mark: (mark.start, -mark.end), default=None)

    def _reach_back(self, undecided: int, end: int) -> int:
        """Up to where text may be shown while no mark is cut."""
        if self._finished or all(isinstance(pattern, str) for pattern, _ in self._marks):
            return undecided
        return max(len(self._text), min(undecided, end - REGEX_REACH))

    def _cut(self, mark: _Mark, written: str) -> str:
        self._hit = mark.hit
        shown = len(self._text)
        piece = written[shown : mark.start]
        if mark.hit == "marker":
            piece += written[max(mark.end, shown) :] + self._decoder.finish()
        return self._show(piece)

    def _show(self, piece: str) -> str:
        self._held = self._held[len(piece) :]
        self._text += piece
        return piece


class _Mark(NamedTuple):
    """A place in the text where a pattern matched."""

    start: int
    end: int
    hit: Hit


def _find(pattern: Pattern, text: str, start: int = 0) -> tuple[int, int] | None:
    if isinstance(pattern, str):
        index = text.find(pattern, start)
        return None if index < 0 else (index, index + len(pattern))
    match = pattern.search(text, start)
    return match and match.span()


def _open_start(string: str, text: str, start: int) -> int:
    """Where the longest end of a text begins that is a beginning of the string, but not all."""
    first = max(start, len(text) - len(string) + 1)
    places = (place for place in range(first, len(text)) if string.startswith(text[place:]))
    return next(places, len(text))


def _check_patterns(name: str, patterns: Sequence[Pattern]) -> None:
    if isinstance(patterns, str | re.Pattern):
        raise TypeError(
            f"{name} must be a sequence of patterns, got {shown(patterns)} alone; put it in ()"
        )
    for pattern in patterns:
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        if not isinstance(text, str):
            raise TypeError(
                f"{name} must be a string or a regular expression over strings, "
                f"got {shown(pattern)}"
            )
        if _find(pattern, ""):
            raise ValueError(
                f"{name} must not match the empty text, for then it matches before anything is "
                f"written; got {shown(pattern)}"
            )
