"""The model's own calls, as evaluations make them: pictures of a batch of prompts, and a chat."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache
from modeling.checkpoint import BUNDLED_MODEL

PROMPTS = ("a red circle on the grass", "two blue squares", "a yellow star above a green hill")


def on(device: torch.device, inputs: dict[str, Any]) -> dict[str, Any]:
    """Move what a `prepare_*` call returned, key by key."""
    return {k: v.to(device) if torch.is_tensor(v) else v for k, v in inputs.items()}


def draw_batch(
    parts: InterleaveInferencer, prompts: Sequence[str], size: tuple[int, int], **options: Any
) -> list[Image.Image]:
    """Draw one picture a prompt, each guided away from a picture of nothing at all."""
    model, ids = parts.model, parts.new_token_ids
    num_layers, nothing = model.config.llm_config.num_hidden_layers, [0] * len(prompts)
    sizes = [size] * len(prompts)

    cache = NaiveCache(num_layers)
    inputs, lengths, ropes = model.prepare_prompts(nothing, nothing, prompts, parts.tokenizer, ids)
    cache = model.forward_cache_update_text(cache, **on(model.device, inputs))

    image = model.prepare_vae_latent(lengths, ropes, sizes, ids)
    empty = on(model.device, model.prepare_vae_latent_cfg(nothing, nothing, sizes))
    latents = model.generate_image(
        past_key_values=cache,
        **on(model.device, image),
        cfg_text_past_key_values=NaiveCache(num_layers),
        cfg_text_packed_position_ids=empty["cfg_packed_position_ids"],
        cfg_text_key_values_lens=empty["cfg_key_values_lens"],
        cfg_text_packed_query_indexes=empty["cfg_packed_query_indexes"],
        cfg_text_packed_key_value_indexes=empty["cfg_packed_key_value_indexes"],
        **{"cfg_text_scale": 4.0, "cfg_interval": (0.4, 1.0), "timestep_shift": 3.0} | options,
    )
    return [parts.decode_image(latent, size) for latent in latents]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all pictures at once, then ask about each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="batch", help="a folder for the pictures")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = AutoInterleavedInferencer.from_pretrained(given.model, device=device)

    torch.manual_seed(0)
    pictures = draw_batch(parts, PROMPTS, parts.image_shape, num_timesteps=25)
    Path(given.output).mkdir(parents=True, exist_ok=True)
    for number, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        picture.save(Path(given.output) / f"{number}.png")
        answer = parts.model.chat(
            parts.tokenizer,
            parts.new_token_ids,
            parts.vit_transform,
            images=[picture],
            prompt="What is in the picture?",
            max_length=40,
        )
        print(f"{prompt}: {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
