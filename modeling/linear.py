"""The linear layer of every part of the model: PyTorch's own, by oneDNN where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# PyTorch hands float32 products to MKL though it has oneDNN aboard, which needs about half the time
# on processors that MKL does not favour. oneDNN generates code for every new number of rows, in
# 0.3 ms, which small products would not earn back.
_LARGE_WEIGHT, _LARGE_PRODUCT = 2**18, 2**22
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`torch.nn.Linear`, on a CPU in float32 without gradients faster, and equal to rounding.

    `torch.backends.mkldnn.flags(enabled=False)` gives PyTorch's own product.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name for it
        """Map (..., in_features) to (..., out_features)."""
        if self._is_large(input) and _suits_onednn(input, self.weight):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                input, self.weight, self.bias, "none", [], ""
            )
            return product
        return super().forward(input)

    def _is_large(self, rows: Tensor) -> bool:
        width = self.out_features
        return self.in_features * width >= _LARGE_WEIGHT or rows.numel() * width >= _LARGE_PRODUCT


def _suits_onednn(rows: Tensor, weight: Tensor) -> bool:
    # Quantised weights are subclasses of tensors, with products of their own.
    plain = type(weight) is nn.Parameter and weight.dtype == rows.dtype == torch.float32
    if not (_AVAILABLE and plain and rows.device.type == weight.device.type == "cpu"):
        return False
    differentiated = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    elsewhere = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return bool(torch.backends.mkldnn.enabled) and not (differentiated or elsewhere)
