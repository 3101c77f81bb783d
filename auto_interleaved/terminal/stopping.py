"""How a program is told to stop: by Ctrl-C, by a batch system, by a terminal that goes away."""

from __future__ import annotations

import signal
import threading
from typing import Any

# What the terminal, the batch system or the machine sends to a program that is to end; some of
# them are not known everywhere.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGXCPU")


class Stopping:
    """Within its block, the first signal to stop is a KeyboardInterrupt and no other one is.

    So what ends a run, and saves it, is interrupted once at most. A signal that the program was
    started to ignore (`nohup`, a job in the background) stays ignored.

    Args:
        for_good: whether the program ends afterwards: once it was told to stop, nothing that it is
            told while Python winds up is news.

    Attributes:
        asked: whether the program was told to stop, also where the KeyboardInterrupt was swallowed
            on its way, as one in a destructor is.
    """

    def __init__(self, *, for_good: bool = False) -> None:
        self._for_good = for_good
        self.asked = False
        self._shielded = False
        self._before: dict[int, Any] = {}

    def shield(self) -> None:
        """Let no signal interrupt any more: what follows saves what exists."""
        self._shielded = True

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.asked and self._for_good else handler)

    def _hear(self, *_: object) -> None:
        first, self.asked = not self.asked, True
        if first and not self._shielded:
            raise KeyboardInterrupt
