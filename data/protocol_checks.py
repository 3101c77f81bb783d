"""Checks of a protocol's fields: what each may be, and the message where it is something else."""

from __future__ import annotations

import re
from numbers import Integral

from data.callables import unfit
from data.wording import require_whole, shown

Pattern = str | re.Pattern[str]


def check_trigger(trigger: object) -> None:
    """Check for a function that can be asked: of what was written, for an answer at once."""
    # A class can be called as well: EveryText without its parentheses is no trigger.
    if isinstance(trigger, type) or not callable(trigger):
        raise TypeError(
            "trigger must be Sampled(), Marker(pattern), EveryText() or a callable, "
            f"got {shown(trigger)}"
        )
    reason = unfit(trigger, 1)
    if reason is not None:
        raise TypeError(
            "a trigger takes one argument, a Written, and returns its answer; "
            f"got {shown(trigger)}: {reason}"
        )


def check_flag(name: str, value: object) -> None:
    """Check for a truth value."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def check_word(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check for one of several words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}")


def check_text(name: str, text: object) -> None:
    """Check for a text that is not blank and can be written down."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"{name} must not be blank, got {shown(text)}")
    require_whole(text, name)


def patterns(name: str, patterns: object) -> tuple[Pattern, ...]:
    """Check for any number of patterns, and return them as a tuple."""
    if isinstance(patterns, str | re.Pattern):
        raise TypeError(
            f"{name} must be a tuple of patterns, got {shown(patterns)} alone; put it in ()"
        )
    if not isinstance(patterns, list | tuple):
        raise TypeError(f"{name} must be a tuple of patterns, got {shown(patterns)}")
    for pattern in patterns:
        check_pattern(pattern)
    return tuple(patterns)


def check_pattern(pattern: object) -> None:
    """Check for what can be looked for in a text: a string, or a regular expression."""
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    if not isinstance(text, str):
        raise TypeError(
            "a pattern must be a string or a compiled regular expression over strings, "
            f"got {shown(pattern)}"
        )
    if not text or (isinstance(pattern, re.Pattern) and pattern.search("")):
        raise ValueError(
            f"a pattern must not match the empty text, which is in every text; got {shown(pattern)}"
        )
    require_whole(text, "a pattern")


def count_or_none(name: str, value: object) -> int | None:
    """Check for a whole number of at least 0, or None; return it as Python's own."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer or None, got {shown(value)}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {shown(int(value))}")
    return int(value)
