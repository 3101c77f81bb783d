"""Seconds a token against the length of the context, beside the naive cache and the roofline.

python -m benchmarks.decode --model mid
python -m benchmarks.decode --model 7b --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch

from benchmarks import naive
from benchmarks.models import build
from benchmarks.table import alternating_seconds, head, median_seconds, show
from modeling.attention import attend
from modeling.bagel import Bagel
from modeling.context import Context
from modeling.decoding import decode, greedy

LENGTHS = (0, 2048, 8192, 32768)


def read(model: Bagel, length: int) -> tuple[Context, naive.NaiveContext]:
    """Return both kinds of context after `length` tokens of text."""
    ids = torch.arange(length) % 1000 + 10
    context, slow = model.new_context(), naive.NaiveContext()
    for part in ids.split(2048):
        if len(part):
            context, _ = model.read(context, model.text_block(part))
    for layer in range(context.store.num_layers if length else 0):
        rows = context.rows(layer)
        assert rows is not None
        slow.keys[layer], slow.values[layer] = (row.clone() for row in rows)
    slow.length, slow.position = context.length, context.position
    return context, slow


def attention_seconds(model: Bagel, length: int) -> float:
    """Return the seconds that attention alone takes for a token, over all layers."""
    config = model.language_model.config
    head_dim = config.hidden_size // config.num_attention_heads
    like = {"device": model.device, "dtype": model.dtype}
    query = torch.randn(1, config.num_attention_heads, head_dim, **like)
    key = torch.randn(length + 1, config.num_key_value_heads, head_dim, **like)
    value = torch.randn_like(key)
    with torch.inference_mode():
        once = median_seconds(lambda: attend(query, key, value), repeats=30, warm_up=5)
    return once * config.num_hidden_layers


def measure(model: Bagel, tokens: int, repeats: int, longest: int) -> list[list[object]]:
    """Return one row a context length."""
    rows: list[list[object]] = []
    for length in (n for n in LENGTHS if n <= longest):
        context, slow = read(model, length)

        def ours(context: Context = context) -> list[int]:
            return [token for token, _ in islice(decode(model, context, 1, greedy), tokens)]

        def theirs(slow: naive.NaiveContext = slow) -> list[int]:
            return naive.decode(model, slow.fork(), 1, tokens)

        def forked(slow: naive.NaiveContext = slow) -> object:
            return slow.fork()

        assert ours() == theirs(), "both ways write the same tokens"
        fast, copying, fork = alternating_seconds([ours, theirs, forked], repeats=repeats)
        attention = attention_seconds(model, length)
        each, each_naive = fast / tokens, (copying - fork) / tokens
        rows.append(
            [
                length,
                each * 1e3,
                attention * 1e3,
                (each - attention) * 1e3,
                each_naive * 1e3,
                each_naive / each,
            ]
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("mid", "7b"), default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    model = build(arguments.model, arguments.device, dtype)
    rows = measure(model, arguments.tokens, arguments.repeats, arguments.longest)
    weights = sum(p.numel() * p.element_size() for p in model.language_model.parameters())
    embedded = model.language_model.model.embed_tokens.weight
    text = (weights - 2 * embedded.numel() * embedded.element_size()) / 2
    read_bytes = text + embedded.numel() * embedded.element_size()
    show(
        head(f"Decode, {arguments.model}", arguments.device, dtype)
        + f"\n{read_bytes / 1e6:.1f} MB of weights are read a token; ms a token:\n",
        ("context", "ours", "of it attention", "without attention", "naive", "naive / ours"),
        rows,
    )


if __name__ == "__main__":
    main()
