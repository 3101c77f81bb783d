"""The command `serve`: its arguments, and what it says."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from auto_interleaved.terminal.arguments import (
    PROGRAM,
    ArgumentError,
    HelpFormatter,
    Parser,
)
from auto_interleaved.terminal.listening import (
    ListeningRequest,
    add_limits,
    add_listening,
    common_of,
    extra_of,
    listening_at,
    name_of,
    url_of,
)
from auto_interleaved.terminal.loading_arguments import add_loading
from auto_interleaved.terminal.screen import Screen
from data.wording import shown

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
class ServeRequest(ListeningRequest):
    """A server that is asked for.

    Attributes:
        name: of the model, as requests name it.
        public_url: what URLs of pictures begin with; None: as the request came.
    """

    name: str
    public_url: str | None

    @classmethod
    def read(cls, words: Sequence[str]) -> ServeRequest:
        """Read the words after `serve`.

        Raises:
            ArgumentError: if something in them cannot be.
            SystemExit: with status 0, after help was shown.
        """
        given = _parser().parse_args(words)
        return cls(
            name=given.served_name or name_of(given.model),
            public_url=_url(given.public_url),
            **common_of(given),
        )


def run_server(request: ServeRequest, screen: Screen, load: Callable[[ServeRequest], Any]) -> int:
    """Serve until told to stop; return the exit status.

    Raises:
        ArgumentError: if what it needs is not installed, or it cannot listen there.
    """
    with extra_of("serve"):
        from auto_interleaved.serving import server
    with listening_at(request.host, request.port, request.keys) as listening:
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
    url = url_of(request.host, port)
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
    add_listening(group, port=8000, brings="what requests must bring")
    group.add_argument("--served-name", metavar="NAME", help="of the model, in requests")
    group.add_argument(
        "--public-url", metavar="URL", help="what URLs of pictures begin with, behind a proxy"
    )
    add_limits(parser.add_argument_group("limits"))
    return parser


def _url(url: str | None) -> str | None:
    if url is not None and not re.fullmatch(r"https?://[\w.\-:\[\]]+(/[\w.\-/]*)?", url):
        raise ArgumentError(f"--public-url must be http(s)://HOST[/PATH], got {shown(url)}")
    return url
