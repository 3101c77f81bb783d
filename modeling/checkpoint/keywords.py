"""Loading keywords: other libraries' spellings are understood, values are checked early."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_file_size_to_int

from data.wording import shown
from modeling.checkpoint.kinds import did_you_mean
from modeling.checkpoint.weights import DTYPES
from modeling.small_files import exists, is_directory

Device = str | int | torch.device

_DTYPE_NAMES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "float": torch.float32,
    "half": torch.float16,
}

_BITS = (
    "weights in 4 or 8 bits come with bitsandbytes through accelerate, as in "
    "examples/published_startup.py --quantize nf4 or int8; on a GPU of capability 8.9, fp8=True "
    "halves the decoder"
)
_ALWAYS = "it is always so here; leave it out"
_KERNELS = "PyTorch's own attention is used, on every device; leave it out"
_OTHERS = {
    "load_in_4bit": _BITS,
    "load_in_8bit": _BITS,
    "quantization_config": _BITS,
    "bnb_quantization_config": _BITS,
    "low_cpu_mem_usage": _ALWAYS,
    "use_safetensors": _ALWAYS,
    "trust_remote_code": "no code of a checkpoint is ever run; leave it out",
    "attn_implementation": _KERNELS,
    "use_flash_attention_2": _KERNELS,
    "offload_buffers": _ALWAYS,
    "force_hooks": _ALWAYS,
    "variant": "give the path of the file of weights instead",
    "subfolder": "give the path of that folder",
    "weights_only": _ALWAYS,
    "use_auth_token": "write token=",
    "map_location": "write device=",
    "gpu": "write device='cuda'",
    "compile": "write compile_layers=True",
    "torch_compile": "write compile_layers=True",
    "offload_dir": "write offload_folder=",
    "config": "write settings=, a dictionary",
}


def understood(given: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Take transformers' spellings into the keywords of `load_checkpoint`.

    Args:
        given: the keywords by their own names.
        others: the rest: `torch_dtype` is `dtype`; what is off or None changes nothing.

    Raises:
        TypeError: a keyword is unknown; the message says what to write.
    """
    known = dict(given)
    for name, value in others.items():
        if name == "torch_dtype":
            if known["dtype"] is not None and value is not None:
                raise TypeError("torch_dtype and dtype are the same; give one of them")
            known["dtype"] = known["dtype"] if value is None else value
        elif name not in _OTHERS:
            raise TypeError(
                f"there is no loading keyword {name!r}{did_you_mean(name, known)}; known are "
                f"{', '.join(known)}"
            )
        elif value is not None and value is not False:
            raise TypeError(f"there is no loading keyword {name!r}: {_OTHERS[name]}")
    return known


