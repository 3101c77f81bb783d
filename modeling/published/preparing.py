"""`prepare_*`: dictionaries of packed tensors, which scripts move to a device and pass on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from modeling.bagel.blocks import flattened_positions, grid_of, patchify
from modeling.published.layout import Counts, ImageBlocks, Inputs, Layout, counts, integers, sums

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

Prepared = tuple[Inputs, list[int], list[int]]  # and lengths and positions after it


def prepare_prompts(  # noqa: PLR0913 - the published signature
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    prompts: Sequence[str],
    tokenizer: Any,
    new_token_ids: Mapping[str, int],
) -> Prepared:
    """Prepare one text a sample for `forward_cache_update_text`.

    Args:
        curr_kvlens: tokens of each sample so far.
        curr_rope: the next position of each sample.
        prompts: a text for each; special tokens in it become tokens.
        tokenizer: encodes them as they are; bos and eos are put around.
        new_token_ids: as `add_special_tokens` returns them.

    Returns:
        The inputs, and lengths and positions after them.

    Raises:
        TypeError: if `prompts` is no list of texts.
        ValueError: if there is not one of everything for each sample.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(
            f"prompts must be a list with a text for each sample, got {str(prompts)[:80]!r}"
        )
    cached, ropes = _samples(curr_kvlens, curr_rope, prompts, "prompts")
    bos, eos = new_token_ids["bos_token_id"], new_token_ids["eos_token_id"]
    texts = [[bos, *tokenizer.encode(prompt), eos] for prompt in prompts]
    new = tuple(map(len, texts))
    cached_places, new_places = Layout(cached, new).places()
    inputs = {
        "text_token_lens": integers(new, torch.int32),
        "packed_text_ids": integers(id_ for text in texts for id_ in text),
        "packed_text_position_ids": integers(
            rope + i for rope, count in zip(ropes, new, strict=True) for i in range(count)
        ),
        "packed_text_indexes": new_places,
        "packed_key_value_indexes": cached_places,
        "key_values_lens": integers(cached, torch.int32),
    }
    return inputs, sums(cached, new), sums(ropes, new)


def prepare_vit_images(  # noqa: PLR0913 - the published signature
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    images: Sequence[Image.Image],
    transforms: Callable[[Image.Image], Tensor],
    new_token_ids: Mapping[str, int],
) -> Prepared:
    """Prepare one image a sample for `forward_cache_update_vit`; see `prepare_prompts`.

    Args:
        curr_kvlens: tokens of each sample so far.
        curr_rope: the next position of each sample.
        images: one for each.
        transforms: the vision encoder's `ImageTransform`.
        new_token_ids: as `add_special_tokens` returns them.
    """
    cached, ropes = _samples(curr_kvlens, curr_rope, images, "images")
    pixels = [transforms(image) for image in images]
    grids = [grid_of(picture, self.vit_patch_size, "ViT patch size") for picture in pixels]
    blocks = ImageBlocks(cached, ropes, _areas(grids), new_token_ids)
    side, interpolate = self.vit_max_num_patch_per_side, self.config.interpolate_pos
    inputs = blocks.texts() | {
        "vit_token_seqlens": integers(blocks.num_tokens, torch.int32),
        "packed_vit_tokens": torch.cat([patchify(p, self.vit_patch_size) for p in pixels]),
        "packed_vit_position_ids": _flattened(grids, side, interpolate),
        "packed_vit_token_indexes": blocks.token_indexes(),
        "packed_position_ids": blocks.positions(),
        **blocks.lengths(),
        **blocks.places(),
        **blocks.cached_lengths(),
    }
    return inputs, blocks.next_lengths, blocks.next_positions


def prepare_vae_images(  # noqa: PLR0913 - the published signature
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    images: Sequence[Image.Image],
    transforms: Callable[[Image.Image], Tensor],
    new_token_ids: Mapping[str, int],
    timestep: float = 0,
) -> Prepared:
    """Prepare one image a sample for `forward_cache_update_vae`; see `prepare_prompts`.

    Args:
        curr_kvlens: tokens of each sample so far.
        curr_rope: the next position of each sample.
        images: one for each; smaller ones are padded with grey to the size of the largest.
        transforms: the autoencoder's `ImageTransform`.
        new_token_ids: as `add_special_tokens` returns them.
        timestep: flow time; 0 is a clean image.
    """
    cached, ropes = _samples(curr_kvlens, curr_rope, images, "images")
    pixels = [transforms(image) for image in images]
    grids = [self.latent_grid(*picture.shape[-2:]) for picture in pixels]
    blocks = ImageBlocks(cached, ropes, _areas(grids), new_token_ids)
    inputs = {
        "padded_images": _padded(pixels),
        "patchified_vae_latent_shapes": grids,
        "packed_vae_position_ids": _latent_positions(self, grids),
        "packed_timesteps": torch.tensor([timestep], dtype=_dtype_of(timestep), device="cpu"),
        "packed_vae_token_indexes": blocks.token_indexes(),
        **blocks.texts(),
        "packed_position_ids": blocks.positions(),
        **blocks.lengths(),
        **blocks.places(),
        **blocks.cached_lengths(),
    }
    return inputs, blocks.next_lengths, blocks.next_positions


