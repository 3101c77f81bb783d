"""Whole characters out of ids that are still being sampled: which of them stand, and which wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import NamedTuple

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what an unfinished character decodes to
LONGEST_WAIT = 4  # ids that one character can be split over: UTF-8 has at most four bytes


class _Window(NamedTuple):
    """The latest ids.

    Attributes:
        ids: all of them.
        num_settled: ids at the beginning that are there as context alone.
        shown: the part of their text that was given out.
        text: all of their text.
    """

    ids: tuple[int, ...] = ()
    num_settled: int = 0
    shown: str = ""
    text: str = ""

    @property
    def waits_long(self) -> bool:
        """Whether more ids wait than one character can be split over."""
        return len(self.ids) - self.num_settled > LONGEST_WAIT

    def show(self, text: str) -> tuple[str, _Window]:
        """Return what a text has beyond what was given out, and the window once it is as well."""
        piece = text[len(commonprefix((self.shown, text))) :]
        return piece, self._replace(shown=text) if piece else self


class CharacterDecoder:
    """Turns ids into whole characters, decoding a few of them at a time.

    Only a window of the latest ids is decoded: those whose text is settled, one step back, and
    those that wait for the rest of a character. What an id adds is the difference between the
    window's text with it and without it, never its text alone: a tokenizer that drops the space at
    the beginning of a text drops the same one from both. The window moves on where its text ends in
    a whole character. No character reaches across that border, so the text of all ids is the text
    up to it and the text behind it, joined.

    Where `decode` fails, nothing has happened: the id that was pushed is not there, and what came
    before it can still be finished, without decoding.

    Args:
        decode: turns ids into text; see `data.text_stream.TextStream`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window = _Window()

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that it completes."""
        piece, window = self._pushed(token_id)
        self._window = window
        return piece

    def finish(self) -> str:
        """Return what still waits, unfinished characters as U+FFFD."""
        piece, self._window = self._window.show(self._window.text)
        return piece

    def _pushed(self, token_id: int) -> tuple[str, _Window]:
        window = self._window
        ids = (*window.ids, token_id)
        text = self._decode(list(ids))
        firm = text.rstrip(REPLACEMENT)
        piece, window = window._replace(ids=ids, text=text).show(firm)
        if firm != text:
            more, window = self._split(window) if window.waits_long else ("", window)
            return piece + more, window
        # An id that adds nothing may be a space that shows once a word follows: the context stays.
        if piece or window.waits_long:
            ids = ids[window.num_settled :]
            text = self._decode(list(ids))
            window = _Window(ids, len(ids), text, text)
        return piece, window

    def _split(self, window: _Window) -> tuple[str, _Window]:
        """Let go of bytes that are no character, for else a run of them is decoded ever anew.

        Between two ids that share a character, both halves decode to U+FFFD of their own and the
        texts of the parts are longer than the text of the whole. Where they are equal no character
        is cut, and more ids cannot change that. One of the last four borders is such a place.
        """
        for count in range(1, LONGEST_WAIT + 1):
            head, tail = (
                self._decode(list(ids)) for ids in (window.ids[:-count], window.ids[-count:])
            )
            if tail and head + tail == window.text:
                shown = window.shown
                rest = _Window(window.ids[-count:], 0, shown[len(head) :], tail)
                return head[len(shown) :], rest
        return "", window
