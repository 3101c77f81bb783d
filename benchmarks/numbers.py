"""What it costs to look whether what is made is made of numbers, and at settings around it.

python -m benchmarks.numbers --model bundled
python -m benchmarks.numbers --model 7b --device cuda --dtype bfloat16

With and without take turns in one loop, so that other load on the machine hits both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, parser, show
from modeling.choice import Choice
from modeling.context import Context
from modeling.decoding import decode
from modeling.flow import ImageOptions

TOKENS = 64
OPTIONS = ImageOptions(num_timesteps=10)


class _Unlooked(Choice):
    """Takes the likeliest id, whatever the logits are."""

    def __call__(self, written: Tensor, logits: Tensor) -> Tensor:
        del written
        return logits.argmax(-1, keepdim=True)


def write(inferencer: AutoInterleavedInferencer, context: Context, choose: Choice) -> list[int]:
    """Write greedy tokens."""
    tokens = decode(inferencer.model, context, inferencer.bos, choose, at_most=TOKENS)
    return [token for token, _ in tokens]


def draw(inferencer: AutoInterleavedInferencer, context: Context) -> bytes:
    """Draw a picture over one context."""
    shape, generator = inferencer.image_shape, torch.Generator("cpu").manual_seed(0)
    steps = inferencer.draw_latent(shape, context, context, context, OPTIONS, generator)
    *_, last = steps
    return inferencer.decode_image(last.latent, shape).tobytes()


def without_looks(run: Callable[[], object]) -> object:
    """Do work without looking at pixels, latents and settings."""
    with (
        mock.patch("modeling.verbs.require_numbers"),
        mock.patch("modeling.inference.without_settings", nullcontext),
    ):
        return run()


def measure(
    inferencer: AutoInterleavedInferencer, *, repeats: int
) -> list[tuple[str, float, float]]:
    """Return what was made, and the seconds of it with and without looks."""
    context = inferencer.update_context_text("a red car", inferencer.new_context())
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        f"{TOKENS} tokens": (
            partial(write, inferencer, context, Choice()),
            partial(without_looks, partial(write, inferencer, context, _Unlooked())),
        ),
        f"a picture in {OPTIONS.num_timesteps - 1} steps": (
            partial(draw, inferencer, context),
            partial(without_looks, partial(draw, inferencer, context)),
        ),
    }
    return [
        (what, *alternating_seconds(ways, repeats=repeats))  # type: ignore[misc]  # two of them
        for what, ways in pairs.items()
    ]


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__, repeats=31).parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    show(
        f"{head(f'Numbers, {arguments.model}', arguments.device, arguments.dtype)}\n"
        f"Median of {arguments.repeats} runs; ms:\n",
        ("what is made", "with looks", "without", "with / without"),
        [
            (what, 1e3 * looking, 1e3 * not_looking, looking / not_looking)
            for what, looking, not_looking in measure(inferencer, repeats=arguments.repeats)
        ],
    )


if __name__ == "__main__":
    main()
