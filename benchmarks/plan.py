"""Forecasts of `auto-interleaved plan` beside what the process took at its peak.

python -m benchmarks.plan --model mid
python -m benchmarks.plan --model bundled

Each stage of a run, at the model's usual size of image, on a CPU: its working set as it is worked
out from shapes, with the margin that the plan adds, and by how much the resident size of this
process went beyond what it was before (Linux only). Weights likewise, and Python with its
libraries. "At most" is their sum with the largest stage: what a plan compares with the memory.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.models import build
from benchmarks.table import head, parser, show
from modeling.context import Context
from modeling.planning.formats import FULL, HALF, weight_bytes
from modeling.planning.plan import RUNTIME_BYTES, margin
from modeling.planning.stages import Sketch, stages_of, working_sets


def resident() -> int:
    """Return the bytes that this process holds now."""
    return _status("VmRSS")


def peak(work: Callable[[], object]) -> int:
    """Return how many bytes more than before this process held at most while some work ran.

    What the work returns is not counted if it is a context, which the plan counts as such.
    """
    made = work()  # libraries set themselves up, and stores grow
    held = made.store.nbytes if isinstance(made, Context) else 0
    del made
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident()
    work()
    return _status("VmHWM") - before - held


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [size] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(size)


def measure(name: str, dtype: torch.dtype) -> list[tuple[str, int, int]]:
    """Return what, its forecast and its measured bytes."""
    form = FULL if dtype == torch.float32 else HALF
    rows, empty = [("Python and libraries", RUNTIME_BYTES["cpu"], resident())], resident()
    inferencer = build(name, "cpu", dtype)
    model, autoencoder = inferencer.model.to(dtype), inferencer.vae_model.to(dtype)
    sum(parameter.sum() for parameter in [*model.parameters(), *autoencoder.parameters()])
    weights = weight_bytes(model, form) + weight_bytes(autoencoder, form)
    rows.append(("weights", weights, resident() - empty))

    def seen(shape: tuple[int, int]) -> tuple[int, int]:
        patch = model.vit_patch_size
        most = model.vit_max_num_patch_per_side * patch
        height, width = (min(side // patch * patch, most) for side in shape)
        return height, width

    shape = inferencer.image_shape
    sketch = Sketch(model=model, autoencoder=autoencoder, vision_size=seen)
    measured = {stage: peak(work) for stage, work in stages_of(sketch, shape).items()}
    model.to("meta")
    autoencoder.to("meta")
    spare = margin("cpu", dtype)
    forecast = {stage: int(spare * size) for stage, size in working_sets(sketch, shape).items()}
    stages = [(stage, forecast[stage], measured[stage]) for stage in forecast]
    told, found = (sum(row[i] for row in rows) + max(s[i] for s in stages) for i in (1, 2))
    return [*rows, *stages, ("at most", told, found)]


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__, repeats=1).parse_args()
    if arguments.device != "cpu" or sys.platform != "linux":
        sys.exit("peaks are measured on a CPU under Linux only")
    rows = measure(arguments.model, arguments.dtype)
    show(
        head(f"Forecasts, {arguments.model}", "cpu", arguments.dtype) + "\nMB:\n",
        ("what", "forecast", "measured", "forecast / measured"),
        [(what, told / 1e6, found / 1e6, told / found) for what, told, found in rows],
    )


if __name__ == "__main__":
    main()
