"""The bundled model from nothing: tokenizer, autoencoder, then vision encoder and decoder."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import nn

from data.packing import Part
from modeling.autoencoder import AutoEncoder
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from modeling.checkpoint.settings import SETTINGS_FILE
from modeling.qwen2 import NUM_BYTES, Qwen2Tokenizer
from picturebook.training.autoencoder import PARAMS, load_autoencoder, train_autoencoder
from picturebook.training.outlines import (
    VISION_PATCH,
    encode_pictures,
    sample_outline,
    texts_for_tokenizer,
)
from training.decoder import accelerator, train_decoder
from training.optimizing import Average, muon_and_adamw
from training.plan import Plan, require_count, require_device, require_output
from training.samples import FollowingIds, Recipe, by_length, parts_of
from training.states import replace_file
from training.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILES, special_ids, train_tokenizer

logger = logging.getLogger("auto_interleaved.training")

PICTURE_SIZE, LATENT_STRIDE = 64, 16
DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}
VISION = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "patch_size": VISION_PATCH,
    "image_size": PICTURE_SIZE,
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of everything.

    Attributes:
        vocab_size: of the tokenizer, special tokens included.
        tokenizer_stories: samples that the tokenizer is trained on.
        autoencoder_steps: optimiser steps of the autoencoder.
        autoencoder_batch: pictures a step.
        caption_steps: steps of the first stage, single captioned pictures.
        story_steps: steps of the second stage, everything.
        batch_tokens: tokens a step, padding included.
        pool: samples that are drawn, encoded and sorted by length together.
    """

    vocab_size: int = 768
    tokenizer_stories: int = 3000
    autoencoder_steps: int = 6000
    autoencoder_batch: int = 16
    caption_steps: int = 1500
    story_steps: int = 8000
    batch_tokens: int = 4096
    pool: int = 512

    def __post_init__(self) -> None:
        for entry in fields(self):
            stage = entry.name in ("caption_steps", "story_steps")
            require_count(entry.name, getattr(self, entry.name), least=0 if stage else 1)
        if not self.caption_steps + self.story_steps:
            raise ValueError("caption_steps and story_steps must not both be 0")
        least = NUM_BYTES + len(SPECIAL_TOKENS)
        require_count("vocab_size", self.vocab_size, least=least)


def train_picturebook(
    directory: Path,
    budget: Budget,
    device: str,
    start_from: Path | None = None,
    save_every: float = 10.0,
) -> None:
    """Train, or go on training, the bundled model; the finished checkpoint is in `directory`.

    Every part resumes where it was: its state lies in `directory / "state"`. Several processes
    share the work on the decoder, each with samples of its own.

    Args:
        directory: where the checkpoint goes, in the published layout.
        budget: how much of everything.
        device: where to train.
        start_from: a finished picture-book checkpoint whose tokenizer, autoencoder and weights to
            go on from, instead of from nothing.
        save_every: minutes between two saved states.

    Raises:
        FileNotFoundError, ValueError: a place or a file is not what it must be.
        NotANumberError, Interrupted: see `train_decoder`.
    """
    plan = Plan(steps=budget.caption_steps + budget.story_steps, save_every=save_every)
    require_device(device)
    _require_places(directory, start_from)
    runner = accelerator(device)
    state = directory / "state"
    state.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with runner.main_process_first():
        if start_from is not None:
            for name in TOKENIZER_FILES:
                replace_file(directory / name, partial(shutil.copyfile, start_from / name))
        elif not all((directory / name).exists() for name in TOKENIZER_FILES):
            texts = texts_for_tokenizer(budget.tokenizer_stories)
            train_tokenizer(directory, texts, budget.vocab_size)
        tokenizer = Qwen2Tokenizer.from_pretrained(directory)
        model = build_model(len(tokenizer)).to(runner.device)
        if start_from is None:
            autoencoder = _autoencoder(state, budget, str(runner.device))
        else:
            old = load_checkpoint(start_from, dtype=torch.float32, device=runner.device)
            _take_weights(model, old.model, start_from)
            autoencoder = old.vae_model.requires_grad_(False)
    torch.manual_seed(runner.process_index)
    special, following = special_ids(tokenizer)
    average = Average(model)
    train_decoder(
        model,
        muon_and_adamw(model),
        lambda first: batches(
            first, budget, tokenizer.encode, following, autoencoder, runner.process_index
        ),
        special,
        plan,
        state / "decoder",
        runner,
        average=average,
    )
    if runner.is_main_process:
        save_checkpoint(directory, model, average, autoencoder)


