"""Rows of one shape side by side, each with a copy of its context, attended to in one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from modeling.attention import CachedRow, Projected

_MOST_BYTES = 2**28  # of copies; more takes longer to read than rows take to start


class SideBySide:
    """Rows of a draft that attend together.

    To start many small products takes longer than they do. So the contexts are copied once, padded
    to the longest, with room for what the rows themselves bring, and evaluations write there: the
    draft stays empty. No context may change as long as this lives.

    Args:
        rows: for which it `suits`.
    """

    def __init__(self, rows: Sequence[CachedRow]) -> None:
        self._rows = rows
        self._num_text = rows[0].num_text
        self._num_own = rows[0].num_text + rows[0].num_latent
        self._layers: dict[int, _Layer] = {}

    @staticmethod
    def suits(rows: Sequence[CachedRow], bytes_per_token: int) -> bool:
        """Say whether rows are of one shape, not causal, and few enough to copy their contexts."""
        shapes = {(row.num_text, row.num_latent, row.causal) for row in rows}
        longest = max(row.tail.visible for row in rows)
        few = len(rows) * longest * bytes_per_token <= _MOST_BYTES
        return len(rows) > 1 and len(shapes) == 1 and not rows[0].causal and few

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over all contexts at once; see `attention.Sequences`."""
        if layer not in self._layers:
            self._layers[layer] = self._copied(layer, text.key)
        held = self._layers[layer]
        start, queries = 0, list[Tensor]()
        for part in (text,) if latent is None else (text, latent):
            query, key, value = (
                x.unflatten(0, (len(self._rows), -1)) for x in (part.query, part.key, part.value)
            )
            stop = start + key.shape[1]
            held.keys[:, start:stop] = key
            held.values[:, start:stop] = value
            queries.append(query)
            start = stop
        attended = held.attend(torch.cat(queries, dim=1)).flatten(2)
        read, drawn = attended.tensor_split([self._num_text], dim=1)
        return read.flatten(0, 1), None if latent is None else drawn.flatten(0, 1)

    def _copied(self, layer: int, like: Tensor) -> _Layer:
        """Copy what the contexts hold of a layer; keys are `like` this one."""
        earlier = [row.tail.earlier(layer) or (like[:0], like[:0]) for row in self._rows]
        own = like.new_zeros(self._num_own, *like.shape[1:])
        keys, values = (
            pad_sequence([torch.cat([own, one]) for one in each], batch_first=True)
            for each in zip(*earlier, strict=True)
        )
        return _Layer(keys=keys, values=values, bias=self._bias(keys))

    def _bias(self, keys: Tensor) -> Tensor | None:
        """Return (rows, tokens), minus infinity where a row has only padding; None if none has."""
        known = next((layer.bias for layer in self._layers.values()), None)
        if known is not None:
            return known.to(keys)
        lengths = [self._num_own + row.tail.visible - row.tail.count for row in self._rows]
        if min(lengths) == max(lengths):
            return None
        is_padding = torch.arange(keys.shape[1]) >= torch.tensor(lengths)[:, None]
        return torch.zeros(is_padding.shape).masked_fill_(is_padding, -torch.inf).to(keys)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Layer:
    """What one layer's rows look at.

    Attributes:
        keys, values: (rows, own tokens and then earlier ones, key/value heads, head_dim).
        bias: (rows, tokens), minus infinity where a row has only padding; None where none has.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    def attend(self, query: Tensor) -> Tensor:
        """Attend by a query (rows, tokens, heads, head_dim); the result has its shape."""
        rows, tokens, heads, head_dim = query.shape
        # Heads that share keys become queries of one head; see `attention.attend`.
        stacked = query.transpose(1, 2).reshape(rows, self.keys.shape[2], -1, head_dim)
        attended = F.scaled_dot_product_attention(
            stacked,
            self.keys.transpose(1, 2),
            self.values.transpose(1, 2),
            attn_mask=None if self.bias is None else self.bias[:, None, None],
        )
        return attended.reshape(rows, heads, tokens, head_dim).transpose(1, 2)
