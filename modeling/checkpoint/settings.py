"""The small JSON file beside the weights: what neither tensors nor configurations say."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling.checkpoint.files import read_json

SETTINGS_FILE = "bagel_config.json"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What values a setting may have, as a test and in words."""

    accepts: Callable[[Any], bool]
    words: str


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _counts(length: int, words: str) -> _Kind:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list | tuple) and len(value) == length and all(map(_is_count, value))
        )

    return _Kind(accepts=accepts, words=words)


_COUNT = _Kind(accepts=_is_count, words="a positive whole number")
_NUMBER = _Kind(accepts=_is_number, words="a finite number")
_POSITIVE = _Kind(accepts=lambda value: _is_number(value) and value > 0, words="a number above 0")
_TEXT = _Kind(accepts=lambda value: isinstance(value, str), words="a string")
_SWITCH = _Kind(accepts=lambda value: isinstance(value, bool), words="true or false")
_DTYPE = _Kind(accepts=DTYPES.__contains__, words=f"one of {', '.join(DTYPES)}")
_TRANSFORM = _counts(3, "[largest side, smallest side, stride] in pixels")

_KINDS: Mapping[str, _Kind] = {
    "bagel.latent_patch_size": _COUNT,
    "bagel.max_latent_size": _COUNT,
    "bagel.vit_max_num_patch_per_side": _COUNT,
    "bagel.connector_act": _TEXT,
    "bagel.interpolate_pos": _SWITCH,
    "bagel.timestep_shift": _POSITIVE,
    "autoencoder.scale_factor": _POSITIVE,
    "autoencoder.shift_factor": _NUMBER,
    "vae_transform": _TRANSFORM,
    "vit_transform": _TRANSFORM,
    "dtype": _DTYPE,
    "protocol": _TEXT,
    "image_shape": _counts(2, "[height, width] in pixels"),
}


def read_settings(directory: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings beside a checkpoint's weights, and lay others over them.

    Args:
        directory: the checkpoint; most have no such file.
        overrides: the same keys as in the file; inside "bagel" and "autoencoder", key by key.

    Returns:
        The settings that are given, in the file's structure:
        `{"bagel": {"latent_patch_size", "max_latent_size", "vit_max_num_patch_per_side",
        "connector_act", "interpolate_pos", "timestep_shift"}, "autoencoder": {"scale_factor",
        "shift_factor"}, "vae_transform": [largest side, smallest side, stride], "vit_transform":
        the same, "dtype": name, "protocol": name, "image_shape": [height, width]}`, each key
        optional. The dtype is the one to compute in where the caller does not say.

    Raises:
        ValueError: a key is unknown, or a value not of its kind.
    """
    path = directory / SETTINGS_FILE
    stored = _flattened(read_json(path)) if path.is_file() else {}
    given = _flattened(overrides)
    _check(stored, str(path))
    _check(given, "settings")
    return _nested({**stored, **given})


def _flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
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


def _check(flat: Mapping[str, Any], source: str) -> None:
    for key, value in flat.items():
        if key not in _KINDS:
            near = difflib.get_close_matches(key, _KINDS, n=1, cutoff=0.0)
            raise ValueError(
                f"{source}: there is no setting {key!r}; did you mean {near[0]!r}? "
                f"Known are {', '.join(_KINDS)}"
            )
        if not _KINDS[key].accepts(value):
            raise ValueError(f"{source}: {key} must be {_KINDS[key].words}, got {value!r}")
