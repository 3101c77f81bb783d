"""Progress bars over images and their steps: shown where they can be, never in the way of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from tqdm import tqdm

_NOTEBOOK: Mapping[str, Any] = {"delay": 1.0, "mininterval": 0.5, "ncols": 80}


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


class _Tqdm(tqdm):
    def __del__(self) -> None:
        with suppress(Exception):  # also where it was never finished
            super().__del__()


class Progress:
    """Bars of one run.

    In a notebook there is one at a time, which replaces itself in a single output and leaves
    nothing: a saved notebook would keep every line of every bar.

    Args:
        config: keyword arguments for every tqdm bar, such as `disable=True`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._images: Bar | None = None
        self._output = None
        if "file" not in self._config and _in_kernel():
            self._output = _NotebookOutput()
            self._config = {**_NOTEBOOK, "file": self._output, **self._config}

    def image(self, index: int, num_steps: int) -> Bar:
        """Open the bar of one image's steps; the bar of images appears with the first."""
        own = {"desc": f"image {index + 1}", "unit": "step", "leave": False}
        own["position"] = 0 if self._output else 1
        if self._images is None and self._output is None:
            images = {"desc": "images", "unit": "image", "position": 0}
            self._images = Bar(**{**images, **self._config})
        return Bar(**{**own, **self._config, "total": num_steps})

    def image_done(self) -> None:
        """Count an image."""
        if self._images is not None:
            self._images.update()

    def close(self) -> None:
        """Close what is still open."""
        if self._images is not None:
            self._images.close()


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


def _in_kernel() -> bool:
    """Tell whether this is a notebook, and not IPython in a terminal."""
    try:
        return hasattr(sys.modules["IPython"].get_ipython(), "kernel")
    except Exception:
        return False
