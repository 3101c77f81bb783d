"""`generate_image`: one image a sample, each guided over its own part of up to three caches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeling.bagel.drawing import Canvas, paint
from modeling.context import Context
from modeling.flow import ImageOptions
from modeling.numbers import require_numbers
from modeling.published.cache import NaiveCache
from modeling.published.edge import published
from modeling.published.forward import cached_lengths
from modeling.published.layout import Counts, Layout, counts, in_order

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

logger = logging.getLogger("auto_interleaved")


@published
def generate_image(  # noqa: PLR0913 - the published signature
    self: Bagel,
    packed_text_ids: Tensor,
    packed_text_indexes: Tensor,
    packed_init_noises: Tensor,
    packed_vae_position_ids: Tensor,
    packed_vae_token_indexes: Tensor,
    packed_seqlens: Tensor,
    packed_position_ids: Tensor,
    key_values_lens: Tensor,
    packed_indexes: Tensor,
    packed_key_value_indexes: Tensor,
    past_key_values: NaiveCache,
    num_timesteps: int = 24,
    timestep_shift: float = 1.0,
    cfg_renorm_min: float = 0.0,
    cfg_renorm_type: str = "global",
    cfg_interval: Sequence[float] = (0, 1),
    cfg_text_scale: float = 1.0,
    cfg_text_packed_query_indexes: Tensor | None = None,
    cfg_text_packed_position_ids: Tensor | None = None,
    cfg_text_past_key_values: NaiveCache | None = None,
    cfg_text_key_values_lens: Tensor | None = None,
    cfg_text_packed_key_value_indexes: Tensor | None = None,
    cfg_img_scale: float = 1.0,
    cfg_img_packed_query_indexes: Tensor | None = None,
    cfg_img_packed_position_ids: Tensor | None = None,
    cfg_img_past_key_values: NaiveCache | None = None,
    cfg_img_key_values_lens: Tensor | None = None,
    cfg_img_packed_key_value_indexes: Tensor | None = None,
    cfg_type: str = "parallel",
    enable_taylorseer: bool = False,
) -> tuple[Tensor, ...]:
    """Draw one image a sample from what `prepare_vae_latent` prepared; caches stay as they are.

    The first eleven arguments are that dictionary and the cache that the images should follow.
    `cfg_text_*` and `cfg_img_*` are the caches without the text and without images, with what
    `prepare_vae_latent_cfg` prepared for them; they are needed, and looked at, where their scale is
    above 1. The options are those of `InterleaveInferencer.gen_image`. "global" renorm is over each
    image by itself. `cfg_type` is of no effect here.

    Returns:
        The latents of each image, (rows * columns, patch values), float32.

    Raises:
        ValueError: on a bad option, or if lengths and indexes contradict one another or a cache.
    """
    options = ImageOptions(
        cfg_text_scale=cfg_text_scale,
        cfg_img_scale=cfg_img_scale,
        cfg_interval=cfg_interval,  # type: ignore[arg-type]  # checked by ImageOptions
        cfg_renorm_min=cfg_renorm_min,
        cfg_renorm_type=cfg_renorm_type,  # type: ignore[arg-type]  # checked by ImageOptions
        num_timesteps=num_timesteps,
        timestep_shift=timestep_shift,
        enable_taylorseer=enable_taylorseer,
    )
    _warn(options, cfg_type)
    images = _Images(
        lengths=counts("packed_seqlens", packed_seqlens),
        markers=packed_text_ids.flatten(),
        marker_indexes=packed_text_indexes.flatten(),
        noises=packed_init_noises,
        places=packed_vae_position_ids.flatten(),
        noise_indexes=packed_vae_token_indexes.flatten(),
    )
    branches = (
        _Branch(
            past_key_values,
            key_values_lens,
            packed_position_ids,
            packed_indexes,
            packed_key_value_indexes,
        ),
        _Branch(
            cfg_text_past_key_values,
            cfg_text_key_values_lens,
            cfg_text_packed_position_ids,
            cfg_text_packed_query_indexes,
            cfg_text_packed_key_value_indexes,
        ),
        _Branch(
            cfg_img_past_key_values,
            cfg_img_key_values_lens,
            cfg_img_packed_position_ids,
            cfg_img_packed_query_indexes,
            cfg_img_packed_key_value_indexes,
        ),
    )
    return tuple(_drawn(self, images, branches, options))


def _drawn(
    model: Bagel, images: _Images, branches: Sequence[_Branch], options: ImageOptions
) -> list[Tensor]:
    """Draw one image after the other."""
    scales = (math.inf, options.cfg_text_scale, options.cfg_img_scale)
    contexts = [
        branch.contexts(images.lengths, model.language_model.config.num_hidden_layers)
        if scale > 1
        else [None] * len(images.lengths)
        for branch, scale in zip(branches, scales, strict=True)
    ]
    samples = zip(images.divided(), *contexts, strict=True)
    latents: list[Tensor] = []
    for (markers, noise, places), full, without_text, without_images in samples:
        assert full is not None
        *_, last = paint(
            Canvas(model, markers, model.latent_pos_embed(places)),
            full=full,
            without_text=without_text,
            without_images=without_images,
            noise=noise,
            options=options,
        )
        require_numbers(last.latent, f"the latents of image {len(latents) + 1}", model)
        # A script may write into what it gets.
        with torch.inference_mode(False):
            latents.append(last.latent.clone())
    return latents


@dataclass(frozen=True, eq=False)
class _Branch:
    """A cache, and where an image's tokens stand over it."""

    cache: NaiveCache | None
    cached: Tensor | None
    positions: Tensor | None
    query_indexes: Tensor | None
    key_value_indexes: Tensor | None

    def contexts(self, lengths: Counts, num_layers: int) -> Sequence[Context | None]:
        """Return what each image follows, at the position that its tokens share."""
        if self.cache is None:
            return [None] * len(lengths)  # drawing says which one is missing
        if self.positions is None or self.positions.numel() != sum(lengths):
            given = "none" if self.positions is None else str(self.positions.numel())
            raise ValueError(
                f"packed_position_ids must have {sum(lengths)} entries, as packed_seqlens says, "
                f"got {given}; pass on what prepare_vae_latent or prepare_vae_latent_cfg returned"
            )
        cached = cached_lengths(self.cache, self.cached, lengths, num_layers)
        Layout(cached, lengths).check(self.query_indexes, self.key_value_indexes)
        positions = self.positions.flatten().cpu().split(list(lengths))
        if any(len(of_image.unique()) != 1 for of_image in positions):
            raise ValueError(
                "packed_position_ids must be the same for all tokens of an image, "
                f"got {[of_image.unique().tolist() for of_image in positions]}"
            )
        return [
            replace(context, position=int(of_image[0]))
            for context, of_image in zip(self.cache.contexts(cached), positions, strict=True)
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Images:
    """What is drawn: of all images one after another."""

    lengths: Counts
    markers: Tensor
    marker_indexes: Tensor
    noises: Tensor
    places: Tensor
    noise_indexes: Tensor

    def divided(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return each image's markers, noise and places.

        Raises:
            ValueError: if they do not fit one another.
        """
        kinds = (
            ("packed_text_indexes", self.marker_indexes, "packed_text_ids", self.markers),
            ("packed_vae_token_indexes", self.noise_indexes, "packed_init_noises", self.noises),
            (
                "packed_vae_token_indexes",
                self.noise_indexes,
                "packed_vae_position_ids",
                self.places,
            ),
        )
        for name, indexes, other, values in kinds:
            if len(values) != len(indexes) or not torch.equal(indexes, indexes.sort().values):
                raise ValueError(
                    f"{name} must say in ascending order where the {len(values)} entries of "
                    f"{other} stand, got {len(indexes)} of them"
                )
        in_order([(name, indexes) for name, indexes, *_ in kinds[:2]], sum(self.lengths))
        borders = torch.tensor(self.lengths, device="cpu").cumsum(0)
        parts = []
        for _, indexes, _, values in kinds:
            ends = torch.searchsorted(indexes.cpu(), borders)
            parts.append(values.tensor_split(ends[:-1].tolist()))
        return list(zip(*parts, strict=True))


def _warn(options: ImageOptions, cfg_type: str) -> None:
    if options.cfg_text_scale <= 1 < options.cfg_img_scale:
        logger.warning(
            "cfg_img_scale=%s has no effect while cfg_text_scale is at most 1",
            options.cfg_img_scale,
        )
    if cfg_type != "parallel":
        logger.warning("cfg_type=%r has no effect: there is one way of guidance", cfg_type)
