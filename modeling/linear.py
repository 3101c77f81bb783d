"""The linear layer of every part of the model: PyTorch's own, by oneDNN where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# PyTorch hands float32 products to MKL though it has oneDNN aboard, which needs about half the time
# on processors that MKL does not favour. oneDNN generates code for every new number of rows, in
# 0.3 ms, which small products would not earn back.
_LARGE_WEIGHT, _LARGE_PRODUCT = 2**18, 2**22
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@torch.library.custom_op(
    "auto_interleaved::linear",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor? bias) -> Tensor",
)
def _by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply; a name that compiled code can call, as it knows oneDNN with packed weights only."""
    return _product(rows, weight, bias)


@_by_onednn.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return rows.new_empty(*rows.shape[:-1], weight.shape[0])


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


class Linear(nn.Linear):
    """`torch.nn.Linear`, on a CPU in float32 without gradients faster, and equal to rounding.

    `torch.backends.mkldnn.flags(enabled=False)` gives PyTorch's own product.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name for it
        """Map (..., in_features) to (..., out_features)."""
        if torch.compiler.is_compiling():
            return self._for_compiler(input)
        width = self.out_features
        is_large = self.in_features * width >= _LARGE_WEIGHT
        is_large = is_large or input.numel() * width >= _LARGE_PRODUCT
        if is_large and _suits_onednn(input, self.weight):
            return _product(input, self.weight, self.bias)
        return super().forward(input)

    def _for_compiler(self, rows: Tensor) -> Tensor:
        """Multiply in code that is compiled for one row, or for any number of them."""
        one, on_cpu = rows.shape[:-1].numel() == 1, rows.device.type == "cpu"
        if one and on_cpu and _is_plain(self.weight) and not torch.is_autocast_enabled("cpu"):
            return self._of_one_row(rows)
        is_large = self.in_features * self.out_features >= _LARGE_WEIGHT
        if is_large and _suits_onednn(rows, self.weight):
            return _by_onednn(rows, self.weight, self.bias)
        return super().forward(rows)

    def _of_one_row(self, row: Tensor) -> Tensor:
        """Multiply one row in a loop that a compiler makes.

        It reads a weight up to twice as fast as the products of oneDNN and MKL do.
        """
        product = (self.weight.float() * row.float()).sum(-1)
        if self.bias is not None:
            product = product + self.bias.float()
        return product.to(row.dtype).reshape(*row.shape[:-1], self.out_features)


def _is_plain(weight: Tensor) -> bool:
    # Quantised weights are subclasses of tensors, with products of their own.
    return type(weight) is nn.Parameter


def _suits_onednn(rows: Tensor, weight: Tensor) -> bool:
    plain = _is_plain(weight) and weight.dtype == rows.dtype == torch.float32
    if not (_AVAILABLE and plain and rows.device.type == weight.device.type == "cpu"):
        return False
    differentiated = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    elsewhere = differentiated or torch.is_autocast_enabled("cpu")
    return bool(torch.backends.mkldnn.enabled) and not elsewhere
