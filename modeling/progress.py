"""Progress bars: shown where they can be, never in the way of what they show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Bar:
    """A tqdm bar that raises nothing: after its first failure it is no more.

    Whoever computes for an hour must not lose the result because the terminal went away.

    Args:
        **config: as for tqdm.
    """

    def __init__(self, **config: Any) -> None:
        self._bar: _Tqdm | None = None
        file = config.pop("file", None)
        file = sys.stderr if file is None else file
        if file is not None:  # a windowed program, or a service, has none
            with suppress(Exception):
                self._bar = _Tqdm(**{**config, "file": _Forgiving(file)})

    def update(self) -> None:
        """Count one step more."""
        self._attempt(_Tqdm.update)

    def count_to(self, total: int) -> None:
        """Say how many steps there are, where that was not known."""
        if self._bar is not None:
            self._bar.total, self._bar.bar_format = total, None

    def tell(self, what: str) -> None:
        """Say behind the numbers what is going on, as often as the bar moves by itself."""
        self._attempt(partial(_Tqdm.tell, what=what))

    def hide(self) -> None:
        """Make room for a line of text."""
        self._attempt(_Tqdm.clear)

    def show(self) -> None:
        """Appear again."""
        self._attempt(_Tqdm.refresh)

    def close(self) -> None:
        """Go, or stay as it is if `leave` was given."""
        self._attempt(_Tqdm.close)
        self._bar = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _attempt(self, action: Callable[[_Tqdm], object]) -> None:
        if self._bar is not None:  # a tqdm bar has no truth without a total
            try:
                action(self._bar)
            except Exception:
                self._bar = None


class UnlockingBar(tqdm):
    """A tqdm bar that gives the lock of all bars back when it cannot be shown.

    tqdm's own keeps it then, and every other thread waits for it for ever.
    """

    def refresh(
        self,
        nolock: bool = False,
        lock_args: object = None,  # noqa: ARG002 - tqdm's constructor gives it
    ) -> bool | None:
        """Show the bar as it is now, however long another one's turn takes."""
        with nullcontext() if nolock else self.get_lock():
            return super().refresh(nolock=True)

    def clear(self, nolock: bool = False) -> None:
        """Take the bar off the screen."""
        with nullcontext() if nolock else self.get_lock():
            super().clear(nolock=True)


class _Tqdm(UnlockingBar):
    last_print_t: float  # tqdm's own: when it was last shown

    def tell(self, what: str) -> None:
        self.set_postfix_str(what, refresh=False)
        if not self.disable and time.time() - self.last_print_t >= self.mininterval:
            self.refresh()
            self.last_print_t = time.time()

    def __del__(self) -> None:
        with suppress(Exception):  # also where it was never finished
            super().__del__()


class _Forgiving:
    """A stream whose failures nobody hears of."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(Exception):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(Exception):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _NotebookOutput:
    """One output of a notebook's cell, for one bar after another."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._handle: Any = None

    def isatty(self) -> bool:
        return True  # `disable=None` is for logs

    def write(self, text: str) -> None:
        from IPython.display import display

        shown = {"text/plain": text.replace("\r", "").strip()}
        if self._handle is not None:
            self._handle.update(shown, raw=True)
        elif shown["text/plain"]:
            self._handle = display(shown, raw=True, display_id=True)

    def flush(self) -> None:
        """Everything was shown at once."""


def in_kernel() -> bool:
    """Tell whether this is a notebook, and not IPython in a terminal."""
    try:
        return hasattr(sys.modules["IPython"].get_ipython(), "kernel")
    except Exception:
        return False


def with_bar(steps: Iterable[T], total: int, config: Mapping[str, Any]) -> Generator[T, None, None]:
    """Iterate under a bar.

    Args:
        steps: what to iterate over.
        total: how many there are.
        config: keyword arguments of tqdm, see `check_bar_config`.
    """
    own = {"desc": "image", "unit": "step", **in_notebook(config), **config}
    with Bar(**{**own, "total": total}) as bar:
        for step in steps:
            yield step
            bar.update()


def in_notebook(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what bars need in a notebook: one output, in which each replaces the one before.

    A saved notebook would keep every line of every bar. Elsewhere, and where the caller says where
    bars go, it is nothing.
    """
    if "file" in config or not in_kernel():
        return {}
    return {"delay": 1.0, "mininterval": 0.5, "ncols": 80, "file": _NotebookOutput()}
