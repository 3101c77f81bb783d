"""Memory that contexts hold, and its peak, beside deep copies.

python -m benchmarks.memory --model mid
python -m benchmarks.memory --model bundled
python -m benchmarks.memory --model 7b --device cuda --dtype bfloat16

Each row starts from one long context and does one thing with it. "Held" is what its keys and values
take afterwards beyond that context: buffers of living stores, or tensors of naive contexts. "Peak"
is what the process (on a CPU, a fresh one for each number: its largest resident size) or the GPU's
allocator needed at most on the way, activations included. "Copies" is what is held over the size of
the prefix. The roofline is the slots of what is new, once each.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import flow, naive
from benchmarks.contexts import after_text, filled, filled_naively, usable_lengths
from benchmarks.models import build
from benchmarks.table import head, judge, parser, show
from modeling.context import Context
from modeling.flow import ImageOptions
from modeling.kv_store import KVStore

FORKS = 8
PROMPT = 32
STEP = ImageOptions(num_timesteps=2, cfg_interval=(0.0, 1.0))
WAYS = ("ours", "naive")

Stage = Callable[[AutoInterleavedInferencer, Any], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes beyond the context that a stage began with."""

    held: int
    peak: int


def forks(inferencer: AutoInterleavedInferencer, context: Any) -> Sequence[Any]:
    """Keep copies as published scripts do."""
    del inferencer
    return [copy.deepcopy(context) for _ in range(FORKS)]


def guidance(inferencer: AutoInterleavedInferencer, context: Context) -> Sequence[Context]:
    """Read a prompt: full, without text, and without images, which equals full so far."""
    full = after_text(inferencer.model, context, PROMPT)
    return full, context, full


def guidance_naively(
    inferencer: AutoInterleavedInferencer, context: naive.NaiveContext
) -> Sequence[naive.NaiveContext]:
    """Read it into three copies."""
    model = inferencer.model
    full, without_images = context.fork(), context.fork()
    for branch in (full, without_images):
        naive.extend(model, branch, model.text_block(torch.arange(PROMPT)))
    return full, context, without_images


def draft(inferencer: AutoInterleavedInferencer, context: Context) -> Sequence[Context]:
    """Read a prompt and draw a step over its branches."""
    branches = guidance(inferencer, context)
    flow.draw(inferencer, (branches[0], branches[1], branches[2]), STEP)
    return branches


def draft_naively(
    inferencer: AutoInterleavedInferencer, context: naive.NaiveContext
) -> Sequence[naive.NaiveContext]:
    """Draw it over copies."""
    branches = guidance_naively(inferencer, context)
    flow.draw_naively(inferencer, list(branches), STEP)
    return branches


def parted(inferencer: AutoInterleavedInferencer, context: Context) -> Sequence[Context]:
    """Read a picture and a prompt; the context without images parts from the full one."""
    model, grid = inferencer.model, inferencer.model.latent_grid(*inferencer.image_shape)
    shown = inferencer.read_latent(flow.noise_for(inferencer), grid, context)
    return after_text(model, shown, PROMPT), shown, after_text(model, context, PROMPT)


def parted_naively(
    inferencer: AutoInterleavedInferencer, context: naive.NaiveContext
) -> Sequence[naive.NaiveContext]:
    """Read them into copies."""
    model, grid = inferencer.model, inferencer.model.latent_grid(*inferencer.image_shape)
    shown, without_images = context.fork(), context.fork()
    block = model.latent_block(flow.noise_for(inferencer), grid, inferencer.markers)
    naive.extend(model, shown, block)
    full = shown.fork()
    for branch in (full, without_images):
        naive.extend(model, branch, model.text_block(torch.arange(PROMPT)))
    return full, shown, without_images


STAGES: dict[str, tuple[Stage, Stage]] = {
    f"{FORKS} forks": (forks, forks),
    "three guidance contexts": (guidance, guidance_naively),
    "a draft over them": (draft, draft_naively),
    "a picture read, branches parted": (parted, parted_naively),
}


def new_tokens(inferencer: AutoInterleavedInferencer) -> list[int]:
    """Return the slots that each stage needs, those of a draft included."""
    picture = len(flow.noise_for(inferencer)) + 2
    return [0, PROMPT, picture + PROMPT, picture + 2 * PROMPT]


