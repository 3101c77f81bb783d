"""The worker: the one thread that owns the model, and what becomes of each request there.

It drives a batch that never ends: requests join and leave between its rounds. Whoever hands one in
is told of all that happens, in the worker's thread, and does nothing there but pass it on.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from auto_interleaved.drivers.admission import Admission
from auto_interleaved.drivers.batch import Batch
from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.run.prepared import Prepared, prepare
from auto_interleaved.run.standing import Standing
from auto_interleaved.serving.kept import KeptResponses, NotKeptError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import (
    Accepted,
    BusyError,
    Order,
    Over,
    Reason,
    Refused,
    State,
    StoppingError,
    Told,
)
from data.output import InterleavedOutput
from data.output.events import (
    Event,
    Finished,
    ImageDone,
    ImageStarted,
    TextDelta,
    ThoughtDelta,
)

logger = logging.getLogger("auto_interleaved")


@dataclass(eq=False, kw_only=True)
class _Running:
    """A request that was accepted.

    Attributes:
        order: the request.
        prepared: its run.
        deadline: when its time is over, by `time.monotonic`.
        begun: whether it has joined the batch.
        tokens, images: made so far.
        ending: why it is to leave before the next round; None: it goes on.
    """

    order: Order
    prepared: Prepared
    deadline: float
    begun: bool = False
    tokens: int = 0
    images: int = 0
    ending: Reason | None = None


class Worker:
    """Answers requests, any number at a time, in a thread of its own.

    Args:
        inferencer: the model, an `AutoInterleavedInferencer`; nobody else may use it meanwhile.
        limits: what all requests may take together.

    Attributes:
        state: how it stood after the last round.
        note: takes each request that is over; called in the worker's thread.
    """

    def __init__(self, inferencer: Any, limits: Limits | None = None) -> None:
        self._inferencer = inferencer
        self._limits = limits = limits or Limits()
        self._letters: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._outstanding = 0
        self._takes = True
        self._stopped = False
        self._runs: dict[int, _Running] = {}
        self._waiting: deque[int] = deque()
        self._beginnings = Beginnings(limits.shared_memory)
        self._batch = Batch(inferencer, self._beginnings)
        self._admission = Admission(limits.max_context_memory)
        self._kept = KeptResponses(limits.kept_responses, limits.kept_memory)
        self._rounds = 0
        self.state = State()
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
    def _most(self) -> int:
        return self._limits.max_running + self._limits.max_waiting

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
            self._letters.put(partial(self._take, number, order, time.monotonic()))
        return numbers

    def cancel(self, number: int) -> None:
        """Let a request go that nobody waits for any more: it leaves before the next round."""
        self._letters.put(lambda: self._mark(number, "interrupted"))

    def forget(self, name: str, owner: str, tell: Callable[[bool], None]) -> None:
        """Keep a response no longer; tell whether it was kept."""

        def forget() -> None:
            try:
                self._kept.forget(name, owner)
            except NotKeptError:
                tell(False)
            else:
                tell(True)

        self._letters.put(forget)

    def refuse_more(self) -> None:
        """Take no more requests from now on."""
        with self._lock:
            self._takes = False

    def end_all(self) -> None:
        """Let all requests go; each is told what was made."""

        def end_all() -> None:
            for number in self._runs:
                self._mark(number, "stopping")

        self._letters.put(end_all)

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
                self._part_with_those_over()
                self._admit()
                self._round()
                self.state = replace(
                    self.state,
                    running=self._batch.size,
                    waiting=len(self._waiting),
                    rounds=self._rounds,
                )
            self._part_with_those_over()
        finally:  # whatever it is that ends the thread, nobody waits for it in vain
            self.refuse_more()
            for number in list(self._runs):
                self._leave(number, "error")

    def _read_letters(self) -> None:
        """Do what others ask for; where there is nothing else to do, wait for it."""
        if not self._runs:
            self._letters.get()()
        while not self._letters.empty():
            self._letters.get()()

    def _take(self, number: int, order: Order, received: float) -> None:
        """Check a request."""
        try:
            prepared = self._prepared(order)
        except Exception as error:
            if not isinstance(error, TypeError | ValueError | NotKeptError):
                logger.exception("a request could not be prepared")
            self._done()
            self._tell(order, Refused(error=error))
            return
        seconds = min(order.seconds or self._limits.max_seconds, self._limits.max_seconds)
        running = _Running(order=order, prepared=prepared, deadline=received + seconds)
        self._runs[number] = running
        self._waiting.append(number)
        if not self._tell(order, Accepted()):
            running.ending = "interrupted"

    def _prepared(self, order: Order) -> Prepared:
        inferencer, options = self._inferencer, order.options
        limit = self._limits.max_context_memory
        if limit is not None:
            own = options.max_context_memory or limit
            options = replace(options, max_context_memory=min(own, limit))
        start = Standing() if order.keep_as is not None else None
        if order.after is not None:
            start = self._kept.find(order.after, order.owner)
        return prepare(
            inferencer,
            order.prompt,
            options,
            protocol=inferencer.protocol,
            understanding=inferencer.understanding,
            progress={"disable": True},
            start=start,
        )

    def _mark(self, number: int, reason: Reason) -> None:
        running = self._runs.get(number)
        if running is not None and running.ending is None:
            running.ending = reason

    def _part_with_those_over(self) -> None:
        now = time.monotonic()
        for number, running in list(self._runs.items()):
            if running.ending is None and running.deadline < now:
                running.ending = "time_limit"
            if running.ending is not None:
                self._leave(number, running.ending)

    def _admit(self) -> None:
        """Let those join that there is room for, in their order."""
        while self._waiting and self._batch.size < self._limits.max_running:
            number = self._waiting[0]
            running = self._runs[number]
            if not self._admission.admits(number, running.prepared):
                return
            self._waiting.popleft()
            self._make_room()
            running.begun = True
            self._go_on(self._batch.join(number, running.prepared.work()))

    def _make_room(self) -> None:
        """Let what is only kept take what running requests leave."""
        left = self._admission.left
        self._kept.allow(left)
        if left < self._limits.shared_memory + self._limits.kept_memory:
            left -= self._kept.nbytes
        self._beginnings.allow(max(0, min(left, self._limits.shared_memory)))

    def _round(self) -> None:
        if self._batch.size:
            self._rounds += 1
            self._go_on(self._batch.round())

    def _go_on(self, events: Iterator[tuple[int, Event]]) -> None:
        """Tell what happens; an error that is none of a run's own ends them all, and no more."""
        try:
            for number, event in events:
                self._hear(number, event)
        except Exception as error:
            logger.exception("a round of the batch failed")
            self._batch.close(error)
            for number in [n for n, running in self._runs.items() if running.begun]:
                self._leave(number, "error")

    def _hear(self, number: int, event: Event) -> None:
        """Pass an event of a run on, unless the run has made enough."""
        running = self._runs[number]
        order = running.order
        if isinstance(event, Finished):
            self._end(number, event.output, running.ending or event.output.finish_reason)
            return
        if isinstance(event, TextDelta | ThoughtDelta):
            running.tokens += len(event.token_ids)
            if order.max_tokens is not None and running.tokens > order.max_tokens:
                running.ending = running.ending or "max_tokens"
        if isinstance(event, ImageStarted) and event.index >= self._limits.max_images:
            running.ending = running.ending or "max_images"
        if running.ending is not None:
            return
        if not self._tell(order, event):
            running.ending = "interrupted"
        if isinstance(event, ImageDone):
            running.images += 1
            if running.images == order.max_images:
                running.ending = "max_images"

    def _leave(self, number: int, reason: Reason) -> None:
        """End a request that has not ended by itself."""
        running = self._runs[number]
        self._batch.leave(number)
        if not running.begun:
            self._waiting.remove(number)
        record = running.prepared.record
        output = record.so_far() or InterleavedOutput(finish_reason="interrupted")
        self._end(number, output, reason)

    def _end(self, number: int, output: InterleavedOutput, reason: Reason) -> None:
        running = self._runs.pop(number)
        order, end = running.order, running.prepared.run.end
        self._admission.release(number)
        if order.keep_as is not None and end is not None and reason != "error":
            self._kept.keep(order.keep_as, order.owner, end, order.after)
            self._kept.allow(self._admission.left)
        self.state = replace(
            self.state,
            context_bytes=self._admission.reserved,
            kept=len(self._kept),
            kept_bytes=self._kept.nbytes,
            shared_bytes=self._beginnings.nbytes,
        )
        over = Over(output=output, reason=reason, begun=running.begun)
        self._done()
        self.note(over)
        self._tell(order, over)

    def _done(self) -> None:
        with self._lock:
            self._outstanding -= 1

    def _tell(self, order: Order, told: Told) -> bool:
        """Tell, and return whether somebody heard."""
        try:
            order.tell(told)
        except Exception:  # a loop that is closed, above all; it is no reason to stop for others
            logger.debug("nobody hears of a request", exc_info=True)
            return False
        return True
