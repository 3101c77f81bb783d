"""What a cache shows of its contexts: dictionaries whose tensors are made when somebody looks."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from modeling.context import Context

Pair = tuple[Tensor, Tensor]  # keys and values of one layer, (tokens, key/value heads, head_dim)


class _Unseen(Enum):
    UNSEEN = 0


@dataclass(eq=False)
class Held:
    """The contexts that a cache stands for; apart from it, so that no circle keeps them alive."""

    contexts: tuple[Context, ...] = ()

    def rows(self, layer: int) -> list[Pair]:
        """Return a layer's keys and values of every sample that has any, as views."""
        pairs = (context.rows(layer) for context in self.contexts)
        return [pair for pair in pairs if pair is not None]

    @torch.inference_mode(False)
    @torch.no_grad()
    def copied(self, layer: int, half: int) -> Tensor | None:
        """Return a copy of a layer's keys (0) or values (1), all samples one after another."""
        rows = [pair[half] for pair in self.rows(layer)]
        return torch.cat(rows) if rows else None

    def packed(self, layer: int) -> Pair:
        """Return a copy of a layer's keys and values; there must be some."""
        keys, values = (self.copied(layer, half) for half in (0, 1))
        assert keys is not None
        assert values is not None
        return keys, values


class Layers(dict[int, Any]):
    """Keys or values by layer: a dictionary whose tensors are copied out when somebody looks."""

    def __init__(self, held: Held, half: int, num_layers: int) -> None:
        super().__init__(dict.fromkeys(range(num_layers), _Unseen.UNSEEN))
        self.held = held
        self._half = half

    def __getitem__(self, layer: int) -> Tensor | None:
        value = super().__getitem__(layer)
        if value is _Unseen.UNSEEN:
            value = self.held.copied(layer, self._half)
            self[layer] = value
        return value

    # What a dict does without a call of __getitem__. Where __iter__ is not the dict's own, dict(x),
    # {**x} and update(x) do call it.

    def __iter__(self) -> Iterator[int]:
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    def __ne__(self, other: object) -> bool:
        return dict(self) != other

    __hash__ = None

    def __repr__(self) -> str:
        return repr(dict(self))

    def __or__(self, other: Any) -> dict[int, Any]:  # type: ignore[override]
        return dict(self) | other

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy stands by itself

    def copy(self) -> dict[int, Any]:
        """Return a dictionary of the same tensors."""
        return dict(self)

    def get(self, layer: int, default: Any = None) -> Any:
        """Return a layer's tensor, or the default."""
        return self[layer] if layer in self else default  # noqa: SIM401 - it is this very get

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return the tensors."""
        return ValuesView(self)

    def items(self) -> ItemsView[int, Any]:  # type: ignore[override]
        """Return layers and tensors."""
        return ItemsView(self)

    def pop(self, layer: int, *default: Any) -> Any:
        """Remove a layer and return its tensor."""
        self.get(layer)  # it counts as seen from now on
        return super().pop(layer, *default)

    def setdefault(self, layer: int, default: Any = None) -> Any:
        """Return a layer's tensor; a layer that is not there gets the default."""
        self.get(layer)
        return super().setdefault(layer, default)

    def seen(self) -> dict[int, Tensor | None]:
        """Return the entries that somebody looked at or wrote."""
        return {layer: value for layer, value in super().items() if value is not _Unseen.UNSEEN}

    def forget(self) -> None:
        """Drop what was seen: the contexts are others now."""
        self.update(dict.fromkeys(self, _Unseen.UNSEEN))
