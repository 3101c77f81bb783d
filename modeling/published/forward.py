"""The decoder over packed samples and a cache, under its published name and keywords."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeling.attention import CachedRow, CachedRows
from modeling.context import Context
from modeling.published.cache import NaiveCache
from modeling.published.edge import published
from modeling.published.layout import Counts, Layout, counts, in_order

if TYPE_CHECKING:
    from modeling.bagel.qwen2_navit import Qwen2ForCausalLM


@dataclass(eq=False)
class BaseNavitOutputWithPast:
    """What the decoder returns.

    Attributes:
        packed_query_sequence: (tokens, hidden), after the final norm.
        past_key_values: the cache.
    """

    packed_query_sequence: Tensor
    past_key_values: NaiveCache


class _OneStep:
    advance = 1  # positions come with every call: what a cached context says of its own is not read


@dataclass(frozen=True, eq=False)
class _Streams:
    """Which tokens of a packed sequence go through which weights.

    Attributes:
        text, latent: their places in the sequence, in order.
        num_text, num_latent: how many each sample has.
    """

    text: Tensor
    latent: Tensor | None
    num_text: Counts
    num_latent: Counts

    @classmethod
    def of(cls, lengths: Counts, text: Tensor | None, latent: Tensor | None) -> _Streams:
        """Divide samples of these lengths; without places all tokens are text."""
        num_tokens = sum(lengths)
        if text is None or latent is None:
            return cls(torch.arange(num_tokens, device="cpu"), None, lengths, (0,) * len(lengths))
        parts = (("packed_text_indexes", text), ("packed_vae_token_indexes", latent))
        in_order(parts, num_tokens)
        text, latent = text.flatten().sort().values, latent.flatten().sort().values
        is_latent = torch.zeros(num_tokens, dtype=torch.bool, device=latent.device)
        is_latent[latent] = True
        num_latent = tuple(int(part.sum()) for part in is_latent.split(list(lengths)))
        num_text = tuple(n - m for n, m in zip(lengths, num_latent, strict=True))
        return cls(text, latent, num_text, num_latent)

    def joined(self, text: Tensor, latent: Tensor | None) -> Tensor:
        """Put the two parts of a sequence together again."""
        if self.latent is None or latent is None:
            return text
        order = torch.cat([self.text, self.latent]).argsort()
        return torch.cat([text, latent.to(text.dtype)])[order.to(text.device)]


@published
def forward_inference(  # noqa: PLR0913 - the published signature
    self: Qwen2ForCausalLM,
    packed_query_sequence: Tensor,
    query_lens: Tensor | Sequence[int],
    packed_query_position_ids: Tensor,
    packed_query_indexes: Tensor,
    past_key_values: NaiveCache | None = None,
    key_values_lens: Tensor | Sequence[int] | None = None,
    packed_key_value_indexes: Tensor | None = None,
    update_past_key_values: bool = True,
    is_causal: bool = True,
    mode: str = "und",
    packed_vae_token_indexes: Tensor | None = None,
    packed_text_indexes: Tensor | None = None,
) -> BaseNavitOutputWithPast:
    """Run packed samples through the decoder, each after its own part of a cache.

    Args:
        packed_query_sequence: (tokens, hidden) embeddings, all samples one after another.
        query_lens: tokens of each sample.
        packed_query_position_ids: (tokens,) RoPE positions.
        packed_query_indexes: where these tokens stand among all, the cached ones included.
        past_key_values: the cache; None is an empty one.
        key_values_lens: tokens of each sample in the cache; None is as they were read.
        packed_key_value_indexes: where the cached tokens stand among all.
        update_past_key_values: keep the tokens, in place.
        is_causal: a token sees its own sample's tokens up to itself, or all of them.
        mode: "und", all tokens through the text weights; "gen", some through those for drawing.
        packed_vae_token_indexes: which tokens those are.
        packed_text_indexes: which tokens they are not.

    Raises:
        ValueError: if lengths and indexes contradict one another or the cache.
    """
    lengths = counts("query_lens", query_lens)
    num_layers = self.config.num_hidden_layers
    cache = NaiveCache(num_layers) if past_key_values is None else past_key_values
    cached = cached_lengths(cache, key_values_lens, lengths, num_layers)
    Layout(cached, lengths).check(packed_query_indexes, packed_key_value_indexes)
    _check_size("packed_query_sequence", packed_query_sequence, lengths)
    _check_size("packed_query_position_ids", packed_query_position_ids, lengths)
    _check_mode(mode, is_causal, packed_text_indexes, packed_vae_token_indexes)
    drawn = packed_vae_token_indexes if mode == "gen" else None
    streams = _Streams.of(lengths, packed_text_indexes, drawn)
    contexts = cache.contexts(cached)
    sequence = _run(
        self, packed_query_sequence, packed_query_position_ids, contexts, streams, is_causal
    )
    if update_past_key_values:
        cache.hold(contexts)
    return BaseNavitOutputWithPast(sequence, cache)


def cached_lengths(
    cache: NaiveCache,
    key_values_lens: Tensor | Sequence[int] | None,
    lengths: Counts,
    num_layers: int,
) -> Counts:
    """Return how many tokens of each sample a cache holds.

    Raises:
        ValueError: if it is no cache of this decoder, or of another number of samples.
    """
    if not isinstance(cache, NaiveCache) or cache.num_layers != num_layers:
        given = f"{cache.num_layers} layers" if isinstance(cache, NaiveCache) else type(cache)
        raise ValueError(f"past_key_values must be NaiveCache({num_layers}), got {given}")
    if key_values_lens is None:
        held = [context.length for context in cache.contexts()]
        key_values_lens = held or [0] * len(lengths)
    return counts("key_values_lens", key_values_lens, len(lengths))


def _check_size(name: str, given: Tensor, lengths: Counts) -> None:
    if given.shape[0] != sum(lengths) or not sum(lengths):
        raise ValueError(
            f"{name} must hold the tokens of query_lens {list(lengths)}, {sum(lengths)} of them "
            f"and at least one; got {given.shape[0]}"
        )


def _check_mode(mode: str, is_causal: bool, text: Tensor | None, latent: Tensor | None) -> None:
    if mode not in ("und", "gen") or (mode == "gen" and is_causal):
        raise ValueError(
            f"mode must be 'und', or 'gen' with is_causal=False, got {mode!r} with "
            f"is_causal={is_causal}"
        )
    if mode == "gen" and (text is None or latent is None):
        raise ValueError("mode='gen' needs packed_vae_token_indexes and packed_text_indexes")


def _run(  # noqa: PLR0913 - what runs, after what, and how
    language_model: Qwen2ForCausalLM,
    sequence: Tensor,
    positions: Tensor,
    contexts: list[Context],
    streams: _Streams,
    is_causal: bool,
) -> Tensor:
    """Run a packed sequence; put longer contexts in place, and return what the last norm gives."""
    decoder = language_model.model
    text, latent = streams.text.to(sequence.device), streams.latent
    latent = None if latent is None else latent.to(sequence.device)
    positions = positions.to(sequence.device)
    rotaries = (
        decoder.rotary(positions[text]),
        None if latent is None else decoder.rotary(positions[latent]),
    )
    with ExitStack() as rooms:
        samples = enumerate(zip(streams.num_text, streams.num_latent, strict=True))
        tails = {
            i: rooms.enter_context(contexts[i].room(num_text + num_latent))
            for i, (num_text, num_latent) in samples
            if num_text + num_latent
        }
        rows = [
            CachedRow(
                tail=tail,
                num_text=streams.num_text[i],
                num_latent=streams.num_latent[i],
                causal=is_causal,
            )
            for i, tail in tails.items()
        ]
        drawn = None if latent is None else sequence[latent]
        read, drawn = decoder(sequence[text], drawn, rotaries, CachedRows(rows))
        for i, tail in tails.items():
            contexts[i] = contexts[i].after(tail, _OneStep())
    return streams.joined(
        decoder.norm(read), None if drawn is None else decoder.norm_moe_gen(drawn)
    )
