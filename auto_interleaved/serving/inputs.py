"""What a client sends to be read: texts, and pictures that come with them, and nothing else.

No URL is fetched and no path is opened, whatever a request says: a picture is a `data:` URL, or one
that this server has drawn and still holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from auto_interleaved.serving.errors import Refusal, bad_request
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import Shelf
from data.data_utils import pil_img2rgb
from data.picture_sources import UnreadablePictureError, is_data_url, read_picture
from data.prompts import Prompt
from data.wording import shown

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "MPO")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text; where it stands is for messages."""

    text: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: a URL, or the bytes of a file."""

    source: str | bytes
    place: str


Input = Text | Picture


class Inputs:
    """Reads what clients send, a few requests at a time.

    Args:
        limits: of texts, pictures and pixels.
        shelf: pictures that were drawn here.
    """

    def __init__(self, limits: Limits, shelf: Shelf) -> None:
        self._limits = limits
        self._shelf = shelf
        self._free = asyncio.Semaphore(2)  # what is decoded at once is in memory at once

    async def read(self, inputs: Iterable[Input]) -> Prompt:
        """Return a prompt.

        Raises:
            Refusal: if there is too much of something, or a picture cannot be read.
        """
        given = list(inputs)
        self._count(given)
        async with self._free:
            return await asyncio.to_thread(self._read, given)

    def _count(self, given: list[Input]) -> None:
        limits = self._limits
        _at_most("parts", len(given), limits.max_parts)
        texts = [part.text for part in given if isinstance(part, Text)]
        _at_most("characters", sum(map(len, texts)), limits.max_characters)
        _at_most("pictures", len(given) - len(texts), limits.max_pictures)
        if not given:
            raise bad_request("there is nothing to answer: no text and no picture")

    def _read(self, given: list[Input]) -> Prompt:
        pixels = _Pixels(self._limits.max_pixels)
        parts: list[Any] = []
        for part in given:
            if isinstance(part, Text):
                # As a part it is words, also where it looks like a path.
                parts.append({"type": "text", "text": part.text})
            else:
                parts.append(self._picture(part, pixels))
        return parts

    def _picture(self, part: Picture, pixels: _Pixels) -> Image.Image:
        source: str | bytes = part.source
        if isinstance(source, str) and not is_data_url(source):
            held = self._shelf.find(source)
            if held is None:
                raise Refusal(
                    400,
                    f"{part.place} must be a data: URL with base64, got {shown(source)}; "
                    "no URL is fetched and no file is opened",
                    param=part.place,
                    code="invalid_image_url",
                )
            source = held[0]
        try:
            return read_picture(source, part.place, convert=pixels.converted)
        except ValueError as error:
            raise Refusal(400, str(error), param=part.place, code="invalid_image") from error


class _Pixels:
    """Counts the pixels of a request's pictures before any is decoded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def converted(self, opened: Image.Image) -> Image.Image:
        if opened.format not in _FORMATS:
            raise UnreadablePictureError(f"{opened.format} is not read here: send PNG or JPEG")
        self._taken += opened.width * opened.height
        if self._taken > self._limit:
            raise UnreadablePictureError(
                f"with its {opened.width} x {opened.height} the request has more than "
                f"{self._limit} pixels: make its pictures smaller"
            )
        return pil_img2rgb(opened)


def _at_most(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise Refusal(
            413, f"a request may have at most {limit} {what}, got {count}", code="too_large"
        )
