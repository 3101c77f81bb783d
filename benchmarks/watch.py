"""What a host has to do while a model runs: operations it starts, copies it makes, times it waits.

Counted, not timed, so that it needs no GPU: fake tensors (`benchmarks.fake_devices`) do.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_ROOT = Path(__file__).parents[1]

# One kernel each on a GPU, though they are sums of others elsewhere.
_WHOLE = {aten.scaled_dot_product_attention.default, aten.rms_norm.default}
_COPIES = {aten._to_copy.default, aten.copy_.default}
_ATTENTION = {aten.scaled_dot_product_attention, aten._flash_attention_forward}
_PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution} | _ATTENTION
_PINNING = {aten._pin_memory.default, aten.pin_memory.default}
_NOTHING = {
    "aten::lift_fresh",
    "aten::detach",
    "aten::alias",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
    "prim::device",
}

Answer = Callable[[Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A value that goes from one device to another.

    Attributes:
        source, target: types of devices, such as "cpu" and "cuda".
        nbytes: of the value.
        waits: whether the host waits for the device, as it does unless the copy is let go.
        place: the line of this library that asked for it.
    """

    source: str
    target: str
    nbytes: int
    waits: bool
    place: str


def plain_answer(asked: Tensor) -> Any:
    """Stand for a value that a fake tensor does not have: true, 1.0 or 1."""
    return True if asked.dtype == torch.bool else 1.0 if asked.is_floating_point() else 1


class Watch(TorchDispatchMode):
    """Counts what is done under it.

    Args:
        answer: what the host finds where it looks into a fake tensor.

    Attributes:
        started: operations that start work on a device that is not the CPU, by name. Most are one
            kernel; views and allocations are none.
        products: of those, matrix products, convolutions and attention, by dtype of the operands.
        product_bytes: of the operands of those but attention's.
        crossings: copies between devices, and values that the host looks at.
    """

    def __init__(self, answer: Answer = plain_answer) -> None:
        super().__init__()
        self.started: Counter[str] = Counter()
        self.products: Counter[torch.dtype] = Counter()
        self.product_bytes = 0
        self.crossings: list[Crossing] = []
        self._answer = answer

    @property
    def waits(self) -> int:
        """How often the host waits for a device."""
        return sum(crossing.waits for crossing in self.crossings)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take an operation apart as far as a GPU would, and count what it comes to."""
        named = dict(kwargs or {})
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            self._cross(args[0], "cpu", waits=True)
            return self._answer(args[0])
        if args and isinstance(args[0], FakeTensor):
            if func in _PINNING:
                return args[0]
            if func is aten.equal.default:
                self._cross(args[0], "cpu", waits=True)
                return self._answer(torch.empty((), dtype=torch.bool))
            if func is aten.exponential_.default:
                named.pop("generator", None)
            if func is aten.scaled_dot_product_attention.default and args[0].device.type == "mps":
                return self._attended(*args, **named)
        if func not in _WHOLE and func.namespace != "prim":
            with self:
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **named)
        self._count(func, args, named, result)
        return result

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Any:
        """Attend by PyTorch's plain sums: the kernel of MPS is not in other builds."""
        self.started["scaled_dot_product_attention"] += 1
        self.products[query.dtype] += 1
        plain = aten._scaled_dot_product_attention_math.default
        mask, dropout, causal = (*rest, None, 0.0, False)[:3] if rest else (None, 0.0, False)
        return plain(query, key, value, named.pop("attn_mask", mask), dropout, causal, **named)[0]

    def _count(
        self, func: OpOverload, args: tuple[Any, ...], named: dict[str, Any], result: Any
    ) -> None:
        made = next(_tensors(result), None)
        if func is aten._local_scalar_dense.default:
            self._cross(args[0], "cpu", waits=True)
        elif func in _COPIES and made is not None and _crosses(func, args, made):
            source = args[1] if func is aten.copy_.default else args[0]
            let_go = named.get("non_blocking") or args[2:3] == (True,)
            between = "cpu" not in (source.device.type, made.device.type)  # nobody waits for those
            self._cross(source, made.device.type, waits=not (let_go or between))
        elif made is not None and made.device.type != "cpu" and not _is_free(func):
            self.started[func.name().removeprefix("aten::")] += 1
            if func.overloadpacket in _PRODUCTS:
                operands = [t for t in _tensors(args) if t.is_floating_point()]
                self.products[operands[0].dtype] += 1
                if func.overloadpacket not in _ATTENTION:
                    self.product_bytes += sum(t.numel() * t.element_size() for t in operands)

    def _cross(self, value: Tensor, target: str, *, waits: bool) -> None:
        source = value.device.type
        if source == target == "cpu":
            return
        size = value.numel() * value.element_size()
        self.crossings.append(
            Crossing(source=source, target=target, nbytes=size, waits=waits, place=_place())
        )


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _crosses(func: OpOverload, args: tuple[Any, ...], made: Tensor) -> bool:
    source: Tensor = args[1] if func is aten.copy_.default else args[0]
    # A number on the CPU travels with the kernel that fills a tensor with it.
    is_fill = func is aten.copy_.default and source.dim() == 0 and source.device.type == "cpu"
    return source.device != made.device and not is_fill


def _is_free(func: OpOverload) -> bool:
    """Say whether an operation starts nothing: it makes a view, or takes memory."""
    name = func._schema.name
    if name in _NOTHING or "empty" in name:
        return True
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias and not alias.is_write for alias in aliases)


def _place() -> str:
    """Return the innermost line of this library that is being run."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT / "modeling") or path.is_relative_to(_ROOT / "data"):
            return f"{path.relative_to(_ROOT)}:{frame.lineno} {frame.name}"
    return "elsewhere"
