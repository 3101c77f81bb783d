"""Toy parts with random weights: small enough to run in milliseconds, real in every other way."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from data.data_utils import add_special_tokens
from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from modeling.autoencoder import AutoEncoder, AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.context import Context
from modeling.qwen2 import Qwen2Tokenizer

TOKENIZER = Path(__file__).parent / "golden" / "checkpoint"
VOCABULARY = 504  # of that tokenizer
BOS, EOS, START, END = 500, 501, 502, 503
MARKERS = (START, END)
STRIDE = 4  # pixels a latent token spans: the autoencoder halves, a token is 2 x 2


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew, so that no two are alike and no signal dies out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:  # norms keep about 1, biases about 0
                parameter.copy_(parameter.round().clamp(0, 1) + noise / 10)
    return module.eval()


def toy_llm_config(**changes: Any) -> Qwen2Config:
    """Configure a decoder of two layers with grouped heads."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    return Qwen2Config(**settings | changes)


def toy_vit_config(**changes: Any) -> SiglipVisionConfig:
    """Configure a vision encoder of two layers over at most 6 x 6 patches."""
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 24,
    }
    return SiglipVisionConfig(**settings | changes)


def toy_vit(**changes: Any) -> SiglipVisionModel:
    """Build a vision encoder that takes patches."""
    config = toy_vit_config(**changes)
    model = SiglipVisionModel(config)
    model.vision_model.embeddings.convert_conv2d_to_linear(config)
    randomise(model, seed=1)
    return model


def toy_autoencoder() -> AutoEncoder:
    """Build an autoencoder that halves each side, to 4 channels."""
    params = AutoEncoderParams(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, downsample=2, resolution=32
    )
    autoencoder = AutoEncoder(params)
    randomise(autoencoder, seed=2)
    return autoencoder


def toy_bagel(*, interpolate_pos: bool = False, seed: int = 0, **llm_changes: Any) -> Bagel:
    """Build a model that draws up to 32 x 32 pixels and sees up to 24 x 24."""
    llm_config, vit = toy_llm_config(**llm_changes), toy_vit()
    config = BagelConfig(
        llm_config=llm_config,
        vit_config=vit.config,
        vae_config=toy_autoencoder().params,
        max_latent_size=8,
        vit_max_num_patch_per_side=6,
        interpolate_pos=interpolate_pos,
    )
    model = Bagel(Qwen2ForCausalLM(llm_config), vit, config)
    randomise(model, seed)
    return model


@cache
def toy_tokenizer() -> Qwen2Tokenizer:
    """Read the golden checkpoint's tokenizer."""
    return Qwen2Tokenizer.from_pretrained(TOKENIZER)


def toy_inferencer(model: Bagel | None = None, **ids: int) -> InterleaveInferencer:
    """Put an inferencer together; `ids` replace special tokens."""
    tokenizer, new_token_ids, _ = add_special_tokens(toy_tokenizer())
    return InterleaveInferencer(
        toy_bagel() if model is None else model,
        toy_autoencoder(),
        tokenizer,
        ImageTransform(32, 8, STRIDE),
        ImageTransform(24, 8, 4),
        new_token_ids | ids,
    )


def picture(width: int = 16, height: int = 8, seed: int = 0) -> Image.Image:
    """Return a picture of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def noise_of(grid: tuple[int, int], seed: int = 0, channels: int = 16) -> Tensor:
    """Return noise for a grid of the toy model's latent tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(grid[0] * grid[1], channels, generator=generator)


def read_ids(model: Bagel, context: Context, ids: list[int]) -> Context:
    """Read a text of these ids."""
    return model.read(context, model.text_block(ids))[0]


@torch.no_grad()
def teach(model: Bagel, context: Context, ids: list[int]) -> None:
    """Change the vocabulary head so that greedy decoding after this context writes these ids.

    At most as many ids as the model is wide. The layers stay as they are, and so does every
    context.
    """
    head = model.language_model.lm_head
    fed = [BOS, *ids[:-1]]
    _, hidden = model.read(context, model.text_block(fed))
    wanted = torch.full((len(ids), head.out_features), -20.0)
    wanted[torch.arange(len(ids)), torch.tensor(ids)] = 20.0
    normed = model.language_model.model.norm(hidden.clone())
    head.weight.copy_(torch.linalg.lstsq(normed, wanted).solution.T)


def told(value: object) -> str:
    """Name a parameter of a test alike in every process: without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
