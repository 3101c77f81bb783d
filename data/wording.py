"""What a message may show of a caller's values: a line at most, whatever they are."""

from __future__ import annotations

import builtins
import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_LINE = 100
_LONGEST_NUMBER = 256  # bits; from 3.11 on, Python refuses to write out very long ones


def shown(value: object) -> str:
    """Return how a value is written, cut to a line.

    It is made for messages: short for a text of millions of characters and for deep nesting, on one
    line, free of what would command a terminal, and never an error, whatever the value's `__repr__`
    does. Arrays are told by their shapes.
    """
    try:
        return one_line(_excerpt.repr(value))
    except Exception:  # a class may misbehave in more places than its __repr__
        return _unshowable(value)


def shown_error(error: BaseException) -> str:
    """Return the name of an error's type and its message, cut to a line each."""
    try:
        message = one_line(str(error))
    except Exception:
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def require_whole(text: str, place: str) -> str:
    """Return a text, if it can be written as UTF-8.

    Raises:
        ValueError: if it holds half a character, as texts do that were decoded or cut wrongly.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place} holds half a character at {error.start}, got {shown(text)}; "
            "decode its bytes as UTF-8"
        ) from None
    return text


def one_line(text: str) -> str:
    """Return a text without line breaks and control characters, its middle left out if long."""
    if len(text) > 4 * _LINE:
        text = f"{text[: 2 * _LINE]} ... {text[-2 * _LINE :]}"
    text = "".join(
        character if character.isprintable() else "?" for character in " ".join(text.split())
    )
    if len(text) <= _LINE:
        return text
    half = (_LINE - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[object]) -> str:
    """Return names in double quotes with commas between, the first eight of them."""
    quoted = [f'"{one_line(n)}"' if isinstance(n, str) else shown(n) for n in names]
    return ", ".join([*quoted[:8], "..."] if len(quoted) > 8 else quoted)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest of some words, or nothing."""
    if not isinstance(word, str) or len(word) > _LINE:
        return ""
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


class _Excerpt(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 80

    def repr_bytes(self, value: Any, level: int) -> str:
        return self.repr_str(value, level)

    repr_bytearray = repr_bytes

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > _LONGEST_NUMBER:
            return f"<an integer of {value.bit_length()} bits>"
        return super().repr_int(value, level)

    def repr_instance(self, value: Any, level: int) -> str:  # noqa: ARG002 - reprlib's signature
        # Not through repr: it is long, and has to fetch an array that lies on another device.
        shape = getattr(value, "shape", ()) if hasattr(type(value), "__array__") else ()
        if shape:
            return f"<{type(value).__name__} of shape {tuple(shape)}>"
        try:
            return one_line(builtins.repr(value))
        except Exception:
            return _unshowable(value)


def _unshowable(value: object) -> str:
    return f"<{type(value).__name__}>"


_excerpt = _Excerpt()
