"""Teaching any BAGEL checkpoint to interleave: to write vision_start where a picture belongs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import torch
from torch import nn

from data.packing import Part
from inferencer import InterleaveInferencer
from modeling.bagel.blocks import patchify
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.checkpoint.settings import SETTINGS_FILE
from training.conversations import Conversation, read_conversations
from training.decoder import Plan, accelerator, train_decoder
from training.samples import (
    EncodedPicture,
    FollowingIds,
    Outline,
    Picture,
    Recipe,
    by_length,
    parts_of,
)
from training.tokenizer import special_ids

logger = logging.getLogger("auto_interleaved.training")

Trainable = Literal["all", "text"]
_KEPT = ("*.json", "merges.txt", "vocab.json", "ae.safetensors")  # beside the new weights


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What to teach, and how.

    Attributes:
        checkpoint: the directory to begin from.
        data: the directory of `*.jsonl` files, see `training.conversations`.
        output: where the new checkpoint goes.
        steps: optimiser steps in all.
        learning_rate: of AdamW.
        batch_tokens: tokens a step and process; a longer sequence is a batch by itself.
        trainable: "all", or "text": only what writes, so that pictures stay as they are.
        dtype: of the weights while they are trained; the loop computes in bfloat16 in any case.
    """

    checkpoint: Path
    data: Path
    output: Path
    steps: int = 1000
    learning_rate: float = 1e-5
    batch_tokens: int = 16384
    trainable: Trainable = "all"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.output.resolve() == self.checkpoint.resolve():
            raise ValueError(
                f"output must not be the checkpoint itself, {self.checkpoint}; name a new directory"
            )
        if not self.checkpoint.is_dir():
            raise FileNotFoundError(f"there is no checkpoint directory {self.checkpoint}")


def fine_tune(task: FineTuning, device: str) -> None:
    """Fine-tune, or go on fine-tuning; the finished checkpoint is in `task.output`.

    Args:
        task: what to teach.
        device: where, unless accelerate's own launcher says.
    """
    conversations = read_conversations(task.data)
    runner = accelerator(device)
    checkpoint = load_checkpoint(task.checkpoint, dtype=task.dtype, device=runner.device)
    model = checkpoint.model.requires_grad_(True)
    if task.trainable == "text":
        _freeze_drawing(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    special, following = special_ids(checkpoint.tokenizer)
    mine = conversations[runner.process_index :: runner.num_processes] or conversations
    prepared = train_decoder(
        model,
        [torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)],
        lambda first: _batches(mine, checkpoint, following, task.batch_tokens, first),
        special,
        Plan(
            steps=task.steps,
            learning_rate=task.learning_rate,
            mse_weight=0.0 if task.trainable == "text" else 1.0,
        ),
        task.output / "state",
        runner,
    )
    runner.save_model(prepared, str(task.output), max_shard_size="10GB")
    if runner.is_main_process:
        _complete(task)


def _freeze_drawing(model: nn.Module) -> None:
    """Leave everything as it is that only drawing goes through."""
    drawing = ("_moe_gen", "time_embedder", "vae2llm", "llm2vae")
    for name, parameter in model.named_parameters():
        if any(part in name for part in drawing):
            parameter.requires_grad_(False)


def _batches(
    conversations: Sequence[Conversation],
    checkpoint: Checkpoint,
    following: FollowingIds,
    batch_tokens: int,
    first: int,
) -> Iterator[list[list[Part]]]:
    """Yield batches over and over, in an order that depends on the step alone."""
    verbs = InterleaveInferencer(
        checkpoint.model,
        checkpoint.vae_model,
        checkpoint.tokenizer,
        checkpoint.vae_transform,
        checkpoint.vit_transform,
        checkpoint.new_token_ids,
    )
    recipe, step = Recipe(copies=1), first
    while True:
        rng = Random(step)
        chosen = rng.sample(conversations, min(len(conversations), 64))
        sequences = []
        for outline in (conversation.outline() for conversation in chosen):
            encoded = _encode(outline, verbs)
            sequences.append(parts_of(outline, encoded, verbs.encode_text, following, recipe, rng))
        for batch in by_length(sequences, batch_tokens, rng):
            yield batch
            step += 1


@torch.inference_mode()
def _encode(outline: Outline, verbs: InterleaveInferencer) -> dict[int, EncodedPicture]:
    """Encode an outline's pictures at the sizes at which the checkpoint reads them."""
    encoded = {}
    for place, item in enumerate(outline):
        if isinstance(item, Picture):
            picture = verbs.vae_transform.resize_transform(item.image)
            latent, grid = verbs.encode_image(picture)
            pixels, side = verbs.vit_transform(picture), verbs.model.vit_patch_size
            encoded[place] = EncodedPicture(
                latent=latent.float().cpu(),
                grid=grid,
                patches=patchify(pixels, side),
                patch_grid=(pixels.shape[1] // side, pixels.shape[2] // side),
            )
    return encoded


def _complete(task: FineTuning) -> None:
    """Copy what training leaves as it is, and say how the new checkpoint asks for pictures."""
    for pattern in _KEPT:
        for file in task.checkpoint.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, task.output / file.name)
    settings = task.output / SETTINGS_FILE
    known = json.loads(settings.read_text()) if settings.is_file() else {}
    settings.write_text(json.dumps({**known, "protocol": "native"}, indent=1) + "\n")
    logger.info("saved %s", task.output)
