"""What keys and values take in memory, told by torch's allocations or by the stores alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling.kv_store import KVStore


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they live.

    Args:
        *known: tensors that are there already and count as well.
    """

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._count(known)

    @property
    def now(self) -> int:
        """Bytes of the storages that live."""
        return sum(size for reference, size in self._living.values() if not reference.expired())

    def _count(self, tensors: Any) -> None:
        self._living = {k: v for k, v in self._living.items() if not v[0].expired()}
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._living.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        self._count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


class Living:
    """The stores that hold keys and values, and the most bytes that they ever had together."""

    def __init__(self) -> None:
        self._stores: weakref.WeakSet[KVStore] = weakref.WeakSet()
        self.peak = 0

    def add(self, store: KVStore) -> None:
        """Watch a store."""
        self._stores.add(store)
        self.peak = max(self.peak, self.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of all stores that live."""
        return sum(store.nbytes for store in self._stores)


@contextmanager
def living_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Living]:
    """Watch every store that grows."""
    living, grow = Living(), KVStore._grow

    def watched(store: KVStore, *arguments: Any) -> Tensor:
        grown = grow(store, *arguments)
        living.add(store)
        return grown

    with monkeypatch.context() as patch:
        patch.setattr(KVStore, "_grow", watched)
        yield living
