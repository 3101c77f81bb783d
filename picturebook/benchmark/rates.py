"""Rates with honest intervals: how often something is right, counted in independent units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_Z = 1.959964  # the normal distribution's 97.5% point


@dataclass(frozen=True)
class Rate:
    """How often something is right.

    What hangs together is one unit: the pictures of a story follow from one another, and prompts
    that are word for word the same get the same texts.

    Attributes:
        units: (right, all) of each unit; units without anything to judge are left out.
    """

    units: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, flags: Iterable[Sequence[bool]]) -> Rate:
        """Count the flags of each unit."""
        return cls(tuple((sum(unit), len(unit)) for unit in flags if unit))

    @property
    def right(self) -> int:
        """How many are right."""
        return sum(right for right, _ in self.units)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.units)

    @property
    def share(self) -> float:
        """The share that is right, 0 to 1; not a number where there are none."""
        return self.right / self.count if self.count else math.nan

    @property
    def effective(self) -> float:
        """How many independent ones say as much as these do.

        The variance over units, against that of as many independent ones. Where all are right, or
        none, it cannot be told and every unit counts once.
        """
        share, units = self.share, len(self.units)
        independent = share * (1 - share) * self.count
        if not independent or units < 2:
            return float(units)
        clustered = sum((right - share * count) ** 2 for right, count in self.units)
        return min(float(self.count), self.count * independent * (units - 1) / (clustered * units))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the share: Wilson's, for the effective number."""
        return wilson(self.share, self.effective)

    def __str__(self) -> str:
        if not self.count:
            return ""
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.share:.1f}% [{low:.1f}, {high:.1f}] n={self.count}"


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval for a share of `count` independent trials."""
    if not count:
        return 0.0, 1.0
    spread = _Z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


Counts = dict[str, Rate]
