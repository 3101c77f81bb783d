"""Adapters in peft's layout beside a checkpoint: put in, switched and merged.

peft's layers take the place of the linear layers that an adapter changes and hold these, so that
hooks, quantised weights and recorded steps are what they were. Which adapters count is a state of
these layers and of nothing else.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import safe_open
from torch import nn

from data.wording import shown
from modeling.checkpoint.kinds import did_you_mean
from modeling.checkpoint.settings import SETTINGS_FILE, read_settings
from modeling.small_files import is_directory, require_file

logger = logging.getLogger("auto_interleaved")

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_REMEDY = "give the folder that `train.py --lora-rank` or peft's save_pretrained wrote"

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def require_peft() -> ModuleType:
    """Return peft.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters need peft: pip install peft (extra `train`)") from error
    return peft


def find_adapters(paths: Paths) -> dict[str, Path]:
    """Return folders of adapters by name, that of the folder, before anything is loaded.

    Args:
        paths: one folder or several; of equal names all but the first get a number.

    Raises:
        FileNotFoundError, ValueError: a folder is not there, or no adapter's.
        TypeError: what is given is no path.
        ImportError: peft is not installed.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(_listed(paths))
    if not given:
        raise ValueError(f"adapter names no folder, got []; {_REMEDY}, or leave it out")
    found: dict[str, Path] = {}
    times: Counter[str] = Counter()
    for entry in given:
        folder = _folder(entry)
        # Such a name is a part of tensors' names.
        name = folder.resolve().name.replace(".", "_")
        times[name] += 1
        found[name if times[name] == 1 else f"{name}_{times[name]}"] = folder
    require_peft()
    return found


def protocol_of_adapters(folders: Mapping[str, Path]) -> str | None:
    """Return the protocol that the last of the adapters that name one was taught."""
    named = [read_settings(folder / SETTINGS_FILE, None) for folder in folders.values()]
    return next((known["protocol"] for known in reversed(named) if "protocol" in known), None)


def _listed(paths: Any) -> Sequence[Any]:
    if isinstance(paths, list | tuple):
        return paths
    raise TypeError(f"adapter must be a path or a list of paths, got {shown(paths)}; {_REMEDY}")


def _folder(entry: Any) -> Path:
    if not isinstance(entry, str | os.PathLike) or not os.fspath(entry):
        raise TypeError(f"adapter must be a path or a list of paths, got {shown(entry)}; {_REMEDY}")
    folder = Path(entry).expanduser()
    if not is_directory(folder):
        raise FileNotFoundError(f"adapter: there is no folder {shown(str(folder))}; {_REMEDY}")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        require_file(folder / name, _REMEDY)
    return folder


def add_adapters(model: nn.Module, folders: Mapping[str, Path]) -> None:
    """Put adapters into a model that is loaded; all of them count.

    Args:
        model: changed in place; on one device, or on several that keep their weights.
        folders: see `find_adapters`.

    Raises:
        ValueError: an adapter does not fit the model, or the model's weights are kept elsewhere.
    """
    peft = require_peft()
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "adapter does not go with weights on the disk or offloaded to the CPU; merge it into "
            "the checkpoint first: python -m training.merge"
        )
    dtype = next(model.parameters()).dtype
    wrapped: Any = None
    for name, folder in folders.items():
        try:
            if wrapped is None:
                wrapped = peft.PeftModel.from_pretrained(model, str(folder), adapter_name=name)
            else:
                wrapped.load_adapter(str(folder), adapter_name=name)
            _require_whole(_taken(peft, wrapped, name), folder)
        except Exception as error:  # which one depends on the file, and on peft's version
            raise ValueError(
                f"adapter {folder} does not fit this checkpoint ({shown(str(error))}); "
                "was it trained on another?"
            ) from error
    for layer in _layers(model):
        for part in layer.adapter_layer_names:
            getattr(layer, part).to(dtype)
    model.requires_grad_(False).eval()
    set_adapters(model, list(folders))


def _taken(peft: ModuleType, wrapped: Any, name: str) -> Collection[str]:
    state: Mapping[str, Any] = peft.get_peft_model_state_dict(
        wrapped, adapter_name=name, save_embedding_layers=False
    )
    return state.keys()


def _require_whole(taken: Collection[str], folder: Path) -> None:
    """Check that a file holds what its configuration says; peft itself would only warn."""
    with safe_open(folder / WEIGHTS_FILE, framework="numpy") as stored:
        astray = set(taken) ^ set(stored.keys())
    if astray:
        raise ValueError(f"{len(astray)} tensors are missing or strange, such as {min(astray)}")


def set_adapters(model: nn.Module, names: Sequence[str]) -> None:
    """Let some of a model's adapters count, and no others.

    Args:
        model: with adapters.
        names: which; none is the model without any.

    Raises:
        ValueError: the model has no such adapter.
        TypeError: it is no list of names.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"adapters are a list of names, got {shown(names)}")
    known = adapter_names(model)
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no adapter {name!r}{did_you_mean(name, known)}; there are "
                f"{', '.join(known) or 'none'}"
            )
    for layer in _layers(model):
        layer.enable_adapters(enabled=bool(names))
        if names:
            # Each layer has those that change it.
            layer.set_adapter([name for name in names if name in _names(layer)])
    model.requires_grad_(False)


def merge_adapters(model: nn.Module) -> None:
    """Add what the adapters that count say to the weights, and take all adapters out."""
    children = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_layer(child)
    ]
    for parent, name, child in children:
        layer: Any = child
        if not layer.disable_adapters and layer.active_adapters:
            layer.merge(safe_merge=True)
        setattr(parent, name, layer.get_base_layer())


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of a model's adapters."""
    return list(dict.fromkeys(name for layer in _layers(model) for name in _names(layer)))


def _names(layer: Any) -> list[str]:
    return [name for part in layer.adapter_layer_names for name in getattr(layer, part)]


def _layers(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if _is_layer(module):
            yield module


def _is_layer(module: nn.Module) -> bool:
    return hasattr(module, "adapter_layer_names")  # peft's own mark, without importing it
