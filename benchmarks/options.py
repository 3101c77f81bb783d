"""What the options that trade something for speed or memory give.

python -m benchmarks.options --model mid
python -m benchmarks.options --model 7b --device cuda --dtype bfloat16
python -m benchmarks.options --model 7b --device cuda --dtype bfloat16 --quantize nf4

TaylorSeer, then compiled layers, then fp8 on top of them; or layers held in 4 or 8 bits. Steps of
drawing without guidance, and a token, after one context; the first calls after a change, which
compile, stand beside. fp8 needs a GPU of the Ada or Hopper kind, bfloat16 and torchao, 4 and 8 bits
need bitsandbytes; a row that cannot be had says why. "Difference" is how far latents are, after
these steps, from those of the model as it is, relative to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import flow
from benchmarks.decode import write
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, parser, seconds, show
from modeling.bagel import Bagel
from modeling.flow import ImageOptions
from modeling.speed import compile_layers, quantize_fp8
from training.quantizing import quantize_layers
from training.task import Quantization

STEPS, TOKENS = 12, 64  # TaylorSeer evaluates 7 of 12

Change = Callable[[Bagel], None]
PLAIN = replace(flow.ALONE, num_timesteps=STEPS + 1)
TAYLORSEER = replace(PLAIN, enable_taylorseer=True)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds with an option; `first` is the first step and the first token together."""

    name: str
    first: float
    step: float
    token: float
    difference: float


def nothing(_: Bagel) -> None:
    """Leave the model as it is."""


def changes(quantize: Quantization | None) -> list[tuple[str, Change, ImageOptions]]:
    """Return what is done to the model in turn, and how pictures are drawn then."""
    first = ("as it is", nothing, PLAIN)
    if quantize is not None:
        return [first, (quantize, lambda m: quantize_layers(m, quantize, m.device), PLAIN)]
    return [
        first,
        ("TaylorSeer", nothing, TAYLORSEER),
        ("compiled", compile_layers, PLAIN),
        ("compiled, fp8", quantize_fp8, PLAIN),
    ]


def measure(
    inferencer: AutoInterleavedInferencer,
    *,
    length: int,
    repeats: int,
    quantize: Quantization | None = None,
) -> tuple[list[Cost], list[str]]:
    """Measure the model as it is and after each change in turn; also tell what cannot be had."""
    model, costs, missing = inferencer.model, list[Cost](), list[str]()
    branches = flow.branches_after(inferencer, length)
    exact: Tensor | None = None
    token = partial(write, model, branches[0], TOKENS)
    for name, change, drawing in changes(quantize):
        try:
            change(model)
        except (ImportError, ValueError) as error:
            missing.append(f"{name}: {error}")
            continue
        draw = partial(flow.draw, inferencer, branches, drawing)
        drawn: list[Tensor] = []
        first = seconds(lambda draw=draw, into=drawn: (into.append(draw()), token()))
        exact = drawn[0] if exact is None else exact
        step, text = alternating_seconds([draw, token], repeats=repeats)
        costs.append(
            Cost(
                name=name,
                first=first,
                step=step / STEPS,
                token=text / TOKENS,
                difference=float((drawn[0] - exact).norm() / exact.norm()),
            )
        )
    return costs, missing


def main() -> None:
    """Print the table."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--length", type=int, default=2048, help="default: %(default)s")
    command_line.add_argument("--quantize", choices=get_args(Quantization), help="and nothing else")
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    costs, missing = measure(
        inferencer,
        length=arguments.length,
        repeats=arguments.repeats,
        quantize=arguments.quantize,
    )
    height, width = inferencer.image_shape
    show(
        head(f"Options, {arguments.model}", arguments.device, arguments.dtype)
        + f"\nPictures of {height} x {width} after {arguments.length} tokens, one branch, {STEPS} "
        f"steps; texts of {TOKENS} tokens; median of {arguments.repeats} runs:\n",
        ("option", "first, s", "ms a step", "ms a token", "difference"),
        [(c.name, c.first, c.step * 1e3, c.token * 1e3, c.difference) for c in costs],
    )
    print(*missing, sep="\n")


if __name__ == "__main__":
    main()
