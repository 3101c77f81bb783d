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

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from modeling.kv_store import KVStore, Tail


class _Advances(Protocol):
    """Anything that says how far it moves the position, such as a `Block`."""

    @property
    def advance(self) -> int: ...


@dataclass(frozen=True)
class Context:
    """What has been read so far: an immutable value that is cheap to keep, compare and fork.

    Attributes:
        store: where keys and values lie.
        length: tokens in the context.
        position: the RoPE position of the next token; an image advances it by one.
    """

    store: KVStore = field(repr=False)
    length: int = 0
    position: int = 0

    @classmethod
    def empty(cls, num_layers: int) -> Context:
        """Return a context that has read nothing, for a decoder of `num_layers` layers."""
        return cls(KVStore(num_layers))

    def __post_init__(self) -> None:
        self.store.hold(self, self.length)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.length, self.position)

    def __copy__(self) -> Context:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Context:
        return self  # immutable: a deep copy would only cost memory

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
        with store.claim(tail, self):
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
        if tail.start != self.length or not tail.store.claimed(tail, self):
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
            stack.enter_context(store.insert(min(relatives), count))
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


def without(contexts: Sequence[Context], spans: Sequence[Sequence[range]]) -> list[Context]:
    """Forget slots: return contexts over new stores that hold the others.

    What was read after a forgotten slot keeps the keys and values that it was computed with, and
    positions stay as they are. That costs one copy of what is kept, and it is lossy: it is not what
    reading everything again without those slots would give.

    Contexts of one store share the new one, as prefixes of one another. An old store is freed with
    the last context over it; until then it and the new one are there together.

    Args:
        contexts: any contexts, with repetition.
        spans: for each context the slots to forget, in order and without overlap. A context names
            all slots within it that another one of its store names.

    Returns:
        The contexts in order; those of a store that loses nothing are as they were.
    """
    longest: dict[int, tuple[Context, Sequence[range]]] = {}
    for context, lost in sorted(zip(contexts, spans, strict=True), key=lambda pair: pair[0].length):
        longest[id(context.store)] = context, lost
    stores = {
        key: context.store.gather(_between(lost, context.length))
        for key, (context, lost) in longest.items()
        if lost
    }
    return [
        Context(stores[id(c.store)], c.length - sum(map(len, lost)), c.position)
        if id(c.store) in stores
        else c
        for c, lost in zip(contexts, spans, strict=True)
    ]


def _between(spans: Sequence[range], length: int) -> list[range]:
    """Return the runs of the first `length` slots that no span holds."""
    starts, stops = [0, *(s.stop for s in spans)], [*(s.start for s in spans), length]
    in_order = all(start <= stop for start, stop in zip(starts, stops, strict=True))
    assert in_order, "spans overlap, or reach beyond the context"
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True)]


@contextmanager
def _held(store: KVStore, length: int) -> Iterator[None]:
    """Keep the first `length` slots alive even if every context over them dies meanwhile."""
    holder = _Holder()
    store.hold(holder, length)
    try:
        yield
    finally:
        del holder  # which the traceback of an error would keep


class _Holder:
    pass
