"""What the host does for a token and for a step of a picture, counted: no GPU is needed for it.

python -m benchmarks.host_work
python -m benchmarks.host_work --layers 2 --side 256

The 7B's shape on fake CUDA tensors (`benchmarks.fake_devices`). "Launches" is how often the host
starts work on the device: operations that are no views, most of them one kernel each, and one for a
recording. "Recorded" is what a recording (a CUDA graph) holds, which the device repeats by itself.
"Waits" is how often the host waits for the device. "Python calls" is how many functions the host
calls on the way, PyTorch's modules and operators included: with the same number of layers, narrow
ones, on the CPU. Blocks of memory are Python's own (`sys.getallocatedblocks`): those that are still
there after the work, less those before.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.fake_devices import fake_devices
from benchmarks.models import SHAPES, Shape, build_shape
from benchmarks.table import show
from benchmarks.watch import Watch
from modeling.bagel.drawing import Branches, Canvas
from modeling.choice import greedy
from modeling.context import Context
from modeling.cuda_graph import Work
from modeling.decode_graph import Feed, GraphFeed, feed_token
from modeling.decoding import RUN_LENGTH, decode
from modeling.flow import ImageOptions
from modeling.together import Line, Sheet, write_together

PUBLISHED = (2105, 112)  # kernels and waits a token of the published code, at 28 layers
PROMPT = 64
FIRST_ID = 1
TEXTS = 16  # of a batch
WARM_UPS, REPEATS = 4, 8  # before and while blocks of memory are counted
OPTIONS = ImageOptions(num_timesteps=31, cfg_interval=(0.0, 1.0))

# A decoder whose layers take no time: Python's part is the same.
NARROW = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 300}
NARROW |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one piece of work takes of the host.

    Attributes:
        launches: how often it starts work on the device.
        recorded: operations that one of those launches repeats.
        waits: how often it waits for the device.
    """

    launches: float
    recorded: int
    waits: float


