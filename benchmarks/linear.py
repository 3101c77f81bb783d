"""Milliseconds of a linear layer in float32 on a CPU: PyTorch's own product against ours by oneDNN.

python -m benchmarks.linear

Weights are many and used in turn, as a decoder's are, so that none lies in a cache. A row stands
for a token: one is written at a time; a picture of 256 tokens is drawn with its two markers. What
`modeling.linear` leaves to PyTorch, because the layer and its rows are small, is measured as well
and costs the same on both sides.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import cycle

import torch
from torch import Tensor, nn

from benchmarks.table import alternating_seconds, head, show
from modeling.linear import Linear

# (in, out): the bundled model's, the mid size's and its vocabulary head, the 7B's.
SHAPES = ((192, 512), (512, 512), (512, 1408), (512, 32000), (3584, 3584))
ROWS = (1, 18, 258)


def layers(shape: tuple[int, int], megabytes: int) -> list[Linear]:
    """Return layers of one shape with so many megabytes of weights together."""
    count = max(1, round(megabytes * 2**20 / (4 * shape[0] * shape[1])))
    return [Linear(*shape, bias=False) for _ in range(count)]


@torch.inference_mode()
def apply(way: type[nn.Linear], turns: cycle[Linear], rows: Tensor, times: int) -> None:
    """Apply the next layers to the same rows, as this class would."""
    for _ in range(times):
        way.forward(next(turns), rows)


def measure(
    shape: tuple[int, int], rows: int, *, repeats: int, megabytes: int = 128
) -> tuple[float, float]:
    """Return seconds of one product by PyTorch and by ours."""
    turns, given = cycle(layers(shape, megabytes)), torch.randn(rows, shape[0])
    times = max(1, min(200, 10**9 // (shape[0] * shape[1] * rows)))
    runs = [partial(apply, way, turns, given, times) for way in (nn.Linear, Linear)]
    plain, fast = alternating_seconds(runs, repeats=repeats)
    return plain / times, fast / times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    repeats = parser.parse_args().repeats
    table = []
    for shape in SHAPES:
        for rows in ROWS:
            plain, fast = measure(shape, rows, repeats=repeats)
            size = shape[0] * shape[1]
            table.append(
                (
                    f"{shape[0]} -> {shape[1]}",
                    rows,
                    plain * 1e3,
                    fast * 1e3,
                    plain / fast,
                    4 * size / fast / 1e9,
                    2 * size * rows / fast / 1e9,
                )
            )
    columns = ("layer", "rows", "PyTorch", "ours", "PyTorch / ours", "GB/s", "GFLOP/s")
    title = head("Linear layers", "cpu", torch.float32)
    show(f"{title}\nms a product, median of {repeats} runs; rates are of ours:\n", columns, table)


if __name__ == "__main__":
    main()
