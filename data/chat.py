"""The forms in which callers bring texts and images: items, lists of parts, chat messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from PIL import Image

from data.data_utils import pil_img2rgb
from data.output import InterleavedOutput
from data.picture_names import refuse_picture_name
from data.picture_sources import Convert, how_to_pass, is_data_url, read_picture
from data.wording import did_you_mean, listed, require_whole, shown

_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = ("developer",)  # a newer name for "system"
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")

# The first are the ones that messages name; the others are what the same is called elsewhere.
_TEXT_KEYS = ("text", "value", "content")
_IMAGE_KEYS = ("image", "path", "url", "image_url", "source", "value", "content")
_BASE64_KEYS = ("base64", "data")
_BYTES_KEY = "bytes"  # of a file whose "path" may stand beside it

# What other programs write, and what has no meaning for a model that has read the prompt once.
_IGNORED = {"type", "name", "id", "status", "detail", "cache_control", "annotations", "logprobs"}
_IGNORED |= {"media_type", "mime_type", "mimeType", "source_type", "alt", "title", "index"}

# Where another word is so different that its spelling does not tell.
_MEANT = {"from": "role", "value": "content", "parts": "content", "human": "user"}
_MEANT |= {"gpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant"}


def read_items(prompt: object) -> Iterator[str | Image.Image]:
    """Yield the texts and images of a prompt, read and checked; see `parse_prompt`.

    Raises:
        TypeError: if something is of a type that no form knows.
        ValueError: if a message or part is none, or a text or an image cannot be read.
    """
    if isinstance(prompt, InterleavedOutput):
        yield from _output(prompt, "prompt")
        return
    if not isinstance(prompt, list | tuple):
        if isinstance(prompt, Mapping):
            raise _wrong_item(prompt, "prompt")
        yield read_item(prompt, "prompt")
        return
    chat = any(isinstance(entry, Mapping) and not _is_part(entry) for entry in prompt)
    for number, entry in enumerate(prompt):
        place = f"prompt[{number}]"
        if chat:
            yield from _message(entry, place)
        elif isinstance(entry, InterleavedOutput):
            yield from _output(entry, place)
        else:
            yield read_item(entry, place)


def read_item(item: object, place: str, *, convert: Convert = pil_img2rgb) -> str | Image.Image:
    """Read one text or image of a list: a string, a PIL image, a path object or a part.

    Args:
        item: what was given.
        place: what it is called in messages.
        convert: see `read_picture`.

    Raises:
        TypeError: if it is something else.
        ValueError: if it cannot be read, or is a string that names a picture.
    """
    if isinstance(item, str):
        refuse_picture_name(item, place)
        return require_whole(item, place)
    if isinstance(item, Image.Image | os.PathLike):
        return read_picture(item, place, convert=convert)
    if _is_part(item):
        return _part(item, place, convert)
    raise _wrong_item(item, place)


def _wrong_item(item: object, place: str) -> TypeError:
    if _is_part(item):
        remedy = "put the part into a list"
    elif isinstance(item, Mapping):
        remedy = 'write [{"role": "user", "content": ...}], a list of messages'
    elif isinstance(item, list | tuple):
        remedy = "a list holds no further lists: write it flat"
    else:
        remedy = how_to_pass(item)
    return TypeError(
        f"{place} must be a string, a PIL image or a pathlib.Path to an image file, "
        f"got {type(item).__name__}; {remedy}"
    )


def _output(output: InterleavedOutput, place: str) -> Iterator[str | Image.Image]:
    """Yield what a run made. Its texts are words, whatever they look like."""
    for number, item in enumerate(output):
        where = f"{place}[{number}]"
        yield require_whole(item, where) if isinstance(item, str) else read_picture(item, where)


def _is_part(value: object) -> bool:
    return isinstance(value, Mapping) and "type" in value and "role" not in value


def _message(message: object, place: str) -> Iterator[str | Image.Image]:
    if not isinstance(message, Mapping):
        raise TypeError(
            f"{place} must be a message like the others of this prompt, "
            f'got {type(message).__name__}; write {{"role": "user", "content": ...}}'
        )
    keys = ("role", "content")
    if not all(key in message for key in keys) or _unknown(message, keys):
        raise _wrong_keys(message, place, 'keys "role" and "content"', keys)
    role = message["role"]
    if not (isinstance(role, str) and role in _ROLES + _OTHER_ROLES):
        raise ValueError(
            f"{place} must have a role of {listed(_ROLES)}; "
            f"got {shown(role)}{_nearest(role, _ROLES)}"
        )
    content, place = message["content"], f'{place}["content"]'
    if isinstance(content, str):
        if role != "assistant":  # whose words are quoted, not asked with
            refuse_picture_name(content, place)
        yield require_whole(content, place)
    elif isinstance(content, InterleavedOutput):
        yield from _output(content, place)
    elif isinstance(content, list | tuple):
        for number, part in enumerate(content):
            yield _part(part, f"{place}[{number}]")
    else:
        raise TypeError(
            f"{place} must be a string or a list of parts, got {type(content).__name__}; "
            'an image is [{"type": "image", "image": ...}]'
        )


def _part(part: Any, place: str, convert: Convert = pil_img2rgb) -> str | Image.Image:
    if not isinstance(part, Mapping):
        raise TypeError(
            f'{place} must be {{"type": "text" or "image", ...}}, got {type(part).__name__}'
        )
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_TYPES:
        return _text_part(part, place)
    if isinstance(kind, str) and kind in _IMAGE_TYPES:
        return _image_part(part, place, convert)
    nearest = _nearest(kind, _TEXT_TYPES + _IMAGE_TYPES)
    raise ValueError(f'{place} must have a type of "text", "image"; got {shown(kind)}{nearest}')


def _text_part(part: Mapping[Any, Any], place: str) -> str:
    key = _one_key(part, _TEXT_KEYS, place, 'keys "type" and "text"')
    text = part[key]
    if not isinstance(text, str):
        raise TypeError(f'{place}["{key}"] must be a string, got {type(text).__name__}')
    return require_whole(text, f'{place}["{key}"]')


def _image_part(part: Mapping[Any, Any], place: str, convert: Convert) -> Image.Image:
    value, place = _image_value(part, place)
    if isinstance(value, Mapping):  # some formats wrap what a part holds in an object
        value, place = _image_value(value, place)
    return read_picture(value, place, convert=convert)


def _image_value(part: Mapping[Any, Any], place: str) -> tuple[Any, str]:
    """Return what an image part holds, and where."""
    if part.get(_BYTES_KEY) is not None:
        part = {key: value for key, value in part.items() if key != "path"}
    allowed = f'keys "type" and one of {listed(_IMAGE_KEYS[:3])}'
    key = _one_key(part, (*_IMAGE_KEYS, *_BASE64_KEYS, _BYTES_KEY), place, allowed)
    value = part[key]
    if key in _BASE64_KEYS and isinstance(value, str) and not is_data_url(value):
        value = f"data:;base64,{value}"  # never a path
    return value, f'{place}["{key}"]'


def _one_key(part: Mapping[Any, Any], keys: tuple[str, ...], place: str, allowed: str) -> str:
    """Return the one of some keys that a part has; others that say nothing may be there."""
    found = [key for key in keys if key in part]
    told = [key for key in found if part[key] is not None] or found
    if len(told) != 1 or _unknown(part, keys):
        raise _wrong_keys(part, place, allowed, keys)
    return told[0]


def _unknown(given: Mapping[Any, Any], keys: tuple[str, ...]) -> list[object]:
    """Return the keys that have a meaning nobody here knows; what is empty says nothing."""
    return [
        key
        for key, value in given.items()
        if not (value is None or (isinstance(value, str | list | tuple | dict) and not value))
        and key not in keys
        and key not in _IGNORED
    ]


def _wrong_keys(
    given: Mapping[Any, Any], place: str, allowed: str, keys: tuple[str, ...]
) -> ValueError:
    hint = _nearest(next(iter(_unknown(given, keys)), None), keys)
    return ValueError(f"{place} must have the {allowed}; got {listed(given) or 'none'}{hint}")


def _nearest(word: object, known: Iterable[str]) -> str:
    meant = _MEANT.get(word) if isinstance(word, str) else None
    return did_you_mean(word if meant is None else meant, known)
