"""Admission: whether there is memory for one more run beside those under way."""

from __future__ import annotations

import sys
from typing import Protocol


class Candidate(Protocol):
    """A run that waits."""

    def most_memory(self) -> int:
        """Return the most bytes of keys and values that it can come to take."""


class Admission:
    """Keeps account of the bytes that runs under way may come to take, all together.

    Args:
        limit: bytes for all of them; None: as many as they like.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._reserved: dict[int, int] = {}
        self._asked: tuple[Candidate, int] | None = None  # who waits is asked for once

    @property
    def left(self) -> int:
        """Bytes that no run under way can come to take."""
        return sys.maxsize if self._limit is None else self._limit - self.reserved

    @property
    def reserved(self) -> int:
        """Bytes that runs under way can come to take."""
        return sum(self._reserved.values())

    def admits(self, index: int, candidate: Candidate) -> bool:
        """Reserve what a run can come to take, if there is so much beside the others.

        Args:
            index: by which it is released.
            candidate: the run.
        """
        needed = 0 if self._limit is None else self._most(candidate)
        if needed > self.left:
            return False
        self._reserved[index], self._asked = needed, None
        return True

    def release(self, index: int) -> None:
        """Give back what a run has reserved, if it has."""
        self._reserved.pop(index, None)

    def _most(self, candidate: Candidate) -> int:
        if self._asked is None or self._asked[0] is not candidate:
            self._asked = candidate, candidate.most_memory()
        return self._asked[1]
