"""Checks of single arguments: what a value may be, and the message where it is something else.

A check takes an argument's name and its value and returns the value in its plain type: numpy's
numbers become Python's, lists become tuples. On a wrong type it raises a TypeError, on a value out
of range a ValueError; both say what was given, what is allowed, and where it helps what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np

from data.wording import shown

Check = Callable[[str, Any], Any]


def optional(check: Check) -> Check:
    """Return a check that lets None pass too."""
    return lambda name, value: None if value is None else check(name, value)


def flag(name: str, value: Any) -> bool:
    """Check for a truth value; 0, 1 and None are none."""
    if not isinstance(value, bool | np.bool_):
        raise wrong_type(name, "True or False", value)
    return bool(value)


def integer(*, minimum: int | None = None, maximum: int | None = None, hint: str = "") -> Check:
    """Return a check for whole numbers; a truth value is none.

    Args:
        minimum: the least that is allowed; None sets no bound.
        maximum: the most that is allowed; it goes with a minimum.
        hint: what to do, for the end of the message.
    """
    allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise wrong_type(name, "an integer", value, hint)
        whole = int(value)
        below = minimum is not None and whole < minimum
        if below or (maximum is not None and whole > maximum):
            raise out_of_range(name, allowed, value, hint)
        return whole

    return check


def number(*, above: float | None = None, maximum: float | None = None, hint: str = "") -> Check:
    """Return a check for finite numbers, whole ones included; a truth value is none.

    Args:
        above: values must be greater than this; None sets no bound.
        maximum: the most that is allowed; it goes with a lower bound.
        hint: what to do, for the end of the message.
    """
    allowed = f"above {above}" + ("" if maximum is None else f" and at most {maximum}")

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise wrong_type(name, "a number", value, hint)
        real = _finite(name, value)
        below = above is not None and real <= above
        if below or (maximum is not None and real > maximum):
            raise out_of_range(name, allowed, value, hint)
        return real

    return check


def pair(parts: tuple[str, str], check: Check) -> Check:
    """Return a check for two values that each pass a check.

    Args:
        parts: what the two are called.
        check: what each of them must pass.
    """
    allowed = f"a pair ({', '.join(parts)})"

    def check_pair(name: str, value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple):
            raise wrong_type(name, allowed, value)
        if len(value) != 2:
            raise out_of_range(name, allowed, value)
        first, second = (
            check(f"{part} of {name}", item) for part, item in zip(parts, value, strict=True)
        )
        return first, second

    return check_pair


def instance(kind: type, description: str) -> Check:
    """Return a check for objects of one type, described by an article and a noun."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise wrong_type(name, description, value)
        return value

    return check


def wrong_type(name: str, allowed: str, value: Any, hint: str = "") -> TypeError:
    """Return the error for a value of a type that is not allowed."""
    given = f"{shown(value)} ({type(value).__name__})"
    return TypeError(_message(name, allowed, given, hint))


def out_of_range(name: str, allowed: str, value: Any, hint: str = "") -> ValueError:
    """Return the error for a value of the right type that is not allowed."""
    return ValueError(_message(name, allowed, shown(value), hint))


def _message(name: str, allowed: str, given: str, hint: str) -> str:
    return f"{name} must be {allowed}, got {given}" + (f"; {hint}" if hint else "")


def _finite(name: str, value: Any) -> float:
    try:
        real = float(value)
    except OverflowError:  # a whole number beyond the largest float
        real = math.inf
    if not math.isfinite(real):
        raise out_of_range(name, "a finite number", value)
    return real
