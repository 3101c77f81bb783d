"""Checkpoints: a directory or a hub id in, everything that an inferencer needs out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.data_utils import add_special_tokens
from data.transforms import ImageTransform
from modeling import speed
from modeling.autoencoder import AutoEncoder, load_ae
from modeling.bagel import Bagel, BagelConfig
from modeling.checkpoint.files import AUTOENCODER_FILE, Location, locate
from modeling.checkpoint.model import bagel_config, check_weights, empty_model
from modeling.checkpoint.placement import Device, DeviceMap, Placement
from modeling.checkpoint.settings import read_settings
from modeling.checkpoint.weights import open_weights
from modeling.qwen2 import Qwen2Tokenizer

# Largest side, smallest side in pixels.
PUBLISHED_VAE_SIZES = (1024, 512)
PUBLISHED_VIT_SIZES = (980, 224)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What a checkpoint holds; the first six are an inferencer's arguments.

    Attributes:
        model: in evaluation mode.
        vae_model: the autoencoder, on the device where the model's tokens enter.
        tokenizer: knows the markers.
        vae_transform: size rule and normalisation of images for the autoencoder.
        vit_transform: the same for the vision encoder.
        new_token_ids: `bos_token_id`, `eos_token_id`, `start_of_image`, `end_of_image`.
        settings: what the small file beside the weights and the caller say, see `read_settings`.
    """

    model: Bagel
    vae_model: AutoEncoder
    tokenizer: Qwen2Tokenizer
    vae_transform: ImageTransform
    vit_transform: ImageTransform
    new_token_ids: dict[str, int]
    settings: dict[str, Any]


def load_checkpoint(  # noqa: PLR0913 - transformers' and the hub's names, each optional
    path_or_hub_id: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: Device | None = None,
    device_map: str | DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    compile_layers: bool = False,
    fp8: bool = False,
) -> Checkpoint:
    """Load a checkpoint in the published layout.

    Weights stay mapped to their file until they are converted or moved to another device: on the
    CPU and in the stored dtype, loading reads nothing but headers. The files must not change while
    the model is in use.

    Args:
        path_or_hub_id: a directory, one of the weight files in it, or a hub id.
        dtype: of the model and the autoencoder: float32, bfloat16 or float16; None is what the
            settings say, else each is kept as it is stored.
        device: one device for everything; None is the CPU.
        device_map: for a model spread over several devices, the CPU and "disk": module name to
            device, or "auto", "balanced", "balanced_low_0", "sequential".
        max_memory: device to bytes, such as `{0: "20GiB", "cpu": "60GiB"}`, for an automatic map.
        offload_folder: where modules on "disk" are copied to in `dtype`; None reads them from the
            checkpoint's own files whenever they are needed.
        settings: goes before the small file beside the weights; see `read_settings`.
        revision: branch, tag or commit on the hub.
        local_files_only: take only what an earlier download left here.
        cache_dir: where downloads are kept.
        token: for a private hub repository.
        compile_layers: let torch.compile fuse the decoder's layers; see
            `modeling.speed.compile_layers`.
        fp8: multiply in fp8 in the decoder's layers. Faster and lossy; see
            `modeling.speed.quantize_fp8`.

    Returns:
        Model, autoencoder, tokenizer, transforms, special ids and settings.

    Raises:
        FileNotFoundError: the checkpoint, or a file that it must have, is not there.
        ValueError: a file is damaged, its content does not fit the others', or an option is out of
            range; the message names the file and what to do.
        ImportError: `fp8` without torchao.
    """
    if fp8:
        speed.check_fp8({torch.device("cpu" if device is None else device)})
    placement = Placement(
        dtype=dtype,
        device=device,
        device_map=device_map,
        max_memory=max_memory,
        offload_folder=offload_folder,
    )
    location = locate(
        path_or_hub_id,
        revision=revision,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
        token=token,
    )
    known = read_settings(location.directory, settings or {})
    if dtype is None and "dtype" in known:
        placement = replace(placement, dtype=getattr(torch, known["dtype"]))
    checkpoint = _load(location, placement, known)
    if fp8:
        speed.quantize_fp8(checkpoint.model)
    if compile_layers:
        speed.compile_layers(checkpoint.model)
    return checkpoint


def _load(location: Location, placement: Placement, settings: dict[str, Any]) -> Checkpoint:
    """Check everything that is cheap to check, then fill the model."""
    weights = open_weights(location.weights)
    vae_model = _autoencoder(location.directory, settings)
    config = bagel_config(location.directory, weights, vae_model.params, settings)
    model = empty_model(config)
    check_weights(model, weights)
    vae_transform, vit_transform = _transforms(config, settings)
    tokenizer, new_token_ids = _tokenizer(location.directory, config)
    placement.fill(model, weights)
    vae_model.to(device=model.device, dtype=placement.dtype or vae_model.dtype)
    return Checkpoint(
        model=model,
        vae_model=vae_model,
        tokenizer=tokenizer,
        vae_transform=vae_transform,
        vit_transform=vit_transform,
        new_token_ids=new_token_ids,
        settings=settings,
    )


def _autoencoder(directory: Path, settings: Mapping[str, Any]) -> AutoEncoder:
    vae_model, params = load_ae(directory / AUTOENCODER_FILE)
    vae_model.params = replace(params, **settings.get("autoencoder", {}))
    return vae_model


def _transforms(
    config: BagelConfig, settings: Mapping[str, Any]
) -> tuple[ImageTransform, ImageTransform]:
    assert config.vae_config is not None
    assert config.vit_config is not None
    latent_stride = config.vae_config.downsample * config.latent_patch_size
    largest_latent = config.max_latent_size * latent_stride
    patch = config.vit_config.patch_size
    largest_patched = config.vit_max_num_patch_per_side * patch
    return (
        _transform("vae_transform", settings, PUBLISHED_VAE_SIZES, latent_stride, largest_latent),
        _transform("vit_transform", settings, PUBLISHED_VIT_SIZES, patch, largest_patched),
    )


def _transform(
    name: str, settings: Mapping[str, Any], published: tuple[int, int], stride: int, limit: int
) -> ImageTransform:
    """Make the transform that the settings name, else the published one as far as tables reach."""
    if name not in settings:
        largest = min(published[0], limit) // stride * stride
        return ImageTransform(largest, min(published[1], largest), stride)
    if settings[name][2] % stride:
        raise ValueError(
            f"{name}: its stride must be a multiple of the model's {stride}, got "
            f"{settings[name][2]}"
        )
    try:
        return ImageTransform(*settings[name])
    except ValueError as error:
        raise ValueError(f"{name} {list(settings[name])}: {error}") from error


def _tokenizer(directory: Path, config: BagelConfig) -> tuple[Qwen2Tokenizer, dict[str, int]]:
    assert config.llm_config is not None
    tokenizer, new_token_ids, _ = add_special_tokens(Qwen2Tokenizer.from_pretrained(directory))
    rows = config.llm_config.vocab_size
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens, but the model embeds only "
            f"{rows}; copy the tokenizer files of the checkpoint that was trained on there"
        )
    return tokenizer, new_token_ids
