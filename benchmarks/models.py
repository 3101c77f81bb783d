"""Models to measure: the bundled one, and shapes with random weights, built where they run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel

from auto_interleaved_inference import AutoInterleavedInferencer
from data.data_utils import add_special_tokens
from data.transforms import ImageTransform
from modeling.autoencoder import AutoEncoder, AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.qwen2 import Qwen2Tokenizer

NUM_WRITABLE = 94  # the alphabet's first symbols: visible ASCII, one character a token


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model and of its images.

    Attributes:
        decoder, vision: their configurations.
        autoencoder: its parameters where they differ from the published ones.
        latent_side: tokens a side of the largest image that is drawn, and of the usual one.
        rope_theta: base of the decoder's rotations.
    """

    decoder: dict[str, Any]
    vision: dict[str, Any]
    autoencoder: dict[str, Any] = field(default_factory=dict)
    latent_side: int
    rope_theta: float = 1e6


SHAPES = {
    "mid": Shape(
        decoder={
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1 << 17,
        },
        vision={
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
        },
        autoencoder={"ch": 32},
        latent_side=16,
    ),
    "7b": Shape(
        decoder={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1 << 17,
        },
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 980,
            "patch_size": 14,
        },
        latent_side=64,
    ),
}


def build(name: str, device: torch.device | str, dtype: torch.dtype) -> AutoInterleavedInferencer:
    """Build a model by name, directly on its device, with everything around it."""
    if name in SHAPES:
        inferencer = build_shape(SHAPES[name], device, dtype)
    else:
        from modeling.checkpoint import BUNDLED_MODEL

        inferencer = AutoInterleavedInferencer.from_pretrained(
            BUNDLED_MODEL, device=device, dtype=dtype
        )
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def build_shape(
    shape: Shape, device: torch.device | str, dtype: torch.dtype
) -> AutoInterleavedInferencer:
    """Build a shape with random weights.

    Greedy texts of such a model hold visible ASCII only, a character a token: they never end by
    themselves, and tokenising them again gives the same ids.
    """
    params = AutoEncoderParams(**shape.autoencoder)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model, autoencoder = _random_bagel(shape, params), AutoEncoder(params)
    finally:
        torch.set_default_dtype(default)
    for module in (model, autoencoder):
        module.eval().requires_grad_(False)
    for table in (model.latent_pos_embed, model.vit_pos_embed):
        table.to(device)  # they are made on the CPU
    # Zeroed, not left out: as many bytes are read and as many products computed.
    model.language_model.lm_head.weight[NUM_WRITABLE:] = 0
    tokenizer, new_token_ids, _ = add_special_tokens(_byte_tokenizer())
    stride, patch = model.latent_downsample, model.vit_patch_size
    largest, seen = shape.latent_side * stride, shape.vision["image_size"]
    return AutoInterleavedInferencer(
        model,
        autoencoder,
        tokenizer,
        ImageTransform(largest, largest // 2, stride),
        ImageTransform(seen, min(224, seen), patch),
        new_token_ids,
        image_shape=(largest, largest),
    )


def _random_bagel(shape: Shape, params: AutoEncoderParams) -> Bagel:
    llm_config = Qwen2Config(
        **shape.decoder, rope_theta=shape.rope_theta, tie_word_embeddings=False
    )
    vit_config = SiglipVisionConfig(**shape.vision)
    config = BagelConfig(
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=params,
        max_latent_size=shape.latent_side,
        vit_max_num_patch_per_side=vit_config.image_size // vit_config.patch_size,
    )
    model = Bagel(Qwen2ForCausalLM(llm_config), SiglipVisionModel(vit_config), config)
    model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config)
    return model


def _byte_tokenizer() -> Qwen2Tokenizer:
    """Make a tokenizer whose tokens are the bytes; visible ASCII comes first."""
    with tempfile.TemporaryDirectory() as directory:
        alphabet = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
        Path(directory, "vocab.json").write_text(json.dumps(alphabet), encoding="utf-8")
        Path(directory, "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        return Qwen2Tokenizer.from_pretrained(directory)
