"""What the options that trade something for speed give: compiled layers, and fp8 on top of them.

python -m benchmarks.options --model mid
python -m benchmarks.options --model 7b --device cuda --dtype bfloat16

A step of drawing without guidance, and a token, after one context; the first calls after a change,
which compile, stand beside. fp8 needs a GPU of the Ada or Hopper kind, bfloat16 and torchao; its
row says why it is missing where it is. "Difference" is how far the first step's latents are from
those of the model as it is, relative to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import flow
from benchmarks.decode import write
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, parser, seconds, show
from modeling.bagel import Bagel
from modeling.speed import compile_layers, quantize_fp8

STEPS, TOKENS = 2, 64


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds with an option; `first` is the first step and the first token together."""

    name: str
    first: float
    step: float
    token: float
    difference: float


def measure(
    inferencer: AutoInterleavedInferencer, *, length: int, repeats: int
) -> tuple[list[Cost], list[str]]:
    """Measure the model as it is and after each change in turn; also tell what cannot be had."""
    changes: dict[str, Callable[[Bagel], None]] = {
        "as it is": lambda _: None,
        "compiled": compile_layers,
        "compiled, fp8": quantize_fp8,
    }
    model, costs, missing = inferencer.model, list[Cost](), list[str]()
    branches = flow.branches_after(inferencer, length)
    exact: Tensor | None = None
    draw = partial(flow.draw, inferencer, branches, replace(flow.ALONE, num_timesteps=STEPS + 1))
    token = partial(write, model, branches[0], TOKENS)
    for name, change in changes.items():
        try:
            change(model)
        except (ImportError, ValueError) as error:
            missing.append(f"{name}: {error}")
            continue
        drawn: list[Tensor] = []
        first = seconds(lambda into=drawn: (into.append(draw()), token()))
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
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    costs, missing = measure(inferencer, length=arguments.length, repeats=arguments.repeats)
    height, width = inferencer.image_shape
    show(
        head(f"Options, {arguments.model}", arguments.device, arguments.dtype)
        + f"\nPictures of {height} x {width} after {arguments.length} tokens, one branch; texts of "
        f"{TOKENS} tokens; median of {arguments.repeats} runs:\n",
        ("option", "first, s", "ms a step", "ms a token", "difference"),
        [(c.name, c.first, c.step * 1e3, c.token * 1e3, c.difference) for c in costs],
    )
    print(*missing, sep="\n")


if __name__ == "__main__":
    main()