class Recorder:
    """Stands for CUDA's recordings: runs the work once and keeps what it started.

    Attributes:
        recorded: operations in the last recording.
        repeats: how often recordings were repeated.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.repeats = 0

    def __call__(self, work: Work, device: torch.device) -> Work:
        """Record work; the result only counts that it is repeated."""
        del device
        with Watch() as watch:
            made = work()
        self.recorded = watch.started.total()
        return partial(self._repeat, made)

    def _repeat(self, made: Tensor) -> Tensor:
        self.repeats += 1
        return made


def counted(work: Callable[[], object], recorder: Recorder, *, pieces: int) -> Count:
    """Count some work of so many equal pieces, for one of them."""
    before = recorder.repeats
    with Watch() as watch:
        work()
    launches = watch.started.total() + recorder.repeats - before
    return Count(
        launches=launches / pieces,
        recorded=recorder.recorded if recorder.repeats > before else 0,
        waits=watch.waits / pieces,
    )


Prepared = tuple[Callable[[], object], int]  # some work, and how many pieces it is


@contextmanager
def writing(inferencer: AutoInterleavedInferencer, feed: Feed) -> Iterator[Prepared]:
    """Prepare a run of tokens in the middle of a text."""
    context, _ = inferencer.read_ids(range(PROMPT), inferencer.new_context())
    tokens = decode(inferencer.model, context, FIRST_ID, greedy, run_length=RUN_LENGTH, feed=feed)
    for _ in range(RUN_LENGTH):  # runs grow up to their length
        next(tokens)
    yield partial(_take, tokens, RUN_LENGTH), RUN_LENGTH


def _take(values: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(values)


@contextmanager
def writing_together(inferencer: AutoInterleavedInferencer) -> Iterator[Prepared]:
    """Prepare a token of each of some texts."""
    model = inferencer.model
    contexts = [
        inferencer.read_ids(range(PROMPT), inferencer.new_context())[0] for _ in range(TEXTS)
    ]
    lines = [Line(c, torch.tensor([FIRST_ID], device=model.device), greedy) for c in contexts]
    write_together(model, lines)
    yield partial(write_together, model, lines), TEXTS


@contextmanager
def drawing(inferencer: AutoInterleavedInferencer, record: Any = None) -> Iterator[Prepared]:
    """Prepare a step of a picture, guided over two contexts; recorded if that is given."""
    full, empty = _contexts(inferencer)
    with (
        mock.patch("modeling.bagel.flow_graph.can_repeat", return_value=record is not None),
        mock.patch("modeling.bagel.flow_graph.captured", record),
    ):
        steps = inferencer.draw_latent(inferencer.image_shape, full, empty, full, OPTIONS)
        next(steps)
        yield partial(next, steps), 1
        steps.close()


@contextmanager
def drawing_together(inferencer: AutoInterleavedInferencer) -> Iterator[Prepared]:
    """Prepare a step of two pictures, guided over two contexts each."""
    over = Branches.of(*_contexts(inferencer), None, replace(OPTIONS, cfg_img_scale=1.0))
    noises = [inferencer.initial_noise(inferencer.image_shape, None) for _ in range(2)]
    grid = inferencer.model.latent_grid(*inferencer.image_shape)
    canvas = Canvas.of(inferencer.model, grid, inferencer.markers)
    sheet = Sheet(canvas, [over, over], noises, replace(OPTIONS, cfg_img_scale=1.0))
    sheet.step()
    yield sheet.step, len(noises)
    sheet.close()


def _contexts(inferencer: AutoInterleavedInferencer) -> tuple[Context, Context]:
    empty = inferencer.new_context()
    return inferencer.read_ids(range(PROMPT), empty)[0], empty


def ways(inferencer: AutoInterleavedInferencer, recorder: Recorder) -> dict[str, Any]:
    """Return what is counted, each prepared when it is entered."""
    eager: Feed = partial(feed_token, inferencer.model)
    recorded = GraphFeed(inferencer.model, record=recorder, patience=1)
    return {
        "a token": writing(inferencer, eager),
        "a token, recorded": writing(inferencer, recorded),
        f"a token of {TEXTS} texts together": writing_together(inferencer),
        "a guided step": drawing(inferencer),
        "a guided step, recorded": drawing(inferencer, recorder),
        "a guided step of 2 pictures together": drawing_together(inferencer),
    }


def measure(inferencer: AutoInterleavedInferencer) -> dict[str, Count]:
    """Count everything, on a model of fake tensors."""
    recorder, counts = Recorder(), dict[str, Count]()
    for name, prepared in ways(inferencer, recorder).items():
        with Watch(), prepared as (work, pieces):  # which answers where the host looks
            counts[name] = counted(work, recorder, pieces=pieces)
    return counts


def calls(work: Callable[[], object]) -> int:
    """Count the functions that are called, in Python and in C."""
    number = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal number
        del frame, argument
        number += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def python_work(
    inferencer: AutoInterleavedInferencer, names: Collection[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Count Python's calls and the blocks that stay, a piece, on a narrow model on the CPU.

    Args:
        inferencer: with the model.
        names: of what is counted; None is everything.
    """
    counts, recorder = dict[str, tuple[float, float]](), Recorder()
    for name, prepared in ways(inferencer, recorder).items():
        if names is not None and name not in names:
            continue
        with prepared as (work, pieces):
            _repeat(work, WARM_UPS)
            before = _blocks()
            _repeat(work, REPEATS)
            stay = _blocks() - before
            counts[name] = calls(work) / pieces, stay / pieces / REPEATS
    return counts


def _repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def fake_model(layers: int, side: int | None = None) -> AutoInterleavedInferencer:
    """Build the 7B's shape with so many layers, within `fake_devices`."""
    shape = SHAPES["7b"]
    shape = replace(shape, decoder=shape.decoder | {"num_hidden_layers": layers})
    return _built(shape, "cuda:0", torch.bfloat16, side)


def narrow_model(layers: int) -> AutoInterleavedInferencer:
    """Build a model of so many layers that compute next to nothing."""
    shape = SHAPES["mid"]
    decoder = shape.decoder | NARROW | {"num_hidden_layers": layers}
    return _built(replace(shape, decoder=decoder), "cpu", torch.float32, 16)


def _built(
    shape: Shape, device: str, dtype: torch.dtype, side: int | None
) -> AutoInterleavedInferencer:
    inferencer = build_shape(shape, device, dtype)
    if side is not None:
        inferencer.image_shape = (side, side)
    return inferencer


def main() -> None:
    """Print the table."""
    command_line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command_line.add_argument("--layers", type=int, default=28, help="default: %(default)s")
    command_line.add_argument("--side", type=int, default=512, help="pixels; default: %(default)s")
    arguments = command_line.parse_args()
    with fake_devices():
        counts = measure(fake_model(arguments.layers, arguments.side))
    python = python_work(narrow_model(arguments.layers))
    show(
        f"## Host work\n\n{arguments.layers} layers, torch {torch.__version__}; published code at "
        f"28 layers: {PUBLISHED[0]} kernels and {PUBLISHED[1]} waits a token.\n",
        ("what", "launches", "recorded", "waits", "Python calls", "blocks that stay"),
        [
            (name, count.launches, count.recorded, count.waits, *python[name])
            for name, count in counts.items()
        ],
    )


if __name__ == "__main__":
    main()
