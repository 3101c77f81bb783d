"""The command `page`: its arguments, and what it says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from auto_interleaved.terminal.arguments import (
    PROGRAM,
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

_DESCRIPTION = "Shows a page to chat with a model on, in texts and pictures."
_EPILOG = f"""\
A prompt that is the one word page is given after --: {PROGRAM} -- page

exit status:
  0  stopped
  1  failed
  2  bad arguments
"""
# Of a server's limits, those that a page has a use for.
_LIMITS = (
    *("max_running", "max_waiting", "max_context_memory", "max_body", "max_characters"),
    *("max_pictures", "max_pixels", "max_tokens", "max_images", "max_blocks"),
    *("max_drawn_pixels", "max_steps", "max_candidates"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PageRequest(ListeningRequest):
    """A page that is asked for; a key is a visitor's password, `max_context_memory` each talk's."""

    @classmethod
    def read(cls, words: Sequence[str]) -> PageRequest:
        """Read the words after `page`.

        Raises:
            ArgumentError: if something in them cannot be.
            SystemExit: with status 0, after help was shown.
        """
        return cls(**common_of(_parser().parse_args(words)))


def run_page(request: PageRequest, screen: Screen, load: Callable[[PageRequest], Any]) -> int:
    """Show the page until told to stop; return the exit status.

    Raises:
        ArgumentError: if what it needs is not installed, or it cannot listen there.
    """
    with extra_of("page"):
        from auto_interleaved.page.host import hosted
    with listening_at(request.host, request.port, request.keys) as listening:
        inferencer = load(request)
        name = name_of(request.model)
        with hosted(
            inferencer, request.limits, name=name, keys=request.keys, hosts=(request.host,)
        ) as server:
            url = url_of(request.host, listening.getsockname()[1])
            screen.note(f"chat with {name} at {url}; Ctrl-C ends it")
            if request.keys:
                screen.note("it asks for a name, any, and a password: the key")
            server.run(sockets=[listening])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"{PROGRAM} page",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_loading(parser.add_argument_group("loading"))
    group = parser.add_argument_group("the page")
    add_listening(group, port=7860, brings="what visitors must give as the password")
    add_limits(parser.add_argument_group("limits"), _LIMITS)
    return parser
