"""A checkpoint whose decoder's layers are held in 4 or 8 bits, so that it fits beside learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from modeling.bagel import Bagel
from training.task import Quantization

_MISSING = "quantize needs bitsandbytes: pip install bitsandbytes (extra `quantize`)"


def quantize_layers(model: Bagel, kind: Quantization, device: torch.device) -> None:
    """Hold the linear layers of the decoder's layers in few bits; all else stays as it is.

    One layer at a time goes to the device and is quantised there. What is learnt beside them
    computes with weights that are unpacked for each product.

    Args:
        model: on the CPU; changed in place and moved to the device.
        kind: "nf4" or "int8".
        device: where.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(_MISSING) from error
    for layer in model.language_model.model.layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, _quantized(child, kind, bitsandbytes.nn))
        layer.to(device)
    # By these names peft knows what it adds its layers to.
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"
    model.to(device)


def _quantized(linear: nn.Linear, kind: Quantization, layers: Any) -> nn.Module:
    shape: dict[str, Any] = {
        "input_features": linear.in_features,
        "output_features": linear.out_features,
        "bias": linear.bias is not None,
    }
    with torch.device("meta"):
        if kind == "nf4":
            dtype = linear.weight.dtype
            made = layers.Linear4bit(**shape, quant_type="nf4", compute_dtype=dtype)
        else:
            made = layers.Linear8bitLt(**shape, has_fp16_weights=False)
    weight = linear.weight.detach()
    made.weight = (
        layers.Params4bit(weight, requires_grad=False, quant_type="nf4", module=made)
        if kind == "nf4"
        else layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    )
    made.bias = linear.bias
    return made.requires_grad_(False)
