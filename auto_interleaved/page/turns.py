"""Turns on one model: whoever wants it to go on by a little waits in one line.

One thread owns the model, as in the serving room, and the line is its executor's: first come, first
served. A run goes on for a moment and then stands in line again, so that several people see theirs
grow at the same time, and none waits for another one's end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from data.output.events import Event, Finished, ImageDone, ImagePreview, ImageStarted

T = TypeVar("T")

# Seconds that a run goes on by itself: enough for many tokens of a small model, and too short to be
# waited for. What a reader waits for is told at once.
_MOMENT = 0.05
_AT_ONCE = ImageStarted | ImagePreview | ImageDone | Finished


class Turns:
    """The one thread in which a model works."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def do(self, work: Callable[[], T]) -> T:
        """Do something with the model, when it is its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def events(
        self, stream: Generator[Event, None, None]
    ) -> AsyncGenerator[list[Event], None]:
        """Yield the events of a run as they come, some at a time; one of text may have company.

        In whatever way it ends, the run is closed in the model's thread: a step that is being
        computed then ends first.
        """
        try:
            while heard := await self.do(lambda: _next_events(stream)):
                yield heard
        finally:
            # No await: this may be the end of a task that is cancelled.
            self._thread.submit(stream.close)

    def close(self) -> None:
        """Let nobody take a turn any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _next_events(stream: Generator[Event, None, None]) -> list[Event]:
    until = time.monotonic() + _MOMENT
    heard: list[Event] = []
    for event in stream:
        heard.append(event)
        if isinstance(event, _AT_ONCE) or time.monotonic() > until:
            break
    return heard


def as_generator(events: Any) -> Generator[Event, None, None]:
    """Return a stream as what it is, so that it can be closed."""
    return cast(Generator[Event, None, None], events)
