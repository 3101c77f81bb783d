"""Seconds an evaluation of the flow, and a whole picture, against the length of the context.

python -m benchmarks.flow --model mid
python -m benchmarks.flow --model bundled
python -m benchmarks.flow --model 7b --device cuda --dtype bfloat16

One branch is drawing without guidance. Three are full, without text and without images, all
different; where no picture was read yet the last one equals the first, and two are computed. The
naive way computes all three over three copies of the cache. The roofline is linear layers and
attention of one branch over the FLOP/s of a large product on this device in this dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import naive
from benchmarks.contexts import (
    LENGTHS,
    after_text,
    filled,
    longest_by_default,
    usable_lengths,
)
from benchmarks.models import build
from benchmarks.roofline import flow_flops, matmul_rate
from benchmarks.table import alternating_seconds, head, judge, parser, show
from modeling.context import Context
from modeling.flow import ImageOptions, schedule

PROMPT = 32  # tokens after the context that is shared
ALONE = ImageOptions(cfg_text_scale=1.0, cfg_img_scale=1.0, cfg_interval=(0.0, 1.0))
GUIDED = ImageOptions(cfg_interval=(0.0, 1.0))  # all steps alike

Branches = tuple[Context, Context, Context]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds an evaluation, which of guidance means all its branches, after a shared context."""

    length: int
    one: float
    three: float
    equal: float
    naive_one: float
    naive_three: float
    roof: float


def branches_after(inferencer: AutoInterleavedInferencer, length: int) -> Branches:
    """Return full, without text and without images, all different, around a shared context."""
    model = inferencer.model
    shared = filled(model, length)
    return (
        after_text(model, shared, PROMPT),
        shared,
        after_text(model, filled(model, length, seed=1), PROMPT),
    )


def noise_for(inferencer: AutoInterleavedInferencer) -> Tensor:
    """Return the noise of a picture of the usual size."""
    rows, columns = inferencer.model.latent_grid(*inferencer.image_shape)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows * columns, inferencer.model.patch_latent_dim, generator=generator)


def draw(
    inferencer: AutoInterleavedInferencer, branches: Branches, options: ImageOptions
) -> Tensor:
    """Draw the latents of a picture."""
    generator = torch.Generator().manual_seed(0)
    steps = inferencer.draw_latent(inferencer.image_shape, *branches, options, generator)
    *_, last = steps
    return last.latent


def draw_naively(
    inferencer: AutoInterleavedInferencer,
    branches: list[naive.NaiveContext],
    options: ImageOptions,
) -> Tensor:
    """Draw the same with copies of the cache and every branch computed."""
    grid = inferencer.model.latent_grid(*inferencer.image_shape)
    noise, markers = noise_for(inferencer), inferencer.markers
    return naive.draw(inferencer.model, branches, noise, grid, markers, options)


def compare(
    inferencer: AutoInterleavedInferencer, branches: Branches, options: ImageOptions
) -> float:
    """Return the largest difference between what both ways draw."""
    ours = draw(inferencer, branches, options)
    copies = [naive.NaiveContext.of(context) for context in branches]
    return float((ours - draw_naively(inferencer, copies, options)).abs().max())


def evaluations_of(
    inferencer: AutoInterleavedInferencer, length: int, steps: int
) -> list[Callable[[], object]]:
    """Return one run a number of `Cost`, each of so many steps."""
    alone, guided = (replace(options, num_timesteps=steps + 1) for options in (ALONE, GUIDED))
    branches = branches_after(inferencer, length)
    full, without_text, _ = branches
    copies = [naive.NaiveContext.of(context) for context in branches]
    return [
        partial(draw, inferencer, branches, alone),
        partial(draw, inferencer, branches, guided),
        partial(draw, inferencer, (full, without_text, full), guided),
        partial(draw_naively, inferencer, copies[:1], alone),
        partial(draw_naively, inferencer, copies, guided),
    ]


def measure(
    inferencer: AutoInterleavedInferencer, *, steps: int, repeats: int, lengths: list[int]
) -> list[Cost]:
    """Measure evaluations after every length, all of them in turn."""
    model = inferencer.model
    runs = [run for length in lengths for run in evaluations_of(inferencer, length, steps)]
    seconds = [total / steps for total in alternating_seconds(runs, repeats=repeats)]
    rate, num_latent = matmul_rate(model.device, model.dtype), len(noise_for(inferencer))
    width = len(runs) // len(lengths)
    costs = []
    for index, length in enumerate(lengths):
        one, three, equal, naive_one, naive_three = seconds[width * index : width * (index + 1)]
        costs.append(
            Cost(
                length=length,
                one=one,
                three=three,
                equal=equal,
                naive_one=naive_one,
                naive_three=naive_three,
                roof=flow_flops(model, num_latent, length + PROMPT) / rate,
            )
        )
    return costs


