"""A checkpoint's files: where they are, on this machine or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)

from data.wording import one_line, shown
from modeling.checkpoint.recognition import advice_on_file, other_weights
from modeling.small_files import exists, is_directory, require_file

BASE_CHECKPOINT = "ByteDance-Seed/BAGEL-7B-MoT"
AUTOENCODER_FILE = "ae.safetensors"
WEIGHT_FILES = ("ema.safetensors", "model.safetensors", "model_bf16.safetensors")
INDEX_SUFFIX = ".safetensors.index.json"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")
MAX_NAMES_SHOWN = 20

FROM_BASE = (
    "copy it from the checkpoint that these weights were trained from, or name that one as "
    f'base=, such as base="{BASE_CHECKPOINT}"'
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
_HUB_PATTERNS = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        directory: where configurations and tokenizer files are.
        weights: the safetensors file, or the index of its shards.
        base: the checkpoint that has what this one lacks.
    """

    directory: Path
    weights: Path
    base: Location | None = None

    def file(self, name: str) -> Path:
        """Return the place of a file: here, or in the base where here is nothing of that name."""
        return self.home(name) / name

    def require(self, *groups: tuple[str, ...]) -> None:
        """Check that there is a file of each group, so that all that lack are named at once.

        Raises:
            FileNotFoundError: there is none of some groups.
        """
        absent = [
            " or ".join(names)
            for names in groups
            if not any(exists(self.home(*names) / name) for name in names)
        ]
        if absent:
            raise FileNotFoundError(f"{self.directory} has no {', no '.join(absent)}; {FROM_BASE}")

    def home(self, *names: str) -> Path:
        """Return the first directory that has any of these files; this one where none has."""
        if self.base is None or any(exists(self.directory / name) for name in names):
            return self.directory
        return self.base.directory


def locate(
    path_or_hub_id: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    **hub_options: Any,
) -> Location:
    """Find a checkpoint here, or fetch it from the hub.

    Args:
        path_or_hub_id: a directory; one of the weight files in it, where there are several; or
            a hub id, "owner/name".
        base: the same of the checkpoint that has what this one lacks.
        **hub_options: passed on to `huggingface_hub.snapshot_download`, such as `revision`,
            `local_files_only`, `cache_dir` and `token`.

    Raises:
        FileNotFoundError: there is no such directory or hub id, or it holds no weights.
        ValueError: the path is something else, or the directory holds several weight files under
            names that say nothing.
        TypeError: the path is none.
    """
    found = _locate(path_or_hub_id, hub_options)
    if base is None:
        return found
    try:
        # Its own revision: that of the checkpoint says nothing about another repository.
        return replace(found, base=_locate(base, {**hub_options, "revision": None}))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise type(error)(f"base={shown(base)}: {error}") from error


def _locate(path_or_hub_id: str | os.PathLike[str], hub_options: Mapping[str, Any]) -> Location:
    path = _path(path_or_hub_id)
    if is_directory(path):
        return Location(directory=path, weights=_find_weights(path))
    if exists(path):
        require_file(path, "give the directory of a checkpoint")
        return Location(directory=path.parent, weights=path)
    directory = _fetch(path_or_hub_id, hub_options)
    return Location(directory=directory, weights=_find_weights(directory))


def _path(given: str | os.PathLike[str]) -> Path:
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise TypeError(
            "a checkpoint is given as the path of its directory, as a string or Path, or as a hub "
            f"id such as {BASE_CHECKPOINT!r}; got {shown(given)}"
        )
    if not os.fspath(given).strip():
        raise ValueError(
            "the path of the checkpoint is empty; give a directory ('.' is the current one), or a "
            f"hub id such as {BASE_CHECKPOINT}"
        )
    page = _HUB_PAGE.match(os.fspath(given))
    if page is not None:
        raise ValueError(f"{shown(given)} is a web page; write its hub id alone: {page[1]!r}")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"no home directory is known for {shown(given)}") from error


def _fetch(hub_id: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    if not isinstance(hub_id, str) or not _HUB_ID.fullmatch(hub_id):
        raise FileNotFoundError(
            f"no checkpoint directory at {_short_path(hub_id)}; "
            f"check the path, or give a hub id such as {BASE_CHECKPOINT}"
        )
    patterns = list(_HUB_PATTERNS)
    try:
        directory = huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, **options)
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"the hub cannot be asked for {hub_id}: {one_line(str(error))}; give token= and "
            "revision= as strings, or log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{hub_id} is no directory here, and the hub did not give it either "
            f"({one_line(str(error))}); check "
            "the name, or download it once with local_files_only=False where there is a network"
        ) from error
    return Path(directory)


def _short_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return text if len(text) <= 300 and text.isprintable() else shown(text)


def _find_weights(directory: Path) -> Path:
    # A name that is taken by something else is an error of its own, when it is opened.
    known = [directory / name for name in WEIGHT_FILES if exists(directory / name)]
    if known:
        return known[0]
    indices = sorted(directory.glob(f"*{INDEX_SUFFIX}"))
    others = sorted(directory.glob("*.safetensors"))
    candidates = indices or [path for path in others if path.name != AUTOENCODER_FILE]
    if not candidates:
        raise FileNotFoundError(
            f"{directory} holds no weights: none of {', '.join(WEIGHT_FILES)}, no *{INDEX_SUFFIX} "
            f"and no other *.safetensors; {_advice_on_absent(directory)}"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{directory} holds several files that may be the weights: "
            f"{shorten([path.name for path in candidates])}; give the path of the right one "
            f"instead of the directory; shards need their *{INDEX_SUFFIX} beside them"
        )
    return candidates[0]


def _advice_on_absent(directory: Path) -> str:
    inside = [
        path.parent
        for pattern in ("*", "*/*")
        for name in WEIGHT_FILES
        for path in sorted(directory.glob(f"{pattern}/{name}"))
    ]
    if inside:
        return f"but {inside[0]} does: give that directory"
    other = other_weights(directory)
    if other is not None:
        return f"it does have {other.name}: {advice_on_file(other)}"
    return "download them there, converted to safetensors"


def shorten(names: Iterable[str]) -> str:
    """Join names with commas; of very many, the first and a count."""
    listed = [name if len(name) <= 300 and name.isprintable() else shown(name) for name in names]
    shown_names = ", ".join(listed[:MAX_NAMES_SHOWN])
    more = len(listed) - MAX_NAMES_SHOWN
    return f"{shown_names} and {more} more" if more > 0 else shown_names
