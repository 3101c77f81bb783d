import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from data.transforms import ImageResize, ImageTransform, resized_size

GOLDEN = Path(__file__).parent / "golden"
RESIZE_TABLE = json.loads((GOLDEN / "resize_table.json").read_text())
VAE = {"max_size": 1024, "min_size": 512, "stride": 16, "max_pixels": 14 * 14 * 9 * 1024}

law = settings(deadline=None, database=None)  # neither a timed assertion nor a file left behind
sides = st.integers(1, 6000)
limits = st.builds(
    lambda stride, strides, share, max_pixels: {
        "max_size": stride * strides,
        "min_size": max(1, int(stride * strides * share)),
        "stride": stride,
        "max_pixels": max_pixels,
    },
    stride=st.integers(1, 32),
    strides=st.integers(1, 80),
    share=st.floats(0, 1),
    max_pixels=st.integers(32 * 32, 4_000_000),
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", RESIZE_TABLE)
def test_sizes_equal_the_reference_for_every_row_of_the_table(name):
    table = RESIZE_TABLE[name]
    rule = {key: table[key] for key in ("max_size", "min_size", "stride", "max_pixels")}
    rows = [(tuple(given_size), tuple(expected)) for given_size, expected in table["cases"]]
    assert [(size, resized_size(*size, **rule)) for size, _ in rows] == rows


@law
@given(sides, sides, limits)
def test_a_size_is_whole_strides_within_the_longest_side(width, height, rule):
    for side in resized_size(width, height, **rule):
        assert side % rule["stride"] == 0
        assert rule["stride"] <= side <= rule["max_size"]


@law
@given(sides, sides, limits)
def test_turning_an_image_turns_its_size(width, height, rule):
    assert resized_size(width, height, **rule) == resized_size(height, width, **rule)[::-1]


@law
@given(st.integers(32, 64), st.integers(32, 64))
def test_a_size_that_fits_every_limit_is_kept(columns, rows):
    size = (16 * columns, 16 * rows)
    assert resized_size(*size, **VAE) == size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((88, 14), (84, 14)),  # 6.29 strides
        ((91, 35), (84, 28)),  # 6.5 and 2.5: a half goes to the even neighbour
        ((105, 49), (112, 56)),  # 7.5 and 3.5
    ],
)
def test_sides_are_rounded_to_whole_strides_with_halves_to_the_even_one(size, expected):
    assert resized_size(*size, max_size=112, min_size=14, stride=14, max_pixels=10**6) == expected


def test_sides_are_rounded_to_whole_pixels_before_whole_strides():
    """A fifth of 243 is 48.6: as 49 pixels it makes 3.5 strides, as 48.6 or 48 under 3.5."""
    rule = {"max_size": 112, "min_size": 28, "stride": 14, "max_pixels": 10**6}
    assert resized_size(243, 560, **rule) == (56, 112)


@pytest.mark.parametrize(
    ("max_pixels", "expected"),
    [
        (1024 * 1024, (1024, 1024)),
        (1024 * 1024 - 1, (1024, 1024)),  # the ratio rounds back to the same stride
        (1024 * 1024 / 2, (512, 512)),  # the sides shrink by the ratio of the areas
        (451_584, (448, 448)),  # the default shared by four images
        (1, (16, 16)),
    ],
)
def test_an_area_above_the_limit_scales_both_sides_by_the_ratio_of_the_areas(max_pixels, expected):
    assert resized_size(1024, 1024, **{**VAE, "max_pixels": max_pixels}) == expected


@pytest.mark.parametrize(
    ("name", "limits"), [("vit_image", (112, 28, 14)), ("vae_image", (128, 32, 16))]
)
def test_pixels_equal_the_reference(name, limits):
    golden = load_file(GOLDEN / f"{name}.safetensors")
    pixels = ImageTransform(*limits)(Image.fromarray(golden["image"].numpy()))
    assert pixels.shape == golden["pixels"].shape
    # Equal to the bit with Pillow 13; one level of 255 would already be 0.008.
    assert torch.allclose(pixels, golden["pixels"], rtol=0, atol=1e-4)


