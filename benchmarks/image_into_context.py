"""Seconds by which a drawn picture enters a context: its latent block, then its vision block.

python -m benchmarks.image_into_context --model mid
python -m benchmarks.image_into_context --model bundled
python -m benchmarks.image_into_context --model 7b --device cuda --dtype bfloat16

Ours feeds the sampled latents back as they are; "pixels" is ours with image_feedback="pixels":
resize and encode the decoded picture. The naive way does that too, as published scripts do, and
copies the whole cache, at every layer and once more for the context without the text. Every way
needs the decoded picture, for the reader and the vision encoder: that cost stands alone. The
roofline is what ours multiplies over the FLOP/s of a large product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import naive
from benchmarks.contexts import LENGTHS, filled, filled_naively, longest_by_default, usable_lengths
from benchmarks.models import build
from benchmarks.naive_story import read_picture
from benchmarks.roofline import block_flops, matmul_rate, vision_flops
from benchmarks.table import alternating_seconds, head, parser, show
from modeling.context import Context

POSITIONS = 2  # that a picture takes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the parts and of each way."""

    length: int
    decoding: float
    latent: float
    vision: float
    latents: float
    pixels: float
    naive: float
    roof: float


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A drawn picture, as latents and as pixels."""

    latent: Tensor
    grid: tuple[int, int]
    picture: Image.Image


def drawn_picture(inferencer: AutoInterleavedInferencer) -> Drawn:
    """Return a picture of the usual size out of random latents."""
    model, shape = inferencer.model, inferencer.image_shape
    grid = model.latent_grid(*shape)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(grid[0] * grid[1], model.patch_latent_dim, generator=generator)
    latent = latent.to(model.device)
    return Drawn(latent=latent, grid=grid, picture=inferencer.decode_image(latent, shape))


def read_latents(inferencer: AutoInterleavedInferencer, drawn: Drawn, context: Context) -> Context:
    """Read a picture through its latents and its pixels' vision features."""
    context = inferencer.read_latent(drawn.latent, drawn.grid, context)
    return inferencer.read_vision(drawn.picture, context)


def read_pixels(inferencer: AutoInterleavedInferencer, drawn: Drawn, context: Context) -> Context:
    """Read a picture through its pixels alone."""
    picture = inferencer.vae_transform.resize_transform(drawn.picture)
    context = inferencer.read_latent(*inferencer.encode_image(picture), context)
    return inferencer.read_vision(picture, context)


def read_naively(
    inferencer: AutoInterleavedInferencer, drawn: Drawn, context: naive.NaiveContext
) -> naive.NaiveContext:
    """Read a picture the published way; the context without the text is a copy of the result."""
    context = context.alias()
    read_picture(inferencer, drawn.picture, context)
    return context.fork()


def num_patches(inferencer: AutoInterleavedInferencer, drawn: Drawn) -> int:
    """Return the vision tokens of a picture."""
    height, width = inferencer.vit_transform(drawn.picture).shape[-2:]
    patch: int = inferencer.model.vit_patch_size
    return (height // patch) * (width // patch)


def flops(inferencer: AutoInterleavedInferencer, drawn: Drawn, length: int) -> int:
    """Count what the latent block and the vision block multiply."""
    model = inferencer.model
    num_latent, num_vision = len(drawn.latent), num_patches(inferencer, drawn)
    latent = block_flops(model, num_text=2, num_latent=num_latent, context_length=length)
    after = length + num_latent + 2
    vision = block_flops(model, num_text=num_vision + 2, num_latent=0, context_length=after)
    return latent + vision + vision_flops(model, num_vision)


def runs_after(
    inferencer: AutoInterleavedInferencer, drawn: Drawn, length: int
) -> list[Callable[[], object]]:
    """Return one run a number of `Cost`."""
    context = filled(inferencer.model, length)
    copied = filled_naively(inferencer.model, length)
    return [
        partial(inferencer.decode_image, drawn.latent, inferencer.image_shape),
        partial(inferencer.read_latent, drawn.latent, drawn.grid, context),
        partial(inferencer.read_vision, drawn.picture, context),
        partial(read_latents, inferencer, drawn, context),
        partial(read_pixels, inferencer, drawn, context),
        partial(read_naively, inferencer, drawn, copied),
    ]


def measure(
    inferencer: AutoInterleavedInferencer, *, repeats: int, lengths: list[int]
) -> list[Cost]:
    """Measure all ways after every length, all of them in turn."""
    drawn, model = drawn_picture(inferencer), inferencer.model
    runs = [run for length in lengths for run in runs_after(inferencer, drawn, length)]
    seconds = alternating_seconds(runs, repeats=repeats)
    rate, width = matmul_rate(model.device, model.dtype), len(runs) // len(lengths)
    costs = []
    for index, length in enumerate(lengths):
        part = seconds[width * index : width * (index + 1)]
        decoding, latent, vision, latents, pixels, slow = part
        costs.append(
            Cost(
                length=length,
                decoding=decoding,
                latent=latent,
                vision=vision,
                latents=latents,
                pixels=pixels,
                naive=slow,
                roof=flops(inferencer, drawn, length) / rate,
            )
        )
    return costs


def main() -> None:
    """Print the table."""
    command_line = parser(__doc__, repeats=5)
    command_line.add_argument("--longest", type=int, help="default: 8192 on a CPU, else 32768")
    arguments = command_line.parse_args()
    longest = arguments.longest or longest_by_default(arguments.device)
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    lengths = usable_lengths(inferencer.model, LENGTHS, longest, POSITIONS)
    costs = measure(inferencer, repeats=arguments.repeats, lengths=lengths)
    drawn = drawn_picture(inferencer)
    height, width = inferencer.image_shape
    title = head(f"Image into context, {arguments.model}", arguments.device, arguments.dtype)
    show(
        f"{title}\nPictures of {height} x {width} pixels: {len(drawn.latent)} latent and "
        f"{num_patches(inferencer, drawn)} vision tokens; "
        f"median of {arguments.repeats} runs; ms:\n",
        (
            "context",
            "decoding it",
            "latent block",
            "vision block",
            "ours, both",
            "ours, pixels",
            "naive",
            "naive / ours",
            "roofline",
            "roof %",
        ),
        [
            (
                cost.length,
                cost.decoding * 1e3,
                cost.latent * 1e3,
                cost.vision * 1e3,
                cost.latents * 1e3,
                cost.pixels * 1e3,
                cost.naive * 1e3,
                cost.naive / cost.latents,
                cost.roof * 1e3,
                100 * cost.roof / cost.latents,
            )
            for cost in costs
        ],
    )


if __name__ == "__main__":
    main()
