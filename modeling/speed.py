"""Speed that is asked for: compiled layers, and fp8 weights, which are lossy."""

from __future__ import annotations

from typing import Any

import torch

from modeling.bagel import Bagel

_FP8_CAPABILITY = (8, 9)  # Ada and Hopper are the first that multiply in fp8


def compile_layers(model: Bagel, **options: Any) -> None:
    """Let torch.compile fuse what each decoder layer does around its attention.

    Layers are compiled in place: tensor names, hooks and the class of each layer stay as they are.
    All layers share the compiled code, for any number of tokens. The first calls take minutes; the
    numbers change by what another order of roundings changes.

    On a CPU texts are written by one piece of code for the whole step of a token, 1.2 to 2.8 times
    as fast (docs/performance.md, "Decode"). It needs a C++ compiler, such as g++, and nothing that
    hangs on the layers; else writing goes on as before.

    Args:
        model: the model.
        **options: for torch.compile, such as `mode`.
    """
    for layer in model.language_model.model.layers:
        layer.compile(dynamic=True, **options)
    model.language_model.compiled = True


def quantize_fp8(model: Bagel) -> None:
    """Multiply the decoder's linear layers in fp8, with a scale a row. Lossy.

    Half the memory of the weights, and faster where the device is kept busy by products: images
    and prompts more than single tokens. Needs torchao (`pip install auto-interleaved-bagel[fp8]`).

    Args:
        model: in bfloat16, on one CUDA device.

    Raises:
        ImportError: torchao is missing.
        ValueError: the device cannot, or the weights are not bfloat16.
    """
    layers = model.language_model.model.layers
    check_fp8({parameter.device for parameter in layers.parameters()})
    dtypes = {parameter.dtype for parameter in layers.parameters()}
    if dtypes != {torch.bfloat16}:
        raise ValueError(
            f"fp8 needs weights in bfloat16, got {', '.join(sorted(map(str, dtypes)))}; "
            "load the model with dtype=torch.bfloat16"
        )
    from torchao import quantization

    config = quantization.Float8DynamicActivationFloat8WeightConfig(
        granularity=quantization.PerRow()
    )
    quantization.quantize_(layers, config)


def check_fp8(devices: set[torch.device]) -> None:
    """Check that linear layers on these devices can compute in fp8.

    Raises:
        ImportError: torchao is missing.
        ValueError: there are several devices, or the one is too old or no CUDA device.
    """
    try:
        import torchao  # noqa: F401 - an extra; only whether it is there
    except ImportError as error:
        raise ImportError(
            "fp8 needs torchao: pip install 'auto-interleaved-bagel[fp8]', or leave fp8=False"
        ) from error
    check_fp8_devices(devices)


def check_fp8_devices(devices: set[torch.device]) -> None:
    """Check the devices alone, whatever is installed.

    Raises:
        ValueError: there are several devices, or the one is too old or no CUDA device.
    """
    names = ", ".join(sorted(map(str, devices)))
    if {device.type for device in devices} != {"cuda"} or len(devices) > 1:
        raise ValueError(f"fp8 needs a model on one CUDA device, got {names}; or leave fp8=False")
    capability = torch.cuda.get_device_capability(*devices)
    if capability < _FP8_CAPABILITY:
        raise ValueError(
            f"fp8 needs a GPU of capability 8.9 or above (Ada, Hopper), and {names} has "
            f"{'.'.join(map(str, capability))}; leave fp8=False"
        )
