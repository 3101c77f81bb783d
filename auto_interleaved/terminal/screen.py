"""The screen of a command line: a story on one stream, all else on another."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from data.output.events import Event, ImageDone, ImageStarted, ImageStep, TextDelta, ThoughtDelta
from modeling.progress import Bar

# Escape sequences and their like: on a terminal they are commands, and a model may write anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """Shows a run: its text on one stream, all else on another, never both on one line.

    A stream may be absent, closed or full: it is written to no more, and nothing else changes.

    Args:
        out: where the story goes.
        err: where progress, plans and notes go.

    Attributes:
        unread: whether the story had a stream that nobody reads, or that takes no more.
    """

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self.unread = False
        self._out = out
        self._err = err
        self._unfinished: TextIO | None = None  # the stream whose last line is not ended
        self._cut_short = False  # whether the story's last line was ended by us
        self._bar: Bar | None = None
        self._planning = False

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, TextDelta):
            # A line that was ended for a note needs no second end from the text.
            text = event.text.removeprefix("\n") if self._cut_short else event.text
            self._cut_short = False
            if text:
                self._write(self._out, text)
        elif isinstance(event, ThoughtDelta):
            self._write(self._err, event.text if self._planning else f"plan: {event.text}")
            self._planning = True
        elif isinstance(event, ImageStarted):
            self._open_bar(f"picture {event.index + 1}")
        elif isinstance(event, ImageStep) and self._bar is not None:
            self._bar.count_to(event.num_steps)
            self._bar.update()
        elif isinstance(event, ImageDone):
            self.close()
            self.note(_told(event))

    def say(self, text: str) -> None:
        """Write what was asked for."""
        self._write(self._out, text)

    def note(self, message: str) -> None:
        """Write a line about the run."""
        if self._bar is not None:
            self._bar.hide()
        self._end_line()
        self._write(self._err, f"{message}\n")
        if self._bar is not None:
            self._bar.show()

    def close(self) -> None:
        """Take the bar away and end the line that is being written."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._end_line()

    def end(self) -> None:
        """Write out what Python still holds, which would fail when it exits."""
        for stream in (self._out, self._err):
            try:
                if stream is not None:
                    stream.flush()
            except Exception:
                _silence(stream)

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Say what is waited for, as long as it is."""
        self._open_bar(reason)
        try:
            yield
        finally:
            self.close()

    @contextmanager
    def counting(self, total: int, title: str, unit: str) -> Iterator[Callable[[int], None]]:
        """Show how many of so many there are; it is told by a call."""
        self._open_bar(title, unit)
        bar, shown = self._bar, 0
        if bar is not None:
            bar.count_to(total)

        def count(number: int) -> None:
            nonlocal shown
            if bar is not None:
                for _ in range(number - shown):
                    bar.update()
                bar.show()  # also where nothing is done yet: time goes on
            shown = max(shown, number)

        try:
            yield count
        finally:
            self.close()

    def _open_bar(self, title: str, unit: str = "step") -> None:
        self.close()
        # It is gone once closed, and not shown at all where standard error is no terminal.
        self._bar = None
        if self._err is not None:
            self._bar = Bar(
                desc=title,
                unit=unit,
                bar_format="{desc} ...",  # until a first step tells how many there are
                leave=False,
                disable=None,
                dynamic_ncols=True,
                file=self._err,
            )

    def _end_line(self) -> None:
        if self._unfinished is not None:
            self._cut_short = self._cut_short or self._unfinished is self._out
            self._write(self._unfinished, "\n")

    def _write(self, stream: TextIO | None, text: str) -> None:
        if stream is None:
            return
        if self._unfinished not in (None, stream):
            self._end_line()
        self._unfinished = None if text.endswith("\n") else stream
        try:
            stream.write(_showable(text, stream))
            stream.flush()
        except Exception:  # closed, full, or a terminal that is gone: whatever it is, it is over
            self._lose(stream)

    def _lose(self, stream: TextIO) -> None:
        _silence(stream)
        self._unfinished = None
        if stream is self._out:
            self._out, self.unread = None, True
        else:
            self._err = None


def _silence(stream: TextIO | None) -> None:
    """Send what is left of a lost stream nowhere, for Python flushes it once more at its exit."""
    with suppress(Exception), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())  # type: ignore[union-attr]


def _showable(text: str, stream: TextIO) -> str:
    """Replace what a stream cannot show, or what would command it."""
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "replace").decode(encoding)
    return _CONTROL.sub("?", text) if stream.isatty() else text


def _told(event: ImageDone) -> str:
    width, height = event.image.size
    return f"[picture {event.index + 1}: {width} x {height}, {event.segment.seconds:.1f} s]"
