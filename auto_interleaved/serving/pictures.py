"""Pictures on their way out: encoded, within the answer or by a URL that holds for a while."""

from __future__ import annotations

import base64
import io
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from data.output.pictures import encode_png

Format = Literal["png", "jpeg", "webp"]
DeliveryKind = Literal["data", "url"]

_NAME = re.compile(r"/pictures/([\w-]{43})\.(?:png|jpeg|webp)$")


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A picture as a client gets it.

    Attributes:
        url: a `data:` URL, or one at which it is served for a while.
        base64: the file, where it is within the answer.
        size: (width, height) in pixels, as it is.
        format: of the file.
    """

    url: str
    base64: str | None
    size: tuple[int, int]
    format: Format

    @property
    def told_size(self) -> str:
        """The size in the way of the formats: "1024x768", width first."""
        return "{}x{}".format(*self.size)


class Shelf:
    """Pictures that are served by URL, under names that nobody guesses; any thread may put one.

    Args:
        memory: bytes at most; the oldest leave first, and never the newest.
        seconds: how long one is kept.
        clock: tells the time in seconds.
    """

    def __init__(
        self, memory: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = memory
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[float, bytes, Format]] = OrderedDict()
        self.nbytes = 0

    def put(self, file: bytes, kind: Format) -> str:
        """Keep a picture's file; return the path of its URL."""
        path = f"/pictures/{secrets.token_urlsafe(32)}.{kind}"
        self.hold(path, file, kind)
        return path

    def hold(self, path: str, file: bytes, kind: Format) -> None:
        """Keep a picture's file under a path that `put` gave."""
        match = _NAME.fullmatch(path)
        assert match is not None
        name = match[1]
        with self._lock:
            self._files[name] = self._clock() + self._seconds, file, kind
            self.nbytes += len(file)
            while len(self._files) > 1 and (self.nbytes > self._memory or self._oldest_is_over()):
                _, (_, dropped, _) = self._files.popitem(last=False)
                self.nbytes -= len(dropped)

    def find(self, url: str) -> tuple[bytes, Format] | None:
        """Return the file that a URL of ours, or its path, names; None where there is none.

        Nothing is fetched: only the name at its end is looked for, among those that were given.
        """
        match = _NAME.search(url)
        found = None if match is None else self._files.get(match[1])
        if found is None or found[0] < self._clock():
            return None
        return found[1], found[2]

    def _oldest_is_over(self) -> bool:
        until, _, _ = next(iter(self._files.values()))
        return until < self._clock()


def path_in(url: str) -> str | None:
    """Return the path by which a URL names a picture of ours; None where it does not."""
    match = _NAME.search(url)
    return None if match is None else match[0]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How a request wants its pictures.

    Attributes:
        shelf: where those go that are served by URL.
        kind: within the answer, or by URL.
        format: of the files.
        base: what the paths of URLs follow, such as "http://127.0.0.1:8000".
    """

    shelf: Shelf
    kind: DeliveryKind = "data"
    format: Format = "png"
    base: str = ""

    def of(self, image: Image.Image) -> Delivered:
        """Return a picture as the client gets it."""
        return self._delivered(image, self.format)

    def preview(self, image: Image.Image) -> Delivered:
        """Return a small picture that is looked at for a moment: a JPEG within the answer."""
        return _within(image, _encoded(image, "jpeg"), "jpeg")

    def _delivered(self, image: Image.Image, kind: Format) -> Delivered:
        file = _encoded(image, kind)
        if self.kind == "data":
            return _within(image, file, kind)
        url = self.base + self.shelf.put(file, kind)
        return Delivered(url=url, base64=None, size=image.size, format=kind)


def _within(image: Image.Image, file: bytes, kind: Format) -> Delivered:
    text = base64.b64encode(file).decode("ascii")
    url = f"data:image/{kind};base64,{text}"
    return Delivered(url=url, base64=text, size=image.size, format=kind)


def _encoded(image: Image.Image, kind: Format) -> bytes:
    if kind == "png":
        return encode_png(image)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind.upper(), quality=90)
    return buffer.getvalue()
