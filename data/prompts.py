"""Prompts: whatever form a caller's texts and images come in, as one flat tuple of parts.

Everything is read and checked here, files included, so that a bad prompt fails before anything is
computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data.chat import read_item, read_items
from data.data_utils import MARKERS, pil_img2rgb
from data.picture_sources import Convert, how_to_pass
from data.transcripts import messages_of, warn_of_markers
from data.wording import shown

Item = str | os.PathLike[str] | Image.Image | Mapping[str, Any]
Prompt = str | os.PathLike[str] | Image.Image | Sequence[Item]


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

    A string is text; one that names a picture (its path, its URL) is refused, because a model
    answers about words it takes for a picture. The roles of chat messages are checked and then play
    no part: a context knows texts and images only.

    A marker inside a text requests an image and ends the text before it. An end marker right behind
    a request is dropped, because the image brings its own. Blank texts (empty or whitespace alone,
    such as the line break between two requests) are dropped: there is nothing to read in them, yet
    as the last text they would be all that text guidance leaves out.

    A text that is a transcript of a chat, as chat templates write it (`<|im_start|>user`, ...), is
    the messages in it. Other texts keep `<|im_start|>` and its like as characters, with a warning.

    Args:
        prompt: a string, a PIL image, a path object of an image file, a list or tuple of those, or
            chat messages `{"role": "system" | "user" | "assistant", "content": ...}` whose content
            is a string, an output of a run, or a list of `{"type": "text", "text": ...}` and
            `{"type": "image", "image" | "path" | "url": ...}`. An image there is a PIL image, a
            path, a base64 `data:` URL or the bytes of a file; no other URL is fetched. Such parts
            may stand in a flat list too. docs/prompts.md lists what else is understood.
        vision_start: the marker that requests an image.
        split_special_tokens: take markers for plain characters; nothing is split.

    Raises:
        TypeError: if something in the prompt is of a type not listed above.
        ValueError: if the prompt is empty, a message has an unknown role, type or key, a string
            names a picture, or a text or an image cannot be read.
    """
    parts = check_prompt(
        prompt, vision_start=vision_start, split_special_tokens=split_special_tokens
    )
    if not split_special_tokens:
        warn_of_markers(part.text for part in parts if isinstance(part, TextInput))
    return parts


def check_prompt(
    prompt: Prompt,
    *,
    vision_start: str = MARKERS["start_of_image"],
    split_special_tokens: bool = False,
) -> tuple[PromptPart, ...]:
    """Do as `parse_prompt` does, without its warnings, which come once a prompt."""
    marker = None if split_special_tokens else vision_start
    parts = tuple(part for item in read_items(prompt) for part in _parts(item, marker))
    if not parts:
        raise ValueError(
            f"the prompt is empty, got {shown(prompt)}; give an image or a text that is not blank"
        )
    return parts


def read_inputs(
    inputs: Iterable[Item], name: str, *, convert: Convert = pil_img2rgb
) -> list[str | Image.Image]:
    """Read the flat list of the published calls.

    Args:
        inputs: strings, PIL images, path objects, and parts of chat messages.
        name: what one of them is called in messages, before its number.
        convert: see `read_picture`; images that are given as such stay as they are.

    Raises:
        TypeError: if one is something else.
        ValueError: if one cannot be read, or is a string that names a picture.
    """
    items: list[str | Image.Image] = []
    for number, item in enumerate(inputs):
        place = f"{name} {number}"
        if not isinstance(item, str | Image.Image | os.PathLike | Mapping):
            raise TypeError(
                f"{place} must be a string or a PIL image, got {type(item).__name__}; "
                f"{how_to_pass(item)}"
            )
        if isinstance(item, Image.Image):
            items.append(item)
        else:
            items.append(read_item(item, place, convert=convert))
    return items


def _parts(item: str | Image.Image, marker: str | None) -> Iterator[PromptPart]:
    if isinstance(item, Image.Image):
        yield ImageInput(item)
        return
    if marker is None:
        yield from _text(item)
        return
    for message in messages_of(item):
        first, *others = message.split(marker)
        yield from _text(first)
        for text in others:
            yield ImageRequest()
            yield from _text(text.removeprefix(MARKERS["end_of_image"]))


def _text(text: str) -> Iterator[TextInput]:
    if text.strip():
        yield TextInput(text)
