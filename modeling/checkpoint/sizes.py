"""The sizes at which a checkpoint's images are read and drawn: the settings', or the published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.transforms import ImageTransform
from modeling.bagel import BagelConfig

# Largest side, smallest side in pixels.
PUBLISHED_VAE_SIZES = (1024, 512)
PUBLISHED_VIT_SIZES = (980, 224)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What a position table holds.

    Attributes:
        stride: pixels of a token.
        limit: pixels of the largest image.
        bounded: larger images have no positions; else they share those there are.
    """

    stride: int
    limit: int
    bounded: bool


def transforms(
    config: BagelConfig, settings: Mapping[str, Any], source: object
) -> tuple[ImageTransform, ImageTransform]:
    """Make the transforms for the autoencoder and for the vision encoder, and check `image_shape`.

    Args:
        config: of the model.
        settings: what `read_settings` returned.
        source: where they come from, for messages.

    Raises:
        ValueError: the settings ask for sizes that the model cannot read.
    """
    assert config.vit_config is not None
    latents = _latents(config)
    patch = config.vit_config.patch_size
    patches = _Table(
        stride=patch,
        limit=config.vit_max_num_patch_per_side * patch,
        bounded=not config.interpolate_pos,
    )
    try:
        _check_image_shape(settings.get("image_shape", ()), latents)
        return (
            _transform("vae_transform", settings, PUBLISHED_VAE_SIZES, latents),
            _transform("vit_transform", settings, PUBLISHED_VIT_SIZES, patches),
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _check_image_shape(shape: Sequence[int], latents: _Table) -> None:
    if any(side % latents.stride or side > latents.limit for side in shape):
        raise ValueError(
            f"image_shape {list(shape)}: both sides must be multiples of {latents.stride}, at most "
            f"{latents.limit}"
        )


def _latents(config: BagelConfig) -> _Table:
    assert config.vae_config is not None
    stride = config.vae_config.downsample * config.latent_patch_size
    return _Table(stride=stride, limit=config.max_latent_size * stride, bounded=True)


def _transform(
    name: str, settings: Mapping[str, Any], published: tuple[int, int], table: _Table
) -> ImageTransform:
    """Make the transform that the settings name, else the published one as far as tables reach."""
    if name not in settings:
        largest = min(published[0], table.limit) // table.stride * table.stride
        return ImageTransform(largest, min(published[1], largest), table.stride)
    largest, _, stride = settings[name]
    if stride % table.stride:
        raise ValueError(
            f"{name}: its stride must be a multiple of the model's {table.stride}, got {stride}"
        )
    if table.bounded and largest > table.limit:
        raise ValueError(
            f"{name}: its largest side must be within the model's position table, at most "
            f"{table.limit}, got {largest}"
        )
    try:
        return ImageTransform(*settings[name])
    except ValueError as error:
        raise ValueError(f"{name} {list(settings[name])}: {error}") from error
