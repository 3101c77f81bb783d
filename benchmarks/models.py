"""Models to measure: shapes with random weights, built where they run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modeling.autoencoder import AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

MARKERS = (3, 4)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model and of its usual image, in latent tokens a side."""

    decoder: dict[str, int]
    vision: dict[str, int]
    max_latent_size: int
    image_side: int


SHAPES = {
    "mid": Shape(
        decoder={
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        vision={
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
        },
        max_latent_size=16,
        image_side=16,
    ),
    "7b": Shape(
        decoder={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        vision={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 980,
            "patch_size": 14,
        },
        max_latent_size=64,
        image_side=64,
    ),
}


def build(name: str, device: torch.device | str, dtype: torch.dtype) -> Bagel:
    """Build a model of a named shape with small random weights, directly on its device."""
    shape = SHAPES[name]
    llm_config = Qwen2Config(
        **shape.decoder,
        rope_theta=1e6,
        max_position_embeddings=1 << 17,
        tie_word_embeddings=False,
    )
    vit_config = SiglipVisionConfig(**shape.vision)
    config = BagelConfig(
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=AutoEncoderParams(),
        max_latent_size=shape.max_latent_size,
        vit_max_num_patch_per_side=vit_config.image_size // vit_config.patch_size,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Bagel(Qwen2ForCausalLM(llm_config), SiglipVisionModel(vit_config), config)
            model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config)
    finally:
        torch.set_default_dtype(default)
    return model.to(dtype).eval().requires_grad_(False)
