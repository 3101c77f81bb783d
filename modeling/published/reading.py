"""`forward_cache_update_*`: texts and images enter a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modeling.bagel.blocks import patchify
from modeling.published.cache import NaiveCache
from modeling.published.edge import published
from modeling.published.layout import counts, in_order

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel


@published
def forward_cache_update_text(  # noqa: PLR0913 - the published signature
    self: Bagel,
    past_key_values: NaiveCache,
    packed_text_ids: Tensor,
    packed_text_position_ids: Tensor,
    text_token_lens: Tensor,
    packed_text_indexes: Tensor,
    packed_key_value_indexes: Tensor,
    key_values_lens: Tensor,
) -> NaiveCache:
    """Read what `prepare_prompts` prepared into a cache; the cache changes, and is returned.

    Raises:
        ValueError: if lengths and indexes contradict one another or the cache.
    """
    return self.language_model.forward_inference(
        packed_query_sequence=self.embed(packed_text_ids),
        query_lens=text_token_lens,
        packed_query_position_ids=packed_text_position_ids,
        packed_query_indexes=packed_text_indexes,
        past_key_values=past_key_values,
        key_values_lens=key_values_lens,
        packed_key_value_indexes=packed_key_value_indexes,
        is_causal=True,
    ).past_key_values


@published
def forward_cache_update_vit(  # noqa: PLR0913 - the published signature
    self: Bagel,
    past_key_values: NaiveCache,
    packed_text_ids: Tensor,
    packed_text_indexes: Tensor,
    packed_vit_tokens: Tensor,
    packed_vit_token_indexes: Tensor,
    packed_vit_position_ids: Tensor,
    vit_token_seqlens: Tensor,
    packed_position_ids: Tensor,
    packed_seqlens: Tensor,
    packed_indexes: Tensor,
    packed_key_value_indexes: Tensor,
    key_values_lens: Tensor,
) -> NaiveCache:
    """Read what `prepare_vit_images` prepared into a cache; the cache changes, and is returned.

    Raises:
        ValueError: if lengths and indexes contradict one another or the cache.
    """
    markers = self.embed(packed_text_ids)
    features = self.vision_features(
        packed_vit_tokens.to(markers),
        packed_vit_position_ids.to(markers.device),
        list(counts("vit_token_seqlens", vit_token_seqlens)),
    )
    return self.language_model.forward_inference(
        packed_query_sequence=_sequence(
            ("packed_text_indexes", packed_text_indexes, markers),
            ("packed_vit_token_indexes", packed_vit_token_indexes, features),
        ),
        query_lens=packed_seqlens,
        packed_query_position_ids=packed_position_ids,
        packed_query_indexes=packed_indexes,
        past_key_values=past_key_values,
        key_values_lens=key_values_lens,
        packed_key_value_indexes=packed_key_value_indexes,
        is_causal=False,
    ).past_key_values


@published
def forward_cache_update_vae(  # noqa: PLR0913 - the published signature
    self: Bagel,
    vae_model: Any,
    past_key_values: NaiveCache,
    padded_images: Tensor,
    patchified_vae_latent_shapes: Sequence[tuple[int, int]],
    packed_vae_position_ids: Tensor,
    packed_timesteps: Tensor,
    packed_vae_token_indexes: Tensor,
    packed_text_ids: Tensor,
    packed_text_indexes: Tensor,
    packed_position_ids: Tensor,
    packed_seqlens: Tensor,
    packed_indexes: Tensor,
    key_values_lens: Tensor,
    packed_key_value_indexes: Tensor,
) -> NaiveCache:
    """Read what `prepare_vae_images` prepared into a cache; the cache changes, and is returned.

    Images of several sizes are encoded with their padding, as published, which shows in the
    latents of the smaller ones.

    Raises:
        ValueError: if lengths and indexes contradict one another or the cache.
    """
    padded = vae_model.encode(padded_images.to(next(vae_model.parameters())))
    side = self.latent_patch_size
    latents = [
        patchify(latent[:, : rows * side, : columns * side], side)
        for latent, (rows, columns) in zip(padded, patchified_vae_latent_shapes, strict=True)
    ]
    markers = self.embed(packed_text_ids)
    tokens = self.latent_tokens(
        torch.cat(latents), packed_timesteps, self.latent_pos_embed(packed_vae_position_ids)
    )
    return self.language_model.forward_inference(
        packed_query_sequence=_sequence(
            ("packed_text_indexes", packed_text_indexes, markers),
            ("packed_vae_token_indexes", packed_vae_token_indexes, tokens),
        ),
        query_lens=packed_seqlens,
        packed_query_position_ids=packed_position_ids,
        packed_query_indexes=packed_indexes,
        past_key_values=past_key_values,
        key_values_lens=key_values_lens,
        packed_key_value_indexes=packed_key_value_indexes,
        is_causal=False,
        mode="gen",
        packed_vae_token_indexes=packed_vae_token_indexes,
        packed_text_indexes=packed_text_indexes,
    ).past_key_values


def _sequence(*parts: tuple[str, Tensor, Tensor]) -> Tensor:
    """Put embedded tokens, (tokens, hidden), at the places that are named for them."""
    embedded = [rows for _, _, rows in parts]
    order = in_order([(name, places) for name, places, _ in parts], sum(map(len, embedded)))
    return torch.cat([rows.to(embedded[0]) for rows in embedded])[order.to(embedded[0].device)]
