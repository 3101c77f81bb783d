"""Milliseconds a token that the published calls write, beside what our own way needs for it.

python -m benchmarks.published --model mid
python -m benchmarks.published --model bundled

`generate_text` writes one sample, and four in step. A script's own loop calls
`language_model.forward_inference` once a token, with index tensors that it keeps up to date; the
last way also looks into the cache before each token, which copies a layer's keys and compares them.

On a CPU the seconds are the processor's, which the machine's other work changes least.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.contexts import filled
from benchmarks.decode import FIRST_ID, asked_for, write
from benchmarks.table import alternating_seconds, head, judge, show
from modeling.bagel import Bagel
from modeling.bagel.qwen2_navit import NaiveCache

SAMPLES = 4
CONSTANT = 1e-3  # seconds of a token that its context and the model's size play no part in


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds a token after a context of some length.

    Attributes:
        length: tokens of the context.
        ours: our own way.
        call: `generate_text`, one sample.
        batch: `generate_text`, a step of four samples.
        loop: a loop over `forward_inference`.
        looking: the same, with a look into the cache at every token.
    """

    length: int
    ours: float
    call: float
    batch: float
    loop: float
    looking: float


def cache_of(model: Bagel, length: int, samples: int = 1) -> NaiveCache:
    """Return a cache of samples of `length` tokens each."""
    cache = NaiveCache(model.language_model.config.num_hidden_layers)
    cache.hold([filled(model, length, seed) for seed in range(samples)])
    return cache


def call(model: Bagel, cache: NaiveCache, length: int, tokens: int, samples: int = 1) -> Tensor:
    """Write with `generate_text`; the result is (tokens, samples) ids."""
    ids = {"bos_token_id": FIRST_ID}
    lengths = [length] * samples
    return model.generate_text(
        copy.deepcopy(cache), **model.prepare_start_tokens(lengths, lengths, ids), max_length=tokens
    )


@torch.no_grad()
def loop(
    model: Bagel, cache: NaiveCache, length: int, tokens: int, *, look: bool = False
) -> list[int]:
    """Write with a loop over the decoder, as scripts do."""
    language_model, cache = model.language_model, copy.deepcopy(cache)
    token = torch.tensor([FIRST_ID], device=model.device)
    written = []
    for place in range(length, length + tokens):
        written.append(int(token))
        if look and cache.key_cache[0] is not None:
            assert cache.key_cache[0].shape[0] == place
        output = language_model.forward_inference(
            packed_query_sequence=language_model.model.embed_tokens(token),
            query_lens=torch.tensor([1]),
            packed_query_position_ids=torch.tensor([place]),
            packed_query_indexes=torch.tensor([place]),
            past_key_values=cache,
            key_values_lens=torch.tensor([place]),
            packed_key_value_indexes=torch.arange(place),
        )
        token = language_model.lm_head(output.packed_query_sequence).argmax(-1)
    return written


def measure(model: Bagel, *, tokens: int, repeats: int, lengths: list[int]) -> list[Cost]:
    """Measure every length, all ways in turn."""
    runs = []
    for length in lengths:
        one, four = cache_of(model, length), cache_of(model, length, SAMPLES)
        [context] = one.contexts()
        if model.dtype == torch.float32:
            ids = [FIRST_ID, *write(model, context, tokens - 1)]
            assert call(model, one, length, tokens)[:, 0].tolist() == ids, "both write the same"
            assert loop(model, one, length, tokens) == ids, "all three do"
        runs += [
            partial(write, model, context, tokens),
            partial(call, model, one, length, tokens),
            partial(call, model, four, length, tokens, SAMPLES),
            partial(loop, model, one, length, tokens),
            partial(loop, model, one, length, tokens, look=True),
        ]
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    seconds = [total / tokens for total in alternating_seconds(runs, repeats=repeats, clock=clock)]
    ways = zip(lengths, *(seconds[way::5] for way in range(5)), strict=True)
    return [
        Cost(length=length, ours=ours, call=one, batch=batch, loop=own, looking=looking)
        for length, ours, one, batch, own, looking in ways
    ]


def verdicts(costs: list[Cost]) -> list[str]:
    """Compare with what is asked for: what ours costs and a constant."""
    return [
        judge(
            f"generate_text beyond ours, context {cost.length}, ms",
            (cost.call - cost.ours) * 1e3,
            most=CONSTANT * 1e3,
        )
        for cost in costs
    ]


def main() -> None:
    """Print the table."""
    arguments, model, lengths = asked_for(__doc__)
    costs = measure(model, tokens=arguments.tokens, repeats=arguments.repeats, lengths=lengths)
    show(
        head(f"Published calls, {arguments.model}", arguments.device, arguments.dtype)
        + f"\n{arguments.tokens} tokens a run, median of {arguments.repeats} runs; ms a token"
        f"{' (processor time)' if model.device.type == 'cpu' else ''}:\n",
        (
            "context",
            "ours",
            "generate_text",
            "beyond ours",
            f"{SAMPLES} samples",
            "own loop",
            "own loop that looks",
        ),
        [
            (
                cost.length,
                cost.ours * 1e3,
                cost.call * 1e3,
                (cost.call - cost.ours) * 1e3,
                cost.batch * 1e3,
                cost.loop * 1e3,
                cost.looking * 1e3,
            )
            for cost in costs
        ],
    )
    print(*verdicts(costs), sep="\n")


if __name__ == "__main__":
    main()
