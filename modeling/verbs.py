"""What a loop can ask of a checkpoint: read, write, draw."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.data_utils import MARKERS
from data.transforms import ImageTransform
from data.wording import require_whole
from modeling.autoencoder import MIN_TILE, AutoEncoder, check_tile
from modeling.bagel import Bagel
from modeling.bagel.blocks import patchify, unpatchify
from modeling.bagel.drawing import draw
from modeling.choice import Choice, likeliest
from modeling.context import Context
from modeling.decoding import decode
from modeling.flow import FlowStep, ImageOptions
from modeling.inference import inference
from modeling.interleave import check_latent, check_shape
from modeling.numbers import require_numbers
from modeling.qwen2 import one_text_at_a_time

logger = logging.getLogger("auto_interleaved")

_SPARE_TILE = 64  # latent positions a side, at most, of tiles that nobody asked for


class Verbs:
    """A model with everything around it that turns texts and images into tokens and back.

    Args:
        model: the model.
        vae_model: the autoencoder; it stays on whatever device it is.
        tokenizer: a Qwen2 tokenizer.
        vae_transform: size rule and normalisation of images for the autoencoder.
        vit_transform: the same for the vision encoder.
        new_token_ids: `bos_token_id`, `eos_token_id`, `start_of_image`, `end_of_image`, as
            `add_special_tokens` returns them.

    Raises:
        ValueError: if one of the ids is missing.
    """

    _vae_tile: int | None = None

    def __init__(  # noqa: PLR0913 - the published signature
        self,
        model: Bagel,
        vae_model: AutoEncoder,
        tokenizer: Any,
        vae_transform: ImageTransform,
        vit_transform: ImageTransform,
        new_token_ids: Mapping[str, int],
    ) -> None:
        self.model = model
        self.vae_model = vae_model
        self.tokenizer = tokenizer
        self.vae_transform = vae_transform
        self.vit_transform = vit_transform
        self.new_token_ids = new_token_ids
        if isinstance(new_token_ids, Mapping) and new_token_ids:
            self._ids(*MARKERS)  # what is empty, or no mapping, is somebody's stand-in

    @property
    def bos(self) -> int:
        """The id that begins a text."""
        return self._ids("bos_token_id")[0]

    @property
    def eos(self) -> int:
        """The id that ends a text."""
        return self._ids("eos_token_id")[0]

    @property
    def markers(self) -> tuple[int, int]:
        """The ids that begin and end an image."""
        start, end = self._ids("start_of_image", "end_of_image")
        return start, end

    def _ids(self, *names: str) -> list[int]:
        missing = [name for name in names if name not in self.new_token_ids]
        if missing:
            raise ValueError(
                f"new_token_ids lacks {', '.join(missing)}; "
                "pass the second value that add_special_tokens(tokenizer) returns"
            )
        return [self.new_token_ids[name] for name in names]

    @property
    def vae_tile(self) -> int | None:
        """Side in latent positions of the tiles that images are decoded in; may be set.

        Tiles save memory and are lossy. None is the whole image, tiled only if memory runs out.
        """
        return self._vae_tile

    @vae_tile.setter
    def vae_tile(self, side: int | None) -> None:
        self._vae_tile = check_tile("vae_tile", side)

    @property
    def max_positions(self) -> int:
        """The positions that the decoder was made for."""
        return self.model.language_model.config.max_position_embeddings

    def encode_text(self, text: str, *, split_special_tokens: bool = True) -> list[int]:
        """Return a text's ids, without bos and eos; see `update_context_text`."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, got {type(text).__name__}")
        require_whole(text, "text")
        # A stand-in may know no more than a text, which is all that published code gives it.
        options = {"split_special_tokens": True} if split_special_tokens else {}
        with one_text_at_a_time:  # whatever tokenizer this is
            return self.tokenizer.encode(text, **options)

    def new_context(self) -> Context:
        """Return a context that has read nothing: a value, which `read_*` leave as it is."""
        return self.model.new_context()

    def read_ids(self, ids: Sequence[int], context: Context) -> tuple[Context, int]:
        """Read ids as they are.

        Returns:
            The new context, and the likeliest id to follow.

        Raises:
            NotANumberError: if none is, because a logit is no number.
        """
        context, hidden = self.model.read(context, self.model.text_block(ids))
        return context, likeliest(self.model, self.model.logits(hidden[-1:])[0])

    def read_latent(self, latent: Tensor, grid: tuple[int, int], context: Context) -> Context:
        """Read latent tokens (rows * columns, patch values) of a clean image."""
        return self.model.read(context, self.model.latent_block(latent, grid, self.markers))[0]

    def read_vision(self, image: Image.Image, context: Context) -> Context:
        """Read an RGB image through the vision encoder."""
        block = self.model.vit_block(self.vit_transform(image), self.markers)
        return self.model.read(context, block)[0]

    @inference
    def encode_image(
        self, image: Image.Image, *, sample_posterior: bool = False
    ) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image into latent tokens.

        Args:
            image: what to encode.
            sample_posterior: draw from the posterior, by torch's global generator; by default the
                latents are its mean.

        Returns:
            (rows * columns, patch values), and (rows, columns).

        Raises:
            NotANumberError: if the latents hold nan or inf.
        """
        pixels = self.vae_transform(image)
        grid = self.model.latent_grid(*pixels.shape[-2:])
        parameter = next(self.vae_model.parameters())
        latent = self.vae_model.encode(
            pixels[None].to(parameter), sample_posterior=sample_posterior
        )[0]
        require_numbers(latent, "the latents of an image that is read", self.vae_model)
        return patchify(latent, self.model.latent_patch_size), grid

    def decode_image(self, latent: Tensor, image_shape: tuple[int, int]) -> Image.Image:
        """Turn latent tokens (rows * columns, patch values) into an image of (height, width).

        Raises:
            NotANumberError: if the latents, or the pixels that they become, hold nan or inf.
        """
        return self.decode_images([latent], image_shape)[0]

    @inference
    def decode_images(
        self, latents: Sequence[Tensor], image_shape: tuple[int, int]
    ) -> list[Image.Image]:
        """Turn the latent tokens of several images of one size into them; see `decode_image`."""
        rows, columns = self.model.latent_grid(*check_shape("image_shape", image_shape))
        for latent in latents:
            check_latent(latent, (rows * columns, self.model.patch_latent_dim))
        return self._decode(torch.stack([self._spread(latent, image_shape) for latent in latents]))

    @inference
    def preview_image(
        self, latent: Tensor, image_shape: tuple[int, int], max_side: int = 256
    ) -> Image.Image:
        """Turn latent tokens into a small image, of at most `max_side` pixels a side.

        Raises:
            NotANumberError: as `decode_image` does.
        """
        grid = self._spread(latent, image_shape)
        scale = max_side / max(image_shape)
        if scale < 1:
            size = [max(1, int(side * scale)) for side in grid.shape[1:]]  # a strip keeps a row
            grid = functional.interpolate(grid[None], size=size, mode="area")[0]
        return self._decode(grid[None])[0]

    def _spread(self, latent: Tensor, image_shape: tuple[int, int]) -> Tensor:
        """Arrange latent tokens as (channels, rows, columns) on the autoencoder's device."""
        require_numbers(latent, "the latents", self.model)
        tokens = latent.to(next(self.vae_model.parameters()))
        grid = self.model.latent_grid(*image_shape)
        return unpatchify(tokens, grid, self.model.latent_patch_size)

    def _decode(self, latents: Tensor) -> list[Image.Image]:
        """Turn latents (images, channels, rows, columns) into images."""
        pixels = self._pixels(latents)
        require_numbers(pixels, "the autoencoder's pixels", self.vae_model)
        # Truncated, not rounded, as published.
        levels = (pixels.float() * 0.5 + 0.5).clamp(0, 1).mul(255).to(torch.uint8)
        return [Image.fromarray(image) for image in levels.permute(0, 2, 3, 1).cpu().numpy()]

    def _pixels(self, latent: Tensor) -> Tensor:
        """Decode (images, channels, rows, columns), in tiles where the device lacks the memory."""
        try:
            return self.vae_model.decode(latent, self.vae_tile)
        except torch.OutOfMemoryError:
            tried = min(self.vae_tile or math.inf, max(latent.shape[-2:]))
            tile = max(MIN_TILE, min(_SPARE_TILE, int(tried) // 2))
            logger.warning("memory ran out: the image is decoded in tiles, which is lossy")
        # Not within the handler, where the error still holds what the first attempt allocated.
        return self.vae_model.decode(latent, tile)

    def draw_latent(  # noqa: PLR0913 - three contexts and what to draw in them
        self,
        image_shape: tuple[int, int],
        full: Context,
        without_text: Context | None,
        without_images: Context | None,
        options: ImageOptions,
        generator: torch.Generator | None = None,
    ) -> Generator[FlowStep, Tensor | None, None]:
        """Draw an image's latent tokens, step by step; see `modeling.bagel.drawing.draw`.

        Args:
            image_shape: (height, width) in pixels.
            full: what the image should follow.
            without_text: the context for text guidance.
            without_images: the context for image guidance.
            options: times and guidance.
            generator: a CPU generator for the initial noise; None is torch's global one.
        """
        return draw(
            self.model,
            full=full,
            without_text=without_text,
            without_images=without_images,
            noise=self.initial_noise(image_shape, generator),
            grid=self.model.latent_grid(*image_shape),
            markers=self.markers,
            options=options,
        )

    def initial_noise(
        self, image_shape: tuple[int, int], generator: torch.Generator | None
    ) -> Tensor:
        """Return what an image of (height, width) begins with, (rows * columns, patch values).

        Args:
            image_shape: in pixels.
            generator: a CPU generator; None is torch's global one.
        """
        rows, columns = self.model.latent_grid(*image_shape)
        size = (rows * columns, self.model.patch_latent_dim)
        return torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")

    def write(
        self, context: Context, choose: Choice, at_most: int | None = None
    ) -> Iterator[tuple[int, Context]]:
        """Write a new text after a context, token by token; see `modeling.decoding.decode`.

        Args:
            context: what came before.
            choose: picks the next id.
            at_most: how many tokens the caller can use; None is without end.
        """
        return decode(self.model, context, self.bos, choose, at_most=at_most)
