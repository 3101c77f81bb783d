"""What a checkpoint's files say of its shape: headers and configurations, and no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from data.transforms import ImageTransform, resized_size
from modeling.autoencoder import AutoEncoder, load_ae
from modeling.bagel import Bagel, BagelConfig
from modeling.checkpoint.configurations import LLM_CONFIG_FILE, VIT_CONFIG_FILE
from modeling.checkpoint.files import AUTOENCODER_FILE, locate
from modeling.checkpoint.model import Parts, bagel_config, check_weights, empty_model
from modeling.checkpoint.settings import SETTINGS_FILE, read_settings
from modeling.checkpoint.sizes import transforms
from modeling.checkpoint.weights import open_weights
from modeling.planning.stages import Size, Sketch

_LAYERS = 2  # of a sketch: each takes what the one before has given back


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """A checkpoint, described.

    Attributes:
        model: its model, without storage.
        autoencoder: its autoencoder, without storage.
        dtype: that most of it is stored in.
        image_shape: (height, width) of the images that it draws where nobody says.
        config: how the model is joined.
        vit_transform: size rule of images for the vision encoder.
    """

    model: Bagel
    autoencoder: AutoEncoder
    dtype: torch.dtype
    image_shape: Size
    config: BagelConfig
    vit_transform: ImageTransform

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
    ) -> Described:
        """Read a directory, or what the hub's cache holds of a hub id.

        Raises:
            FileNotFoundError: there is no such checkpoint, or it lacks a file.
            ValueError: a file is damaged, or its content does not fit the others'.
        """
        location = locate(path, base=base, local_files_only=True)
        location.require((AUTOENCODER_FILE,), (LLM_CONFIG_FILE,), (VIT_CONFIG_FILE,))
        own = open_weights(location.weights)
        weights = own if location.base is None else own.over(open_weights(location.base.weights))
        settings = read_settings(location.file(SETTINGS_FILE), None)
        autoencoder, params = load_ae(location.file(AUTOENCODER_FILE))
        config = bagel_config(Parts.read(location, weights), weights, params, settings)
        model = empty_model(config)
        if location.base is None:
            check_weights(model, weights)
        vae_transform, vit_transform = transforms(config, settings, location.file(SETTINGS_FILE))
        side = vae_transform.resize_transform.max_image_size
        return cls(
            model=model.to("meta"),
            autoencoder=autoencoder.to("meta"),
            dtype=weights.dtype,
            image_shape=_shape(settings, side),
            config=config,
            vit_transform=vit_transform,
        )

    def sketch(self, dtype: torch.dtype) -> Sketch:
        """Return a model of few layers, which has the working sets that the whole one has."""
        config = copy(self.config)
        config.llm_config, config.vit_config = copy(config.llm_config), copy(config.vit_config)
        for part in (config.llm_config, config.vit_config):
            assert part is not None
            part.num_hidden_layers = min(_LAYERS, part.num_hidden_layers)
        return Sketch(
            model=empty_model(config).to(device="meta", dtype=dtype),
            autoencoder=deepcopy(self.autoencoder).to(dtype=dtype),
            vision_size=self.vision_size,
        )

    def vision_size(self, shape: Size) -> Size:
        """Return the (height, width) at which the vision encoder sees an image."""
        resize = self.vit_transform.resize_transform
        width, height = resized_size(
            shape[1],
            shape[0],
            max_size=resize.max_image_size,
            min_size=resize.min_image_size,
            stride=resize.image_stride,
            max_pixels=resize.max_pixels,
        )
        return height, width


def _shape(settings: Mapping[str, Any], side: int) -> Size:
    height, width = settings.get("image_shape", (side, side))
    return height, width
