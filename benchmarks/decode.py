"""Milliseconds a written token against the length of the context.

python -m benchmarks.decode --model mid
python -m benchmarks.decode --model bundled
python -m benchmarks.decode --model 7b --device cuda --dtype bfloat16

Beside ours stand one token as compiled code (on a CPU, as after `compile_layers`); the naive cache
with the same kernels, and with those that PyTorch picks by itself for the same layers (plain); the
time of the attention alone (the calls that our decoder makes for one token, overheard and made
again); and the roofline: the bytes that a token needs over the bandwidth of the device. Everything,
the bandwidth too, takes turns in one loop.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.contexts import LENGTHS, filled, filled_naively, longest_by_default, usable_lengths
from benchmarks.models import build
from benchmarks.roofline import token_bytes, ways_to_move
from benchmarks.table import alternating_seconds, head, judge, parser, show
from modeling.attention import Projected, Sequences
from modeling.bagel import Bagel
from modeling.bagel.qwen2_navit import Pair, Qwen2Model
from modeling.context import Context
from modeling.decode_graph import Feed, compiled_feed, feed_token
from modeling.decoding import decode, greedy

FIRST_ID = 1
GROWTH_LENGTH = 8192  # where the criteria are set
MOVES = 4  # of a bandwidth's buffers in a turn


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds a token after a context of some length."""

    length: int
    ours: float
    compiled: float | None
    attention: float
    naive: float
    plain: float
    roof: float

    @property
    def beyond(self) -> float:
        """What is not attention."""
        return self.ours - self.attention


def write(model: Bagel, context: Context, count: int, feed: Feed | None = None) -> list[int]:
    """Write so many greedy tokens."""
    steps = decode(model, context, FIRST_ID, greedy, at_most=count, feed=feed)
    return [token for token, _ in steps]


def write_compiled(model: Bagel, context: Context, count: int) -> list[int]:
    """Write the same by steps that are compiled as a whole."""
    return write(model, context, count, compiled_feed(model))


def write_naively(model: Bagel, context: naive.NaiveContext, count: int) -> list[int]:
    """Write the same with the naive cache."""
    return list(islice(naive.tokens(model, context.alias(), FIRST_ID), count))


def write_plainly(model: Bagel, context: naive.NaiveContext, count: int) -> list[int]:
    """Write the same with the naive cache and PyTorch's own choice of kernels."""
    with naive.plainly():
        return write_naively(model, context, count)


@dataclass(frozen=True, eq=False)
class _Heard:
    """Passes every call of attention on, and notes how to make it again."""

    sequences: Sequences
    calls: list[Callable[[], object]]

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        self.calls.append(partial(self.sequences.attend, layer, text, latent))
        return self.sequences.attend(layer, text, latent)


def attention_calls(model: Bagel, context: Context, tokens: int) -> list[Callable[[], object]]:
    """Write, and return the calls of attention of the last token, one a layer, to make again.

    They write the token's keys and values into the same free slots, and read what they read.
    """
    forward, calls = Qwen2Model.forward, list[Callable[[], object]]()

    def overheard(
        decoder: Qwen2Model, text: Tensor, latent: Tensor | None, rotary: Any, rows: Sequences
    ) -> Pair:
        return forward(decoder, text, latent, rotary, _Heard(rows, calls))

    # Not by recorded steps, whose tensors end with the text.
    steps = decode(
        model, context, FIRST_ID, greedy, at_most=tokens, feed=partial(feed_token, model)
    )
    with mock.patch.object(Qwen2Model, "forward", overheard):
        list(steps)
    return calls[-model.language_model.config.num_hidden_layers :]


@torch.inference_mode()
def attend_again(calls: list[Callable[[], object]]) -> None:
    """Do the attention of a token."""
    for call in calls:
        call()


