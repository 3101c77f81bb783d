"""What values a key of a small file may have: a test, and the same in words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from data.wording import shown


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What values are allowed.

    Attributes:
        accepts: the test.
        words: completes "it must be ...".
        bounds: what goes after the value that was given, if anything.
    """

    accepts: Callable[[Any], bool]
    words: str
    bounds: str = ""


def count(largest: int) -> Kind:
    """Whole numbers from 1 to the largest that a model could have."""
    return Kind(
        accepts=lambda value: _is_whole(value) and 1 <= value <= largest,
        words="a positive whole number",
        bounds=f" (at most {largest:,})",
    )


def counts(length: int, words: str, largest: int) -> Kind:
    """Lists of so many whole numbers."""

    def accepts(value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) != length:
            return False
        return all(_is_whole(item) and 1 <= item <= largest for item in value)

    return Kind(accepts=accepts, words=words, bounds=f" (each at most {largest:,})")


def one_of(names: Collection[str], words: str | None = None) -> Kind:
    """One of some names."""
    return Kind(
        accepts=lambda value: isinstance(value, str) and value in names,
        words=words or f"one of {', '.join(names)}",
    )


def optional(kind: Kind) -> Kind:
    """The same, or null."""

    def accepts(value: Any) -> bool:
        return value is None or kind.accepts(value)

    return Kind(accepts=accepts, words=kind.words, bounds=kind.bounds)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


NUMBER = Kind(accepts=_is_number, words="a finite number")
POSITIVE = Kind(accepts=lambda value: _is_number(value) and value > 0, words="a number above 0")
TEXT = Kind(accepts=lambda value: isinstance(value, str), words="a string")
SWITCH = Kind(accepts=lambda value: isinstance(value, bool), words="true or false")


def check_values(
    values: Mapping[str, Any], kinds: Mapping[str, Kind], source: object, remedy: str = ""
) -> None:
    """Check those values whose key has a kind.

    Args:
        values: by key.
        kinds: by key; other keys are passed over.
        source: the file, or what else they come from.
        remedy: what to do, after a semicolon.

    Raises:
        ValueError: a value is not of its kind.
    """
    for key, kind in kinds.items():
        if key in values and not kind.accepts(values[key]):
            raise ValueError(
                f"{source}: {key} must be {kind.words}, got {shown(values[key])}"
                f"{kind.bounds}{remedy}"
            )


def check_keys(keys: Collection[object], known: Collection[str], source: object) -> None:
    """Check that no key is unknown.

    Raises:
        ValueError: one is; the message names the nearest.
    """
    for key in keys:
        if not isinstance(key, str) or key not in known:
            raise ValueError(
                f"{source}: there is no setting {shown(key)}{did_you_mean(str(key), known)}; "
                f"known are {', '.join(known)}"
            )


def did_you_mean(given: str, known: Collection[str]) -> str:
    """Return a question that names the nearest known word; empty where none is near."""
    near = difflib.get_close_matches(given[:50], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
