"""Image preprocessing: owns the size an image is read at and the numbers it becomes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from PIL import Image

from data.data_utils import plain_rgb
from data.wording import shown

DEFAULT_MAX_PIXELS = 14 * 14 * 9 * 1024


def resized_size(
    width: int,
    height: int,
    *,
    max_size: int,
    min_size: int,
    stride: int,
    max_pixels: float,
) -> tuple[int, int]:
    """Choose the size at which a model reads an image.

    The image shrinks until its longer side is `max_size`, or grows until its shorter side is
    `min_size`. Where an elongated image cannot have both, `max_size` wins. The aspect ratio is
    kept up to rounding each side to a multiple of `stride`.

    Args:
        width: width of the image in pixels, at least 1.
        height: height of the image in pixels, at least 1.
        max_size: bound of the longer side in pixels, a multiple of `stride`.
        min_size: what the shorter side should reach, in pixels.
        stride: both sides become a multiple of it, at least one stride.
        max_pixels: an area above it is scaled down; rounding to the stride may leave it exceeded.

    Returns:
        The new (width, height) in pixels.
    """
    scale = max(min(max_size / max(width, height), 1.0), min_size / min(width, height))
    width, height = _scaled(width, height, scale, stride)
    if width * height > max_pixels:
        # Published scripts scale the sides by the ratio of the areas, not by its square root. That
        # shrinks further than needed; it is kept so that sizes equal theirs.
        width, height = _scaled(width, height, max_pixels / (width * height), stride)
    if max(width, height) > max_size:
        width, height = _scaled(width, height, max_size / max(width, height), stride)
    return width, height


def _scaled(width: int, height: int, scale: float, stride: int) -> tuple[int, int]:
    # Two roundings in a row, whole pixels and then whole strides, and both of Python's kind (a
    # half goes to the even neighbour). Truncating or rounding once moves a few sizes in a hundred.
    def side(pixels: int) -> int:
        return max(stride, round(round(pixels * scale) / stride) * stride)

    return side(width), side(height)


def _also(name: str) -> property:
    """Return a second name for an attribute."""

    def read(resize: ImageResize) -> int:
        return getattr(resize, name)

    def write(resize: ImageResize, value: int) -> None:
        setattr(resize, name, value)

    return property(read, write, doc=f"`{name}`, as published code calls it.")


@dataclass(kw_only=True)
class ImageResize:
    """Resizes an image to what `resized_size` chooses, bicubic and antialiased.

    Attributes may be changed, under the constructor's names or the published `max_size`, `min_size`
    and `stride`; what does not fit together is refused by the next call.

    Attributes:
        max_image_size: bound of the longer side in pixels, a multiple of `image_stride`.
        min_image_size: what the shorter side should reach, in pixels.
        image_stride: both sides of the result are a multiple of it.
        max_pixels: bound of the area, shared by the images of one call.
    """

    max_image_size: int
    min_image_size: int
    image_stride: int
    max_pixels: int = DEFAULT_MAX_PIXELS

    max_size = _also("max_image_size")
    min_size = _also("min_image_size")
    stride = _also("image_stride")

    def __post_init__(self) -> None:
        for name in ("max_image_size", "min_image_size", "image_stride", "max_pixels"):
            setattr(self, name, _positive_integer(name, getattr(self, name)))
        if self.max_image_size % self.image_stride:
            lower = self.max_image_size // self.image_stride * self.image_stride
            raise ValueError(
                f"max_image_size must be a multiple of image_stride {self.image_stride}, "
                f"got {self.max_image_size}; try {lower or self.image_stride}"
            )
        if self.min_image_size > self.max_image_size:
            raise ValueError(
                f"min_image_size must be at most max_image_size {self.max_image_size}, "
                f"got {self.min_image_size}; were the two exchanged?"
            )
        if self.max_pixels < self.image_stride**2:
            raise ValueError(
                f"max_pixels must allow one patch of {self.image_stride} x {self.image_stride} "
                f"= {self.image_stride**2} pixels, got {self.max_pixels}"
            )

    def __call__(self, image: Image.Image, img_num: int = 1) -> Image.Image:
        """Resize one image.

        Args:
            image: an image of any mode; see `plain_rgb` for what becomes of it.
            img_num: number of images that share `max_pixels`, at least 1.

        Returns:
            An RGB image. One that already has its size keeps its pixels.

        Raises:
            TypeError: `image` is not a PIL image, or `img_num` is not an integer.
            ValueError: the image is empty, or `img_num` is not positive.
        """
        self.__post_init__()  # an attribute may have changed
        img_num = _positive_integer("img_num", img_num)
        rgb = plain_rgb(image)
        if 0 in rgb.size:
            raise ValueError(f"image must have at least one pixel, got {rgb.width} x {rgb.height}")
        size = resized_size(
            *rgb.size,
            max_size=self.max_image_size,
            min_size=self.min_image_size,
            stride=self.image_stride,
            max_pixels=self.max_pixels / img_num,
        )
        return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BICUBIC)


class ImageTransform:
    """Turns an image into the tensor that an image encoder reads.

    Args:
        max_image_size: bound of the longer side in pixels, a multiple of `image_stride`.
        min_image_size: what the shorter side should reach, in pixels.
        image_stride: both sides become a multiple of it: 16 for the autoencoder's latent patches,
            14 for the vision encoder's.
        max_pixels: bound of the area, shared by the images of one call.
        image_mean: what is subtracted from each channel, on a scale where white is 1.
        image_std: what each channel is then divided by. The defaults give [-1, 1].

    Attributes:
        stride: the `image_stride`.
        resize_transform: the resize alone, image to image.
        to_tensor_transform: the change from an image to numbers in [0, 1] alone.
        normalize_transform: the normalisation alone, tensor to tensor.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is not positive, does not fit the others, or a mean or standard
            deviation is not three usable numbers.
    """

    def __init__(
        self,
        max_image_size: int,
        min_image_size: int,
        image_stride: int,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.resize_transform = ImageResize(
            max_image_size=max_image_size,
            min_image_size=min_image_size,
            image_stride=image_stride,
            max_pixels=max_pixels,
        )
        self.stride = image_stride
        self.image_mean = _three_numbers("image_mean", image_mean)
        self.image_std = _three_numbers("image_std", image_std)
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std must be positive in every channel, got {self.image_std}")
        self.to_tensor_transform = to_tensor
        self.normalize_transform = Normalize(mean=self.image_mean, std=self.image_std)

    def __call__(self, image: Image.Image, img_num: int = 1) -> torch.Tensor:
        """Resize and normalise one image.

        Args:
            image: an image of any mode; see `plain_rgb` for what becomes of it.
            img_num: number of images that share `max_pixels`, at least 1.

        Returns:
            The pixels, (3, height, width), float32 on the CPU; in [-1, 1] with the default mean
            and standard deviation.

        Raises:
            TypeError: `image` is not a PIL image, or `img_num` is not an integer.
            ValueError: the image is empty, or `img_num` is not positive.
        """
        resized = self.resize_transform(image, img_num)
        return self.normalize_transform(self.to_tensor_transform(resized))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Turn an image into numbers: (channels, height, width), in [0, 1], float32 on the CPU.

    Raises:
        TypeError: `image` is not a PIL image of 8 bits a channel.
    """
    pixels = np.array(image) if isinstance(image, Image.Image) else np.empty(0)
    if pixels.dtype != np.uint8:
        raise TypeError(
            f"image must be a PIL image of 8 bits a channel, got {_kind(image)}; "
            "convert it with pil_img2rgb"
        )
    channels = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    return channels.contiguous().to(torch.float32) / 255


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Subtracts a mean from each channel and divides by a deviation.

    Attributes:
        mean: of the three channels.
        std: of the three channels, positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise (..., 3, height, width); what is given stays as it is."""
        mean, std = (
            torch.tensor(values, device=pixels.device, dtype=pixels.dtype).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


def _kind(image: object) -> str:
    return f"mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__


def _positive_integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{name} must be an integer, got {shown(value)}; give whole pixels or counts"
        )
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)


def _three_numbers(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    listed = list(values) if isinstance(values, Iterable) else [values]
    if len(listed) != 3 or not all(isinstance(value, Real) for value in listed):
        raise ValueError(f"{name} must be three numbers, one a colour channel, got {shown(values)}")
    first, second, third = map(float, listed)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(f"{name} must be three numbers, one a colour channel, got {shown(values)}")
    return first, second, third