def without_launches(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return work that costs no more than it takes the device: on CUDA, recorded as a graph."""
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def repeated(run: Callable[[], object], count: int) -> None:
    """Run so many times."""
    for _ in range(count):
        run()


def measure(model: Bagel, *, tokens: int, repeats: int, lengths: list[int]) -> list[Cost]:
    """Measure every length, all of them in turn."""
    runs: list[Callable[[], object]] = []
    compiles = model.device.type == "cpu" and shutil.which("g++") is not None
    for length in lengths:
        context = filled(model, length)
        copied = filled_naively(model, length)
        if model.dtype == torch.float32:
            ids = write(model, context, tokens)
            for way in (write_naively, write_plainly):
                assert way(model, copied, tokens) == ids, "all ways write the same tokens"
            if compiles:
                assert write_compiled(model, context, tokens) == ids, "compiled code, too"
        attention = partial(attend_again, attention_calls(model, context, tokens))
        runs += [
            partial(write, model, context, tokens),
            partial(repeated, without_launches(attention, model.device), tokens),
            partial(write_naively, model, copied, tokens),
            partial(write_plainly, model, copied, tokens),
        ]
        if compiles:
            runs.append(partial(write_compiled, model, context, tokens))
    moving = ways_to_move(model.device, model.dtype)
    moves = [partial(repeated, run, MOVES) for _, run in moving]
    seconds = alternating_seconds([*runs, *moves], repeats=repeats)
    times = zip(moving, seconds[len(runs) :], strict=True)
    rate = max(MOVES * moved / passed for (moved, _), passed in times)
    each = [total / tokens for total in seconds[: len(runs)]]
    ways = len(runs) // len(lengths)
    return [
        Cost(
            length=length,
            ours=ours,
            compiled=compiled[0] if compiled else None,
            attention=attention,
            naive=slow,
            plain=plain,
            roof=token_bytes(model, length) / rate,
        )
        for length, ours, attention, slow, plain, *compiled in zip(
            lengths, *(each[way::ways] for way in range(ways)), strict=True
        )
    ]


def verdicts(costs: list[Cost]) -> list[str]:
    """Compare with what is asked for, at the longest length up to 8k."""
    first, far = costs[0], [cost for cost in costs if cost.length <= GROWTH_LENGTH][-1]
    growth = f"beyond attention, context {far.length} over context {first.length}"
    times = f"naive over ours, context {far.length}"
    compiled = [
        judge(f"roof %, compiled, context {c.length}", 100 * c.roof / c.compiled, least=60)
        for c in costs
        if c.compiled
    ]
    return [
        *compiled,
        judge(growth, far.beyond / first.beyond, most=1.15),
        judge(f"{times}, the same kernels", far.naive / far.ours, least=4),
        judge(f"{times}, plain", far.plain / far.ours, least=4),
    ]


def asked_for(description: str | None) -> tuple[Namespace, Bagel, list[int]]:
    """Read the command line of a measurement of tokens; build its model, find its contexts."""
    command_line = parser(description, repeats=5)
    command_line.add_argument("--tokens", type=int, default=32, help="a run; default: %(default)s")
    command_line.add_argument("--longest", type=int, help="default: 8192 on a CPU, else 32768")
    arguments = command_line.parse_args()
    longest = arguments.longest or longest_by_default(arguments.device)
    model = build(arguments.model, arguments.device, arguments.dtype).model
    lengths = usable_lengths(model, LENGTHS, longest, arguments.tokens)
    return arguments, model, lengths


def main() -> None:
    """Print the table."""
    arguments, model, lengths = asked_for(__doc__)
    costs = measure(model, tokens=arguments.tokens, repeats=arguments.repeats, lengths=lengths)
    show(
        head(f"Decode, {arguments.model}", arguments.device, arguments.dtype)
        + f"\n{token_bytes(model, 0) / 1e6:.1f} MB of weights are read a token. {arguments.tokens} "
        f"tokens a run, median of {arguments.repeats} runs; ms a token:\n",
        (
            "context",
            "ours",
            "attention",
            "beyond it",
            "naive",
            "naive / ours",
            "plain",
            "plain / ours",
            "compiled",
            "plain / compiled",
            "roofline",
            "roof %",
            "compiled, roof %",
        ),
        [
            (
                cost.length,
                cost.ours * 1e3,
                cost.attention * 1e3,
                cost.beyond * 1e3,
                cost.naive * 1e3,
                cost.naive / cost.ours,
                cost.plain * 1e3,
                cost.plain / cost.ours,
                *((cost.compiled * 1e3, cost.plain / cost.compiled) if cost.compiled else ("", "")),
                cost.roof * 1e3,
                100 * cost.roof / cost.ours,
                100 * cost.roof / cost.compiled if cost.compiled else "",
            )
            for cost in costs
        ],
    )
    print("What is asked for, at the mid size on a CPU:", *verdicts(costs), sep="\n")


if __name__ == "__main__":
    main()
