import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.data_utils import pil_img2rgb, plain_rgb

WHITE = (255, 255, 255)
ORIENTATION = 0x0112
MODES = (
    *("1", "L", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"),
    *("I", "F", "LA", "La", "PA", "I;16", "I;16L", "I;16B", "I;16N"),
)
# Where the first row and the first column of the stored picture belong, by EXIF orientation.
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def row(image: Image.Image) -> list[tuple[int, ...]]:
    """The pixels of a one-row image."""
    return [image.getpixel((column, 0)) for column in range(image.width)]


def grey_levels(image: Image.Image) -> list[int]:
    """The levels of a one-row image, which must be grey."""
    pixels = row(pil_img2rgb(image))
    assert all(len(set(pixel)) == 1 for pixel in pixels)
    return [pixel[0] for pixel in pixels]


def palette_image() -> Image.Image:
    """Three pixels: red, green, blue."""
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return image


def stored(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image after a way through a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_every_mode_becomes_rgb_of_the_same_size(mode, size):
    image = pil_img2rgb(Image.new(mode, size))
    assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.parametrize("mode", MODES)
def test_converting_twice_changes_nothing(mode):
    once = pil_img2rgb(Image.new(mode, (2, 2), 1 if len(mode) == 1 else None))
    assert pil_img2rgb(once).tobytes() == once.tobytes()


def test_rgb_pixels_are_kept_in_a_new_image():
    image = photograph()
    converted = pil_img2rgb(image)
    assert converted is not image
    assert converted.tobytes() == image.tobytes()


def test_a_converted_image_outlives_its_file(tmp_path):
    photograph().save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        converted = pil_img2rgb(image)
    assert converted.tobytes() == photograph().tobytes()


def test_a_palette_is_looked_up():
    assert row(pil_img2rgb(palette_image())) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize("transparent", [1, bytes([255, 0, 255])])
def test_a_transparent_palette_entry_becomes_white(transparent):
    image = stored(palette_image(), "PNG", transparency=transparent)
    assert image.mode == "P"
    assert row(pil_img2rgb(image)) == [(255, 0, 0), WHITE, (0, 0, 255)]


def test_a_half_transparent_palette_entry_is_half_white():
    image = stored(palette_image(), "PNG", transparency=bytes([255, 128, 255]))
    assert row(pil_img2rgb(image))[1] == (127, 255, 127)


@pytest.mark.parametrize(
    ("mode", "colours", "expected"),
    [
        ("RGBA", [(9, 8, 7, 255), (9, 8, 7, 0), (0, 0, 0, 128)], [(9, 8, 7), WHITE, (127,) * 3]),
        ("LA", [(9, 255), (9, 0), (0, 128)], [(9,) * 3, WHITE, (127,) * 3]),
        ("La", [(9, 255), (0, 0), (0, 128)], [(9,) * 3, WHITE, (127,) * 3]),
        ("RGBa", [(9, 8, 7, 255), (0, 0, 0, 0), (0, 0, 0, 128)], [(9, 8, 7), WHITE, (127,) * 3]),
    ],
)
def test_transparent_parts_show_a_white_page(mode, colours, expected):
    image = Image.new(mode, (3, 1))
    for column, colour in enumerate(colours):
        image.putpixel((column, 0), colour)
    assert row(pil_img2rgb(image)) == expected


def test_a_palette_with_an_alpha_channel_shows_a_white_page():
    image = palette_image().convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 0, 128]], dtype=np.uint8)))
    assert row(pil_img2rgb(image)) == [(255, 0, 0), WHITE, (127, 127, 255)]


@pytest.mark.parametrize(
    ("mode", "colour", "other"), [("RGB", (1, 2, 3), (3, 2, 1)), ("L", 7, 8), ("1", 0, 255)]
)
def test_a_colour_that_stands_for_transparent_becomes_white(mode, colour, other):
    image = Image.new(mode, (2, 1), other)
    image.putpixel((0, 0), colour)
    kept, expected = row(image.convert("RGB"))[1], WHITE
    converted = pil_img2rgb(stored(image, "PNG", transparency=colour))
    assert row(converted) == [expected, kept]
    assert row(pil_img2rgb(converted)) == row(converted)


def test_ink_becomes_light():
    image = Image.new("CMYK", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 255, 255, 0))
    assert row(pil_img2rgb(image)) == [WHITE, (255, 0, 0)]


def test_one_bit_is_black_or_white():
    assert grey_levels(Image.fromarray(np.array([[False, True]]))) == [0, 255]


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_by_their_whole_range(kind):
    """Pillow's own conversion clips at 255, so that nearly everything turns white."""
    samples = np.array([[0, 100, 128, 257, 32768, 65535]], dtype=kind)
    mode = "I;16B" if kind == ">u2" else "I;16"
    image = Image.frombytes(mode, (6, 1), samples.tobytes())
    assert grey_levels(image) == [0, 0, 0, 1, 128, 255]


def test_a_sixteen_bit_file_keeps_its_greys():
    samples = np.linspace(0, 65535, 256, dtype=np.uint16)[None]
    assert grey_levels(stored(Image.fromarray(samples), "PNG")) == list(range(256))


def test_a_sixteen_bit_grey_that_stands_for_transparent_becomes_white():
    image = Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16))
    image.info["transparency"] = 0
    assert grey_levels(image) == [255, 1, 255]