def _require_places(directory: Path, start_from: Path | None) -> None:
    if start_from is not None:
        missing = [name for name in TOKENIZER_FILES if not (start_from / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"start_from must be a picture-book checkpoint, and {start_from} has no "
                f"{' and no '.join(missing)}"
            )
    require_output(directory, BUNDLED_MODEL, *([] if start_from is None else [start_from]))


def _take_weights(model: Bagel, old: Bagel, start_from: Path) -> None:
    try:
        model.load_state_dict(old.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"start_from must be a picture-book checkpoint, and {start_from} has other shapes; "
            "teach it by --checkpoint and --data"
        ) from error


def build_model(vocab_size: int) -> Bagel:
    """Build the bundled model's shape with fresh weights."""
    llm_config = Qwen2Config(vocab_size=vocab_size, tie_word_embeddings=False, **DECODER)
    vit_config = SiglipVisionConfig(**VISION)
    side = PICTURE_SIZE // LATENT_STRIDE
    config = BagelConfig(
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=PARAMS,
        max_latent_size=side,
        vit_max_num_patch_per_side=PICTURE_SIZE // VISION_PATCH,
    )
    model = Bagel(Qwen2ForCausalLM(llm_config), SiglipVisionModel(vit_config), config)
    model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config)
    nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.5)
    nn.init.zeros_(model.llm2vae.weight)
    nn.init.zeros_(model.llm2vae.bias)
    nn.init.normal_(model.language_model.lm_head.weight, std=0.02)
    return model


def batches(  # noqa: PLR0913 - what samples are made with
    first: int,
    budget: Budget,
    tokenize: Callable[[str], list[int]],
    following: FollowingIds,
    autoencoder: AutoEncoder,
    process: int,
) -> Iterator[list[list[Part]]]:
    """Yield batches of sequences of like length: single captions at first, then everything.

    Args:
        first: the step to begin at.
        budget: steps of the first stage, tokens a batch, samples a pool.
        tokenize: text to ids.
        following: ids learnt after a text's eos.
        autoencoder: encodes the pictures.
        process: each process draws samples of its own.
    """
    step = first
    while True:
        stage = "captions" if step < budget.caption_steps else "stories"
        rng = Random(f"{stage} {step} {process}")
        outlines = [sample_outline(rng, stage) for _ in range(budget.pool)]
        encoded = encode_pictures(outlines, autoencoder)
        recipe = Recipe(copies=4 if stage == "captions" else 2)
        sequences = [
            parts_of(outline, pictures, tokenize, following, recipe, rng)
            for outline, pictures in zip(outlines, encoded, strict=True)
        ]
        for batch in by_length(sequences, budget.batch_tokens, rng):
            yield batch
            step += 1


def _autoencoder(state: Path, budget: Budget, device: str) -> AutoEncoder:
    path = state / "ae.safetensors"
    if path.exists():
        return load_autoencoder(path, device)
    return train_autoencoder(
        path,
        steps=budget.autoencoder_steps,
        batch_size=budget.autoencoder_batch,
        device=device,
    )


def save_checkpoint(
    directory: Path, model: Bagel, average: Average, autoencoder: AutoEncoder
) -> None:
    """Write a checkpoint in the published layout, bfloat16; the fixed tables are left out."""
    weights = {name: tensor.to("cpu", torch.bfloat16) for name, tensor in average.tensors.items()}
    replace_file(directory / "ema.safetensors", partial(save_file, weights))
    latents = {n: t.to("cpu", torch.bfloat16) for n, t in autoencoder.state_dict().items()}
    replace_file(directory / "ae.safetensors", partial(save_file, latents))
    llm = {"model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6, **DECODER}
    llm |= {"vocab_size": model.language_model.config.vocab_size, "tie_word_embeddings": False}
    # One layer more than is used, as published: scripts subtract one.
    vit = {"model_type": "siglip_vision_model", **VISION}
    vit |= {"num_hidden_layers": VISION["num_hidden_layers"] + 1}
    side = PICTURE_SIZE // LATENT_STRIDE
    settings = {
        "bagel": {
            "max_latent_size": side,
            "vit_max_num_patch_per_side": PICTURE_SIZE // VISION_PATCH,
        },
        "vae_transform": [PICTURE_SIZE, PICTURE_SIZE, LATENT_STRIDE],
        "vit_transform": [PICTURE_SIZE, PICTURE_SIZE, VISION_PATCH],
        "autoencoder": {
            "scale_factor": autoencoder.params.scale_factor,
            "shift_factor": autoencoder.params.shift_factor,
        },
        "dtype": "float32",  # which a CPU computes fastest at this size
        "protocol": "native",
        "image_shape": [PICTURE_SIZE, PICTURE_SIZE],
    }
    for name, content in (
        ("llm_config.json", llm),
        ("vit_config.json", vit),
        (SETTINGS_FILE, settings),
    ):
        text = json.dumps(content, indent=1) + "\n"
        replace_file(directory / name, partial(_write, text))
    logger.info("saved %s", directory)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
