"""Checkpoints: a directory or a hub id in, everything that an inferencer needs out."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.data_utils import MARKERS, add_special_tokens
from data.transforms import ImageTransform
from modeling import speed
from modeling.autoencoder import AutoEncoder, load_ae
from modeling.bagel import Bagel
from modeling.checkpoint.adapters import (
    Paths,
    add_adapters,
    find_adapters,
    protocol_of_adapters,
)
from modeling.checkpoint.configurations import LLM_CONFIG_FILE, VIT_CONFIG_FILE
from modeling.checkpoint.decision import PROTOCOL, Decision
from modeling.checkpoint.files import (
    AUTOENCODER_FILE,
    FROM_BASE,
    TOKENIZER_FILES,
    Location,
    locate,
)
from modeling.checkpoint.keywords import (
    Device,
    check_hub_options,
    check_switches,
    checked_device,
    checked_dtype,
    understood,
)
from modeling.checkpoint.model import Parts, bagel_config, check_weights, empty_model
from modeling.checkpoint.placement import DeviceMap, Placement
from modeling.checkpoint.published import protocol_of
from modeling.checkpoint.settings import SETTINGS_FILE, read_settings
from modeling.checkpoint.sizes import transforms
from modeling.checkpoint.weights import open_weights
from modeling.qwen2 import Qwen2Tokenizer
from modeling.small_files import require_file

logger = logging.getLogger("auto_interleaved")


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
        protocol: the preset by which it asks for pictures, see `protocol_of`.
    """

    model: Bagel
    vae_model: AutoEncoder
    tokenizer: Qwen2Tokenizer
    vae_transform: ImageTransform
    vit_transform: ImageTransform
    new_token_ids: dict[str, int]
    settings: dict[str, Any]
    protocol: str = "native"


def load_checkpoint(  # noqa: PLR0913 - transformers' and the hub's names, each optional
    path_or_hub_id: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    decision: str | os.PathLike[str] | None = None,
    adapter: Paths | None = None,
    dtype: torch.dtype | str | None = None,
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
    **others: Any,
) -> Checkpoint:
    """Load a checkpoint in the published layout.

    Weights stay mapped to their file until they are converted or moved to another device: on the
    CPU and in the stored dtype, loading reads nothing but headers. The files must not change while
    the model is in use.

    Args:
        path_or_hub_id: a directory, one of the weight files in it, or a hub id.
        base: the checkpoint that has what this one lacks: configurations, tokenizer, autoencoder,
            tensors. What training saves is often no more than the weights that it changed.
        decision: what `train.py --trainable decision` learnt for this checkpoint, the file or its
            folder: rows of the head by which it asks for pictures. See `docs/training.md`.
        adapter: one folder or several in peft's layout, by `train.py --lora-rank` or another
            program. All of them count; `modeling.checkpoint.adapters` switches and merges them.
        dtype: of the model and the autoencoder: float32, bfloat16 or float16, also by name; None
            or "auto" is what the settings say, else each is kept as it is stored.
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
        **others: `torch_dtype`, transformers' older name of `dtype`; any other is an error.

    Returns:
        Model, autoencoder, tokenizer, transforms, special ids and settings.

    Raises:
        FileNotFoundError: the checkpoint, or a file that it must have, is not there.
        ValueError: a file is damaged, its content does not fit the others', or an option is out of
            range; the message names the file and what to do.
        TypeError: a keyword is unknown or its value of a wrong type.
        ImportError: `fp8` without torchao, `adapter` without peft.
    """
    spelled = understood({**_keywords(), "dtype": dtype}, others)
    check_switches(local_files_only=local_files_only, compile_layers=compile_layers, fp8=fp8)
    check_hub_options(revision, cache_dir, token)
    placement = Placement(
        dtype=checked_dtype(spelled["dtype"]),
        device=checked_device(device),
        device_map=device_map,
        max_memory=max_memory,
        offload_folder=offload_folder,
    )
    if fp8:
        _check_fp8(placement)
    learnt = None if decision is None else Decision.load(decision)
    adapters = {} if adapter is None else find_adapters(adapter)
    if fp8 and adapters:
        raise ValueError(
            "fp8=True does not go with adapter=; merge it into the checkpoint first: "
            "python -m training.merge"
        )
    location = locate(
        path_or_hub_id,
        base=base,
        revision=revision,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
        token=token,
    )
    known = read_settings(location.file(SETTINGS_FILE), settings)
    if placement.dtype is None and "dtype" in known:
        placement = replace(placement, dtype=getattr(torch, known["dtype"]))
    source = "settings" if settings else location.file(SETTINGS_FILE)
    if "protocol" not in (settings or {}):
        asks = protocol_of_adapters(adapters) if learnt is None else PROTOCOL
        known = known if asks is None else {**known, "protocol": asks}
    checkpoint = _load(location, placement, known, source, learnt)
    if adapters:
        add_adapters(checkpoint.model, adapters)
    if fp8:
        speed.quantize_fp8(checkpoint.model)
    if compile_layers:
        speed.compile_layers(checkpoint.model)
    return checkpoint


