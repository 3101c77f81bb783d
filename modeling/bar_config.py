"""The settings of progress bars, tried out before a run depends on them."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar
from weakref import WeakSet

from tqdm import tqdm

from data.wording import shown
from modeling.checks import wrong_type
from modeling.progress import UnlockingBar

# What is iterated over is ours to say; "display" is what notebooks add.
_NAMES = {*inspect.signature(tqdm.__init__).parameters, "display"} - {
    "self",
    "iterable",
    "gui",
    "kwargs",
}
_NUMBERS = {
    "delay",
    "initial",
    "maxinterval",
    "mininterval",
    "miniters",
    "ncols",
    "nrows",
    "position",
    "smoothing",
    "total",
    "unit_divisor",
}
_UNTRIED = ("disable", "display", "file", "write_bytes")  # they decide where a bar goes


class _Trial(UnlockingBar):
    """A bar that nobody sees: apart from all others, and it starts no thread."""

    monitor_interval = 0
    _instances: ClassVar[WeakSet[tqdm]] = WeakSet()

    def __del__(self) -> None:
        """Leave alone what could not be opened; tqdm would close it."""


def check_bar_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of bars, if a bar can be shown with them.

    Raises:
        TypeError: if tqdm has no such setting, or its value is of a wrong type.
        ValueError: if a bar cannot be shown so.
    """
    for name, value in config.items():
        _check(name, value)
    shown = {name: value for name, value in config.items() if name not in _UNTRIED}
    for name, value in shown.items():
        _try({name: value}, name, value)
    _try(shown, "settings", shown)
    return dict(config)


def _check(name: str, value: Any) -> None:
    if name not in _NAMES:
        raise TypeError(
            f"there is no setting {shown(name)} of a bar; tqdm's are {', '.join(sorted(_NAMES))}"
        )
    if name == "disable" and not isinstance(value, bool | Integral | None):
        hint = "None shows bars on terminals only"
        raise wrong_type(name, "True, False or None", value, hint)
    if name in _NUMBERS and not isinstance(value, Real | None):
        raise wrong_type(name, "a number or None", value)
    if name == "file" and value is not None and not callable(getattr(value, "write", None)):
        raise wrong_type(name, "a file to write to", value, "None is standard error")


def _try(config: Mapping[str, Any], name: str, value: Any) -> None:
    """Show a bar with some settings to nobody."""
    try:
        with _Trial(**{"total": 10_000, **config, "file": io.StringIO()}) as bar:
            bar.update(5_000)  # enough to be written with a unit's prefix
            bar.refresh()
    except Exception as error:  # tqdm raises whatever its formatting does
        kind = TypeError if isinstance(error, TypeError) else ValueError
        reason = f"tqdm says {type(error).__name__}: {error}"
        message = str(wrong_type(name, "such that a bar can be shown", value, reason))
        raise kind(message) from error