def test_pixels_are_a_float32_tensor_of_channels_rows_and_columns():
    pixels = ImageTransform(128, 32, 16)(noise(96, 64))
    assert pixels.shape == (3, 64, 96)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()


def test_black_is_minus_one_and_white_is_one():
    transform = ImageTransform(64, 32, 16)
    assert torch.equal(transform(Image.new("RGB", (32, 32), "black")), -torch.ones(3, 32, 32))
    assert torch.equal(transform(Image.new("RGB", (32, 32), "white")), torch.ones(3, 32, 32))


def test_each_channel_has_its_own_mean_and_standard_deviation():
    transform = ImageTransform(32, 16, 16, image_mean=[0.0, 0.5, 1.0], image_std=(1.0, 0.5, 0.25))
    pixels = transform(Image.new("RGB", (16, 16), (255, 255, 0)))
    assert pixels[:, 0, 0].tolist() == [1.0, 1.0, -4.0]


def test_resize_transform_gives_the_image_that_becomes_the_pixels():
    transform = ImageTransform(128, 32, 16)
    resized = transform.resize_transform(noise(200, 150))
    assert (resized.mode, resized.size) == ("RGB", (128, 96))
    assert torch.equal(transform(resized), transform(noise(200, 150)))


def test_an_image_of_the_right_size_is_not_resampled():
    image = noise(96, 64)
    transform = ImageTransform(128, 32, 16)
    assert transform.resize_transform(image).tobytes() == image.tobytes()
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert torch.equal(transform(image), (levels - 0.5) / 0.5)


def test_shrinking_averages_fine_detail_away():
    """Without antialiasing a fine chessboard would come out black, white or striped."""
    chessboard = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    inside = ImageTransform(32, 16, 16)(chessboard)[:, 2:-2, 2:-2]
    assert inside.abs().max() < 0.02


def test_the_callers_image_is_left_as_it_was():
    image = noise(200, 150)
    before = image.tobytes()
    ImageTransform(128, 32, 16)(image)
    assert (image.size, image.tobytes()) == ((200, 150), before)


def test_images_of_one_call_share_the_area():
    transform = ImageTransform(1024, 512, 16)
    image = Image.new("RGB", (1024, 1024))
    assert transform.resize_transform(image, img_num=1).size == (1024, 1024)
    assert transform.resize_transform(image, img_num=4).size == (448, 448)
    assert transform(image, img_num=4).shape == (3, 448, 448)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_an_image_of_any_mode_becomes_three_channels(mode):
    assert ImageTransform(64, 32, 16)(Image.new(mode, (1, 1))).shape == (3, 32, 32)


def test_a_photograph_taken_sideways_is_read_as_it_is_stored():
    """As published; the loop turns pictures by `pil_img2rgb` before it comes to a transform."""
    image = noise(96, 64)
    exif = image.getexif()
    exif[0x0112] = 6
    assert ImageTransform(128, 32, 16)(image).shape == (3, 64, 96)


def test_a_transform_is_its_three_parts():
    transform, image = ImageTransform(64, 32, 16, image_mean=(0.1, 0.2, 0.3)), noise(200, 100)
    pixels = transform.to_tensor_transform(transform.resize_transform(image))
    assert (pixels.shape, pixels.min() >= 0, pixels.max() <= 1) == ((3, 32, 64), True, True)
    assert torch.equal(transform.normalize_transform(pixels), transform(image))
    assert transform.to_tensor_transform(image.convert("L")).shape == (1, 100, 200)
    with pytest.raises(TypeError, match="8 bits a channel, got mode F"):
        transform.to_tensor_transform(Image.new("F", (4, 4)))
    with pytest.raises(TypeError, match="8 bits a channel, got Tensor"):
        transform.to_tensor_transform(torch.zeros(3, 4, 4))


