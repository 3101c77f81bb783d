"""Pictures by path, URL, base64 or bytes; nothing is fetched, and nothing but a file is opened."""

import base64
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.picture_sources import read_picture
from tests.prompt_samples import data_url, encoded, in_base64, sample_image

PIXELS = sample_image().tobytes()


def wrapped(text: str) -> str:
    return "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


BASE64 = in_base64(sample_image())


@pytest.mark.parametrize(
    "source",
    [
        data_url(sample_image()),
        f"data:image/png;base64,{wrapped(BASE64)}\n",
        f" DATA:image/png;charset=utf-8;BASE64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + BASE64.replace("+", "%2B").replace("=", "%3D"),
        "data:;base64," + url_safe(encoded(sample_image())),
        BASE64,
        wrapped(BASE64),
        BASE64.rstrip("="),
        url_safe(encoded(sample_image(), "BMP")),
        encoded(sample_image()),
        bytearray(encoded(sample_image(), "TIFF")),
        memoryview(encoded(sample_image())),
    ],
    ids=range(12),
)
def test_a_picture_may_come_as_base64_in_any_spelling_or_as_bytes(source: object) -> None:
    image = read_picture(source)
    assert (image.mode, image.tobytes()) == ("RGB", PIXELS)


def test_a_file_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my picture.png"
    sample_image().save(path)
    monkeypatch.chdir(tmp_path)
    local = path.as_uri().replace("file://", "file://localhost")
    for name in (
        path,
        str(path),
        path.name,
        path.as_uri(),
        local,
        Path(path.as_uri()),
        f"./{path.name}",
    ):
        assert read_picture(name).tobytes() == PIXELS


def test_base64_that_is_also_a_file_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = in_base64(Image.new("L", (1, 1)), "GIF")
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    sample_image().save(name, "PNG")
    assert read_picture(name).tobytes() == PIXELS


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(buffer.getvalue()).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((2, 2, 3)), "got ndarray; wrap an array .* with PIL.Image.fromarray"),
        (torch.zeros(3, 2, 2), "got Tensor; wrap an array .* with PIL.Image.fromarray"),
        (io.BytesIO(), "got BytesIO; open an image file with PIL.Image.open"),
        ([sample_image()], "got list; give what it holds one by one"),
        ({"bytes": b""}, "got dict; open an image file"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_write(wrong: object, words: str) -> None:
    with pytest.raises(
        TypeError, match=f"^image must be a PIL image, a path or a data: URL, {words}"
    ):
        read_picture(wrong)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("none.png", "FileNotFoundError"),
        ("", "FileNotFoundError"),
        (".", "it is a folder, not a file"),
        ("/dev/null", "it is a pipe or a device, not a file"),
        ("a\0.png", "embedded null"),
        ("https://a.b/c.png", "URLs are not fetched: load it yourself"),
        (Path("https://a.b/c.png"), "URLs are not fetched: load it yourself"),
        ("file://server/c.png", "must be on this machine: file:///..."),
        ("data:image/png,abc", "a data: URL must hold base64"),
        ("data:image/png;base64,****", "its base64 is damaged"),
        ("data:image/png;base64,\u00e4\u00f6\u00fc", "its base64 is damaged"),
        ("data:image/png;base64,", "UnidentifiedImageError: no image format that Pillow knows"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS is a program: convert it"),
        (b"", "UnidentifiedImageError: no image format that Pillow knows"),
        (data_url(sample_image())[:800], "truncated.*its file must be whole"),
        (in_base64(sample_image())[:800], "truncated.*its file must be whole"),
        (encoded(sample_image())[:600], "truncated.*its file must be whole"),
    ],
)
def test_why_a_picture_cannot_be_read_is_said(wrong: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^image must be a readable image, got .*{reason}"):
        read_picture(wrong)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_pipe_is_refused_before_it_is_opened(kind: type, tmp_path: Path) -> None:
    """A pipe that nobody wrote to blocked the process for ever."""
    os.mkfifo(tmp_path / "v.png")
    with pytest.raises(ValueError, match="it is a pipe or a device, not a file"):
        read_picture(kind(tmp_path / "v.png"))


def huge_png(side: int) -> bytes:
    """A PNG that says it has so many pixels, and holds a few."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + checksum

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    content = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    """A few kilobytes inside a message may decode to gigabytes, of which Pillow only warns."""
    with pytest.raises(ValueError, match=r"^image must be a readable image, .*(?i:pixels|bomb)"):
        read_picture(huge_png(side))


MILLIONS = "A" * 1_900_000


@pytest.mark.parametrize(
    "source",
    [
        MILLIONS,
        Path(MILLIONS),
        f"data:image/png;base64,{MILLIONS}",
        f"data:image/png;base64,{MILLIONS}*",
        f"data:{MILLIONS}",
        f"https://{MILLIONS}",
        f"file:///{MILLIONS}",
        f"{in_base64(sample_image())[:100]}{MILLIONS}",
        MILLIONS.encode(),
    ],
    ids=range(9),
)
def test_no_message_repeats_a_long_source(source: object) -> None:
    """A bare base64 string made a message of 1.9 million characters."""
    with pytest.raises(ValueError, match="^image must be a readable image") as raised:
        read_picture(source)
    error: BaseException | None = raised.value
    while error is not None:
        assert len(str(error)) < 500
        error = error.__cause__ or error.__context__
