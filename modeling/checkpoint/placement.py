"""Where a model's weights go: one device, several, or left on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory, offload_weight
from accelerate.utils.modeling import clean_device_map
from torch import Tensor

from modeling.bagel import Bagel
from modeling.checkpoint.keywords import (
    Device,
    check_device_map,
    check_folder,
    check_max_memory,
    make_folder,
)
from modeling.checkpoint.kinds import did_you_mean
from modeling.checkpoint.weights import Weights

logger = logging.getLogger("auto_interleaved")

DeviceMap = Mapping[str, Device]

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")

# Layers whose parts are added up, and so must be on one device.
_WHOLE = ["Qwen2MoTDecoderLayer", "SiglipEncoderLayer", "SiglipVisionEmbeddings"]

# What these give is added up or joined to one another's.
_ENTRANCE = "language_model.model.embed_tokens"
_TOGETHER = (
    _ENTRANCE,
    "time_embedder",
    "latent_pos_embed",
    "vae2llm",
    "llm2vae",
    "connector",
    "vit_pos_embed",
)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """In what dtype and where a model is wanted.

    Attributes:
        dtype: float32, bfloat16 or float16; None is the dtype that most of the file is stored in.
        device: one device for everything; None is the CPU.
        device_map: module name to device, "cpu" or "disk", "" being all others; or one of
            `AUTOMATIC` for accelerate's choice. Not together with `device`.
        max_memory: device to bytes, such as {0: "20GiB", "cpu": "60GiB"}; bounds an automatic map.
        offload_folder: where modules on "disk" are copied to in the dtype that is wanted; None
            reads them from the checkpoint's own files whenever they are needed.

    Raises:
        TypeError: a value is of a wrong type.
        ValueError: the values exclude one another, are not known, or name what is not there.
    """

    dtype: torch.dtype | None = None
    device: torch.device | None = None
    device_map: str | DeviceMap | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise ValueError(
                f"device='{self.device}' and device_map={self.device_map!r} exclude each other; "
                "give the one device, or the map"
            )
        if self.device_map is not None:
            check_device_map(self.device_map, AUTOMATIC)
        if self.max_memory is not None:
            if not isinstance(self.device_map, str):
                raise ValueError(
                    "max_memory bounds an automatic device_map; give device_map='auto' too"
                )
            check_max_memory(self.max_memory)
        if self.offload_folder is not None:
            check_folder(self.offload_folder)
            if self.device_map is None:
                logger.warning("offload_folder has no effect without a device_map")

    def devices(self) -> set[torch.device]:
        """Return the devices that are asked for; of an automatic map, all that it could use."""
        if self.device_map is None:
            return {self.device or torch.device("cpu")}
        if isinstance(self.device_map, str):
            number = torch.cuda.device_count()
            return {torch.device("cpu"), *(torch.device("cuda", i) for i in range(number))}
        # What is left on disk is computed elsewhere, in a dtype that the file has.
        places = ("cpu" if place == "disk" else place for place in self.device_map.values())
        return {torch.device(place) for place in places}

    def fill(self, model: Bagel, weights: Weights) -> None:
        """Put weights into a model that was built without storage.

        Host memory: none beyond the mapped file where the dtype is the stored one, else one model.

        Args:
            model: on the meta device, except its position tables.
            weights: what `check_weights` found to fit the model.

        Raises:
            ValueError: the device map names no module, or leaves one without a device.
        """
        dtype = self.dtype or weights.dtype
        device_map = self._resolved(model, dtype)
        left = {name for name, _ in model.named_parameters() if _on(name, device_map, "disk")}
        taken = [name for name in weights.tensors if name not in left]
        model.load_state_dict(weights.read(taken), strict=False, assign=True)
        model.to(dtype=dtype)
        if self.device is not None:
            model.to(device=self.device)
        if device_map:
            self._dispatch(model, weights.read(left), device_map, dtype)

    def _resolved(self, model: Bagel, dtype: torch.dtype) -> dict[str, str | int]:
        """Return a map without overlaps, which accelerate needs, by the rules of `_TOGETHER`."""
        if self.device_map is None:
            return {}
        if isinstance(self.device_map, str):
            wanted = self._automatic(model, dtype)
        else:
            wanted = {name: _plain(device) for name, device in self.device_map.items()}
        _check_names(wanted, model)
        # Of those that hold tensors themselves.
        modules = dict.fromkeys(name.rpartition(".")[0] for name in model.state_dict())
        by_module = {name: _device_of(name, wanted) for name in modules}
        for name in modules:
            if name.startswith(_TOGETHER):
                by_module[name] = by_module[_ENTRANCE]
        clean_device_map(by_module)
        return by_module

    def _automatic(self, model: Bagel, dtype: torch.dtype) -> dict[str, str | int]:
        options = {"no_split_module_classes": _WHOLE, "dtype": dtype}
        memory = None if self.max_memory is None else dict(self.max_memory)
        if self.device_map != "sequential":
            low_zero = self.device_map == "balanced_low_0"
            memory = get_balanced_memory(model, memory, low_zero=low_zero, **options)
        return dict(infer_auto_device_map(model, memory, **options))

    def _dispatch(
        self,
        model: Bagel,
        left: dict[str, Tensor],
        device_map: dict[str, str | int],
        dtype: torch.dtype,
    ) -> None:
        """Send modules to their devices; those kept elsewhere get hooks that fetch them."""
        main = _main_device(device_map)
        kept: dict[str, Tensor] = {}
        if main != "cpu":  # else the CPU is where they compute
            kept = {n: w for n, w in model.state_dict().items() if _on(n, device_map, "cpu")}
        copied: dict[str, dict[str, object]] = {}
        if self.offload_folder is not None:
            make_folder(self.offload_folder)
            for name, weight in left.items():
                offload_weight(weight.to(dtype), name, self.offload_folder, copied)
            left = {}
        dispatch_model(
            model,
            device_map,
            main_device=main,
            # What is left on disk stays in the mapped file. accelerate would copy it to a folder.
            state_dict={**kept, **left},
            offload_index=copied,
            offload_dir=self.offload_folder,
        )


def _plain(device: Device) -> str | int:
    """Return a device as accelerate compares it."""
    return device if isinstance(device, int) or device == "disk" else str(torch.device(device))


def _device_of(name: str, device_map: Mapping[str, str | int]) -> str | int:
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        prefix = ".".join(parts[:length])
        if prefix in device_map:
            return device_map[prefix]
    raise ValueError(
        f"device_map has no entry for {name}; add one, or an entry '' for everything else"
    )


def _on(name: str, device_map: Mapping[str, str | int], device: str) -> bool:
    return bool(device_map) and _device_of(name, device_map) == device


def _main_device(device_map: Mapping[str, str | int]) -> str | int:
    """Return where modules compute that are kept on the CPU or on disk."""
    computing = [device for device in device_map.values() if device not in ("cpu", "disk")]
    entrance = _device_of(_ENTRANCE, device_map)
    if entrance in computing:
        return entrance
    return computing[0] if computing else "cpu"


def _check_names(device_map: Mapping[str, str | int], model: Bagel) -> None:
    known = [name for name, _ in model.named_modules()]
    for name in device_map:
        if name not in known:
            parts = ", ".join(child for child, _ in model.named_children())
            raise ValueError(
                f"device_map: the model has no module {name!r}{did_you_mean(name, known)}; its "
                f"parts are {parts}"
            )