def held_bytes() -> int:
    """Return the bytes that contexts hold, of either kind, that were made since `gc.freeze`."""
    holders = [o for o in gc.get_objects() if type(o) in (KVStore, naive.NaiveContext)]
    buffers: dict[int, int] = {}
    for holder in holders:
        if isinstance(holder, KVStore):
            buffers[id(holder)] = holder.nbytes
        else:  # an alias shares its tensors
            tensors = (*holder.keys.values(), *holder.values.values())
            buffers |= {id(tensor): tensor.nbytes for tensor in tensors}
    return sum(buffers.values())


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that was needed so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def usage(inferencer: AutoInterleavedInferencer, stage: str, way: str, length: int) -> Usage:
    """Do a stage one way and see what it takes; on a CPU the process should be a fresh one."""
    gc.freeze()
    run = STAGES[stage][WAYS.index(way)]
    device = inferencer.model.device
    run(inferencer, _start(inferencer, 64, way))  # what libraries allocate at their first call
    context = _start(inferencer, length, way)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    held, peak = held_bytes(), peak_bytes(device)
    kept = run(inferencer, context)
    result = Usage(held=held_bytes() - held, peak=peak_bytes(device) - peak)
    del kept, context
    gc.unfreeze()
    return result


def _start(inferencer: AutoInterleavedInferencer, length: int, way: str) -> Any:
    return (filled if way == "ours" else filled_naively)(inferencer.model, length)


def middle(usages: Sequence[Usage]) -> Usage:
    """Return the usage whose peak is the median."""
    return sorted(usages, key=lambda found: found.peak)[len(usages) // 2]


def in_fresh_process(model: str, dtype: torch.dtype, stage: str, way: str, length: int) -> Usage:
    """Do the same in a process of its own, on the CPU."""
    command = [sys.executable, "-m", "benchmarks.memory", "--model", model]
    command += ["--dtype", str(dtype)[6:], "--length", str(length), "--only", f"{stage}/{way}"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return Usage(**json.loads(done.stdout.splitlines()[-1]))


def measure(
    inferencer: AutoInterleavedInferencer,
    use: Callable[[str, str], Usage],
) -> list[tuple[str, Usage, Usage, int]]:
    """Return each stage with what it takes our way, naively, and at least."""
    size = inferencer.bytes_per_token
    return [
        (stage, use(stage, "ours"), use(stage, "naive"), size * tokens)
        for stage, tokens in zip(STAGES, new_tokens(inferencer), strict=True)
    ]


def main() -> None:
    """Print the table, or as a child process the numbers of one stage."""
    command_line = parser(__doc__, repeats=1)
    command_line.add_argument("--length", type=int, default=8192, help="default: %(default)s")
    command_line.add_argument("--only", help=argparse.SUPPRESS)
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    room = 2 * PROMPT + 2
    [length] = usable_lengths(inferencer.model, [arguments.length], arguments.length, room)
    if arguments.only:
        stage, way = arguments.only.rsplit("/", 1)
        print(json.dumps(asdict(usage(inferencer, stage, way, length))))
        return

    def use(stage: str, way: str) -> Usage:
        if torch.device(arguments.device).type == "cpu":
            return in_fresh_process(arguments.model, arguments.dtype, stage, way, length)
        return usage(inferencer, stage, way, length)

    def use_again(stage: str, way: str) -> Usage:
        return middle([use(stage, way) for _ in range(arguments.repeats)])

    prefix = length * inferencer.bytes_per_token
    rows = measure(inferencer, use_again)
    show(
        head(f"Memory, {arguments.model}", arguments.device, arguments.dtype)
        + f"\nA context of {length} tokens holds {prefix / 1e6:.1f} MB; MB beyond it:\n",
        ("what", "held", "copies", "peak", "naive held", "copies", "peak", "roofline"),
        [
            (
                stage,
                ours.held / 1e6,
                ours.held / prefix,
                ours.peak / 1e6,
                slow.held / 1e6,
                slow.held / prefix,
                slow.peak / 1e6,
                least / 1e6,
            )
            for stage, ours, slow, least in rows
        ],
    )
    for stage, ours, _, least in rows[:3]:
        # A buffer that grows leaves some slots free; a copy would be 1.
        copies = max(0, ours.held - least) / prefix
        print(judge(f"copies of the prefix beyond what is new, {stage}", copies, most=0.2))


if __name__ == "__main__":
    main()
