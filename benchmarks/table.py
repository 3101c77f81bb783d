"""What every benchmark needs: a command line, a clock, a table, and the machine in its head."""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import accelerate
import torch
import transformers

MODELS = ("bundled", "mid", "7b")


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """Return a command line with what all benchmarks take."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", choices=MODELS, default="mid", help="default: %(default)s")
    made.add_argument("--device", default="cpu", help="cpu, cuda or mps; default: %(default)s")
    made.add_argument("--dtype", type=_dtype, default=torch.float32, help="default: float32")
    made.add_argument("--repeats", type=int, default=repeats, help="default: %(default)s")
    return made


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise argparse.ArgumentTypeError(f"{name!r} is no dtype such as float32 or bfloat16")
    return dtype


def synchronize() -> None:
    """Wait until the device has done everything that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call by a clock, the wall's by default; a device is waited for."""
    synchronize()
    started = clock()
    run()
    synchronize()
    return clock() - started


def alternating_seconds(
    runs: Sequence[Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the median seconds of several calls that take turns, so that drift hits them alike."""
    for _ in range(warm_up):
        for run in runs:
            run()
    rounds = [[seconds(run, clock) for run in runs] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


@dataclass(eq=False)
class Clock:
    """Adds up the seconds of named parts of some work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str, *, wait: bool = True) -> Iterator[None]:
        """Time the block; `wait` also waits for what it left to the device."""
        started = time.perf_counter()
        try:
            yield
            if wait:
                synchronize()
        finally:
            passed = time.perf_counter() - started
            self.seconds[part] = self.seconds.get(part, 0.0) + passed


def head(title: str, device: torch.device | str, dtype: torch.dtype) -> str:
    """Return a title with the date, the machine and the versions."""
    device = torch.device(device)
    where = f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
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


def judge(
    what: str, measured: float, *, most: float | None = None, least: float | None = None
) -> str:
    """Say in a line whether a measured number lies within its bounds."""
    met = (least is None or least <= measured) and (most is None or measured <= most)
    bounds = [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    wanted = " and ".join(bounds)
    return f"{'met' if met else 'NOT MET'}: {what}: {measured:.3g}, wanted {wanted}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
