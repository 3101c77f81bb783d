"""Sizes: whether a model's position tables hold the images that a run is to read and draw."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from auto_interleaved.options.generation import AS_INPUT, GenerationOptions, check_against
from data.prompts import ImageInput, PromptPart
from data.transforms import ImageTransform, resized_size
from inferencer import InterleaveInferencer
from modeling.bagel import Bagel

logger = logging.getLogger("auto_interleaved")

Size = tuple[int, int]  # (width, height) in pixels


def check_sizes(
    inferencer: InterleaveInferencer,
    parts: Sequence[PromptPart],
    options: GenerationOptions,
    image_shape: tuple[int, int],
    earlier: Size | None = None,
) -> None:
    """Refuse images that would turn out not to fit half-way through a run.

    Args:
        inferencer: the model, and the transforms by which it reads.
        parts: the prompt.
        options: the options of the run.
        image_shape: (height, width) of images where neither the options nor the prompt say.
        earlier: (width, height) of the last image of the caller's before the prompt.

    Raises:
        ValueError: if the model draws no images of the wanted size, or has no positions for an
            image at the size that a transform reads it at.
    """
    encoded = [] if earlier is None else [earlier]
    encoded += [part.image.size for part in parts if isinstance(part, ImageInput)]
    if options.image_shape == AS_INPUT and not encoded:
        raise ValueError(
            f"image_shape={AS_INPUT!r} needs an image in the prompt, got none; "
            "give (height, width), or leave it out"
        )
    try:
        check_against(options, latent_grid=inferencer.model.latent_grid)
    except ValueError as error:
        raise ValueError(_advised(error, inferencer.model, options, encoded)) from error
    height, width = options.drawn_shape or image_shape
    seen = [(width, height)]
    if options.image_feedback == "pixels":
        encoded += seen
        seen = []
    seen += [_encoded_at(inferencer, size) for size in encoded]
    for size in seen:
        _check_vision(inferencer, size)


def tell_of_size(given: Size, read: Size) -> None:
    """Say in the log at which size pictures are drawn, where that is not the input image's own."""
    if read != given:
        logger.info(
            "pictures are drawn at %s, at which the model reads the input image of %s; "
            "image_shape=%r resizes them to its own size",
            _pixels(read),
            _pixels(given),
            AS_INPUT,
        )


def _advised(
    error: ValueError, model: Bagel, options: GenerationOptions, inputs: Sequence[Size]
) -> str:
    """Return what is wrong with a size and what to write instead."""
    shape = options.drawn_shape
    assert shape is not None
    stride = model.latent_downsample
    most = math.inf if model.config.interpolate_pos else stride * model.max_latent_size
    nearest = tuple(int(min(most, max(stride, round(side / stride) * stride))) for side in shape)
    message = str(error)
    # Where nothing but one side is between two strides, the message names a better one.
    if max(shape) > most or 0 not in (a - b for a, b in zip(shape, nearest, strict=True)):
        message = f"{message.partition('; try')[0]}; the nearest is image_shape={nearest}"
    if shape[::-1] in inputs:
        message += f"; image_shape={AS_INPUT!r} gives pictures the size of the input image"
    return message


def _encoded_at(inferencer: InterleaveInferencer, size: Size) -> Size:
    """Return the size at which the autoencoder reads an image."""
    width, height = read_size(inferencer.vae_transform, size)
    try:
        inferencer.model.latent_grid(height, width)
    except ValueError as error:
        raise ValueError(
            f"an image of {_pixels(size)} is read at {_pixels((width, height))}, where {error}; "
            "pass a vae_transform that keeps to what the model was made for"
        ) from error
    return width, height


def _check_vision(inferencer: InterleaveInferencer, size: Size) -> None:
    model = inferencer.model
    shown = read_size(inferencer.vit_transform, size)
    limit = model.vit_max_num_patch_per_side * model.vit_patch_size
    if max(shown) > limit and not model.config.interpolate_pos:
        raise ValueError(
            f"an image of {_pixels(size)} is shown to the vision encoder at {_pixels(shown)}, "
            f"which must be at most {limit} a side for this model; "
            "pass a vit_transform that keeps to it"
        )


def read_size(transform: ImageTransform, size: Size) -> Size:
    """Return the size at which a transform reads an image."""
    resize = transform.resize_transform
    return resized_size(
        *size,
        max_size=resize.max_image_size,
        min_size=resize.min_image_size,
        stride=resize.image_stride,
        max_pixels=resize.max_pixels,
    )


def _pixels(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels"
