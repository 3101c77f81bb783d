"""Forms that weights may be kept in, and the bytes that a model's take in each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

_NF4_BLOCK = 64  # weights that share a scale in float32


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of a model's weights.

    Attributes:
        name: as the table says it.
        dtype: of all that is not quantised, and what is computed in.
        bits: of a quantised weight, scales aside; None where none is quantised.
        only_layers: whether only the decoder's layers are quantised.
    """

    name: str
    dtype: torch.dtype
    bits: int | None = None
    only_layers: bool = False

    @property
    def lossy(self) -> bool:
        """Whether texts and pictures change with it."""
        return self.bits is not None

    def takes(self, name: str, module: nn.Module) -> bool:
        """Say whether a module of that name is quantised."""
        is_layer = name.startswith("language_model.model.layers.")
        linear = isinstance(module, nn.Linear)
        return self.bits is not None and linear and (is_layer or not self.only_layers)


FULL = Format(name="float32", dtype=torch.float32)
HALF = Format(name="bfloat16", dtype=torch.bfloat16)
FP8 = Format(name="fp8", dtype=torch.bfloat16, bits=8, only_layers=True)
INT8 = Format(name="int8", dtype=torch.bfloat16, bits=8)
NF4 = Format(name="nf4", dtype=torch.bfloat16, bits=4)


def weight_bytes(model: nn.Module, form: Format) -> int:
    """Return the bytes that weights and tables take, by their shapes.

    Args:
        model: with or without storage.
        form: how they are kept.
    """
    total = 0
    for name, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module._buffers.items()]
        for key, tensor in own:
            if tensor is None:
                continue
            if key == "weight" and form.takes(name, module):
                total += _quantised(tensor.shape[0], tensor.numel(), form)
            else:
                total += tensor.numel() * form.dtype.itemsize
    return total


def _quantised(rows: int, numel: int, form: Format) -> int:
    assert form.bits is not None
    scales = rows if form.bits == 8 else -(-numel // _NF4_BLOCK)
    return numel * form.bits // 8 + 4 * scales


def largest_layer_bytes(model: nn.Module, form: Format) -> int:
    """Return the bytes of the largest linear layer of the decoder's, as it is multiplied."""
    linear = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    ]
    return max(linear) * form.dtype.itemsize
