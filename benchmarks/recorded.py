"""Whether recorded steps (CUDA graphs) write and draw what eager ones do, and how much faster.

python -m benchmarks.recorded --model bundled --device cuda
python -m benchmarks.recorded --model 7b --device cuda --dtype bfloat16

Greedy ids must be equal in float32; half precision takes another attention kernel, so that ids may
part where two logits are nearly equal: then the first place where they do is told. Pictures of
small images are drawn both ways from one noise. Without CUDA nothing is recorded, and both ways are
the same work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import flow
from benchmarks.contexts import filled
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, judge, parser, show
from modeling.bagel import Bagel
from modeling.bagel.flow_graph import SMALL_IMAGE_TOKENS
from modeling.context import Context
from modeling.decode_graph import Feed, feed_token
from modeling.decoding import decode, greedy
from modeling.flow import ImageOptions

FIRST_ID = 1
CONTEXT = 300  # tokens; a text of 256 more crosses the border of a bucket of slots


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Both ways of doing one thing.

    Attributes:
        what: its name.
        eager, recorded: seconds a token or a step.
        agreement: a sentence on how far the results agree.
        difference: the share of ids that differ, or the largest difference of latents.
    """

    what: str
    eager: float
    recorded: float
    agreement: str
    difference: float


def write(model: Bagel, context: Context, count: int, feed: Feed | None) -> list[int]:
    """Write greedy tokens; without a feed by the fastest way that the model permits."""
    return [id_ for id_, _ in decode(model, context, FIRST_ID, greedy, at_most=count, feed=feed)]


def compare_texts(model: Bagel, count: int, repeats: int) -> Compared:
    """Write a text both ways."""
    context = filled(model, CONTEXT)
    eagerly: Feed = partial(feed_token, model)
    ways = [partial(write, model, context, count, feed) for feed in (eagerly, None)]
    eager, recorded = (way() for way in ways)
    same = next((i for i, (a, b) in enumerate(zip(eager, recorded, strict=True)) if a != b), count)
    seconds = [total / count for total in alternating_seconds(ways, repeats=repeats)]
    return Compared(
        what="a token",
        eager=seconds[0],
        recorded=seconds[1],
        agreement=f"the first {same} of {count} ids are equal",
        difference=1 - same / count,
    )


def draw_eagerly(
    inferencer: AutoInterleavedInferencer, branches: flow.Branches, options: ImageOptions
) -> Tensor:
    """Draw without recording anything."""
    with mock.patch("modeling.bagel.flow_graph.can_repeat", return_value=False):
        return flow.draw(inferencer, branches, options)


def compare_pictures(
    inferencer: AutoInterleavedInferencer, timesteps: int, repeats: int
) -> Compared:
    """Draw a picture both ways at the default guidance."""
    branches = flow.branches_after(inferencer, CONTEXT)
    options = ImageOptions(num_timesteps=timesteps)
    ways = [partial(way, inferencer, branches, options) for way in (draw_eagerly, flow.draw)]
    eager, recorded = (way() for way in ways)
    difference = float((eager - recorded).abs().max())
    seconds = [total / (timesteps - 1) for total in alternating_seconds(ways, repeats=repeats)]
    height, width = inferencer.image_shape
    return Compared(
        what=f"a step of {height} x {width}",
        eager=seconds[0],
        recorded=seconds[1],
        agreement=f"latents differ by at most {difference:.3g}",
        difference=difference,
    )


def verdicts(compared: list[Compared]) -> list[str]:
    """Compare with what float32 promises: equal ids, latents equal to rounding."""
    text, picture = compared
    return [
        judge("share of ids after the first that differs", text.difference, most=0),
        judge("largest difference of latents", picture.difference, most=1e-3),
    ]


def main() -> None:
    """Print the table."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--tokens", type=int, default=256, help="default: %(default)s")
    command_line.add_argument("--timesteps", type=int, default=30, help="default: %(default)s")
    command_line.add_argument("--side", type=int, help="pixels; default: the largest small image")
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    model = inferencer.model
    largest = math.isqrt(SMALL_IMAGE_TOKENS) * model.latent_downsample
    side = arguments.side or min(*inferencer.image_shape, largest)
    inferencer.image_shape = (side, side)
    compared = [
        compare_texts(model, arguments.tokens, arguments.repeats),
        compare_pictures(inferencer, arguments.timesteps, arguments.repeats),
    ]
    show(
        head(f"Recorded steps, {arguments.model}", arguments.device, arguments.dtype)
        + f"\nContext {CONTEXT}; {arguments.tokens} tokens; {arguments.timesteps} points, three "
        f"branches, default guidance; recording included; "
        f"median of {arguments.repeats} runs; ms:\n",
        ("what", "eager", "recorded", "eager / recorded", "agreement"),
        [
            (c.what, c.eager * 1e3, c.recorded * 1e3, c.eager / c.recorded, c.agreement)
            for c in compared
        ],
    )
    if arguments.dtype == torch.float32:
        print("What float32 promises:", *verdicts(compared), sep="\n")


if __name__ == "__main__":
    main()
