"""Prompts: whatever form a caller's texts and images come in, as one flat tuple of parts.

Everything is read and checked here, files included, so that a bad prompt fails before anything is
computed.
"""

from __future__ import annotations

import base64
import io
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data.data_utils import MARKERS, pil_img2rgb
from data.output.segments import describe_error

_ROLES = ("system", "user", "assistant")
_IMAGE_KEYS = ("image", "path", "url")

Item = str | os.PathLike[str] | Image.Image
Prompt = Item | Sequence[Item] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TextInput:
    """A text to be read as one block.

    Attributes:
        text: as the caller gave it, surrounding whitespace included; never blank.
    """

    text: str


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image to be read.

    Attributes:
        image: upright RGB, in memory, a copy of its own without the metadata of a file.
    """

    image: Image.Image


@dataclass(frozen=True)
class ImageRequest:
    """The caller asks for an image at this place."""


PromptPart = TextInput | ImageInput | ImageRequest


def parse_prompt(
    prompt: Prompt,
    *,
    vision_start: str = MARKERS["start_of_image"],
    split_special_tokens: bool = False,
) -> tuple[PromptPart, ...]:
    """Turn a prompt into its parts, in order.

    A string is always text, never a path. The roles of chat messages are checked and then play no
    part: a context knows texts and images only.

    A marker inside a text requests an image and ends the text before it. An end marker right behind
    a request is dropped, because the image brings its own. Blank texts (empty or whitespace alone,
    such as the line break between two requests) are dropped: there is nothing to read in them, yet
    as the last text they would be all that text guidance leaves out.

    Args:
        prompt: a string, a PIL image, a path object of an image file, a list or tuple of those, or
            chat messages `{"role": "system" | "user" | "assistant", "content": ...}` whose content
            is a string or a list of `{"type": "text", "text": ...}` and
            `{"type": "image", "image" | "path" | "url": ...}`. An image there is a PIL image, a
            path or a base64 `data:` URL; no other URL is fetched.
        vision_start: the marker that requests an image.
        split_special_tokens: take markers for plain characters; nothing is split.

    Raises:
        TypeError: if something in the prompt is of a type not listed above.
        ValueError: if the prompt is empty, a message has an unknown role, type or key, or a text or
            an image cannot be read.
    """
    marker = None if split_special_tokens else vision_start
    parts = tuple(part for item in _items(prompt) for part in _parts(item, marker))
    if not parts:
        raise ValueError(
            f"the prompt is empty, got {reprlib.repr(prompt)}; "
            "give an image or a text that is not blank"
        )
    return parts


def _parts(item: str | Image.Image, marker: str | None) -> Iterator[PromptPart]:
    if isinstance(item, Image.Image):
        yield ImageInput(item)
        return
    first, *others = [item] if marker is None else item.split(marker)
    yield from _text(first)
    for text in others:
        yield ImageRequest()
        yield from _text(text.removeprefix(MARKERS["end_of_image"]))


def _text(text: str) -> Iterator[TextInput]:
    if text.strip():
        yield TextInput(text)


def _items(prompt: object) -> Iterator[str | Image.Image]:
    """Yield the texts and images of a prompt, read and checked."""
    if not isinstance(prompt, list | tuple):
        yield _item(prompt, "prompt")
        return
    chat = any(isinstance(entry, Mapping) for entry in prompt)
    for number, entry in enumerate(prompt):
        if chat:
            yield from _message(entry, f"prompt[{number}]")
        else:
            yield _item(entry, f"prompt[{number}]")


def _item(item: object, place: str) -> str | Image.Image:
    if isinstance(item, str):
        return _readable_text(item, place)
    if isinstance(item, Image.Image | os.PathLike):
        return _readable_image(item, place)
    if isinstance(item, Mapping):
        remedy = 'write [{"role": "user", "content": ...}], a list of messages'
    elif isinstance(item, list | tuple):
        remedy = "a list holds no further lists: write it flat"
    else:
        remedy = _how_to_pass_images(item)
    raise TypeError(
        f"{place} must be a string, a PIL image or a pathlib.Path to an image file, "
        f"got {type(item).__name__}; {remedy}"
    )


def _message(message: object, place: str) -> Iterator[str | Image.Image]:
    if not isinstance(message, Mapping):
        raise TypeError(
            f"{place} must be a message like the others of this prompt, "
            f'got {type(message).__name__}; write {{"role": "user", "content": ...}}'
        )
    _require_keys(message, {"role", "content"}, place, 'keys "role" and "content"')
    if message["role"] not in _ROLES:
        raise ValueError(f"{place} must have a role of {_listed(_ROLES)}; got {message['role']!r}")
    content, place = message["content"], f'{place}["content"]'
    if isinstance(content, str):
        yield _readable_text(content, place)
        return
    if not isinstance(content, list | tuple):
        raise TypeError(
            f"{place} must be a string or a list of parts, got {type(content).__name__}; "
            'an image is [{"type": "image", "image": ...}]'
        )
    for number, part in enumerate(content):
        yield _content_part(part, f"{place}[{number}]")


def _content_part(part: object, place: str) -> str | Image.Image:
    if not isinstance(part, Mapping):
        raise TypeError(
            f'{place} must be {{"type": "text" or "image", ...}}, got {type(part).__name__}'
        )
    kind = part.get("type")
    if kind == "text":
        _require_keys(part, {"type", "text"}, place, 'keys "type" and "text"')
        return _text_value(part["text"], f'{place}["text"]')
    if kind == "image":
        keys = f'keys "type" and one of {_listed(_IMAGE_KEYS)}'
        key = next((key for key in _IMAGE_KEYS if key in part), "image")
        _require_keys(part, {"type", key}, place, keys)
        return _image_value(part[key], f'{place}["{key}"]')
    remedy = '; write {"type": "image", "url": "data:..."}' if kind == "image_url" else ""
    raise ValueError(f'{place} must have a type of "text", "image"; got {kind!r}{remedy}')


def _require_keys(given: Mapping[Any, Any], keys: set[str], place: str, allowed: str) -> None:
    if set(given) != keys:
        raise ValueError(f"{place} must have the {allowed}; got {_listed(given) or 'none'}")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _text_value(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{place} must be a string, got {type(value).__name__}")
    return _readable_text(value, place)


def _image_value(value: object, place: str) -> Image.Image:
    if not isinstance(value, str | os.PathLike | Image.Image):
        raise TypeError(
            f"{place} must be a PIL image, a path or a data: URL, "
            f"got {type(value).__name__}; {_how_to_pass_images(value)}"
        )
    return _readable_image(value, place)


def _how_to_pass_images(value: object) -> str:
    if hasattr(value, "__array__"):  # numpy's arrays, torch's tensors and their kin
        return "wrap an array of pixels (height, width, 3) in uint8 with PIL.Image.fromarray"
    return "open an image file with PIL.Image.open"


def _readable_text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place} holds half a character at {error.start}, got {reprlib.repr(text)}; "
            "decode its bytes as UTF-8"
        ) from error
    return text


def _readable_image(source: str | os.PathLike[str] | Image.Image, place: str) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            image = pil_img2rgb(source)
        else:
            with Image.open(_file(source)) as opened:
                image = pil_img2rgb(opened)
    except Exception as error:  # which one depends on the format and on Pillow's version
        raise ValueError(
            f"{place} must be a readable image, got {reprlib.repr(source)} "
            f"({describe_error(error)}); its file must be whole, and open until it is loaded"
        ) from error
    if 0 in image.size:
        raise ValueError(f"{place} must have pixels, got an image of size {image.size}")
    return image


def _file(source: str | os.PathLike[str]) -> str | os.PathLike[str] | io.BytesIO:
    """Return what `PIL.Image.open` opens."""
    if not isinstance(source, str):
        return source
    if source.startswith("data:"):
        head, _, payload = source.partition(",")
        if not head.endswith(";base64"):
            raise ValueError("a data: URL must hold base64")
        return io.BytesIO(base64.b64decode(payload, validate=True))
    if "://" in source:
        raise ValueError("URLs are not fetched: load it yourself and pass the image")
    return source
