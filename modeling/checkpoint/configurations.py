"""The two configuration files: every value that a model is built from is checked before it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.wording import shown
from modeling.bagel import Qwen2Config, SiglipVisionConfig
from modeling.checkpoint.files import FROM_BASE
from modeling.checkpoint.kinds import POSITIVE, SWITCH, Kind, check_values, count, one_of, optional
from modeling.checkpoint.settings import ACTIVATION, LARGEST_TABLE_SIDE
from modeling.checkpoint.weights import Weights
from modeling.small_files import read_object

LLM_CONFIG_FILE = "llm_config.json"
VIT_CONFIG_FILE = "vit_config.json"

_REMEDY = "; copy the file of the checkpoint that these weights belong to"

# Modules and tables take memory before any tensor is compared, so these are bounds of what could
# ever be loaded, far above what is published.
_WIDTH, _LAYERS, _HEADS = count(65_536), count(1_024), count(4_096)

_LLM_NEEDED: Mapping[str, Kind] = {
    "hidden_size": _WIDTH,
    "intermediate_size": count(1_048_576),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "vocab_size": count(16_777_216),
}
_LLM_OTHERS: Mapping[str, Kind] = {
    "rope_theta": POSITIVE,
    "rms_norm_eps": POSITIVE,
    "max_position_embeddings": count(1_000_000_000),
    "hidden_act": one_of(("silu", "swish")),
    "qk_norm": SWITCH,
}
_VIT_NEEDED: Mapping[str, Kind] = {
    "hidden_size": _WIDTH,
    "intermediate_size": count(1_048_576),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "patch_size": count(1_024),
    "image_size": count(65_536),
}
_VIT_OTHERS: Mapping[str, Kind] = {
    "num_channels": count(16),
    "layer_norm_eps": POSITIVE,
    "hidden_act": ACTIVATION,
}
_ROPE = Kind(
    accepts=lambda value: (
        isinstance(value, Mapping)
        and value.get("rope_type", value.get("type", "default")) == "default"
        and POSITIVE.accepts(value.get("rope_theta", 1))
    ),
    words="null or of type 'default' (longer contexts by scaled positions are not computed here)",
)

_VIT_LAYER = re.compile(r"vit_model\.vision_model\.encoder\.layers\.(\d{1,9})\.")


def read_llm_config(path: Path, weights: Weights) -> Qwen2Config:
    """Read the decoder's configuration.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a value cannot be, or contradicts another or the weights.
    """
    values = _read(path, _LLM_NEEDED, _LLM_OTHERS)
    check_values(values, dict.fromkeys(("rope_scaling", "rope_parameters"), optional(_ROPE)), path)
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    _check_multiple(path, values, "hidden_size", "num_attention_heads")
    _check_multiple(path, values, "num_attention_heads", "num_key_value_heads")
    if hidden // heads % 2 or hidden % 4:
        raise ValueError(
            f"{path}: hidden_size must be a multiple of 4 and an even number for each head, got "
            f"{hidden} with {heads} heads{_REMEDY}"
        )
    if values.get("head_dim") not in (None, hidden // heads):
        raise ValueError(
            f"{path}: head_dim must be hidden_size / num_attention_heads = {hidden // heads}, got "
            f"{shown(values['head_dim'])}{_REMEDY}"
        )
    embedding = "language_model.model.embed_tokens.weight"
    _check_stored(path, values, "vocab_size", weights, embedding, axis=0)
    _check_stored(path, values, "hidden_size", weights, embedding, axis=1)
    # The published file describes the Qwen2 that BAGEL grew out of; scripts set these.
    set_here = {"layer_module": "Qwen2MoTDecoderLayer", "tie_word_embeddings": False}
    return _made(Qwen2Config, {**values, **set_here}, path)


def read_vit_config(path: Path, weights: Weights) -> SiglipVisionConfig:
    """Read the vision encoder's configuration; its layers are counted in the weights.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a value cannot be, or contradicts another or the weights.
    """
    values = _read(path, _VIT_NEEDED, _VIT_OTHERS)
    _check_multiple(path, values, "hidden_size", "num_attention_heads")
    if not 1 <= values["image_size"] // values["patch_size"] <= LARGEST_TABLE_SIDE:
        raise ValueError(
            f"{path}: image_size must be 1 to {LARGEST_TABLE_SIDE} times patch_size "
            f"{values['patch_size']}, got {values['image_size']}{_REMEDY}"
        )
    positions = "vit_model.vision_model.embeddings.position_embedding.weight"
    _check_stored(path, values, "hidden_size", weights, positions, axis=1)
    indices = [int(match[1]) for name in weights.tensors if (match := _VIT_LAYER.match(name))]
    stored, configured = max(indices, default=-1) + 1, values["num_hidden_layers"]
    # The published configuration counts one layer more than was ever used. A file with fewer than
    # that is not whole, and `check_weights` will say what it lacks.
    layers = stored if stored == configured else configured - 1
    return _made(SiglipVisionConfig, {**values, "rope": False, "num_hidden_layers": layers}, path)


def _read(path: Path, needed: Mapping[str, Kind], others: Mapping[str, Kind]) -> dict[str, Any]:
    values = read_object(path, FROM_BASE)
    absent = [key for key in needed if key not in values]
    if absent:
        raise ValueError(f"{path} does not say {', '.join(absent)}{_REMEDY}")
    check_values(values, {**needed, **others}, path, _REMEDY)
    return values


def _check_multiple(path: Path, values: Mapping[str, Any], whole: str, part: str) -> None:
    if values[whole] % values[part]:
        raise ValueError(
            f"{path}: {whole} must be a multiple of {part} {values[part]}, got {values[whole]}"
            f"{_REMEDY}"
        )


def _check_stored(  # noqa: PLR0913 - a value and where its like is stored
    path: Path, values: Mapping[str, Any], key: str, weights: Weights, name: str, *, axis: int
) -> None:
    """Compare with one tensor what would otherwise show as a wrong shape of every tensor."""
    stored = weights.tensors.get(name)
    if stored is not None and len(stored.shape) == 2 and stored.shape[axis] != values[key]:
        raise ValueError(
            f"{path}: {key} is {values[key]}, but the weights have {stored.shape[axis]} "
            f"({weights.place(name)}: found {stored.shape}){_REMEDY}"
        )


def _made(kind: type[Any], values: Mapping[str, Any], path: Path) -> Any:
    """Make a configuration; transformers checks some of what is not needed here, too."""
    try:
        return kind(**values)
    except Exception as error:  # its type depends on the value and on transformers' version
        raise ValueError(
            f"{path} is not read by transformers ({type(error).__name__}: {shown(str(error))})"
            f"{_REMEDY}"
        ) from error