def prepare_vae_latent(
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    new_token_ids: Mapping[str, int],
) -> Inputs:
    """Prepare one image to draw a sample for `generate_image`; see `prepare_prompts`.

    The initial noise comes from torch's global CPU generator.

    Args:
        curr_kvlens: tokens of each sample so far.
        curr_rope: the next position of each sample.
        image_sizes: (height, width) in pixels for each.
        new_token_ids: as `add_special_tokens` returns them.
    """
    cached, ropes = _samples(curr_kvlens, curr_rope, image_sizes, "image_sizes")
    grids = [self.latent_grid(*size) for size in image_sizes]
    blocks = ImageBlocks(cached, ropes, _areas(grids), new_token_ids)
    noises = [
        torch.randn(count, self.patch_latent_dim, dtype=torch.float32, device="cpu")
        for count in blocks.num_tokens
    ]
    return {
        **blocks.texts(),
        "packed_init_noises": torch.cat(noises),
        "packed_vae_position_ids": _latent_positions(self, grids),
        "packed_vae_token_indexes": blocks.token_indexes(),
        **blocks.lengths(),
        "packed_position_ids": blocks.positions(),
        **blocks.cached_lengths(),
        **blocks.places(),
    }


def prepare_vae_latent_cfg(
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
) -> Inputs:
    """Prepare the same images over another cache, for guidance.

    Args:
        curr_kvlens: tokens of each sample in that cache.
        curr_rope: the next position of each sample there.
        image_sizes: (height, width) in pixels for each.
    """
    cached, ropes = _samples(curr_kvlens, curr_rope, image_sizes, "image_sizes")
    grids = [self.latent_grid(*size) for size in image_sizes]
    blocks = ImageBlocks(cached, ropes, _areas(grids), {})
    places = blocks.places()
    return {
        "cfg_packed_position_ids": blocks.positions(),
        "cfg_key_values_lens": integers(cached, torch.int32),
        "cfg_packed_query_indexes": places["packed_indexes"],
        "cfg_packed_key_value_indexes": places["packed_key_value_indexes"],
    }


def prepare_start_tokens(
    self: Bagel,
    curr_kvlens: Sequence[int],
    curr_rope: Sequence[int],
    new_token_ids: Mapping[str, int],
) -> Inputs:
    """Prepare the first token of one text a sample for `generate_text`.

    Args:
        curr_kvlens: tokens of each sample so far.
        curr_rope: the next position of each sample.
        new_token_ids: as `add_special_tokens` returns them.
    """
    cached, ropes = _samples(curr_kvlens, curr_rope, curr_kvlens, "curr_kvlens")
    return {
        "packed_start_tokens": integers([new_token_ids["bos_token_id"]] * len(cached)),
        "packed_query_position_ids": integers(ropes),
        "key_values_lens": integers(cached, torch.int32),
        "packed_key_value_indexes": integers(range(sum(cached))),
    }


def _samples(
    curr_kvlens: Sequence[int], curr_rope: Sequence[int], items: Sequence[Any], name: str
) -> tuple[Counts, Counts]:
    """Return lengths and positions, once it is sure that every sample has one of each."""
    if isinstance(items, Image.Image):
        raise TypeError(f"{name} must be a list with an image for each sample, got one image")
    cached = counts("curr_kvlens", curr_kvlens)
    if len(items) != len(cached) or not cached:
        raise ValueError(
            f"{name} must have one entry for each of {len(cached)} samples in curr_kvlens, "
            f"got {len(items)}"
        )
    return cached, counts("curr_rope", curr_rope, len(cached))


def _dtype_of(number: float) -> torch.dtype:
    return torch.int64 if isinstance(number, int) else torch.float32


def _areas(grids: Sequence[tuple[int, int]]) -> Counts:
    return tuple(rows * columns for rows, columns in grids)


def _flattened(grids: Sequence[tuple[int, int]], side: int, interpolate: bool) -> Tensor:
    return torch.cat([flattened_positions(grid, side, interpolate) for grid in grids])


def _latent_positions(model: Bagel, grids: Sequence[tuple[int, int]]) -> Tensor:
    return _flattened(grids, model.max_latent_size, model.config.interpolate_pos)


def _padded(pixels: Sequence[Tensor]) -> Tensor:
    """Stack pictures of several sizes in the top left corners of grey ones."""
    height, width = (max(picture.shape[side] for picture in pixels) for side in (1, 2))
    padded = pixels[0].new_zeros(len(pixels), pixels[0].shape[0], height, width)
    for page, picture in zip(padded, pixels, strict=True):
        page[:, : picture.shape[1], : picture.shape[2]] = picture
    return padded
