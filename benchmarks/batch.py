"""Many prompts at once: tokens a second and stories a minute, beside one after another.

python -m benchmarks.batch --model bundled
python -m benchmarks.batch --model mid --writing
python -m benchmarks.batch --model 7b --device cuda --dtype bfloat16

Writing: greedy tokens of so many texts, each after a context of its own, as rows of one forward and
one text after another. Stories: whole runs with pictures by `generate_batch` and one run after
another; protocol every-block for random weights; `--writing` leaves them out. Both ways take turns
in one loop. `--runs` instead runs so many short stories through one batch after another and tells
what the process holds.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.contexts import after_text, filled
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, judge, parser, show
from modeling.bagel import Bagel
from modeling.context import Context
from modeling.decoding import decode, greedy
from modeling.together import Line, write_together

SIZES = (1, 4, 16)
CONTEXT, TOKENS = 64, 32
PROMPTS = (
    "Write a short story about a robot's adventure in space with illustrations.",
    "Create a recipe for chocolate chip cookies with images showing key steps.",
    "Explain the water cycle with diagrams for each stage.",
    "Draw a red circle, then add a blue square to its right.",
)
BUNDLED: dict[str, Any] = {"timestep_shift": 2.0, "cfg_text_scale": 2.5, "cfg_img_scale": 1.0}
RANDOM: dict[str, Any] = {"protocol": "every-block", "max_text_length": 16, "max_images": 2}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one thing for so many prompts, at once and one after another."""

    prompts: int
    together: float
    apart: float

    @property
    def gain(self) -> float:
        """How many times as fast it is at once."""
        return self.apart / self.together


def contexts_of(model: Bagel, count: int) -> list[Context]:
    """Return contexts that share nothing."""
    return [after_text(model, filled(model, CONTEXT, seed=seed), 4) for seed in range(count)]


def write_apart(model: Bagel, contexts: list[Context], first_id: int) -> list[list[int]]:
    """Write one text after another."""
    return [
        [id_ for id_, _ in decode(model, context, first_id, greedy, at_most=TOKENS)]
        for context in contexts
    ]


def write_at_once(model: Bagel, contexts: list[Context], first_id: int) -> list[list[int]]:
    """Write all texts, a token of each at a time."""
    first = torch.tensor([first_id], device=model.device)
    lines = [Line(context, first, greedy) for context in contexts]
    texts: list[list[int]] = [[] for _ in lines]
    for _ in range(TOKENS):
        for text, pair in zip(texts, write_together(model, lines), strict=True):
            assert not isinstance(pair, Exception)
            text.append(pair[0])
    return texts


def tell_apart(
    inferencer: AutoInterleavedInferencer, prompts: list[str], options: dict[str, Any]
) -> list[Any]:
    """Tell one story after another."""
    tell = inferencer.auto_interleaved_generation
    return [tell(prompt, seed=seed, **options) for seed, prompt in enumerate(prompts)]


def tell_at_once(
    inferencer: AutoInterleavedInferencer, prompts: list[str], options: dict[str, Any]
) -> list[Any]:
    """Tell all stories in one batch."""
    return inferencer.generate_batch(prompts, list(range(len(prompts))), **options)


def measure(
    runs: Callable[[int], tuple[Callable[[], object], Callable[[], object]]], repeats: int
) -> list[Cost]:
    """Measure both ways for every number of prompts, all of them in turn."""
    ways = [way for size in SIZES for way in runs(size)]
    seconds = alternating_seconds(ways, repeats=repeats)
    return [
        Cost(prompts=size, together=together, apart=apart)
        for size, together, apart in zip(SIZES, seconds[::2], seconds[1::2], strict=True)
    ]


def measure_writing(inferencer: AutoInterleavedInferencer, repeats: int) -> list[Cost]:
    """Measure writing."""
    model, first = inferencer.model, inferencer.bos

    def runs(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        contexts = contexts_of(model, size)
        if model.dtype == torch.float32:
            assert write_at_once(model, contexts, first) == write_apart(model, contexts, first)
        return tuple(  # type: ignore[return-value]  # two of them
            partial(way, model, contexts, first) for way in (write_at_once, write_apart)
        )

    return measure(runs, repeats)


def measure_stories(
    inferencer: AutoInterleavedInferencer, options: dict[str, Any], repeats: int
) -> list[Cost]:
    """Measure whole stories."""

    def runs(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        prompts = [PROMPTS[place % len(PROMPTS)] for place in range(size)]
        return tuple(  # type: ignore[return-value]  # two of them
            partial(way, inferencer, prompts, options) for way in (tell_at_once, tell_apart)
        )

    return measure(runs, repeats)


def held_after(inferencer: AutoInterleavedInferencer, options: dict[str, Any], runs: int) -> None:
    """Print what the process holds while many short stories are told."""
    print("| stories | MB resident at most |\n| --- | --- |")
    for done in range(0, runs, 100):
        prompts = [PROMPTS[place % len(PROMPTS)] for place in range(min(100, runs - done))]
        tell_at_once(inferencer, prompts, options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {done + len(prompts)} | {peak:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--timesteps", type=int, default=20, help="default: %(default)s")
    command_line.add_argument("--writing", action="store_true", help="no stories")
    command_line.add_argument("--runs", type=int, help="short stories to tell, for memory alone")
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    own = BUNDLED if arguments.model == "bundled" else RANDOM
    options = {"num_timesteps": arguments.timesteps, **own}
    title = head(f"Batch, {arguments.model}", arguments.device, arguments.dtype)
    if arguments.runs:
        print(title)
        held_after(inferencer, options | {"max_images": 1}, arguments.runs)
        return
    print(title)
    columns = ("prompts", "at once", "one by one", "gain")
    writing = measure_writing(inferencer, arguments.repeats)
    rows = [_row(cost, cost.prompts * TOKENS) for cost in writing]
    show(f"Tokens a second, texts of {TOKENS} after contexts of {CONTEXT}:\n", columns, rows)
    print(judge("16 rows over one by one", writing[-1].gain, least=5), end="\n\n")
    if not arguments.writing:
        stories = measure_stories(inferencer, options, arguments.repeats)
        rows = [_row(cost, 60 * cost.prompts) for cost in stories]
        show(f"Stories a minute, {arguments.timesteps} points an image:\n", columns, rows)
        print(judge("16 stories over one by one", stories[-1].gain, least=4))


def _row(cost: Cost, what: float) -> tuple[float, ...]:
    return cost.prompts, what / cost.together, what / cost.apart, cost.gain


if __name__ == "__main__":
    main()
