"""The most bytes that tensors take at a time while some work runs, which needs no values for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default}
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that what some work makes takes at a time.

    The work is run: on the meta device it computes nothing and takes no memory. What was there
    before is not counted. Two things that kernels do are put in by hand: a convolution keeps its
    input and its output once more, in the layout that it computes in, and attention keeps no
    scores.
    """
    with _Live() as live:
        work()
    return live.peak


class _Live(TorchDispatchMode):
    """Knows which storages are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do an operation and count what is there after it."""
        if func is _ATTENTION:
            query, value = args[0], args[2]
            made = query.new_empty(*query.shape[:-1], value.shape[-1])
        else:
            made = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves(made) if isinstance(value, Tensor)]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._sizes[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._sizes = {key: entry for key, entry in self._sizes.items() if not entry[0].expired()}
        again = (args[0], *tensors) if func in _CONVOLUTIONS else ()
        scratch = sum(tensor.numel() * tensor.element_size() for tensor in again)
        self.peak = max(self.peak, scratch + sum(size for _, size in self._sizes.values()))
        return made
