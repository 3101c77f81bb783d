"""What the commands that listen share: where, for whom, and how much may be asked of them."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.sockets import bound, is_loopback
from auto_interleaved.terminal.arguments import (
    ArgumentError,
    number_of_bytes,
    real_number,
    whole_number,
)
from auto_interleaved.terminal.loading_arguments import Group
from auto_interleaved.terminal.request import loading_of
from modeling.checkpoint import BUNDLED_MODEL

_KEY_VARIABLE = "AUTO_INTERLEAVED_API_KEY"
_BUNDLED_NAME = "picturebook"


@dataclass(frozen=True, kw_only=True, eq=False)
class ListeningRequest:
    """Something that listens, as it is asked for.

    Attributes:
        host, port: where it listens; port 0 is any that is free.
        keys: of which one must be brought.
        limits: of what is asked.
        model: a directory or a hub id.
        loading: keyword arguments for `AutoInterleavedInferencer.from_pretrained`.
    """

    host: str
    port: int
    keys: Sequence[str]
    limits: Limits
    model: str
    loading: Mapping[str, Any]


def common_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the attributes of a `ListeningRequest`.

    Raises:
        ArgumentError: if something in them cannot be.
    """
    return {
        "host": given.host,
        "port": port_of(given),
        "keys": keys_of(given),
        "limits": limits_of(given),
        "model": given.model,
        "loading": loading_of(given),
    }


@contextmanager
def extra_of(command: str) -> Iterator[None]:
    """Import what a command needs besides: an extra that is called like it.

    Raises:
        ArgumentError: if it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ArgumentError(
            f"{command} needs {error.name}, which is not installed: "
            f'pip install "auto-interleaved-bagel[{command}]"'
        ) from error


def add_listening(group: Group, *, port: int, brings: str) -> None:
    """Add where to listen, and the keys."""
    group.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    group.add_argument(
        "--port",
        type=whole_number,
        default=port,
        metavar="N",
        help="0 is any (default: %(default)s)",
    )
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=f"{brings}; several times for several. Others on this machine see "
        f"arguments: {_KEY_VARIABLE} is read where it is left out",
    )


def keys_of(given: argparse.Namespace) -> Sequence[str]:
    """Return the keys of which one must be brought.

    Raises:
        ArgumentError: if one cannot be typed.
    """
    keys = given.api_key or [key for key in [os.environ.get(_KEY_VARIABLE)] if key]
    if not all(key.strip() and key.isascii() and key.isprintable() for key in keys):
        raise ArgumentError("--api-key must be printable ASCII characters, and not blank")
    return keys


def port_of(given: argparse.Namespace) -> int:
    """Return the port.

    Raises:
        ArgumentError: if there is no such.
    """
    port: int = given.port
    if not 0 <= port < 2**16:
        raise ArgumentError(f"--port must be from 0 to 65535, got {port}")
    return port


def listening_at(host: str, port: int, keys: Sequence[str]) -> socket.socket:
    """Return a socket that is bound, to this machine alone where there are no keys.

    Raises:
        ArgumentError: if others would be let in without a key, or it cannot listen there.
    """
    if not (keys or is_loopback(host)):
        raise ArgumentError(
            f"--host {host} lets others in, so --api-key is needed (or {_KEY_VARIABLE})"
        )
    try:
        return bound(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"--host {host} --port {port}: cannot listen there ({reason})"
        ) from error


def url_of(host: str, port: int) -> str:
    """Return where a browser of this machine finds what listens."""
    host = host if host not in ("0.0.0.0", "::") else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def name_of(model: str) -> str:
    """Return what a model is called: the end of its path or id."""
    if model == str(BUNDLED_MODEL):
        return _BUNDLED_NAME
    return Path(model).name or model


def add_limits(group: Group, names: Iterable[str] | None = None) -> None:
    """Add limits, all or those of some names."""
    meant = None if names is None else set(names)
    for entry in fields(Limits):
        if meant is not None and entry.name not in meant:
            continue
        of_bytes = entry.name.endswith(("memory", "body"))
        reads: Callable[[str], float] = number_of_bytes if of_bytes else whole_number
        reads = real_number if entry.name.endswith("seconds") else reads
        default = "none" if entry.default is None else str(entry.default).removesuffix(".0")
        group.add_argument(
            "--" + entry.name.replace("_", "-"),
            type=reads,
            default=entry.default,
            metavar="BYTES" if of_bytes else "N",
            help=f"{entry.metadata['told']} (default: {default})",
        )


def limits_of(given: argparse.Namespace) -> Limits:
    """Return the limits; those that were not asked for as they are by default.

    Raises:
        ArgumentError: if one cannot be.
    """
    names = [entry.name for entry in fields(Limits) if hasattr(given, entry.name)]
    try:
        return Limits(**{name: getattr(given, name) for name in names})
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(" ")
        raise ArgumentError(f"--{name.replace('_', '-')} {rest}") from error
