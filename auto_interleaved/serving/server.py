"""The server: a socket, a worker and an app, from the first request to the last answer."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from auto_interleaved.serving.app import build
from auto_interleaved.serving.keys import Keys
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.sockets import bound, is_loopback
from auto_interleaved.serving.worker import Worker

__all__ = ["Server", "bound", "is_loopback", "make_server", "serve"]

_MOST_CONNECTIONS = 1024
_IDLE = 75  # seconds that a connection may; longer than clients keep theirs, so they close it
_LAST_WORDS = 5  # seconds for what was made to be sent once all runs have ended


class Server(uvicorn.Server):
    """A server that finishes what runs before it ends.

    The first signal to stop lets it refuse more, and run on until all requests are over or their
    time is; then they are told what was made. The second ends it at once.

    Args:
        config: of uvicorn.
        worker: who answers.
        drain: seconds for requests to end by themselves.
        tell: takes a line for who started it.

    Attributes:
        worker: who answers.
    """

    def __init__(
        self, config: uvicorn.Config, worker: Worker, drain: float, tell: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.worker = worker
        self._drain = drain
        self._tell = tell
        self._until: float | None = None
        self._cut = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to stop; at the second time do it at once."""
        if self._until is None:
            self.stop()
        elif sig == signal.SIGINT or self._cut:
            self.should_exit = self.force_exit = True
        else:
            self._until = 0.0

    def stop(self) -> None:
        """Refuse more, and end when all that runs is over."""
        self.worker.refuse_more()
        self._until = time.monotonic() + self._drain
        if self.worker.outstanding:
            self._tell(f"stopping: {self.worker.outstanding} requests end first")

    def close(self) -> None:
        """End the worker; nothing runs any more."""
        self.worker.stop(timeout=_LAST_WORDS)

    async def on_tick(self, counter: int) -> bool:
        """Look whether it is time to end."""
        if self._until is not None:
            if not self.worker.outstanding or not self.worker.is_alive:
                self.should_exit = True
            elif not self._cut and time.monotonic() > self._until:
                self._cut = True
                self.worker.end_all()
        return await super().on_tick(counter)


def make_server(  # noqa: PLR0913 - what a server is made of
    inferencer: Any,
    limits: Limits,
    *,
    name: str,
    keys: Sequence[str] = (),
    hosts: tuple[str, ...] = (),
    public_url: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Server:
    """Return a server of a model, its worker started; `run(sockets=[...])` runs it."""
    worker = Worker(inferencer, limits).start()
    app = build(
        inferencer, worker, limits, name=name, keys=Keys(keys), hosts=hosts, public_url=public_url
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    return Server(config, worker, limits.drain_seconds, tell)


def serve(server: Server, listening: socket.socket) -> None:
    """Run a server until it is told to stop."""
    try:
        server.run(sockets=[listening])
    finally:
        server.close()
