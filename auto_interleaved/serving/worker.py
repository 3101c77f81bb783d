"""The worker: the one thread that owns the model, and how others reach it.

It drives a batch that never ends: requests join and leave between its rounds. Whoever hands one in
is told of all that happens, in the worker's thread, and does nothing there but pass it on.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from auto_interleaved.run.standing import Standing
from auto_interleaved.serving.kept import NotKeptError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import BusyError, Order, Over, State, StoppingError
from auto_interleaved.serving.runs import Runs


class Worker:
    """Answers requests, any number at a time, in a thread of its own.

    Args:
        inferencer: the model, an `AutoInterleavedInferencer`; nobody else may use it meanwhile.
        limits: what all requests may take together.

    Attributes:
        note: takes each request that is over; called in the worker's thread.
    """

    def __init__(self, inferencer: Any, limits: Limits) -> None:
        self._most = limits.max_running + limits.max_waiting
        self._letters: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._outstanding = 0
        self._takes = True
        self._stopped = False
        self._runs = Runs(inferencer, limits, self._over)
        self.note: Callable[[Over], None] = lambda _: None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> Worker:
        """Begin to work; return itself."""
        self._thread.start()
        return self

    @property
    def is_alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive()

    @property
    def is_free(self) -> bool:
        """Whether it would take one more request."""
        return self._takes and self.is_alive and self._outstanding < self._most

    @property
    def outstanding(self) -> int:
        """Requests that were handed in and are not over."""
        return self._outstanding

    @property
    def state(self) -> State:
        """How it stood after the last round."""
        return self._runs.state

    def submit(self, *orders: Order) -> list[int]:
        """Hand requests in, all of them or none.

        Returns:
            Their numbers, for `cancel`.

        Raises:
            BusyError: if too many wait.
            StoppingError: if it takes none any more.
        """
        with self._lock:
            if not (self._takes and self.is_alive):
                raise StoppingError("the server is stopping")
            if self._outstanding + len(orders) > self._most:
                raise BusyError("too many requests wait")
            self._outstanding += len(orders)
        numbers = [next(self._numbers) for _ in orders]
        for number, order in zip(numbers, orders, strict=True):
            self._letters.put(partial(self._runs.take, number, order, time.monotonic()))
        return numbers

    def cancel(self, number: int) -> None:
        """Let a request go that nobody waits for any more: it leaves before the next round."""
        self._letters.put(partial(self._runs.mark, number, "interrupted"))

    def forget(self, name: str, owner: str, tell: Callable[[bool], None]) -> None:
        """Keep a response no longer; tell whether it was kept."""

        def forget() -> None:
            try:
                self._runs.kept.forget(name, owner)
            except NotKeptError:
                tell(False)
            else:
                tell(True)

        self._letters.put(forget)

    def adopt(self, name: str, owner: str, standing: Standing) -> None:
        """Keep a response that another worker made, for requests that are handed in from now on."""
        self._letters.put(partial(self._runs.kept.adopt, name, owner, standing))

    def refuse_more(self) -> None:
        """Take no more requests from now on."""
        with self._lock:
            self._takes = False

    def end_all(self) -> None:
        """Let all requests go; each is told what was made."""
        self._letters.put(partial(self._runs.mark_all, "stopping"))

    def stop(self, timeout: float | None = None) -> None:
        """End all requests and the thread."""
        self.refuse_more()
        self.end_all()

        def stop() -> None:
            self._stopped = True

        self._letters.put(stop)
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            while not self._stopped:
                self._read_letters()
                self._runs.part_with_those_over()
                self._runs.admit()
                self._runs.round()
        finally:  # whatever it is that ends the thread, nobody waits for it in vain
            self.refuse_more()
            self._runs.end_all()

    def _over(self, over: Over | None) -> None:
        with self._lock:
            self._outstanding -= 1
        if over is not None:
            self.note(over)

    def _read_letters(self) -> None:
        """Do what others ask for; where there is nothing else to do, wait for it."""
        if not len(self._runs):
            self._letters.get()()
        while not self._letters.empty():
            self._letters.get()()
