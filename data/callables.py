"""Whether a function can be called as it is going to be, found out before it is."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

_TELL_OF_THEMSELVES = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    functools.partial,
)


def unfit(function: Callable[..., Any], count: int) -> str | None:
    """Say why a function gives no answer at once to so many arguments; None if it may give one.

    The object itself is not asked for anything, which may do what it likes, but its class.

    Args:
        function: what can be called.
        count: how many positional arguments it will be called with.
    """
    kind = type(function)
    if issubclass(kind, type):
        return "it is a class; make an object of it"
    arguments: tuple[object, ...] = tuple(range(count))
    called: Any = function
    if not issubclass(kind, _TELL_OF_THEMSELVES):
        called, arguments = kind.__call__, (None, *arguments)  # which takes the object as well
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        return "it is a coroutine; make it a plain function"
    if inspect.isgeneratorfunction(called):
        return "it is a generator; return the answer instead of yielding it"
    try:
        inspect.signature(called).bind(*arguments)
    except TypeError as error:
        return f"it cannot be called with {count} ({error})"
    except ValueError:  # some functions that are not written in Python tell nothing of themselves
        return None
    return None
