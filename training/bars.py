"""A bar on standard error that never decides over the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

from modeling.progress import Bar

Item = TypeVar("Item")


def is_first_process() -> bool:
    """Return whether this is the process that speaks, before accelerate can tell."""
    return os.environ.get("RANK", "0") in ("", "0")


def bar(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """Yield items under a bar, which is shown on a terminal alone and gone at the end."""
    off = None if is_first_process() else True
    with Bar(total=len(items), desc=title, unit=unit, disable=off, leave=False) as shown:
        for item in items:
            yield item
            shown.update()
