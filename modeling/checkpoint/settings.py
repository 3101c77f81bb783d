"""The small JSON file beside the weights: what neither tensors nor configurations say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.protocols import PROTOCOLS
from data.wording import shown
from modeling.activations import is_activation
from modeling.checkpoint.kinds import (
    NUMBER,
    POSITIVE,
    SWITCH,
    TEXT,
    Kind,
    check_keys,
    check_values,
    count,
    counts,
    one_of,
)
from modeling.small_files import exists, read_object

SETTINGS_FILE = "bagel_config.json"
DTYPES = ("float32", "bfloat16", "float16")

# Tables are computed before any tensor is looked at: they must not take all memory. The published
# ones have 64 and 70 a side.
LARGEST_TABLE_SIDE = 512
_TABLE_SIDE = count(LARGEST_TABLE_SIDE)
_MAX_PIXELS = 65_536
_TRANSFORM = counts(3, "[largest side, smallest side, stride] in pixels", _MAX_PIXELS)

ACTIVATION = Kind(
    accepts=is_activation,
    words="an activation that transformers knows, such as 'gelu_pytorch_tanh'",
)

_KINDS: Mapping[str, Kind] = {
    "bagel.latent_patch_size": count(64),
    "bagel.max_latent_size": _TABLE_SIDE,
    "bagel.vit_max_num_patch_per_side": _TABLE_SIDE,
    "bagel.connector_act": TEXT,
    "bagel.interpolate_pos": SWITCH,
    "bagel.timestep_shift": POSITIVE,
    "autoencoder.scale_factor": POSITIVE,
    "autoencoder.shift_factor": NUMBER,
    "vae_transform": _TRANSFORM,
    "vit_transform": _TRANSFORM,
    "dtype": one_of(DTYPES),
    "protocol": one_of(PROTOCOLS),
    "understanding.question": TEXT,
    "understanding.about": TEXT,
    "image_shape": counts(2, "[height, width] in pixels", _MAX_PIXELS),
}


def read_settings(path: Path, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Read the settings beside a checkpoint's weights, and lay others over them.

    Args:
        path: the file; most checkpoints have none.
        overrides: the same keys as in the file; inside its sections key by key.

    Returns:
        The settings that are given, in the file's structure:
        `{"bagel": {"latent_patch_size", "max_latent_size", "vit_max_num_patch_per_side",
        "connector_act", "interpolate_pos", "timestep_shift"}, "autoencoder": {"scale_factor",
        "shift_factor"}, "vae_transform": [largest side, smallest side, stride], "vit_transform":
        the same, "dtype": name, "protocol": name, "image_shape": [height, width],
        "understanding": {"question", "about"}, see `data.understanding`}`, each key optional. The
        dtype is the one to compute in where the caller does not say.

    Raises:
        ValueError: the file is broken, a key is unknown, or a value not of its kind.
        TypeError: the overrides are no dictionary.
    """
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(
            "settings must be a dictionary with the keys of "
            f"{SETTINGS_FILE}, such as {{'image_shape': [512, 512]}}; got {shown(overrides)}"
        )
    given = _flattened(overrides or {})
    _check(given, "settings")
    stored = _flattened(read_object(path)) if exists(path) else {}
    _check(stored, str(path))
    return _nested({**stored, **given})


def _flattened(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    flat: dict[Any, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            settings.setdefault(section, {})[name] = value
        else:
            settings[key] = value
    return settings


def _check(flat: Mapping[Any, Any], source: str) -> None:
    check_keys(flat, _KINDS, source)
    check_values(flat, _KINDS, source)
    check_values(flat, {"bagel.connector_act": ACTIVATION}, source)
