"""The gate: which requests of a browser get to the page, and how it shows its key."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import PlainTextResponse

from auto_interleaved.serving.door import Application, Receive, Scope, Send

# All that the page asks for. Among what gradio answers besides is a way to have a URL fetched.
_PATHS = re.compile(
    r"/(config|theme\.css|manifest\.json|favicon\.ico|(assets|static|svelte)/[\w./@-]+"
    r"|answers/[\w-]+/[\w-]+\.(html|zip|png)"
    r"|gradio_api/(queue/(join|data)|run/predict|upload|upload_progress|cancel|reset|info|startup-events"
    r"|heartbeat/\w+|file=/[^:]+))?"
)


class Gate:
    """Lets through what the page itself asks for, and puts a browser's key into the door's words.

    A browser asks its user for a name and a password, and sends them by HTTP's basic way; the
    password is the key, under any name.

    Args:
        door: what is behind it; it looks at host, key and size.
    """

    def __init__(self, door: Application) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._door(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        origin = headers.get(b"origin", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host:
            refusal = PlainTextResponse("this is no page of this server", 403)
            await refusal(scope, receive, send)
            return
        if not _PATHS.fullmatch(scope["path"]):
            await PlainTextResponse("there is nothing here", 404)(scope, receive, send)
            return

        async def asking(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                others = [pair for pair in message["headers"] if pair[0] != b"www-authenticate"]
                basic = (b"www-authenticate", b'Basic realm="auto-interleaved"')
                message = {**message, "headers": [*others, basic]}
            await send(message)

        await self._door({**scope, "headers": _with_bearer(scope["headers"])}, receive, asking)


def _with_bearer(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(n, _bearer(v) if n.lower() == b"authorization" else v) for n, v in headers]


def _bearer(value: bytes) -> bytes:
    """Turn `Basic` of a name and a key into `Bearer` of the key; leave all else as it is."""
    scheme, _, word = value.partition(b" ")
    if scheme.lower() != b"basic":
        return value
    try:
        _, _, key = base64.b64decode(word, validate=True).partition(b":")
    except binascii.Error:
        return value
    return b"Bearer " + key
