"""Teaching any BAGEL checkpoint to interleave: to write vision_start where a picture belongs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from data.output.segments import require_one_of
from modeling.checkpoint import load_checkpoint
from modeling.checkpoint.files import INDEX_SUFFIX
from modeling.checkpoint.settings import SETTINGS_FILE
from training.decoder import accelerator, not_finite, train_decoder
from training.held_out import HeldOut, split
from training.lessons import Lessons
from training.lines import Data
from training.measuring import Ruler, fitting
from training.plan import Plan, require_count, require_device, require_output
from training.states import flush, replace_file
from training.tokenizer import special_ids

logger = logging.getLogger("auto_interleaved.training")

Trainable = Literal["all", "text"]
OTHER_WEIGHTS = ("ema.safetensors", "model_bf16.safetensors")  # which loading takes first
_KEPT = ("*.json", "merges.txt", "vocab.json", "ae.safetensors")  # beside the new weights


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What to teach, and how.

    Attributes:
        checkpoint: the directory to begin from.
        data: JSONL files, directories of them, patterns; see `training.lines.find_files`.
        output: where the new checkpoint goes.
        steps: optimiser steps in all.
        learning_rate: of AdamW.
        batch_tokens: tokens a step and process; a longer sequence is a batch by itself.
        trainable: "all", or "text": only what writes, so that pictures stay as they are.
        dtype: of the weights while they are trained; the loop computes in bfloat16 in any case.
        save_every: minutes between two saved states.
        skip_bad: leave out what cannot be read, instead of refusing the data.
        held_out: files like those of `data`, or a share of `data` between 0 and 1, that is not
            learnt from: its losses are logged before the first step and with every report.
    """

    checkpoint: Path
    data: Data | Sequence[Data]
    output: Path
    steps: int = 1000
    learning_rate: float = 1e-5
    batch_tokens: int = 16384
    trainable: Trainable = "all"
    dtype: torch.dtype = torch.float32
    save_every: float = 10.0
    skip_bad: bool = False
    held_out: Data | float | None = None

    def __post_init__(self) -> None:
        self.plan()
        require_count("batch_tokens", self.batch_tokens)
        require_one_of("trainable", self.trainable, get_args(Trainable))
        if isinstance(self.held_out, int | float) and not 0 < self.held_out < 1:
            raise ValueError(
                f"held_out must be a share between 0 and 1, or a file, got {self.held_out}"
            )
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {self.dtype}")

    def plan(self) -> Plan:
        """Return how long and how fast to learn."""
        return Plan(
            steps=self.steps,
            learning_rate=self.learning_rate,
            mse_weight=0.0 if self.trainable == "text" else 1.0,
            save_every=self.save_every,
        )

    def require_places(self) -> None:
        """Raise unless the checkpoint is there and the output can be written without harm."""
        require_output(self.output, self.checkpoint)
        if not self.checkpoint.is_dir():
            raise FileNotFoundError(
                f"there is no checkpoint directory {self.checkpoint}; download it first, if that "
                "is the name of one on the hub"
            )
        other = next((n for n in OTHER_WEIGHTS if os.path.lexists(self.output / n)), None)
        if other is not None:
            raise ValueError(
                f"output must not be another checkpoint's directory, and {self.output} holds "
                f"{other}; name a new one"
            )


def fine_tune(task: FineTuning, device: str) -> None:
    """Fine-tune, or go on fine-tuning; the finished checkpoint is in `task.output`.

    Everything is checked before the first step: arguments, places, every line of the data and the
    header of every picture, and whether the model has positions for each conversation.

    Args:
        task: what to teach.
        device: where, unless accelerate's own launcher says.

    Raises:
        FileNotFoundError: the checkpoint, the data or an image is not there.
        ValueError: a line is bad, or a conversation too long, and `task.skip_bad` is not set.
        NotANumberError, Interrupted: see `train_decoder`.
    """
    require_device(device)
    task.require_places()
    conversations, others = split(task.data, task.held_out, skip_bad=task.skip_bad)
    runner = accelerator(device)
    checkpoint = load_checkpoint(task.checkpoint, dtype=task.dtype, device=runner.device)
    ruler = Ruler(checkpoint)
    conversations = fitting(conversations, ruler).good(skip_bad=task.skip_bad)
    if others:
        others = fitting(others, ruler).good(skip_bad=task.skip_bad)
    model = checkpoint.model.requires_grad_(True)
    if (name := not_finite(model)) is not None:
        raise ValueError(f"{name} in {task.checkpoint} holds values that are no finite numbers")
    if task.trainable == "text":
        _freeze_drawing(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    special, following = special_ids(checkpoint.tokenizer)
    lessons = Lessons(checkpoint, following, task.batch_tokens, skip_bad=task.skip_bad)
    mine = conversations[runner.process_index :: runner.num_processes] or conversations
    prepared = train_decoder(
        model,
        [torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)],
        partial(lessons.forever, mine),
        special,
        task.plan(),
        task.output / "state",
        runner,
        held_out=HeldOut(lessons.once(others), special) if others else None,
    )
    beside = task.output / "weights.partial"
    runner.save_model(prepared, str(beside), max_shard_size="10GB")
    runner.wait_for_everyone()
    if runner.is_main_process:
        _complete(task, beside)


def _freeze_drawing(model: nn.Module) -> None:
    """Leave everything as it is that only drawing goes through."""
    drawing = ("_moe_gen", "time_embedder", "vae2llm", "llm2vae")
    for name, parameter in model.named_parameters():
        if any(part in name for part in drawing):
            parameter.requires_grad_(False)


def _complete(task: FineTuning, weights: Path) -> None:
    """Put the weights in their place beside what training leaves as it is.

    The new checkpoint says how it asks for pictures.
    """
    for pattern in _KEPT:
        for file in task.checkpoint.glob(pattern):
            if not file.name.endswith(INDEX_SUFFIX):
                replace_file(task.output / file.name, partial(shutil.copyfile, file))
    path = task.output / SETTINGS_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = json.dumps({**known, "protocol": "native"}, indent=1) + "\n"
    replace_file(path, lambda beside: beside.write_text(settings, encoding="utf-8"))
    flush(weights)
    new = {file.name for file in weights.iterdir()}
    for name in sorted(new):  # shards first, the index that names them last
        os.replace(weights / name, task.output / name)
    for old in task.output.glob("model*.safetensors*"):
        if old.name not in new:
            old.unlink()
    weights.rmdir()
    logger.info("saved %s", task.output)
