"""Pictures as bytes: lossless PNG for what is kept, small JPEG for what is only looked at."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Iterable

from PIL import Image

THUMBNAIL_SIDE = 512
_PNG_URI = "data:image/png;base64,"
# Modes that a PNG holds exactly; everything else is converted, at worst with a loss of precision.
_PNG_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")

_ALWAYS_DECODED = 2**29  # bytes
_MAX_GROWTH = 16
_PNG_START = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">16sIIBB")  # signature, length and name of the chunk; size, depth, colors
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class Pictures:
    """The distinct images among those given, numbered in their order and encoded as PNG.

    One image object is one picture however often it is met, so that an output's list and its
    segments share their pictures in a file as they do in memory.

    Attributes:
        pngs: The encoded pictures; a picture's number is its place.
    """

    def __init__(self, images: Iterable[Image.Image]) -> None:
        # The images are kept because an id is unique only among living objects.
        self._images = {id(image): image for image in images}
        self._numbers = {key: number for number, key in enumerate(self._images)}
        self.pngs = tuple(encode_png(image) for image in self._images.values())

    def __len__(self) -> int:
        return len(self.pngs)

    def number(self, image: Image.Image) -> int:
        """Return the number of one of the images that this was made of."""
        return self._numbers[id(image)]


def encode_png(image: Image.Image) -> bytes:
    """Encode an image losslessly, without the metadata of the file that it came from."""
    buffer = io.BytesIO()
    plain = image if image.mode in _PNG_MODES else image.convert("RGB")
    # On photographs the default level takes twice the time for the same size.
    bare(plain).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """Decode a PNG into a plain image in memory, equal to the one that was encoded.

    Raises:
        ValueError: The bytes are not a whole PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            return bare(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable PNG picture ({error})") from error


def check_decoded_size(pngs: Iterable[bytes]) -> None:
    """Refuse pictures that grow out of all measure when they are decoded.

    Anybody can write a file of kilobytes whose pictures take gigabytes. Those of a run do not:
    photographs shrink to a third or so, and what shrinks to next to nothing is small or rare.

    Raises:
        ValueError: They would take more than half a gigabyte, and many times their files' sizes.
    """
    held = list(pngs)
    decoded = sum(_decoded_size(png) for png in held)
    allowed = max(_ALWAYS_DECODED, _MAX_GROWTH * sum(map(len, held)))
    if decoded > allowed:
        raise ValueError(
            f"its pictures would take {decoded:,} bytes of memory; from files of their size no "
            f"more than {allowed:,} are believed"
        )


def _decoded_size(png: bytes) -> int:
    """Return the bytes that a PNG says its pixels take; 0 for what is no PNG."""
    if len(png) < _HEADER.size or not png.startswith(_PNG_START):
        return 0
    _, width, height, depth, color = _HEADER.unpack_from(png)
    return width * height * _CHANNELS.get(color, 4) * (2 if depth == 16 else 1)


def png_uri(png: bytes) -> str:
    """Return an encoded picture as a data URI."""
    return _PNG_URI + base64.b64encode(png).decode("ascii")


def png_of_uri(uri: object) -> bytes:
    """Return the encoded picture that a data URI holds.

    Raises:
        ValueError: The text is not the data URI of a PNG.
    """
    if not isinstance(uri, str) or not uri.startswith(_PNG_URI):
        raise ValueError(f"a picture must start with {_PNG_URI!r}, got {str(uri)[:40]!r}")
    try:
        return base64.b64decode(uri[len(_PNG_URI) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture is not valid base64 ({error})") from error


def thumbnail(image: Image.Image) -> Image.Image:
    """Return a copy of an image in RGB, shrunk until no side is longer than `THUMBNAIL_SIDE`."""
    small = bare(image).convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def jpeg_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    # A tiny picture is looked at enlarged, where every trace of compression is plainly visible.
    tiny = max(image.size) <= THUMBNAIL_SIDE // 2
    image.save(buffer, "JPEG", quality=95 if tiny else 85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def bare(image: Image.Image) -> Image.Image:
    """Return an image without the type and the metadata of the file that it came from."""
    if type(image) is Image.Image and not image.info:
        return image
    return Image.frombytes(image.mode, image.size, image.tobytes())
