"""Pictures by whatever means a caller names or holds them, read into memory.

No URL is ever fetched, and nothing but a regular file is ever opened.
"""

from __future__ import annotations

import base64
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from PIL import Image, UnidentifiedImageError

from data.data_utils import pil_img2rgb
from data.wording import shown, shown_error

Source = Image.Image | os.PathLike[str] | str | bytes | bytearray | memoryview
Convert = Callable[[Image.Image], Image.Image]

_LONGEST_PATH = 4096
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/{1,3}(?=[^/])", re.IGNORECASE)
_FILE_URL = re.compile(r"\s*file:/", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)

# How files of pictures begin; most formats that are sent as base64 are among these.
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_RUN_BY_OTHERS = ("EPS", "WMF")  # Pillow hands these to Ghostscript and to Windows
_SHORTEST_BASE64 = 32  # characters; a picture of one pixel takes more

_NOT_FETCHED = "URLs are not fetched: load it yourself and pass the image"


class UnreadablePictureError(ValueError):
    """Why something that names or holds a picture is not even tried."""


def read_picture(
    source: object, place: str = "image", *, convert: Convert = pil_img2rgb
) -> Image.Image:
    """Read a picture.

    Args:
        source: a PIL image; a path object; a string that is a path, a `file:` URL, a `data:` URL
            or base64; or the bytes of a picture's file.
        place: what it is called in messages.
        convert: makes of an image that was just opened one that needs its file no longer.

    Returns:
        What `convert` makes of it, by default upright RGB without the metadata of a file; of a file
        that is an animation, its first frame.

    Raises:
        TypeError: if it is something else, such as an array.
        ValueError: if it cannot be read.
    """
    if not isinstance(source, Image.Image | os.PathLike | str | bytes | bytearray | memoryview):
        raise TypeError(
            f"{place} must be a PIL image, a path or a data: URL, "
            f"got {type(source).__name__}; {how_to_pass(source)}"
        )
    try:
        image = _read(source, convert)
    except UnreadablePictureError as error:
        raise ValueError(
            f"{place} must be a readable image, got {shown(source)}; {error}"
        ) from error
    except Exception as error:  # which one depends on the format and on Pillow's version
        raise ValueError(
            f"{place} must be a readable image, got {shown(source)} ({_reason(error)}); "
            "its file must be whole, and open until it is loaded"
        ) from error
    if 0 in image.size:
        raise ValueError(f"{place} must have pixels, got an image of size {image.size}")
    return image


def how_to_pass(value: object) -> str:
    """Return what to write instead of a value that is no picture."""
    kind = type(value)
    if hasattr(kind, "__array__"):  # numpy's arrays, torch's tensors and their kin
        return "wrap an array of pixels (height, width, 3) in uint8 with PIL.Image.fromarray"
    if hasattr(kind, "model_dump"):  # the messages that other libraries' clients return
        return "turn a message object into a dictionary with .model_dump()"
    if isinstance(value, bytes | bytearray | memoryview):
        return 'write {"type": "image", "image": ...} for the bytes of an image file'
    if isinstance(value, list | tuple):
        return "give what it holds one by one"
    if isinstance(value, Iterable) and not (isinstance(value, Mapping) or hasattr(kind, "read")):
        return "make a list of it"
    return "open an image file with PIL.Image.open"


def is_data_url(text: str) -> bool:
    """Tell whether a string begins as a `data:` URL does."""
    return _DATA_URL.match(text) is not None


def is_file_url(text: str) -> bool:
    """Tell whether a string begins as a `file:` URL does."""
    return _FILE_URL.match(text) is not None


def is_file(path: str) -> bool:
    """Tell whether a path is a regular file's; what cannot be a path is none."""
    try:
        return len(path) <= _LONGEST_PATH and os.path.isfile(path)
    except (OSError, ValueError):
        return False


def is_base64_picture(text: str) -> bool:
    """Tell whether a string is a picture in base64: long enough, and beginning as one does."""
    beginning = "".join(text[: 2 * _SHORTEST_BASE64].split())[:_SHORTEST_BASE64]
    try:
        return len(beginning) == _SHORTEST_BASE64 and starts_as_picture(_unpacked(beginning))
    except UnreadablePictureError:
        return False


def starts_as_picture(data: bytes) -> bool:
    """Tell whether bytes begin as an image file of a common format does."""
    return data.startswith(_BEGINNINGS) or data[4:8] == b"ftyp"  # AVIF, HEIF


def path_of_url(url: str) -> str:
    """Return the path that a `file:` URL names.

    Raises:
        UnreadablePictureError: if the file is on another machine.
    """
    parts = urlsplit(url.strip())
    if parts.netloc not in ("", "localhost"):
        raise UnreadablePictureError("the file of a file: URL must be on this machine: file:///...")
    return url2pathname(parts.path)


def _read(source: Source, convert: Convert) -> Image.Image:
    if isinstance(source, Image.Image):
        return convert(source)
    if isinstance(source, os.PathLike):
        path = os.fsdecode(source)
        return _from_file(path_of_url(path) if is_file_url(path) else path, convert)
    if not isinstance(source, str):
        return _from_bytes(bytes(source), convert)
    if is_data_url(source):
        return _from_bytes(_unpacked(_payload(source)), convert)
    if is_file_url(source):
        return _from_file(path_of_url(source), convert)
    if "://" in source[:_LONGEST_PATH]:
        raise UnreadablePictureError(_NOT_FETCHED)
    if is_base64_picture(source) and not is_file(source):
        return _from_bytes(_unpacked(source), convert)
    return _from_file(source, convert)


def _payload(data_url: str) -> str:
    head, _, payload = data_url.partition(",")
    if not head.rstrip().lower().endswith(";base64"):
        raise UnreadablePictureError("a data: URL must hold base64")
    return unquote(payload)


def _from_file(path: str, convert: Convert) -> Image.Image:
    """Open a file, after making sure that it is one: to open a pipe is to wait for its writer."""
    if len(path) > _LONGEST_PATH:
        raise UnreadablePictureError(f"{len(path)} characters are no path, nor a picture in base64")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        if _SCHEME.match(path):  # pathlib merges the slashes of a URL
            raise UnreadablePictureError(_NOT_FETCHED) from None
        raise UnreadablePictureError(f"FileNotFoundError: {error.strerror}") from error
    except OSError as error:
        raise UnreadablePictureError(f"{type(error).__name__}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UnreadablePictureError(f"it is {kind}, not a file")
    with Image.open(path) as opened:
        return convert(opened)


def _from_bytes(data: bytes, convert: Convert) -> Image.Image:
    """Decode what came inside a message, from whomever: what Pillow warns of is refused."""
    with Image.open(io.BytesIO(data)) as opened:
        if opened.format in _RUN_BY_OTHERS:
            raise UnreadablePictureError(f"{opened.format} is a program: convert it to PNG")
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise UnreadablePictureError(
                f"its {opened.width} x {opened.height} pixels are more than "
                f"PIL.Image.MAX_IMAGE_PIXELS = {limit} allows: make it smaller"
            )
        return convert(opened)


def _unpacked(text: str) -> bytes:
    """Decode base64 of either alphabet, with line breaks and without padding."""
    text = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise UnreadablePictureError(f"its base64 is damaged: {error}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose message is an address in memory
        return "UnidentifiedImageError: no image format that Pillow knows"
    return shown_error(error)