def check_switches(**values: Any) -> None:
    """Check that each is True or False.

    Raises:
        TypeError: one is not.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {shown(value)}")


def check_hub_options(revision: Any, cache_dir: Any, token: Any) -> None:
    """Check what would be passed on to the hub.

    Raises:
        TypeError: a value is of a wrong type.
    """
    if revision is not None and not isinstance(revision, str):
        raise TypeError(
            f"revision must be a branch, tag or commit as a string, got {shown(revision)}"
        )
    if cache_dir is not None and not isinstance(cache_dir, str | os.PathLike):
        raise TypeError(f"cache_dir must be a path, got {shown(cache_dir)}")
    if token is not None and not isinstance(token, str | bool):
        raise TypeError("token must be a string, True for the one you logged in with, or False")


def checked_dtype(dtype: Any) -> torch.dtype | None:
    """Return a dtype given as such or by name; None and "auto" leave the choice to the checkpoint.

    Raises:
        ValueError: it is no dtype that a model can be loaded in.
    """
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    if isinstance(dtype, str):
        named = _DTYPE_NAMES.get(dtype.removeprefix("torch."))
        dtype = dtype if named is None else named
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES.values():
        known = ", ".join(str(known) for known in DTYPES.values())
        raise ValueError(
            f"dtype must be None or one of {known}, also by name ('bfloat16'); got {shown(dtype)}"
        )
    return dtype


def checked_device(device: Any, name: str = "device") -> torch.device | None:
    """Return a device that weights can be put on.

    Args:
        device: the device, its name, or the number of a GPU; None is None.
        name: the keyword, for messages.

    Raises:
        TypeError: it is of a wrong type.
        ValueError: it is unknown, or not there.
    """
    if device is None:
        return None
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise TypeError(
            f"{name} must be a device such as 'cpu', 'cuda' or 'cuda:0', got {shown(device)}"
        )
    device = device.lower() if isinstance(device, str) else device
    if device in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError(f"{name}={device!r} is no device; write device_map={device!r}")
    if isinstance(device, int) and device < 0:
        raise ValueError(f"{name}={device} is no GPU's number; write {name}='cpu' for the CPU")
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must be a device such as 'cpu', 'cuda' or 'cuda:0', got {shown(device)}"
            + ("; write 'cuda'" if str(device).lower().startswith(("gpu", "nvidia")) else "")
        ) from error
    _check_there(found, name)
    return found


def _check_there(device: torch.device, name: str) -> None:
    if device.type == "meta":
        raise ValueError(
            f"{name}='meta' keeps no values, so there would be nothing to load; write {name}='cpu'"
        )
    if device.type == "cpu":
        if device.index:
            raise ValueError(f"{name}='{device}': the CPU is one device; write {name}='cpu'")
        return
    backend = getattr(torch, device.type, None)
    available = getattr(backend, "is_available", None)
    if available is None or not available():
        raise ValueError(
            f"{name}='{device}' cannot be used: PyTorch sees no {device.type.upper()} device here "
            f"({_installed(device)}); write {name}='cpu'"
        )
    number = getattr(backend, "device_count", lambda: 1)()
    if device.index is not None and device.index >= number:
        raise ValueError(
            f"{name}='{device}' cannot be used: there are {number}, the last one is "
            f"'{device.type}:{number - 1}'"
        )


def _installed(device: torch.device) -> str:
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch was built without CUDA"
    return f"torch.{device.type}.is_available() is false"


def check_device_map(device_map: Any, automatic: Collection[str]) -> None:
    """Check the form of a device map; whether its names are the model's is seen later.

    Raises:
        TypeError: it is no map.
        ValueError: it is empty, or a device in it cannot be used.
    """
    if isinstance(device_map, str | int | torch.device):
        if device_map in tuple(automatic):
            return
        hint = did_you_mean(str(device_map), automatic)
        raise ValueError(
            f"device_map must be a dict or one of {', '.join(automatic)}; got {device_map!r}"
            f"{hint or f'; for a single device use device={device_map!r}'}"
        )
    if not isinstance(device_map, Mapping):
        raise TypeError(
            "device_map must be a dict of module names to devices, or one of "
            f"{', '.join(automatic)}; got {shown(device_map)}"
        )
    if not device_map:
        raise ValueError("device_map is empty; write {'': 'cpu'}, or leave it out")
    for module, device in device_map.items():
        if not isinstance(module, str):
            raise TypeError(f"device_map: module names are strings, got {shown(module)}")
        if device is None:
            raise TypeError(f"device_map: {module!r} has no device, got None")
        if device not in ("disk", "meta", torch.device("meta")):
            checked_device(device, f"device_map[{module!r}]")


def check_max_memory(max_memory: Any) -> None:
    """Check bounds of memory a device.

    Raises:
        TypeError: it is no dictionary.
        ValueError: a device or a size cannot be.
    """
    if not isinstance(max_memory, Mapping):
        raise TypeError(
            "max_memory must be a dict of devices to sizes, such as {0: '20GiB', 'cpu': '60GiB'}; "
            f"got {shown(max_memory)}"
        )
    for device, size in max_memory.items():
        if device not in ("cpu", "mps"):
            if isinstance(device, bool) or not isinstance(device, int):
                raise ValueError(
                    "max_memory: a device is the number of a GPU, such as 0, or 'cpu'; got "
                    f"{shown(device)}; what fits nowhere is left on disk"
                )
            try:
                checked_device(device)
            except ValueError as error:
                raise ValueError(f"max_memory: {error}") from error
        _check_size(device, size)


def _check_size(device: object, size: Any) -> None:
    try:
        good = not isinstance(size, bool | float) and convert_file_size_to_int(size) >= 0
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        raise ValueError(
            f"max_memory: {device!r} must have a size such as '20GiB' or a number of bytes, got "
            f"{shown(size)}"
        )


def check_folder(folder: Any) -> None:
    """Check that modules can be copied to a folder.

    Raises:
        TypeError: it is no path.
        ValueError: something else is there, or nothing can be written there.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"offload_folder must be a path, got {shown(folder)}")
    place = Path(folder)
    while not exists(place) and place != place.parent:
        place = place.parent
    if not os.fspath(folder) or not is_directory(place) or not os.access(place, os.W_OK):
        raise ValueError(
            f"offload_folder: {shown(os.fspath(folder))} is no folder that can be written to; "
            "name another, or leave it out"
        )


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and those that it lies in.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"offload_folder: {shown(os.fspath(folder))} cannot be made ({error.strerror}); name "
            "another, or leave it out"
        ) from error
