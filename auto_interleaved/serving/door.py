"""The door: what is asked of every request before its body is read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from auto_interleaved.serving.errors import Refusal
from auto_interleaved.serving.keys import Keys

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_OPEN = ("/health", "/ready", "/docs", "/static-offline-docs/", "/openapi.json", "/pictures/")
_BODY_SECONDS = 60.0


class Door:
    """Lets requests in whose host, key and size are as they should be.

    Without keys, only who names this machine itself is let in: a page of another site that a
    browser shows, under a name that leads here, is not.

    Args:
        app: what is behind it.
        keys: who may come in.
        max_body: bytes of a body at most.
        hosts: names that the server goes by, beside those of this machine.
        note: takes path and status of every answer.
    """

    def __init__(
        self,
        app: Application,
        keys: Keys,
        max_body: int,
        hosts: tuple[str, ...] = (),
        note: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._max_body = max_body
        self._hosts = {host.lower() for host in (*_LOOPBACK, *hosts)}
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._note(scope["path"], message["status"])
            await send(message)

        try:
            scope.setdefault("state", {})["owner"] = self._checked(scope)
        except Refusal as refusal:
            answer = JSONResponse(refusal.body(), refusal.status_code, refusal.headers)
            await answer(scope, receive, noted)
            return
        await self._app(scope, self._measured(receive), noted)

    def _checked(self, scope: Scope) -> str:
        """Return whose request it is."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        match = _HOST.fullmatch(host)
        if match is None:
            raise Refusal(400, "the header Host must name this server", code="invalid_host")
        if not self._keys.are_asked_for and match[1].lower() not in self._hosts:
            raise Refusal(
                403, "without a key this server answers to its own name only", code="invalid_host"
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._max_body:
            raise self._too_large()
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        owner = self._keys.owner(authorization)
        if owner is None and not scope["path"].startswith(_OPEN):
            raise Refusal(
                401,
                "the key is missing or wrong; send Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return owner or ""

    def _measured(self, receive: Receive) -> Receive:
        """Return what reads a body and stops where it is too long, or comes too slowly."""
        size, whole = 0, False
        until = asyncio.get_running_loop().time() + _BODY_SECONDS

        async def read() -> MutableMapping[str, Any]:
            nonlocal size, whole
            if whole:  # what comes now is that the client goes away
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, "the body did not come in time") from None
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        return read

    def _too_large(self) -> Refusal:
        return Refusal(413, f"a body must have at most {self._max_body} bytes")