@pytest.mark.parametrize(
    ("samples", "levels"),
    [
        ([0, 7, 200], [0, 7, 200]),
        ([0, 256, 65535], [0, 1, 255]),
        ([0, 32768], [0, 128]),
        ([0, 50_000, 100_000], [0, 128, 255]),
        ([-5, 255], [0, 255]),
        ([-5, -9], [0, 0]),
    ],
)
def test_integers_are_scaled_by_the_range_that_holds_them(samples, levels):
    assert grey_levels(Image.fromarray(np.array([samples], dtype=np.int32))) == levels


@pytest.mark.parametrize(
    ("samples", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 1.5, 200.0], [0, 2, 200]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, 1e6, 2e6], [0, 128, 255]),
        ([-1.0, 0.2, 1.0], [0, 51, 255]),
        ([float("nan"), float("inf"), float("-inf"), 1.0], [0, 255, 0, 255]),
        ([float("nan")], [0]),
    ],
)
@pytest.mark.filterwarnings("error")  # casting not-a-number to a byte gives what the CPU pleases
def test_floats_are_scaled_by_the_range_that_holds_them(samples, levels):
    assert grey_levels(Image.fromarray(np.array([samples], dtype=np.float32))) == levels


@settings(deadline=None, database=None)
@given(st.lists(st.integers(0, 65535), min_size=2, max_size=20))
def test_a_brighter_sample_never_becomes_darker(samples):
    for kind in (np.uint16, np.int32, np.float32):
        levels = grey_levels(Image.fromarray(np.array([sorted(samples)], dtype=kind)))
        assert levels == sorted(levels)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_is_turned_the_way_it_was_taken(orientation):
    image = photograph()
    image.getexif()[ORIENTATION] = orientation
    upright = UPRIGHT[orientation](np.array(photograph()))
    assert np.array_equal(np.array(pil_img2rgb(image)), upright)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_file_is_turned_once(orientation, kind):
    """Pillow turns a TIFF while it loads and other files not at all."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = stored(photograph(), kind, exif=exif)
    upright = UPRIGHT[orientation](np.array(photograph()))
    once = pil_img2rgb(image)
    assert np.array_equal(np.array(once), upright)
    assert np.array_equal(np.array(pil_img2rgb(once)), upright)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_is_turned(mode):
    image = Image.new(mode, (5, 3))
    image.getexif()[ORIENTATION] = 6
    assert pil_img2rgb(image).size == (3, 5)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00garbage!!",  # no TIFF header
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01",  # cut off
        b"Exif\x00\x00MM\x00*",  # ends where the first offset should be
        b"\x00",
    ],
)
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
def test_a_damaged_exif_block_costs_the_orientation_and_not_the_picture(exif):
    image = photograph()
    image.info["exif"] = exif
    assert pil_img2rgb(image).tobytes() == photograph().tobytes()


def test_a_damaged_entry_beside_the_orientation_does_no_harm():
    """A resolution unit that is text: Pillow's own exif_transpose raises struct.error."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "m"  # the maker, whose number then becomes that of the resolution unit
    image = photograph()
    image.info["exif"] = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x28\x00\x02")
    assert pil_img2rgb(image).size == (3, 5)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_upright(orientation):
    image = photograph()
    image.getexif()[ORIENTATION] = orientation
    assert pil_img2rgb(image).tobytes() == photograph().tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_the_image_given_is_left_as_it_was(mode):
    image = Image.new(mode, (5, 3))
    image.getexif()[ORIENTATION] = 6
    image.info["note"] = "kept"
    before = image.tobytes()
    pil_img2rgb(image)
    assert (image.mode, image.size, image.tobytes()) == (mode, (5, 3), before)
    assert image.info["note"] == "kept"
    assert image.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("convert", [pil_img2rgb, plain_rgb])
@pytest.mark.parametrize("image", ["picture.png", b"bytes", np.zeros((4, 4, 3)), None])
def test_what_is_no_image_is_refused(convert, image):
    message = f"PIL.Image.Image, got {type(image).__name__}; open a file"
    with pytest.raises(TypeError, match=message):
        convert(image)


# As published: what is stored, converted by Pillow.


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("RGBA", "La")])
def test_plainly_an_image_is_what_pillow_makes_of_it(mode):
    image = Image.new(mode, (3, 2), 77 if len(mode) == 1 or mode[0] == "I" else None)
    image.getexif()[ORIENTATION] = 6
    converted = plain_rgb(image)
    assert (converted.mode, converted.size) == ("RGB", (3, 2))
    assert converted.tobytes() == image.convert("RGB").tobytes()
    assert not converted.getexif()


def test_plainly_grey_keeps_nothing_of_its_alpha_and_deep_grey_is_cut_off():
    assert row(plain_rgb(Image.new("LA", (1, 1), (9, 0)))) == [(9, 9, 9)]
    assert row(plain_rgb(Image.fromarray(np.array([[300, 65535]], np.uint16)))) == [WHITE, WHITE]


def test_plainly_colour_with_alpha_and_a_transparent_colour_are_on_white():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    page = Image.new("RGB", image.size, WHITE)
    page.paste(image, mask=image.getchannel("A"))
    assert plain_rgb(image).tobytes() == page.tobytes()
    palette = stored(palette_image(), "PNG", transparency=1)
    assert row(plain_rgb(palette)) == [(255, 0, 0), WHITE, (0, 0, 255)]
