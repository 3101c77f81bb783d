"""A checkpoint's files: where they are, on this machine or on the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

BASE_CHECKPOINT = "ByteDance-Seed/BAGEL-7B-MoT"
AUTOENCODER_FILE = "ae.safetensors"
WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "model_bf16.safetensors")
INDEX_SUFFIX = ".safetensors.index.json"
MAX_NAMES_SHOWN = 20

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_PATTERNS = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        directory: where configurations and tokenizer files are.
        weights: the safetensors file, or the index of its shards.
    """

    directory: Path
    weights: Path


def locate(path_or_hub_id: str | os.PathLike[str], **hub_options: Any) -> Location:
    """Find a checkpoint here, or fetch it from the hub.

    Args:
        path_or_hub_id: a directory; one of the weight files in it, where there are several; or
            a hub id, "owner/name".
        **hub_options: passed on to `huggingface_hub.snapshot_download`, such as `revision`,
            `local_files_only`, `cache_dir` and `token`.

    Raises:
        FileNotFoundError: there is no such directory or hub id, or it holds no weights.
        ValueError: the directory holds several weight files under names that say nothing.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_file():
        return Location(directory=path.parent, weights=path)
    directory = path if path.is_dir() else _fetch(path_or_hub_id, hub_options)
    return Location(directory=directory, weights=_find_weights(directory))


def _fetch(hub_id: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    if not isinstance(hub_id, str) or not _HUB_ID.fullmatch(hub_id):
        raise FileNotFoundError(
            f"no checkpoint directory at {os.fspath(hub_id)}; "
            f"check the path, or give a hub id such as {BASE_CHECKPOINT}"
        )
    patterns = list(_HUB_PATTERNS)
    try:
        directory = huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, **options)
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{hub_id} is no directory here, and the hub did not give it either ({error}); check "
            "the name, or download it once with local_files_only=False where there is a network"
        ) from error
    return Path(directory)


def _find_weights(directory: Path) -> Path:
    known = [directory / name for name in WEIGHT_FILES if (directory / name).is_file()]
    if known:
        return known[0]
    indices = sorted(directory.glob(f"*{INDEX_SUFFIX}"))
    others = sorted(directory.glob("*.safetensors"))
    candidates = indices or [path for path in others if path.name != AUTOENCODER_FILE]
    if not candidates:
        raise FileNotFoundError(
            f"{directory} holds no weights: none of {', '.join(WEIGHT_FILES)}, no *{INDEX_SUFFIX} "
            "and no other *.safetensors; download them there, converted to safetensors"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{directory} holds several files that may be the weights: "
            f"{shorten([path.name for path in candidates])}; give the path of the right one "
            f"instead of the directory; shards need their *{INDEX_SUFFIX} beside them"
        )
    return candidates[0]


def shorten(names: Iterable[str]) -> str:
    """Join names with commas; of very many, the first and a count."""
    listed = list(names)
    shown = ", ".join(listed[:MAX_NAMES_SHOWN])
    more = len(listed) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is not JSON, or no object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; copy it from the checkpoint that these weights "
            f"were trained from, or from {BASE_CHECKPOINT}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
