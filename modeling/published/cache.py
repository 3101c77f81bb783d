"""The published cache: a variable that holds one context a sample, and shows their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modeling.context import Context
from modeling.published.layers import Held, Layers, Pair


class NaiveCache:
    """Keys and values of several samples by layer, as the published code names them.

    It stands for one `Context` a sample, and calls hand these on: what nobody touched is not
    copied, and a deep copy shares them. A script that looks into `key_cache` or `value_cache` gets
    copies of the tensors; what it writes there, or into the tensors, the next call takes over.

    Args:
        num_layers: decoder layers.

    Attributes:
        key_cache: layer -> (tokens of all samples, key/value heads, head_dim), or None where
            nothing was read.
        value_cache: the same for values.
    """

    key_cache: dict[int, Tensor | None]
    value_cache: dict[int, Tensor | None]

    def __init__(self, num_layers: int) -> None:
        self._held = Held()
        self.key_cache = Layers(self._held, 0, num_layers)
        self.value_cache = Layers(self._held, 1, num_layers)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.key_cache)

    @property
    def seq_lens(self) -> int:
        """Number of tokens held, of all samples together."""
        seen = self._seen(self.key_cache)
        if 0 not in seen:
            return sum(context.length for context in self._held.contexts)
        return 0 if seen[0] is None else seen[0].shape[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> NaiveCache:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        NaiveCache.__init__(copied, self.num_layers)
        vars(copied).update(copy.deepcopy(self._additions(), memo))
        if self._is_written():
            copied.key_cache = copy.deepcopy(dict(self.key_cache), memo)
            copied.value_cache = copy.deepcopy(dict(self.value_cache), memo)
        else:
            copied.hold(self._held.contexts)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        layers = {"key_cache": dict(self.key_cache), "value_cache": dict(self.value_cache)}
        return self._additions() | layers

    def __setstate__(self, state: dict[str, Any]) -> None:
        NaiveCache.__init__(self, 0)
        vars(self).update(state)

    def contexts(self, lengths: Sequence[int] | None = None) -> list[Context]:
        """Return what the cache stands for: one context a sample, whatever its position.

        Args:
            lengths: tokens of each sample; None is as they were held.

        Raises:
            ValueError: if the cache holds another number of tokens, or was written to in a way
                that is no cache.
        """
        if self._is_written():
            pairs = self._written_pairs()
            self._divide(pairs, [_num_tokens(pairs)] if lengths is None else lengths)
        if lengths is not None and [c.length for c in self._held.contexts] != list(lengths):
            filled = [context for context in self._held.contexts if context.length]
            if [context.length for context in filled] != [length for length in lengths if length]:
                layers = range(self.num_layers) if filled else ()
                self._divide([self._held.packed(layer) for layer in layers], lengths)
            else:  # samples without a token come and go unseen
                self._held.contexts = _spread(filled, lengths, self.num_layers)
        return list(self._held.contexts)

    def hold(self, contexts: Sequence[Context]) -> None:
        """Stand for these contexts from now on, one a sample."""
        num_layers = self.num_layers
        self._held.contexts = tuple(contexts)
        for half, name in enumerate(("key_cache", "value_cache")):
            layers = getattr(self, name)
            if self._is_own(layers):
                layers.forget()
            else:
                setattr(self, name, Layers(self._held, half, num_layers))

    def _additions(self) -> dict[str, Any]:
        """Return what a script or a subclass keeps here beside keys and values."""
        own = ("_held", "key_cache", "value_cache")
        return {name: value for name, value in vars(self).items() if name not in own}

    def _is_own(self, layers: Mapping[int, Tensor | None]) -> bool:
        return isinstance(layers, Layers) and layers.held is self._held

    def _seen(self, layers: Mapping[int, Tensor | None]) -> Mapping[int, Tensor | None]:
        # A dictionary of the script's own, put in place of ours, was written as a whole.
        return layers.seen() if isinstance(layers, Layers) and self._is_own(layers) else layers

    def _is_written(self) -> bool:
        """Say whether a script put other numbers in place than the contexts hold."""
        num_layers = {len(self.key_cache), len(self.value_cache)}
        return len(num_layers) > 1 or any(
            self._differs(layer, half, tensor)
            for half, layers in enumerate((self.key_cache, self.value_cache))
            for layer, tensor in self._seen(layers).items()
        )

    def _differs(self, layer: int, half: int, tensor: Tensor | None) -> bool:
        # By content, because a tensor can be written behind the back of its version counter.
        rows = [pair[half] for pair in self._held.rows(layer)]
        if tensor is None or not rows:
            return tensor is not None or bool(rows)
        lengths = [len(part) for part in rows]
        first = rows[0]
        alike = (tensor.dtype, tensor.device, tensor.shape[1:]) == (
            (first.dtype, first.device, first.shape[1:])
        )
        if not alike or tensor.shape[0] != sum(lengths):
            return True
        return not all(map(torch.equal, tensor.split(lengths), rows))

    def _written_pairs(self) -> list[Pair]:
        """Return every layer's keys and values as the dictionaries say; none if they hold none."""
        layers = range(self.num_layers)
        if not self.key_cache.keys() == self.value_cache.keys() == set(layers):
            raise ValueError(
                f"key_cache and value_cache must have an entry for each layer, 0 to "
                f"{self.num_layers - 1}; got {sorted(self.key_cache)} and "
                f"{sorted(self.value_cache)}"
            )
        found = [tensor for i in layers for tensor in (self.key_cache[i], self.value_cache[i])]
        tensors = [tensor for tensor in found if tensor is not None]
        if not tensors:
            return []
        sizes = {tensor.shape[0] if tensor.ndim == 3 else -1 for tensor in tensors}
        if len(tensors) < len(found) or len(sizes) > 1 or -1 in sizes:
            shapes = sorted({"None" if t is None else str(tuple(t.shape)) for t in found})
            raise ValueError(
                "key_cache and value_cache must hold (tokens, key/value heads, head_dim) with as "
                f"many tokens in every layer, or None in all of them; got {', '.join(shapes)[:200]}"
            )
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    @torch.inference_mode(False)
    @torch.no_grad()
    def _divide(self, pairs: Sequence[Pair], lengths: Sequence[int]) -> None:
        """Hold contexts over new stores, into which packed keys and values are copied."""
        if _num_tokens(pairs) != sum(lengths):
            raise ValueError(
                f"the cache holds {_num_tokens(pairs)} tokens, but the lengths say "
                f"{list(lengths)}, together {sum(lengths)}; give each context a cache of its own "
                "(copy.deepcopy), and pass on the lengths that prepare_* returned"
            )
        filled = [length for length in lengths if length]
        parts = [tuple(half.split(filled) for half in pair) for pair in pairs]
        contexts = [
            _context_of([(keys[sample], values[sample]) for keys, values in parts])
            for sample in range(len(filled))
        ]
        # What a script holds of the dictionaries stays in them: it may write there again.
        self._held.contexts = _spread(contexts, lengths, self.num_layers)


class _Copied:
    advance = 1  # positions come with every call


def _context_of(pairs: Sequence[Pair]) -> Context:
    """Return a context over a new store that holds these keys and values, a pair a layer."""
    empty = Context.empty(len(pairs))
    with empty.room(_num_tokens(pairs)) as tail:
        for layer, (keys, values) in enumerate(pairs):
            tail.write(layer, 0, keys, values)
        return empty.after(tail, _Copied())


def _num_tokens(pairs: Sequence[Pair]) -> int:
    return pairs[0][0].shape[0] if pairs else 0


def _spread(
    filled: Sequence[Context], lengths: Sequence[int], num_layers: int
) -> tuple[Context, ...]:
    """Put empty contexts between filled ones, where a length is 0."""
    samples = iter(filled)
    return tuple(next(samples) if length else Context.empty(num_layers) for length in lengths)
