"""Contexts of any length at no cost: filled with random keys and values instead of being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.naive import NaiveContext
from modeling.bagel import Bagel
from modeling.bagel.blocks import Block
from modeling.context import Context

LENGTHS = (0, 2048, 8192, 32768)


def usable_lengths(model: Bagel, lengths: Iterable[int], longest: int, room: int) -> list[int]:
    """Return context lengths up to `longest`, cut where `room` more would exceed the positions."""
    limit = model.language_model.config.max_position_embeddings - room
    return sorted({min(length, limit) for length in lengths if length <= longest})


def longest_by_default(device: torch.device | str) -> int:
    """Return the longest context that is measured within minutes."""
    return 8192 if torch.device(device).type == "cpu" else 32768


def filled(model: Bagel, length: int, seed: int = 0) -> Context:
    """Return a context of `length` tokens of text, as far as anything that is timed can tell.

    Its keys and values are random numbers of the size that normed ones have.
    """
    context = model.new_context()
    if not length:
        return context
    with context.room(length) as tail:
        for layer, (keys, values) in enumerate(_random_rows(model, length, seed)):
            tail.write(layer, 0, keys, values)
        return context.after(tail, Block(text=torch.empty(length, 0), causal=True))


def filled_naively(model: Bagel, length: int, seed: int = 0) -> NaiveContext:
    """Return a naive context that holds the same."""
    context = NaiveContext(length=length, position=length)
    if length:
        for layer, rows in enumerate(_random_rows(model, length, seed)):
            context.keys[layer], context.values[layer] = rows
    return context


def _random_rows(model: Bagel, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Make each layer's keys and values."""
    config, generator = model.language_model.config, torch.Generator(model.device)
    generator.manual_seed(seed)
    head_dim = config.hidden_size // config.num_attention_heads
    shape = (length, config.num_key_value_heads, head_dim)
    like: dict[str, Any] = {"generator": generator, "device": model.device, "dtype": model.dtype}
    for _ in range(config.num_hidden_layers):
        yield torch.randn(shape, **like), torch.randn(shape, **like)


def after_text(model: Bagel, context: Context, count: int) -> Context:
    """Return a context after `count` more tokens, truly read."""
    ids = torch.arange(count) % 90
    return model.read(context, model.text_block(ids))[0]
