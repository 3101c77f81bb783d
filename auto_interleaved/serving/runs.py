"""Runs: the requests that a worker has accepted, from their check to their end.

All of this is done in the worker's thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from auto_interleaved.drivers.admission import Admission
from auto_interleaved.drivers.batch import Batch
from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.run.prepared import Prepared, prepare
from auto_interleaved.run.standing import Standing
from auto_interleaved.serving.kept import KeptResponses, NotKeptError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import Accepted, Order, Over, Reason, Refused, State, Told
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


class Runs:
    """Accepted requests: those that wait, those in the batch, and what is kept of those before.

    Args:
        inferencer: the model, an `AutoInterleavedInferencer`.
        limits: what all requests may take together.
        over: takes each request that is over before anybody else hears of it; None for one that
            was refused.

    Attributes:
        kept: responses that others may continue.
        state: how all of it stands.
    """

    def __init__(
        self, inferencer: Any, limits: Limits, over: Callable[[Over | None], None]
    ) -> None:
        self._inferencer = inferencer
        self._limits = limits
        self._over = over
        self._runs: dict[int, _Running] = {}
        self._waiting: deque[int] = deque()
        self._beginnings = Beginnings(limits.shared_memory)
        self._batch = Batch(inferencer, self._beginnings)
        self._admission = Admission(limits.max_context_memory)
        self.kept = KeptResponses(limits.kept_responses, limits.kept_memory)
        self.state = State()

    def __len__(self) -> int:
        return len(self._runs)

    def mark_all(self, reason: Reason) -> None:
        """Let all go before the next round."""
        for number in self._runs:
            self.mark(number, reason)

    def end_all(self) -> None:
        """End all at once, as failed."""
        for number in list(self._runs):
            self._leave(number, "error")

    def take(self, number: int, order: Order, received: float) -> None:
        """Check a request."""
        try:
            prepared = self._prepared(order)
        except Exception as error:
            if not isinstance(error, TypeError | ValueError | NotKeptError):
                logger.exception("a request could not be prepared")
            self._over(None)
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
            start = self.kept.find(order.after, order.owner)
        return prepare(
            inferencer,
            order.prompt,
            options,
            protocol=inferencer.protocol,
            understanding=inferencer.understanding,
            progress={"disable": True},
            start=start,
        )

    def mark(self, number: int, reason: Reason) -> None:
        """Let a request go before the next round."""
        running = self._runs.get(number)
        if running is not None and running.ending is None:
            running.ending = reason

    def part_with_those_over(self) -> None:
        """End those that were let go of, and those whose time is over."""
        now = time.monotonic()
        for number, running in list(self._runs.items()):
            if running.ending is None and running.deadline < now:
                running.ending = "time_limit"
            if running.ending is not None:
                self._leave(number, running.ending)

    def admit(self) -> None:
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
        self.kept.allow(left)
        if left < self._limits.shared_memory + self._limits.kept_memory:
            left -= self.kept.nbytes
        self._beginnings.allow(max(0, min(left, self._limits.shared_memory)))

    def round(self) -> None:
        """Let all that are in the batch go on by a step."""
        if self._batch.size:
            self._go_on(self._batch.round())
        self.state = replace(
            self.state,
            running=self._batch.size,
            waiting=len(self._waiting),
            context_bytes=self._admission.reserved,
            rounds=self.state.rounds + bool(self._batch.size),
        )

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
            if running.images == order.wanted_images:
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
        kept = None
        if order.keep_as is not None and end is not None and reason != "error":
            kept = replace(end, contexts=None)
            self.kept.keep(order.keep_as, order.owner, end, order.after)
            self.kept.allow(self._admission.left)
        self.state = replace(
            self.state,
            kept=len(self.kept),
            kept_bytes=self.kept.nbytes,
            shared_bytes=self._beginnings.nbytes,
        )
        over = Over(output=output, reason=reason, begun=running.begun, end=kept)
        self._over(over)
        self._tell(order, over)

    @staticmethod
    def _tell(order: Order, told: Told) -> bool:
        """Tell, and return whether somebody heard."""
        try:
            order.tell(told)
        except Exception:  # a loop that is closed, above all; it is no reason to stop for others
            logger.debug("nobody hears of a request", exc_info=True)
            return False
        return True
