"""What every benchmark needs: a clock, a table, and the machine in its head."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date

import accelerate
import torch
import transformers


def median_seconds(run: Callable[[], object], *, repeats: int, warm_up: int = 2) -> float:
    """Return the median wall-clock seconds of a call, the device's work included."""
    times = []
    for number in range(warm_up + repeats):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number >= warm_up:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def alternating_seconds(
    runs: Sequence[Callable[[], object]], *, repeats: int, warm_up: int = 1
) -> list[float]:
    """Return the median seconds of several calls that take turns, so that drift hits them alike."""
    times: list[list[float]] = [[] for _ in runs]
    for number in range(warm_up + repeats):
        for run, kept in zip(runs, times, strict=True):
            seconds = median_seconds(run, repeats=1, warm_up=0)
            if number >= warm_up:
                kept.append(seconds)
    return [statistics.median(kept) for kept in times]


def head(title: str, device: torch.device | str, dtype: torch.dtype) -> str:
    """Return a title with the date, the machine and the versions."""
    device = torch.device(device)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, accelerate {accelerate.__version__}"
    )
    return f"## {title}\n\n{date.today()}, {where}, {str(dtype)[6:]}; {versions}\n"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(columns), *cells]) for i in range(len(columns))]
    print(title)
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")
    print()
    sys.stdout.flush()


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
