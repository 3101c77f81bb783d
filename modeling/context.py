"""What the model has read: immutable contexts over key/value storage that grows in place.

A `Context` is a value: `(store, length, position)`. A fork is an assignment. New tokens are
written into a *room* after a context and stay only if `Context.after` keeps them; an image that is
being drawn is written into a *draft* that several contexts share and nobody keeps.

Two rules carry everything:

* Slots past the longest living context are free. A context writes in place if nobody living has
  written past it; else it goes on in one copy of its own prefix.
* Attention does not care about the order of keys. A draft therefore opens slots *inside* the store,
  at the end of its shortest context, and every context reads one contiguous range: what it knows,
  with the draft in its middle. No prefix is copied for a guidance branch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

_PIECE = 4096  # slots moved at once


class _Advances(Protocol):
    """Anything that says how far it moves the position, such as a `Block`."""

    @property
    def advance(self) -> int: ...


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
        self._held: Counter[int] = Counter()  # length -> living contexts of that length
        self._claims: list[tuple[Tail, Context]] = []  # open rooms, and after what they opened
        self._inserted: tuple[int, int] | None = None  # (start, count) of the open draft

    @property
    def written(self) -> int:
        """Slots that a living context holds."""
        return max(self._held, default=0)

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

    def copy(self, length: int, room: int) -> KVStore:
        """Return a new store that holds the first `length` slots and has `room` for more."""
        other = KVStore(self.num_layers)
        other._reserve(length + room)
        for layer in range(self.num_layers):
            held = self.rows(layer, length)
            if held is not None and length:
                other.write(layer, 0, *held)
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

    def _reserve(self, length: int) -> None:
        # A quarter of slack keeps appends amortised without ever doubling what is held; layers
        # follow one by one when they next write, so that the peak is one layer's copy.
        if length > self._capacity:
            self._capacity = length + length // 4 + 64

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

    def _hold(self, length: int, change: int) -> None:
        self._held[length] += change
        if not self._held[length]:
            del self._held[length]

    @contextmanager
    def _claim(self, tail: Tail, context: Context) -> Iterator[Tail]:
        self._reserve(tail.start + tail.count)
        claim = (tail, context)
        self._claims.append(claim)
        try:
            yield tail
        finally:
            self._claims.remove(claim)

    def _claimed(self, tail: Tail, context: Context) -> bool:
        """Whether the tail lies in an open room of this context, or of one it goes on from."""
        return any(
            (context.store is self or context == owner)
            and room.start <= tail.start
            and tail.start + tail.count <= room.start + room.count
            for room, owner in self._claims
        )

    @contextmanager
    def _insert(self, start: int, count: int) -> Iterator[None]:
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


@dataclass(frozen=True)
class Context:
    """What has been read so far: an immutable value that is cheap to keep, compare and fork.

    Attributes:
        store: where keys and values lie.
        length: tokens in the context.
        position: the RoPE position of the next token; an image advances it by one.

    Scripts written for the published code find `kv_lens`, `ropes` and `past_key_values` by
    subscript.
    """

    store: KVStore = field(repr=False)
    length: int = 0
    position: int = 0

    @classmethod
    def empty(cls, num_layers: int) -> Context:
        """Return a context that has read nothing, for a decoder of `num_layers` layers."""
        return cls(KVStore(num_layers))

    def __post_init__(self) -> None:
        self.store._hold(self.length, 1)

    def __del__(self) -> None:
        # An __init__ that raised leaves no store.
        store = self.__dict__.get("store")
        if store is not None:
            store._hold(self.length, -1)

    def __copy__(self) -> Context:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self  # immutable: a deep copy would only cost memory

    def __getitem__(self, name: str) -> Any:
        if name == "kv_lens":
            return [self.length]
        if name == "ropes":
            return [self.position]
        if name == "past_key_values":
            return NaiveCache.of(self)
        raise KeyError(
            f"{name!r}: a context has 'kv_lens', 'ropes' and 'past_key_values'; "
            "contexts are immutable, so keep other things beside them"
        )

    def rows(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return this layer's keys and values, (length, key/value heads, head_dim), or None."""
        return self.store.rows(layer, self.length) if self.length else None

    @contextmanager
    def room(self, count: int) -> Iterator[Tail]:
        """Open `count` free slots after this context; leaving the block drops what was not kept.

        Raises:
            ValueError: if `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        in_place = self.length == self.store.written and not self.store.busy
        store = self.store if in_place else self.store.copy(self.length, count)
        tail = Tail(
            store=store,
            start=self.length,
            count=count,
            visible=self.length + count,
            position=self.position,
        )
        with store._claim(tail, self):
            yield tail

    def after(self, tail: Tail, block: _Advances, count: int | None = None) -> Context:
        """Keep a written tail of this context; `count` keeps only its first tokens.

        Raises:
            ValueError: if `count` is not within the tail.
            RuntimeError: if the tail is no open room of this context.
        """
        kept = tail.count if count is None else count
        if not 1 <= kept <= tail.count:
            raise ValueError(f"count must be 1 to {tail.count}, the tail's tokens; got {count}")
        if tail.start != self.length or not tail.store._claimed(tail, self):
            raise RuntimeError(
                "this tail is no open room of this context; "
                "call after() inside the context's own `with context.room(n) as tail` block"
            )
        advance = min(block.advance, kept)  # a text of which a part is kept
        return Context(tail.store, self.length + kept, self.position + advance)


@contextmanager
def draft(contexts: Sequence[Context], count: int) -> Iterator[list[Tail]]:
    """Open `count` slots that every context sees after what it knows, and that nobody keeps.

    Contexts of one store share the slots: write and read one context's tail at a layer before the
    next one's. Tokens of a draft must see one another and the whole context (an image block does);
    a causal block has no place here, because the slots may lie in the middle of what is read.

    Args:
        contexts: any contexts, with repetition.
        count: tokens of the draft.

    Yields:
        One tail a context, in order.

    Raises:
        ValueError: if `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    with ExitStack() as stack:
        stores: dict[int, tuple[KVStore, int]] = {}
        for context in contexts:
            if id(context.store) in stores:
                continue
            relatives = [c.length for c in contexts if c.store is context.store]
            longest = max(relatives)
            store = context.store.copy(longest, count) if context.store.busy else context.store
            stack.enter_context(_held(store, longest))
            stack.enter_context(store._insert(min(relatives), count))
            stores[id(context.store)] = store, min(relatives)
        yield [
            Tail(
                store=stores[id(c.store)][0],
                start=stores[id(c.store)][1],
                count=count,
                visible=c.length + count,
                position=c.position,
            )
            for c in contexts
        ]


@contextmanager
def _held(store: KVStore, length: int) -> Iterator[None]:
    """Keep the first `length` slots alive even if every context over them dies meanwhile."""
    store._hold(length, 1)
    try:
        yield
    finally:
        store._hold(length, -1)


class NaiveCache:
    """Keys and values by layer, as the published code names them: a window onto a context.

    `key_cache[i]` and `value_cache[i]` have the shape (tokens, key/value heads, head_dim), or are
    None where nothing was read. Writing to the dictionaries does not change the context.
    """

    def __init__(self, num_layers: int) -> None:
        self.key_cache: dict[int, Tensor | None] = dict.fromkeys(range(num_layers))
        self.value_cache: dict[int, Tensor | None] = dict.fromkeys(range(num_layers))
        self._context: Context | None = None

    @classmethod
    def of(cls, context: Context) -> NaiveCache:
        """Return the keys and values of a context."""
        cache = cls(context.store.num_layers)
        for layer in range(context.store.num_layers):
            rows = context.rows(layer)
            if rows is not None:
                cache.key_cache[layer], cache.value_cache[layer] = rows
        cache._context = context  # the rows are views; the context keeps them from being reused
        return cache

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.key_cache)

    @property
    def seq_lens(self) -> int:
        """Number of tokens held."""
        first = self.key_cache.get(0)
        return 0 if first is None else first.shape[0]
