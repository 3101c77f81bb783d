"""Where keys and values lie: growing buffers, and the slots of them that are being written."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_PIECE = 4096  # slots moved at once

# Free slots that growing leaves: a quarter of what is held keeps appends amortised. Beyond 4,096
# slots it would be memory for nothing, 0.25 GB at 18,000 tokens of the 7B; in steps of a thousand
# such a store moves about eight times its size until it is there, which takes milliseconds.
_MIN_SLACK, SLACK = 64, 64 + 1024


class _Stored(Protocol):
    """Whatever stands over a store, such as a `Context`."""

    @property
    def store(self) -> KVStore: ...


class KVStore:
    """Keys and values of every layer in growing buffers, shared by contexts with a common past.

    Buffers have the shape (capacity, key/value heads, head_dim). A layer's pair is allocated when
    that layer first writes, on the device and in the dtype of what it writes: a model spread over
    several devices needs no further care.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers
        self._capacity = 0
        # Who holds how many of the first slots. Weak references, because a finalizer in Python that
        # counted a holder out could be where Ctrl-C arrives, and Python ignores errors there.
        self._holders: dict[object, tuple[weakref.ref[object], int]] = {}
        # Other stores, and how many first slots were copied from them.
        self._origins: tuple[tuple[weakref.ref[KVStore], int], ...] = ()
        self._claims: list[tuple[Tail, _Stored]] = []  # open rooms, and after what they opened
        self._inserted: tuple[int, int] | None = None  # (start, count) of the open draft

    @property
    def written(self) -> int:
        """Slots that a living context holds."""
        longest = 0
        for key, (holder, length) in list(self._holders.items()):
            if holder() is None:
                self._holders.pop(key, None)
            else:
                longest = max(longest, length)
        return longest

    @property
    def capacity(self) -> int:
        """Slots of every layer, once it has written again."""
        return self._capacity

    @property
    def nbytes(self) -> int:
        """Bytes allocated over all layers and devices."""
        buffers = [b for b in (*self._keys, *self._values) if b is not None]
        return sum(b.numel() * b.element_size() for b in buffers)

    @property
    def busy(self) -> bool:
        """Whether a room or a draft is open, so that nobody else may write."""
        return bool(self._claims) or self._inserted is not None

    def rows(self, layer: int, length: int) -> tuple[Tensor, Tensor] | None:
        """Return the first `length` keys and values of a layer, or None if it has not written.

        The result is a view, except while a draft stands in the middle of the range.
        """
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None:
            return None
        start, count = self._inserted or (length, 0)
        if start >= length:
            return keys[:length], values[:length]
        parts = (slice(0, start), slice(start + count, length + count))
        return torch.cat([keys[p] for p in parts]), torch.cat([values[p] for p in parts])

    def sketch(self) -> KVStore:
        """Return a store without layers that grows as this one would: for forecasts."""
        other = KVStore(0)
        other._capacity = self._capacity
        return other

    def copy(self, length: int, room: int) -> KVStore:
        """Return a new store that holds the first `length` slots and has `room` for more."""
        other = self.gather([range(length)], room)
        earlier = [(store, min(count, length)) for store, count in self._origins if store()]
        other._origins = ((weakref.ref(self), length), *earlier)
        return other

    def copied_from(self, other: KVStore) -> int:
        """Return how many first slots hold what another store's held when they were copied."""
        return max((count for store, count in self._origins if store() is other), default=0)

    def gather(self, kept: Sequence[range], room: int = 0) -> KVStore:
        """Return a new store that holds runs of slots, in order, and has `room` for more."""
        kept = [run for run in kept if run]
        other = KVStore(self.num_layers)
        other._reserve(sum(map(len, kept)) + room)
        for layer in range(self.num_layers):
            held = self.rows(layer, kept[-1].stop) if kept else None
            if held is None:
                continue
            start = 0
            for run in kept:
                keys, values = (rows[run.start : run.stop] for rows in held)
                other.write(layer, start, keys, values)
                start += len(run)
        return other

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values of shape (tokens, key/value heads, head_dim) at slot `start`."""
        stop = start + keys.shape[0]
        for buffers, new in ((self._keys, keys), (self._values, values)):
            self._grow(buffers, layer, new)[start:stop] = new

    def visible(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the first `length` slots as they lie, an open draft included."""
        keys, values = self._keys[layer], self._values[layer]
        assert keys is not None  # a tail is written before it is read
        assert values is not None
        return keys[:length], values[:length]

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's keys and values in all slots; none before every layer has written.

        They stay the store's buffers until a room or a draft makes it grow.
        """
        pairs = [
            (keys, values)
            for keys, values in zip(self._keys, self._values, strict=True)
            if keys is not None and values is not None
        ]
        if len(pairs) < self.num_layers:
            return []
        return [
            (self._grow(self._keys, layer, keys), self._grow(self._values, layer, values))
            for layer, (keys, values) in enumerate(pairs)
        ]

    def _reserve(self, length: int) -> None:
        # Layers follow one by one when they next write: beside what is held, growing needs memory
        # for one buffer of one layer.
        if length > self._capacity:
            self._capacity = length + min(_MIN_SLACK + length // 4, SLACK)

    def _grow(self, buffers: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        old = buffers[layer]
        if old is not None and old.shape[0] >= self._capacity:
            return old
        like = like if old is None else old
        # A context may begin under inference_mode and go on outside, where tensors that were made
        # under it cannot be written.
        with torch.inference_mode(False):
            grown = like.new_empty(self._capacity, *like.shape[1:])
        if old is not None:
            grown[: old.shape[0]] = old
        buffers[layer] = grown
        return grown

    def hold(self, holder: object, length: int) -> None:
        """Keep the first `length` slots as long as an object lives."""
        self._holders[object()] = weakref.ref(holder), length

    def __getstate__(self) -> dict[str, Any]:
        # Contexts that are pickled as well hold it anew.
        return {**self.__dict__, "_holders": {}, "_origins": ()}

    @contextmanager
    def claim(self, tail: Tail, context: _Stored) -> Iterator[Tail]:
        """Open a room: the slots of a tail, for what comes after a context."""
        self._reserve(tail.start + tail.count)
        claim = (tail, context)
        self._claims.append(claim)
        try:
            yield tail
        finally:
            self._claims.remove(claim)

    def claimed(self, tail: Tail, context: _Stored) -> bool:
        """Whether the tail lies in an open room of this context, or of one it goes on from."""
        return any(
            (context.store is self or context == owner)
            and room.start <= tail.start
            and tail.start + tail.count <= room.start + room.count
            for room, owner in self._claims
        )

    @contextmanager
    def insert(self, start: int, count: int) -> Iterator[None]:
        """Open `count` slots at `start` and close them again; what stood behind moves aside."""
        stop = self.written
        self._reserve(stop + count)
        # Growing is what may run out of memory, so it comes before anything moves.
        grown = [
            self._grow(buffers, layer, buffer)
            for buffers in (self._keys, self._values)
            for layer, buffer in enumerate(buffers)
            if buffer is not None
        ]
        with ExitStack() as moves:
            for buffer in grown:
                _move(buffer, start, stop, count)
                moves.callback(_move, buffer, start + count, stop + count, -count)
            moves.callback(setattr, self, "_inserted", None)
            self._inserted = (start, count)
            yield


@torch.inference_mode()
def _move(buffer: Tensor, start: int, stop: int, distance: int) -> None:
    """Move slots of a buffer, piece by piece, so that next to no memory is needed for it."""
    pieces = range(start, stop, _PIECE)
    for first in reversed(pieces) if distance > 0 else pieces:
        last = min(first + _PIECE, stop)
        moved = buffer[first:last].clone()  # source and target may overlap
        buffer[first + distance : last + distance] = moved


@dataclass(frozen=True, eq=False, kw_only=True)
class Tail:
    """Slots being written: `count` of them from `start` on, read back with all `visible` slots.

    `position` is the RoPE position of the first token that enters.
    """

    store: KVStore
    start: int
    count: int
    visible: int
    position: int

    def part(self, offset: int, count: int, position: int) -> Tail:
        """Return `count` of the slots from `offset` on, which do not see the slots behind them."""
        start = self.start + offset
        return Tail(
            store=self.store, start=start, count=count, visible=start + count, position=position
        )

    def write(self, layer: int, offset: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (tokens, key/value heads, head_dim) at `offset` within the tail."""
        assert offset + keys.shape[0] <= self.count, "beyond the tail are other contexts' slots"
        self.store.write(layer, self.start + offset, keys, values)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values (visible, key/value heads, head_dim) to attend over, as views."""
        return self.store.visible(layer, self.visible)

    def earlier(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return keys and values of what is visible without the tail; None if there are none."""
        return self.store.rows(layer, self.visible - self.count)
