"""Stopping from outside: a signal asks, and training ends between two steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # as far as the system has them
_RIGHT_BEHIND = 1.0  # seconds


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, after its state was saved.

    Attributes:
        signal: what stopped it.
    """

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.signal = number


class _Now(BaseException):
    """Ends what nothing is lost of."""


class Stopping:
    """Takes the signals by which people and batch systems end programs while it is entered.

    The first is noted. Another, unless it comes right behind (launchers pass on what their workers
    have got themselves), does what it would have done without this.

    Attributes:
        signal: the first, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._at_once = False

    def __enter__(self) -> Stopping:
        for name in _NAMES:
            number = getattr(signal, name, None)
            # Whoever started this ignoring a signal, as nohup does, wants it to go on.
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            with suppress(ValueError):  # not the main thread, which alone gets signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def unless_stopped(self, work: Callable[[], Result]) -> Result | None:
        """Return what `work` returns, or None as soon as a signal comes.

        Args:
            work: what nothing is lost of where it is left half done.
        """
        if self.signal is not None:
            return None
        try:
            try:
                self._at_once = True
                return work()
            finally:
                self._at_once = False
        except _Now:
            self._at_once = False
            return None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None and time.monotonic() - self._since > _RIGHT_BEHIND:
            self._restore()
            signal.raise_signal(number)
        elif self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
            if self._at_once:
                raise _Now

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
