"""What can be said of objects that are not ours: nothing that they do can end or bloat a run.

A caller's callback, setting or error may raise from any of its methods, may lie about its class,
may refer to itself and may hold a gigabyte. Here each is met through what its type really is, and
whatever it does instead of answering, its name stands for it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

_MAX_DEPTH = 20
_MAX_ENTRIES = 10_000
_MAX_NAME = 200
_CUT = "…"


def type_name(value: object) -> str:
    """Return the qualified name of an object's type, whatever its metaclass would say."""
    return _shortened(type.__dict__["__qualname__"].__get__(type(value)))


def message_of(error: BaseException) -> str:
    """Return the message of an error; of one that cannot say it, what it was made of."""
    for words in (str, BaseException.__str__):
        try:
            return str.__str__(words(error))
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: B036 - a stranger's methods may raise anything
            continue
    return ""


def plain(value: Any) -> Any:
    """Reduce a setting to what JSON holds: dicts with str keys, tuples, str, numbers, None.

    Options in dataclasses become dicts; functions and all else that can be called their names, for
    they may hold anything; and what has no other form its `repr`, shortened to a line. So the
    settings of a run can always be saved and come back equal. It raises nothing.
    """
    return _Reduction().of(value)


class _Reduction:
    """One value on its way to plain values, without its circles and what is beyond all measure."""

    def __init__(self) -> None:
        self._above: list[int] = []  # ids of what holds the value at hand
        self._left = _MAX_ENTRIES

    def of(self, value: Any) -> Any:
        """Return a value in plain form, or its type's name."""
        self._left -= 1
        if id(value) in self._above or len(self._above) > _MAX_DEPTH or self._left < 0:
            return _CUT
        self._above.append(id(value))
        try:
            return self._reduced(value)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: B036 - a stranger's methods may raise anything
            return type_name(value)
        finally:
            self._above.pop()

    def _reduced(self, value: Any) -> Any:
        kind = type(value)  # isinstance would ask the object for its class
        if value is None or kind in (bool, int, float, str):
            return value
        if issubclass(kind, Enum):
            return self.of(value.value)
        for scalar in (str, int, float):
            if issubclass(kind, scalar):
                return _exact(scalar, value)
        if callable(value) or issubclass(kind, Iterator):
            return _name(value)
        if dataclasses.is_dataclass(kind):
            names = [entry.name for entry in dataclasses.fields(kind)]
            return {name: self.of(getattr(value, name)) for name in names}
        if issubclass(kind, Mapping):
            return {_key(key): self.of(entry) for key, entry in self._some(value.items())}
        if issubclass(kind, AbstractSet):
            return tuple(sorted(map(self.of, self._some(value)), key=repr))
        if issubclass(kind, Sequence) and not issubclass(kind, (bytes, bytearray)):
            return tuple(map(self.of, self._some(value)))
        return type_name(value) if kind.__repr__ is object.__repr__ else _shortened(repr(value))

    def _some(self, entries: Iterable[Any]) -> Iterator[Any]:
        """Return as many entries as there is room for: an object may hold them without end."""
        return itertools.islice(entries, max(self._left, 0))


def _exact(scalar: type, value: Any) -> Any:
    """Return the str, int or float within an object of a subclass, past the subclass's methods."""
    convert = {str: str.__str__, int: int.__int__, float: float.__float__}[scalar]
    return convert(value)


def _key(key: Any) -> str:
    try:
        return str.__str__(key if issubclass(type(key), str) else str(key))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: B036 - a stranger's methods may raise anything
        return type_name(key)


def _name(value: Any) -> str:
    name: Any = getattr(value, "__qualname__", None)
    return _shortened(name) if issubclass(type(name), str) else type_name(value)


def _shortened(text: str) -> str:
    exact = str.__str__(text)
    return exact if len(exact) <= _MAX_NAME else exact[: _MAX_NAME - 1] + _CUT
