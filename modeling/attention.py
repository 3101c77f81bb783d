"""Attention: the one place that picks a kernel and aligns causal masks with a cached prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from modeling.kv_store import Tail


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention of one sequence, with grouped heads.

    Args:
        query: (queries, heads, head_dim).
        key: (keys, key/value heads, head_dim); heads is a multiple of key/value heads.
        value: as `key`.
        causal: each query sees the keys up to its own; the last query stands at the last key.
        mask: (queries, keys), True where a query may look; not together with `causal`.

    Returns:
        (queries, heads, head_dim).
    """
    num_queries, num_keys = query.shape[0], key.shape[0]
    bias, is_causal = mask, False
    if causal and num_queries > 1:
        # SDPA's is_causal is top-left aligned; with a cached prefix we need bottom-right.
        is_causal = num_queries == num_keys
        bias = None if is_causal else _aligned(num_queries, num_keys, query.device)
    unmasked = bias is None and not is_causal
    if num_queries == 1 or (unmasked and query.device.type == "cpu"):
        return _attend_grouped(query, key, value, bias)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    # Torch's own order of kernels stands: it knows which versions of which are at fault.
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return attended.squeeze(0).transpose(0, 1)


def _aligned(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Return the causal mask whose last query stands at the last key."""
    if device.type == "cpu":
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
        return mask.tril(num_keys - num_queries)
    # As a class of its own, which flash attention takes. It brings PyTorch's compiler along: 0.7 s.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(num_queries, num_keys)


def _attend_grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend where one mask holds for every query, or none: heads that share keys become queries.

    Each key is then read once, not once a head: for one query over 8,192 keys 2 (float32) to 11
    times (bfloat16) faster on a CPU. On CUDA kernels fit that know masks but no grouped heads.
    """
    num_queries, heads, head_dim = query.shape
    stacked = query.transpose(0, 1).reshape(key.shape[1], -1, head_dim)
    q, k, v = (x.unsqueeze(0) for x in (stacked, key.transpose(0, 1), value.transpose(0, 1)))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.reshape(heads, num_queries, head_dim).transpose(0, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Projected:
    """Query, key and value of some tokens: (tokens, heads, head_dim) each."""

    query: Tensor
    key: Tensor
    value: Tensor


class Sequences(Protocol):
    """Knows which packed tokens belong together and what each may look at."""

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within every sequence; the results are (tokens, heads * head_dim)."""
        ...


class Fixed:
    """Base of sequences that a compiler looks into, as it compiles all layers as one.

    Where layers share compiled code, each layer's number would become code of its own.
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class CachedRow:
    """One row of a cached forward: where its keys go, how many tokens of each expert it has."""

    tail: Tail
    num_text: int
    num_latent: int
    causal: bool


@dataclass(frozen=True, eq=False)
class CachedRows:
    """Rows packed together, each attending over its own context and its own block.

    Text tokens of all rows come first, latent tokens of all rows after them, so that each expert
    works on one contiguous slice. Within a block the text tokens (an image's two markers) are kept
    before the latent ones: tokens of an image share one position and see one another, so their
    order means nothing.
    """

    rows: Sequence[CachedRow]

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """Write each row's keys and values, then attend over what the row sees."""
        if len(self.rows) == 1:
            return self._attend_row(layer, self.rows[0], text, latent)
        texts = _split(text, [row.num_text for row in self.rows])
        latents: list[Projected | None] = [None] * len(self.rows)
        if latent is not None:
            latents = list(_split(latent, [row.num_latent for row in self.rows]))
        # A draft's rows share their slots: each row reads before the next one writes.
        done = [
            self._attend_row(layer, row, t, n)
            for row, t, n in zip(self.rows, texts, latents, strict=True)
        ]
        drawn = [n for _, n in done if n is not None]
        return torch.cat([t for t, _ in done]), torch.cat(drawn) if drawn else None

    @staticmethod
    def _attend_row(
        layer: int, row: CachedRow, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        row.tail.write(layer, 0, text.key, text.value)
        query = text.query
        if latent is not None:
            row.tail.write(layer, row.num_text, latent.key, latent.value)
            query = torch.cat([text.query, latent.query])
        key, value = row.tail.read(layer)
        attended = attend(query, key, value, causal=row.causal).flatten(1)
        return _divide(attended, row.num_text, latent)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedSequences:
    """Training sequences of one padded length, without a cache.

    Attributes:
        packed: (sequences, length), which packed token (text first, then latent) stands where;
            padding points at any.
        places: (packed tokens,), the inverse, into the flattened sequences.
        mask: (sequences, 1, length, length), True where a token may look.
    """

    packed: Tensor
    places: Tensor
    mask: Tensor

    @classmethod
    def of(cls, places: Tensor, mask: Tensor) -> MaskedSequences:
        """Arrange packed tokens by their `places` in sequences with a `mask` each."""
        packed = places.new_zeros(mask.shape[0] * mask.shape[1])
        packed[places] = torch.arange(len(places), device=places.device)
        return cls(packed=packed.view(mask.shape[:2]), places=places, mask=mask[:, None])

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend through the mask, which is the same for every layer."""
        del layer
        parts = (text,) if latent is None else (text, latent)
        query, key, value = (
            torch.cat([getattr(part, name) for part in parts])[self.packed].transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = _attend_batch(query, key, value, self.mask)
        packed = attended.transpose(1, 2).flatten(2).flatten(0, 1)[self.places]
        return _divide(packed, text.query.shape[0], latent)


def _attend_batch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attend in sequences of one length: (sequences, heads, length, head_dim) each."""
    if query.device.type != "cpu":
        # A GPU's kernels take a mask or heads that share keys, and not both. What takes both holds
        # all scores at once: 15 GB a layer for 16,384 tokens of the 7B.
        group = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(group, dim=1) for part in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # Plain products of all heads that share keys: with a dense mask and small heads three times
    # faster on a CPU, forward and backward, than any kernel of SDPA.
    sequences, heads, length, head_dim = query.shape
    group = heads // key.shape[1]
    stacked = query.reshape(sequences, -1, group * length, head_dim) * head_dim**-0.5
    scores = (stacked @ key.transpose(-1, -2)).view(sequences, -1, group, length, length)
    bias = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    weights = (scores + bias[:, :, None]).softmax(-1).view(sequences, -1, group * length, length)
    return (weights @ value).view(query.shape)


def _split(tokens: Projected, sizes: list[int]) -> list[Projected]:
    parts = zip(*(x.split(sizes) for x in (tokens.query, tokens.key, tokens.value)), strict=True)
    return [Projected(query=q, key=k, value=v) for q, k, v in parts]


def _divide(
    attended: Tensor, num_text: int, latent: Projected | None
) -> tuple[Tensor, Tensor | None]:
    if latent is None:
        return attended, None
    return attended[:num_text], attended[num_text:]
