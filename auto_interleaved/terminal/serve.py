"""The command `serve`: its arguments, and what it says."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from auto_interleaved.serving.limits import Limits
from auto_interleaved.terminal.arguments import (
    PROGRAM,
    ArgumentError,
    HelpFormatter,
    Parser,
    number_of_bytes,
    real_number,
    whole_number,
)
from auto_interleaved.terminal.loading_arguments import add_loading
from auto_interleaved.terminal.request import loading_of
from auto_interleaved.terminal.screen import Screen
from data.wording import shown
from modeling.checkpoint import BUNDLED_MODEL

_KEY_VARIABLE = "AUTO_INTERLEAVED_API_KEY"
_BUNDLED_NAME = "picturebook"
_STORY = "Write a short story about a robot in space with illustrations."
_DESCRIPTION = (
    "Serves a model: chat completions, responses and images, as OpenAI's clients know them."
)
_EPILOG = f"""\
A prompt that is the one word serve is given after --: {PROGRAM} -- serve

exit status:
  0  stopped, after what ran had ended
  1  failed
  2  bad arguments
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServeRequest:
    """A server that is asked for.

    Attributes:
        host, port: where it listens; port 0 is any that is free.
        keys: of which a request must bring one.
        name: of the model, as requests name it.
        public_url: what URLs of pictures begin with; None: as the request came.
        limits: of requests.
        model: a directory or a hub id.
        loading: keyword arguments for `AutoInterleavedInferencer.from_pretrained`.
    """

    host: str
    port: int
    keys: Sequence[str]
    name: str
    public_url: str | None
    limits: Limits
    model: str
    loading: Mapping[str, Any]

    @classmethod
    def read(cls, words: Sequence[str]) -> ServeRequest:
        """Read the words after `serve`.

        Raises:
            ArgumentError: if something in them cannot be.
            SystemExit: with status 0, after help was shown.
        """
        given = _parser().parse_args(words)
        keys = given.api_key or [key for key in [os.environ.get(_KEY_VARIABLE)] if key]
        if not all(key.strip() and key.isascii() and key.isprintable() for key in keys):
            raise ArgumentError("--api-key must be printable ASCII characters, and not blank")
        if not 0 <= given.port < 2**16:
            raise ArgumentError(f"--port must be from 0 to 65535, got {given.port}")
        return cls(
            host=given.host,
            port=given.port,
            keys=keys,
            name=given.served_name or _name_of(given.model),
            public_url=_url(given.public_url),
            limits=_limits(given),
            model=given.model,
            loading=loading_of(given),
        )


def run_server(request: ServeRequest, screen: Screen, load: Callable[[ServeRequest], Any]) -> int:
    """Serve until told to stop; return the exit status.

    Raises:
        ArgumentError: if what it needs is not installed, or it cannot listen there.
    """
    try:
        from auto_interleaved.serving import server
    except ImportError as error:
        raise ArgumentError(
            f"serve needs {error.name}, which is not installed: "
            'pip install "auto-interleaved-bagel[serve]"'
        ) from error
    if not (request.keys or server.is_loopback(request.host)):
        raise ArgumentError(
            f"--host {request.host} lets others in, so --api-key is needed (or {_KEY_VARIABLE})"
        )
    try:
        listening = server.bound(request.host, request.port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"--host {request.host} --port {request.port}: cannot listen there ({reason})"
        ) from error
    with listening:
        inferencer = load(request)
        made = server.make_server(
            inferencer,
            request.limits,
            name=request.name,
            keys=request.keys,
            hosts=(request.host,),
            public_url=request.public_url,
            tell=lambda line: screen.note(f"{PROGRAM}: {line}"),
        )
        listening.listen()  # from now on who does as is said is heard
        for line in _advice(request, listening.getsockname()[1]):
            screen.note(line)
        server.serve(made, listening)
    return 0


def _advice(request: ServeRequest, port: int) -> list[str]:
    """Return three lines that say what to type."""
    host = request.host if request.host not in ("0.0.0.0", "::") else "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = ' -H "Authorization: Bearer KEY"' if request.keys else ""
    body = f'{{"messages": [{{"role": "user", "content": "{_STORY}"}}], "stream": true}}'
    return [
        f"{request.name} is served; every option is told of at {url}/docs, and Ctrl-C ends it",
        f"curl -N {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        f'client = openai.OpenAI(base_url="{url}/v1", '
        f'api_key="{"KEY" if request.keys else "none"}")  # model="{request.name}"',
    ]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} serve",
        usage=f"{PROGRAM} serve [--model DIR] [--host HOST] [--port N] [--api-key KEY] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_loading(parser.add_argument_group("loading"))
    group = parser.add_argument_group("serving")
    group.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    group.add_argument(
        "--port", type=whole_number, default=8000, metavar="N", help="0 is any (default: 8000)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="what requests must bring; several times for several. Others on this machine see "
        f"arguments: {_KEY_VARIABLE} is read where it is left out",
    )
    group.add_argument("--served-name", metavar="NAME", help="of the model, in requests")
    group.add_argument(
        "--public-url", metavar="URL", help="what URLs of pictures begin with, behind a proxy"
    )
    limits = parser.add_argument_group("limits")
    for entry in fields(Limits):
        of_bytes = entry.name.endswith(("memory", "body"))
        reads: Callable[[str], float] = number_of_bytes if of_bytes else whole_number
        reads = real_number if entry.name.endswith("seconds") else reads
        default = "none" if entry.default is None else str(entry.default).removesuffix(".0")
        limits.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=reads,
            default=entry.default,
            metavar="BYTES" if of_bytes else "N",
            help=f"{entry.metadata['told']} (default: {default})",
        )
    return parser


def _limits(given: argparse.Namespace) -> Limits:
    try:
        return Limits(**{entry.name: getattr(given, entry.name) for entry in fields(Limits)})
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(" ")
        raise ArgumentError(f"--{name.replace('_', '-')} {rest}") from error


def _name_of(model: str) -> str:
    if model == str(BUNDLED_MODEL):
        return _BUNDLED_NAME
    return Path(model).name or model


def _url(url: str | None) -> str | None:
    if url is not None and not re.fullmatch(r"https?://[\w.\-:\[\]]+(/[\w.\-/]*)?", url):
        raise ArgumentError(f"--public-url must be http(s)://HOST[/PATH], got {shown(url)}")
    return url
