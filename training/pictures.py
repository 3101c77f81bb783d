"""Pictures that a conversation names: found and looked at by their headers, opened when learnt."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from PIL import ExifTags, Image

from data.data_utils import pil_img2rgb

_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_LINK = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PictureSource:
    """A picture that was not decoded yet.

    Attributes:
        source: the file, or a base64 `data:` URL.
        size: (width, height) in pixels as a viewer shows it, by the header.
    """

    source: Path | str
    size: tuple[int, int]

    def open(self) -> Image.Image:
        """Decode the picture; upright RGB.

        Raises:
            ValueError: it cannot be read.
        """
        with _explained(self.source), _opened(self.source) as image:
            return pil_img2rgb(image)


def find_picture(name: str, directory: Path) -> PictureSource:
    """Look at a picture's header.

    Args:
        name: a path, from `directory` if it is relative, or a base64 `data:` URL.
        directory: where the file that names it lies.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, or not one that can be fetched.
    """
    source = name if name.lower().startswith("data:") else _file(name, directory)
    with _explained(source), _opened(source) as image:
        width, height = image.size
        turned = _orientation(image) in _TURNED
    if not width or not height:
        raise ValueError(f"has no pixels: {width} x {height}")
    return PictureSource(source=source, size=(height, width) if turned else (width, height))


def _file(name: str, directory: Path) -> Path:
    shown = reprlib.repr(name)
    if not name.strip() or not name.isprintable():
        raise ValueError(f"must name a file, got {shown}")
    if _LINK.match(name):
        raise ValueError(f"must be a file here, got {shown}; download it, as no URL is fetched")
    path = directory / (_path_of(name) if name.lower().startswith("file:") else name)
    try:
        if path.is_file():
            return path
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"must be a path or a data: URL, got {shown} ({why})") from error
    if path.is_dir():
        raise ValueError(f"must be an image file, and {path} is a directory")
    if exists:
        raise ValueError(f"must be an image file, and {path} is no ordinary file")
    raise FileNotFoundError(f"there is no image file {path}{_remedy(name, directory)}")


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"must be a file here, got {reprlib.repr(url)}; write file:///...")
    return url2pathname(parts.path)


def _remedy(name: str, directory: Path) -> str:
    if "\\" in name and directory.joinpath(name.replace("\\", "/")).is_file():
        return "; separate directories by /"
    if name.startswith("~") and Path(name).expanduser().is_file():
        return "; write the whole path instead of ~"
    if not Path(name).is_absolute() and Path(name).is_file():
        return f"; paths begin at the file's own directory, {directory}"
    return ""


def _opened(source: Path | str) -> Image.Image:
    if isinstance(source, Path):
        return Image.open(source)
    head, comma, payload = source.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError('a data: URL must begin like "data:image/png;base64,"')
    payload = "".join(unquote(payload).split()).rstrip("=")
    try:
        payload += "=" * (-len(payload) % 4)
        return Image.open(io.BytesIO(base64.b64decode(payload, validate=True)))
    except binascii.Error as error:
        raise ValueError(f"what follows the comma is not base64 ({error})") from error


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block is no reason to refuse the picture
        return None


@contextmanager
def _explained(source: Path | str) -> Iterator[None]:
    """Turn whatever Pillow raises into a ValueError that names the picture."""
    try:
        yield
    except Exception as error:  # which one depends on the format and on Pillow's version
        shown = reprlib.repr(os.fspath(source)) if isinstance(source, str) else str(source)
        raise ValueError(f"must be a readable picture, got {shown} ({_said(error)})") from error


def _said(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "Pillow knows no such format"
    return str(error) or type(error).__name__
