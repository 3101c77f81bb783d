"""Whether a function can be called as it is going to be, found out before it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def unfit(function: Callable[..., Any], count: int) -> str | None:
    """Say why a function gives no answer at once to so many arguments; None if it may give one.

    Args:
        function: what can be called.
        count: how many positional arguments it will be called with.
    """
    if isinstance(function, type):
        return "it is a class; make an object of it"
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        return "it is a coroutine; make it a plain function"
    if inspect.isgeneratorfunction(called):
        return "it is a generator; return the answer instead of yielding it"
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        return f"it cannot be called with {count} ({error})"
    except ValueError:  # some functions that are not written in Python tell nothing of themselves
        return None
    return None