def _keywords() -> dict[str, None]:
    """Return the names of the loading keywords."""
    named = inspect.signature(load_checkpoint).parameters.values()
    return {p.name: None for p in named if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _check_fp8(placement: Placement) -> None:
    # The devices first: what is missing besides would not help.
    speed.check_fp8_devices(placement.devices())
    speed.check_fp8(placement.devices())


def _load(
    location: Location,
    placement: Placement,
    settings: dict[str, Any],
    source: object,
    decision: Decision | None,
) -> Checkpoint:
    """Check everything that is cheap to check, then fill the model."""
    own = open_weights(location.weights)
    base = own if location.base is None else open_weights(location.base.weights)
    location.require((AUTOENCODER_FILE,), (LLM_CONFIG_FILE,), (VIT_CONFIG_FILE,), TOKENIZER_FILES)
    parts = Parts.read(location, own.over(base))
    tokenizer, new_token_ids = _tokenizer(
        location.home(*TOKENIZER_FILES), parts.llm_config.vocab_size
    )
    vae_model = _autoencoder(location.file(AUTOENCODER_FILE), settings)
    config = bagel_config(parts, own.over(base), vae_model.params, settings)
    model = empty_model(config)
    weights = own.over(base, model.state_dict().keys())
    check_weights(model, weights)
    if decision is not None:
        weights = decision.over(weights, tokenizer.get_vocab(), "decision")
    vae_transform, vit_transform = transforms(config, settings, source)
    placement.fill(model, weights)
    vae_model.to(device=model.device, dtype=placement.dtype or vae_model.dtype)
    protocol, why = protocol_of(location, config, own, settings)
    logger.info("%s: protocol %r, because %s", location.directory, protocol, why)
    return Checkpoint(
        model=model,
        vae_model=vae_model,
        tokenizer=tokenizer,
        vae_transform=vae_transform,
        vit_transform=vit_transform,
        new_token_ids=new_token_ids,
        settings=settings,
        protocol=protocol,
    )


def _autoencoder(path: Path, settings: Mapping[str, Any]) -> AutoEncoder:
    require_file(path, FROM_BASE)
    vae_model, params = load_ae(path)
    vae_model.params = replace(params, **settings.get("autoencoder", {}))
    return vae_model


def _tokenizer(directory: Path, rows: int) -> tuple[Qwen2Tokenizer, dict[str, int]]:
    """Read the tokenizer of a model that embeds so many tokens."""
    tokenizer, new_token_ids, added = add_special_tokens(Qwen2Tokenizer.from_pretrained(directory))
    if added:
        logger.warning(
            "the tokenizer files in %s do not name all of %s: %d of them got new ids, hardly those "
            "that the model was trained with; copy its tokenizer_config.json there",
            directory,
            ", ".join(MARKERS.values()),
            added,
        )
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens, but the model embeds only "
            f"{rows}; copy the tokenizer files of the checkpoint that was trained on there"
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(
            f"the tokenizer in {directory} gives ids up to {largest}, but the model embeds only "
            f"{rows}; copy the tokenizer files of the checkpoint that was trained on there"
        )
    return tokenizer, new_token_ids
