"""Largest differences from the published code's numbers: `python -m benchmarks.golden`.

Runs `tests/test_golden.py` and reports what its comparisons saw.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from typing import Any

import pytest
import torch

from benchmarks.table import head, show


class Recorder:
    """Notes the largest difference that each golden test compares."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Look over the shoulder of the tests' own comparison."""
        module = items[0].module
        compare = module.difference

        def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
            seen = compare(ours, theirs)
            test = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split("[")[0].split(" ")[0]
            self.largest[test] = max(self.largest[test], seen)
            return seen

        module.difference = difference


def main() -> int:
    """Print the table."""
    recorder = Recorder()
    code = pytest.main(["-q", "tests/test_golden.py"], plugins=[recorder])
    rows = sorted((name.removeprefix("test_"), value) for name, value in recorder.largest.items())
    title = head("Largest absolute difference from the golden numbers", "cpu", torch.float32)
    show(title, ("numbers", "difference"), rows)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
