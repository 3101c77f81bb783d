"""Linear layers are PyTorch's, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modeling import linear
from modeling.linear import Linear
from tests.builders import toy_bagel

ONEDNN = "mkldnn._linear_pointwise.default"
SMALL, WIDE = (64, 48), (512, 512)


class Operations(TorchDispatchMode):
    """Notes every operation's name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def computed(layer: nn.Module, rows: Tensor) -> tuple[Tensor, bool]:
    """Apply a layer; say whether oneDNN did it."""
    with Operations() as operations:
        result = layer(rows)
    return result, ONEDNN in operations.names


def layer_of(shape: tuple[int, int], **options: Any) -> Linear:
    torch.manual_seed(0)
    return Linear(*shape, **options).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1,), (7,), (2, 33), (0,)])
def test_a_large_layer_goes_to_onednn_and_gives_the_same_numbers(
    size: tuple[int, ...], bias: bool
) -> None:
    layer, rows = layer_of(WIDE, bias=bias), torch.randn(*size, WIDE[0])
    result, by_onednn = computed(layer, rows)
    assert by_onednn
    torch.testing.assert_close(result, F.linear(rows, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [SMALL, WIDE])
@pytest.mark.parametrize("size", [(1,), (1, 1), (7,)])
def test_a_compiler_finds_the_same_numbers(
    size: tuple[int, ...], shape: tuple[int, int], bias: bool, dtype: torch.dtype
) -> None:
    torch._dynamo.reset()
    layer, rows = layer_of(shape, bias=bias, dtype=dtype), torch.randn(*size, shape[0], dtype=dtype)
    traced = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(rows), F.linear(rows, layer.weight, layer.bias))


def compiled_operations(rows: Tensor) -> list[str]:
    """Compile a wide layer for rows; say what a compiler is given to do."""
    operations: list[str] = []

    def note(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        operations.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    torch._dynamo.reset()
    torch.compile(layer_of(WIDE), backend=note, fullgraph=True)(rows)
    return operations


def test_compiled_code_goes_to_onednn_as_well() -> None:
    assert "auto_interleaved.linear.default" in compiled_operations(torch.randn(7, WIDE[0]))


def test_one_row_becomes_a_loop_of_the_compiler_unless_it_is_cast() -> None:
    """Under `torch.autocast` the result has another dtype."""
    row = torch.randn(1, WIDE[0])
    assert not any("linear" in name for name in compiled_operations(row))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert any("linear" in name for name in compiled_operations(row))


def test_rows_need_not_lie_in_order() -> None:
    layer, rows = layer_of(WIDE), torch.randn(WIDE[0], 5).t()
    result, by_onednn = computed(layer, rows)
    assert by_onednn
    torch.testing.assert_close(result, F.linear(rows, layer.weight, layer.bias))


@pytest.mark.parametrize(("rows", "by_onednn"), [(1, False), (2000, True)])
def test_a_small_layer_goes_there_with_many_rows_only(rows: int, by_onednn: bool) -> None:
    assert computed(layer_of(SMALL), torch.randn(rows, SMALL[0]))[1] == by_onednn


def test_gradients_are_pytorchs() -> None:
    rows = torch.randn(3, WIDE[0], requires_grad=True)
    result, by_onednn = computed(layer_of(WIDE).requires_grad_(True), rows)
    assert not by_onednn
    result.sum().backward()
    assert rows.grad is not None
    assert not computed(layer_of(WIDE), rows)[1], "the input alone asks for a gradient"


def test_half_precision_and_autocast_are_pytorchs() -> None:
    rows = torch.randn(3, WIDE[0])
    assert not computed(layer_of(WIDE).bfloat16(), rows.bfloat16())[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, by_onednn = computed(layer_of(WIDE), rows)
    assert not by_onednn
    assert result.dtype == torch.bfloat16


def test_the_users_switch_turns_onednn_off() -> None:
    layer, rows = layer_of(WIDE), torch.randn(3, WIDE[0])
    with torch.backends.mkldnn.flags(enabled=False):
        result, by_onednn = computed(layer, rows)
    assert not by_onednn
    assert torch.equal(result, F.linear(rows, layer.weight, layer.bias))


def test_a_pytorch_without_onednn_computes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_AVAILABLE", False)
    assert not computed(layer_of(WIDE), torch.randn(3, WIDE[0]))[1]


def test_a_quantised_weight_keeps_its_own_product() -> None:
    class Halved(nn.Parameter):
        """Stands for any subclass with a product of its own."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = super().__torch_function__(func, types, args, kwargs or {})
            return result / 2 if func is F.linear else result

    layer, rows = layer_of(WIDE, bias=False), torch.randn(3, WIDE[0])
    whole = layer(rows)
    layer.weight = Halved(layer.weight, requires_grad=False)
    torch.testing.assert_close(layer(rows), whole / 2)


def test_every_linear_layer_of_the_model_is_one_of_these() -> None:
    model = toy_bagel()
    others = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, Linear)
    ]
    assert not others
