"""The model that a checkpoint describes: its configuration, its shape, and what must fill it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from transformers.activations import ACT2FN

from modeling.autoencoder import AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.checkpoint.files import BASE_CHECKPOINT, read_json, shorten
from modeling.checkpoint.weights import Weights

LLM_CONFIG_FILE = "llm_config.json"
VIT_CONFIG_FILE = "vit_config.json"
PUBLISHED_LATENT_PATCH_SIZE = 2
PUBLISHED_MAX_LATENT_SIZE = 64

_VIT_LAYER = re.compile(r"vit_model\.vision_model\.encoder\.layers\.(\d+)\.")


def bagel_config(
    directory: Path, weights: Weights, vae_config: AutoEncoderParams, settings: Mapping[str, Any]
) -> BagelConfig:
    """Work out how a checkpoint's model is configured.

    What `settings["bagel"]` does not say is read off the tensors, else off the configurations, and
    has the published value where none of them tells.

    Args:
        directory: holds `llm_config.json` and `vit_config.json`.
        weights: the tensors; their shapes are looked at.
        vae_config: the autoencoder's sizes.
        settings: what `read_settings` returned.

    Raises:
        FileNotFoundError: a configuration is missing.
        ValueError: a configuration is not valid, or the activation is unknown.
    """
    llm_config = _llm_config(directory)
    vit_config = _vit_config(directory, weights)
    found = {
        "latent_patch_size": _latent_patch_size(weights, vae_config),
        "max_latent_size": _table_side(weights, "latent_pos_embed") or PUBLISHED_MAX_LATENT_SIZE,
        "vit_max_num_patch_per_side": _table_side(weights, "vit_pos_embed")
        or vit_config.image_size // vit_config.patch_size,
    }
    values = {**found, **settings.get("bagel", {})}
    config = BagelConfig(
        llm_config=llm_config, vit_config=vit_config, vae_config=vae_config, **values
    )
    if config.connector_act not in ACT2FN:
        raise ValueError(
            f"connector_act must be an activation that transformers knows, such as "
            f"'gelu_pytorch_tanh', got {config.connector_act!r}"
        )
    return config


def _llm_config(directory: Path) -> Qwen2Config:
    config = Qwen2Config(**read_json(directory / LLM_CONFIG_FILE))
    # The published file describes the Qwen2 that BAGEL grew out of; scripts set these.
    config.layer_module = "Qwen2MoTDecoderLayer"
    config.tie_word_embeddings = False
    return config


def _vit_config(directory: Path, weights: Weights) -> SiglipVisionConfig:
    config = SiglipVisionConfig(**read_json(directory / VIT_CONFIG_FILE))
    config.rope = False
    indices = [int(match[1]) for name in weights.tensors if (match := _VIT_LAYER.match(name))]
    stored, configured = max(indices, default=-1) + 1, config.num_hidden_layers
    # The published configuration counts one layer more than was ever used. A file with fewer than
    # that is not whole, and `check_weights` will say what it lacks.
    config.num_hidden_layers = stored if stored == configured else configured - 1
    return config


def _latent_patch_size(weights: Weights, vae_config: AutoEncoderParams) -> int:
    stored = weights.tensors.get("vae2llm.weight")
    values = stored.shape[-1] / vae_config.z_channels if stored is not None else 0
    side = math.isqrt(int(values))
    return side if side and side**2 == values else PUBLISHED_LATENT_PATCH_SIZE


def _table_side(weights: Weights, name: str) -> int | None:
    stored = weights.tensors.get(f"{name}.pos_embed")
    return math.isqrt(stored.shape[0]) if stored is not None else None


def empty_model(config: BagelConfig) -> Bagel:
    """Build a model whose parameters have shapes and no storage; its position tables are real.

    Args:
        config: with all three parts' configurations.
    """
    assert config.llm_config is not None
    assert config.vit_config is not None
    with init_empty_weights(include_buffers=False):
        vit_model = SiglipVisionModel(config.vit_config)
        embeddings = vit_model.vision_model.embeddings
        embeddings.convert_conv2d_to_linear(config.vit_config, meta=True)
        model = Bagel(Qwen2ForCausalLM(config.llm_config), vit_model, config)
    return model.eval()


def check_weights(model: Bagel, weights: Weights) -> None:
    """Compare the tensors of a checkpoint with those that the model has.

    The position tables may be absent: they are computed.

    Raises:
        ValueError: tensors are missing or unexpected, have the wrong shape, or a dtype that cannot
            be loaded; the message lists them and says what to do.
    """
    needed = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    tables = {name: tuple(table.shape) for name, table in model.named_buffers()}
    expected = {**needed, **tables}
    stored = weights.tensors
    shared = sorted(expected.keys() & stored.keys())
    wrong = [
        f"{weights.place(name)}: found {stored[name].shape}, expected {expected[name]}"
        for name in shared
        if stored[name].shape != expected[name]
    ]
    strange = [
        f"{weights.place(name)}: {stored[name].dtype}"
        for name in shared
        if not stored[name].loadable
    ]
    missing, unexpected = needed.keys() - stored.keys(), stored.keys() - expected.keys()
    faults = [
        ("are missing", _grouped(missing, whole=stored), _advice_on_missing(missing)),
        ("are not the model's", _grouped(unexpected, whole=expected), _ADVICE_ON_UNEXPECTED),
        ("have the wrong shape", shorten(wrong), _ADVICE_ON_SHAPES),
        ("are of a dtype that cannot be loaded", shorten(strange), _ADVICE_ON_DTYPES),
    ]
    said = [f"tensors that {what}: {names} ({advice})" for what, names, advice in faults if names]
    if said:
        raise ValueError(f"{weights.source} does not fit its model. " + ". ".join(said))


_ADVICE_ON_UNEXPECTED = "give the file of the whole model, without optimizer states"
_ADVICE_ON_SHAPES = (
    f"{LLM_CONFIG_FILE}, {VIT_CONFIG_FILE}, ae.safetensors or the settings belong to another model"
)
_ADVICE_ON_DTYPES = "use the bfloat16 or float32 file, and quantise it while loading"


def _advice_on_missing(missing: Iterable[str]) -> str:
    if any(name.startswith("vit_model.") for name in missing):
        return (
            "training may leave the vision encoder out of its files; take these tensors from the "
            f"base checkpoint, {BASE_CHECKPOINT}, and save them with the others"
        )
    return f"take them from the checkpoint that was trained on, such as {BASE_CHECKPOINT}"


def _grouped(names: Iterable[str], *, whole: Iterable[str]) -> str:
    """List names; of a part of which the other side has nothing at all, only the number."""
    present = {name.split(".")[0] for name in whole}
    parts: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        parts[name.split(".")[0]].append(name)
    items: list[str] = []
    for part, members in parts.items():
        collapsed = part not in present and len(members) > 1
        items += [f"{part}.* ({len(members)} tensors)"] if collapsed else members
    return shorten(items)