def measure_pictures(
    inferencer: AutoInterleavedInferencer, *, length: int, timesteps: int, repeats: int
) -> list[tuple[str, float, int]]:
    """Measure whole pictures at the default guidance: what, seconds, evaluations."""
    options = ImageOptions(num_timesteps=timesteps)
    full, without_text, without_images = branches_after(inferencer, length)
    copies = [naive.NaiveContext.of(context) for context in (full, without_text, without_images)]
    runs: list[Callable[[], object]] = [
        partial(draw, inferencer, (full, without_text, full), options),
        partial(draw, inferencer, (full, without_text, without_images), options),
        partial(draw_naively, inferencer, copies, options),
    ]
    seconds = alternating_seconds(runs, repeats=repeats, warm_up=0)  # all has run before
    steps, guided = timesteps - 1, num_guided(options)
    evaluations = [steps + guided, steps + 2 * guided, steps + 2 * guided]
    names = ("first picture (two branches)", "later picture (three)", "naive, either")
    return list(zip(names, seconds, evaluations, strict=True))


def num_guided(options: ImageOptions) -> int:
    """Return how many steps of a picture are guided."""
    times = schedule(options.num_timesteps, options.timestep_shift)[:-1]
    return sum(options.guided(time) for time in times)


def show_costs(title: str, costs: list[Cost]) -> None:
    """Print the table of evaluations and what it says."""
    show(
        title,
        (
            "context",
            "one branch",
            "three",
            "equal (two)",
            "equal / three",
            "naive, one",
            "naive, three",
            "naive three / equal",
            "roofline, one",
            "roof %",
        ),
        [
            (
                cost.length,
                cost.one,
                cost.three,
                cost.equal,
                cost.equal / cost.three,
                cost.naive_one,
                cost.naive_three,
                cost.naive_three / cost.equal,
                cost.roof,
                100 * cost.roof / cost.one,
            )
            for cost in costs
        ],
    )
    for cost in costs:
        what = f"two equal branches over three different ones, context {cost.length}"
        print(judge(what, cost.equal / cost.three, least=0.60, most=0.73))
    print()


def main() -> None:
    """Print the tables."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--steps", type=int, default=2, help="a run; default: %(default)s")
    command_line.add_argument("--timesteps", type=int, help="of whole pictures; default: 6, GPU 50")
    command_line.add_argument("--longest", type=int, help="default: 8192 on a CPU, else 32768")
    command_line.add_argument("--side", type=int, help="pixels; default: the model's own size")
    arguments = command_line.parse_args()
    slow = torch.device(arguments.device).type == "cpu"
    timesteps = arguments.timesteps or (6 if slow else 50)
    longest = arguments.longest or longest_by_default(arguments.device)
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    if arguments.side:
        inferencer.image_shape = (arguments.side, arguments.side)
    model, num_latent = inferencer.model, len(noise_for(inferencer))
    lengths = usable_lengths(model, LENGTHS, longest, PROMPT + 1)
    costs = measure(inferencer, steps=arguments.steps, repeats=arguments.repeats, lengths=lengths)
    title = head(f"Flow, {arguments.model}", arguments.device, arguments.dtype)
    show_costs(
        f"{title}\nPictures of {num_latent} tokens after a context and a prompt of {PROMPT} "
        f"tokens; median of {arguments.repeats} runs of {arguments.steps} steps; seconds a step:\n",
        costs,
    )
    length = lengths[min(1, len(lengths) - 1)]
    pictures = measure_pictures(
        inferencer, length=length, timesteps=timesteps, repeats=arguments.repeats
    )
    each = flow_flops(model, num_latent, length + PROMPT) / matmul_rate(model.device, model.dtype)
    show(
        f"Whole pictures: {timesteps} time points, context {length}, default guidance; seconds:\n",
        ("picture", "seconds", "evaluations", "roofline", "roof %"),
        [(name, s, n, n * each, 100 * n * each / s) for name, s, n in pictures],
    )


if __name__ == "__main__":
    main()
