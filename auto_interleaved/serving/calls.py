"""Calls: a request's runs as they are followed in the event loop, until they or the client go."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from auto_interleaved.serving.errors import Refusal, refusal_of
from auto_interleaved.serving.orders import (
    Accepted,
    BusyError,
    Order,
    Over,
    Refused,
    StoppingError,
)
from auto_interleaved.serving.orders import Told as Heard
from auto_interleaved.serving.worker import Worker
from data.output.events import ImageStep

logger = logging.getLogger("auto_interleaved")

T = TypeVar("T")


class Call:
    """The runs of one request.

    Args:
        worker: who does them.
        keep_alive: seconds of silence after which nothing is told, as None.
    """

    def __init__(self, worker: Worker, keep_alive: float) -> None:
        self._worker = worker
        self._keep_alive = keep_alive
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, Heard]] = asyncio.Queue()
        self._early: deque[tuple[int, Heard]] = deque()
        self._numbers: dict[int, int] = {}  # of runs that are not over, by their place

    async def begin(self, orders: Sequence[Order]) -> Call:
        """Hand the runs in; return itself once all of them were checked.

        Raises:
            Refusal: if one of them cannot be, or there is no room.
        """
        told = [replace(order, tell=partial(self._tell, n)) for n, order in enumerate(orders)]
        try:
            self._numbers = dict(enumerate(self._worker.submit(*told)))
        except BusyError:
            raise Refusal(
                429,
                "as many requests wait as this server lets wait; come again later",
                headers={"Retry-After": "5"},
            ) from None
        except StoppingError:
            raise stopping() from None
        try:
            for _ in orders:  # nothing else is told before all were checked
                await self._checked()
        except BaseException:
            self.close()
            raise
        return self

    async def __aiter__(self) -> AsyncIterator[tuple[int, Heard] | None]:
        """Yield what is told, with the place of its run; None where all is quiet for long."""
        until = self._loop.time() + self._keep_alive
        while self._numbers:
            try:
                async with asyncio.timeout_at(until):
                    place, told = self._early.popleft() if self._early else await self._heard.get()
            except TimeoutError:
                until = self._loop.time() + self._keep_alive
                yield None
                continue
            if not isinstance(told, ImageStep):  # of which no client hears
                until = self._loop.time() + self._keep_alive
            if isinstance(told, Over):
                del self._numbers[place]
            yield place, told

    def close(self) -> None:
        """Let go of all that is not over."""
        for number in self._numbers.values():
            self._worker.cancel(number)
        self._numbers = {}

    def _tell(self, place: int, told: Heard) -> None:
        self._loop.call_soon_threadsafe(self._heard.put_nowait, (place, told))

    async def _checked(self) -> None:
        while True:
            place, told = await self._heard.get()
            if isinstance(told, Refused):
                del self._numbers[place]
                raise refusal_of(told.error)
            if isinstance(told, Accepted):
                return
            self._early.append((place, told))  # of another run, which was checked before


def stopping() -> Refusal:
    """Return the refusal of a server that is to end."""
    return Refusal(
        503,
        "the server is stopping; come again later",
        code="stopping",
        headers={"Retry-After": "30"},
    )


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what comes of work, which ends where the client goes away.

    Raises:
        Refusal: with 499, which nobody reads, if it is gone.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client went away")
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events of a call, which is let go of in whatever way the stream ends.

    Args:
        events: of a format.
        call: what they tell of.
        broken: says in the format that the server failed; the last that is sent then.
    """

    def __init__(
        self, events: AsyncIterator[str], call: Call, broken: Callable[[Refusal], str]
    ) -> None:
        super().__init__(
            _guarded(events, broken),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.close()


async def _guarded(
    events: AsyncIterator[str], broken: Callable[[Refusal], str]
) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield event
    except Exception:
        logger.exception("a stream failed")
        yield broken(Refusal(500, "the server failed; its log says more"))
