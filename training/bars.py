"""A bar on standard error that never decides over the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def is_first_process() -> bool:
    """Return whether this is the process that speaks, before accelerate can tell."""
    return os.environ.get("RANK", "0") in ("", "0")


def bar(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """Yield items under a bar, which is shown on a terminal alone and gone at the end."""
    shown = None
    with suppress(Exception):  # no standard error, or a broken one
        off = None if is_first_process() else True
        shown = tqdm(total=len(items), desc=title, unit=unit, disable=off, leave=False)
    for item in items:
        yield item
        with suppress(Exception):
            if shown is not None:
                shown.update()
    with suppress(Exception):
        if shown is not None:
            shown.close()
