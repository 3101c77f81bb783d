"""What a line says of its prompt: texts, messages and pictures, their paths from the root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.picture_names import names_picture
from data.picture_sources import is_base64_picture, is_data_url
from data.prompts import Prompt
from data.wording import shown

_PICTURE_KEYS = ("image", "path", "url", "image_url", "source", "value", "content")


def prompt_of(content: Mapping[str, Any], folder: Path) -> Prompt:
    """Return a prompt as `AutoInterleavedInferencer.stream` takes it, its pictures still files.

    Args:
        content: "prompt" or "messages", and "images".
        folder: where relative paths begin.

    Raises:
        TypeError: if one of them is of another type.
        ValueError: if there is no prompt or there are two, or a picture that is not there.
    """
    given = [key for key in ("prompt", "messages") if content.get(key) is not None]
    images = content.get("images") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list):
        raise TypeError(f"images must be a list of paths, got {shown(images)}")
    if len(given) == 2 or not (given or images):
        found = " and ".join(given) or "neither"
        raise ValueError(f'must have either "prompt" or "messages", got {found}')
    value = content[given[0]] if given else []
    if given == ["messages"]:
        if not isinstance(value, list):
            raise TypeError(f"messages must be a list of messages, got {shown(value)}")
        if images:
            raise ValueError(
                "images go with a prompt; beside messages they must stand in one, as "
                '{"type": "image", "path": ...} in its content'
            )
        return [_located(message, folder) for message in value]
    if not isinstance(value, str | list):
        raise TypeError(f"prompt must be a string or a list of parts, got {shown(value)}")
    if isinstance(value, str):
        if names_picture(value):
            raise ValueError(
                f'prompt must be words, got the picture {shown(value)}; pictures go into "images"'
            )
        value = [value]
    return [*_pictures(images, folder), *(_located(part, folder) for part in value)]


def _pictures(images: Sequence[Any], folder: Path) -> Iterator[Mapping[str, Any]]:
    for number, image in enumerate(images):
        if not isinstance(image, str):
            raise TypeError(f"images[{number}] must be a path, got {shown(image)}")
        path = _path(image, folder)
        if not (_is_no_path(image) or _is_file(path)):
            raise ValueError(
                f"images[{number}]: there is no file {shown(image)} in {folder}, "
                "where relative paths begin"
            )
        yield {"type": "image", "path": path}


def _located(part: Any, folder: Path) -> Any:
    """Return a message or part with its pictures' paths from the root."""
    if not isinstance(part, Mapping):
        return part
    if "role" in part:
        content = part.get("content")
        if not isinstance(content, list):
            return part
        return {**part, "content": [_located(entry, folder) for entry in content]}
    if "image" not in str(part.get("type")):
        return part
    return _with_paths(part, folder)


def _with_paths(part: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    found = dict(part)
    for key in _PICTURE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping):  # some formats wrap what a part holds in an object
            found[key] = _with_paths(value, folder)
        elif isinstance(value, str):
            found[key] = _path(value, folder)
    return found


def _path(name: str, folder: Path) -> str:
    return name if _is_no_path(name) else os.path.join(folder, name)


def _is_no_path(name: str) -> bool:
    return is_data_url(name) or ":/" in name[:20] or is_base64_picture(name) or not name


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # with a zero in it
        return False
