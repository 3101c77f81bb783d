"""Bars that show how far something is, and never decide over it."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class StepBar:
    """One tqdm bar that ends itself where it cannot be shown: no, a closed or a full stream.

    Args:
        config: keyword arguments of tqdm, the caller's.
        total: how many steps there are.
        **own: what the caller's keywords replace.
    """

    def __init__(self, config: Mapping[str, Any], total: int, **own: Any) -> None:
        self._bar: Any = None
        with suppress(Exception):
            self._bar = _bar_type()(**{**own, **config, "total": total})

    def update(self) -> None:
        """Show one step more."""
        if self._bar is None:
            return
        try:
            self._bar.update()
        except Exception:
            self._give_up()

    def close(self) -> None:
        """Close it; what it last showed may stay."""
        if self._bar is None:
            return
        try:
            self._bar.close()
        except Exception:
            self._give_up()

    def _give_up(self) -> None:
        self._bar.disable = True  # else it would try again when it is collected
        self._bar = None


def with_bar(steps: Iterable[T], total: int, config: Mapping[str, Any]) -> Generator[T, None, None]:
    """Iterate under a bar.

    Args:
        steps: what to iterate over.
        total: how many there are.
        config: keyword arguments of tqdm, see `check_bar_config`.
    """
    bar = StepBar(config, total, desc="image", unit="step")
    try:
        for step in steps:
            yield step
            bar.update()
    finally:
        bar.close()


def _bar_type() -> Any:
    with warnings.catch_warnings():  # in a notebook without widgets, tqdm.auto complains of it
        warnings.simplefilter("ignore")
        from tqdm import auto
    return auto.tqdm