def test_the_resize_has_its_published_names_and_obeys_a_change():
    resize = ImageTransform(128, 32, 16).resize_transform
    assert (resize.max_size, resize.min_size, resize.stride) == (128, 32, 16)
    resize.max_size = 64
    assert resize(noise(200, 100)).size == (64, 32)
    resize.min_size = 80
    with pytest.raises(ValueError, match="min_image_size must be at most max_image_size 64"):
        resize(noise(200, 100))


def test_limits_may_be_numpys_integers():
    assert ImageTransform(np.int64(64), np.int32(32), np.int64(16))(noise(8, 8)).shape[1] == 32


def test_pixels_stay_on_the_cpu_while_a_model_is_built_on_meta():
    transform = ImageTransform(64, 32, 16)
    with torch.device("meta"):
        pixels = transform(noise(32, 32))
    assert torch.equal(pixels, transform(noise(32, 32)))


def test_the_stride_and_the_limits_can_be_read():
    transform = ImageTransform(980, 224, 14)
    assert transform.stride == 14
    assert transform.resize_transform == ImageResize(
        max_image_size=980, min_image_size=224, image_stride=14, max_pixels=14 * 14 * 9 * 1024
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_image_size": 0}, "max_image_size must be positive, got 0"),
        ({"min_image_size": -1}, "min_image_size must be positive, got -1"),
        ({"image_stride": 0}, "image_stride must be positive, got 0"),
        ({"max_pixels": 0}, "max_pixels must be positive, got 0"),
        ({"max_image_size": 1000}, "multiple of image_stride 16, got 1000; try 992"),
        ({"max_image_size": 15}, "multiple of image_stride 16, got 15; try 16"),
        ({"min_image_size": 2048}, "min_image_size must be at most max_image_size 1024, got 2048"),
        ({"max_pixels": 255}, "max_pixels must allow one patch of 16 x 16 = 256 pixels, got 255"),
        ({"image_mean": 0.5}, "image_mean must be three numbers.*got 0.5"),
        ({"image_mean": "abc"}, "image_mean must be three numbers.*got 'abc'"),
        ({"image_mean": (0.5,)}, r"image_mean must be three numbers.*got \(0.5,\)"),
        ({"image_std": (1.0, 1.0, 1.0, 1.0)}, "image_std must be three numbers"),
        ({"image_std": (0.5, 0.0, 0.5)}, "image_std must be positive in every channel"),
        ({"image_std": (0.5, float("nan"), 0.5)}, "image_std must be three numbers.*nan"),
        ({"image_mean": (0.5, float("inf"), 0.5)}, "image_mean must be three numbers.*inf"),
    ],
)
def test_limits_that_cannot_hold_are_refused(arguments, message):
    limits = {"max_image_size": 1024, "min_image_size": 512, "image_stride": 16}
    with pytest.raises(ValueError, match=message):
        ImageTransform(**{**limits, **arguments})


@pytest.mark.parametrize("value", [512.0, "512", True, None])
def test_a_limit_that_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match="min_image_size must be an integer, got"):
        ImageTransform(1024, value, 16)


@pytest.mark.parametrize("image", ["picture.png", np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), None])
def test_what_is_no_image_is_refused(image):
    transform = ImageTransform(64, 32, 16)
    with pytest.raises(TypeError, match=f"PIL.Image.Image, got {type(image).__name__}"):
        transform(image)
    with pytest.raises(TypeError, match=f"PIL.Image.Image, got {type(image).__name__}"):
        transform.resize_transform(image)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 5"):
        ImageTransform(64, 32, 16)(Image.new("RGB", (0, 5)))


def test_a_number_of_images_that_is_no_count_is_refused():
    transform = ImageTransform(64, 32, 16)
    with pytest.raises(ValueError, match="img_num must be positive, got 0"):
        transform(noise(32, 32), img_num=0)
    with pytest.raises(TypeError, match="img_num must be an integer, got 1.5"):
        transform.resize_transform(noise(32, 32), img_num=1.5)
