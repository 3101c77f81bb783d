"""What to teach a checkpoint, and how: the options of fine-tuning, checked before anything else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from data.output.segments import require_one_of
from training.lines import Data
from training.plan import Plan, require_count, require_number, require_output

Trainable = Literal["all", "text", "decision"]
Targets = Literal["text", "drawing", "both"]
Quantization = Literal["nf4", "int8"]
OTHER_WEIGHTS = ("ema.safetensors", "model_bf16.safetensors")  # which loading takes first


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank changes that are learnt beside weights which stay as they are.

    Attributes:
        rank: of each change; more learns more and takes more memory.
        alpha: changes are scaled by alpha / rank; None is twice the rank.
        targets: which linear layers of the decoder are changed: those of "text", those of
            "drawing", or both.
    """

    rank: int
    alpha: float | None = None
    targets: Targets = "both"

    def __post_init__(self) -> None:
        require_count("lora_rank", self.rank)
        if self.alpha is not None:
            require_number("lora_alpha", self.alpha)
        require_one_of("lora_targets", self.targets, get_args(Targets))


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What to teach, and how.

    Attributes:
        checkpoint: the directory to begin from.
        data: JSONL files, directories of them, patterns; see `training.lines.find_files`.
        output: where the new checkpoint, decision or adapter goes.
        steps: optimiser steps in all.
        learning_rate: of AdamW; None is 1e-5, or 2e-4 for `lora`.
        batch_tokens: tokens a step and process; a longer sequence is a batch by itself.
        trainable: "all"; "text": only what writes, so that pictures stay as they are; "decision":
            nothing but the rows of the head that say what follows a text.
        lora: learn low-rank changes beside the weights instead of the weights.
        decision: a decision to begin with, see `modeling.checkpoint.decision`.
        quantize: hold the decoder's layers in 4 or 8 bits while others are learnt.
        checkpointing: compute activations again instead of keeping them: less memory, a third more
            time.
        dtype: of the weights while they are trained, and of those that are not; the loop computes
            in bfloat16 in any case. None is float32, or as stored where weights stay as they are.
        save_every: minutes between two saved states.
        skip_bad: leave out what cannot be read, instead of refusing the data.
        held_out: files like those of `data`, or a share of `data` between 0 and 1, that is not
            learnt from: its losses are logged before the first step and with every report.
        draw_every: steps after which the model answers some prompts of `held_out`, or else of
            `data`, on a page in `output`; 0 is never.
    """

    checkpoint: Path
    data: Data | Sequence[Data]
    output: Path
    steps: int = 1000
    learning_rate: float | None = None
    batch_tokens: int = 16384
    trainable: Trainable = "all"
    lora: Lora | None = None
    decision: Path | None = None
    quantize: Quantization | None = None
    checkpointing: bool = False
    dtype: torch.dtype | None = None
    save_every: float = 10.0
    skip_bad: bool = False
    held_out: Data | float | None = None
    draw_every: int = 0

    def __post_init__(self) -> None:
        self.plan()
        require_count("batch_tokens", self.batch_tokens)
        require_count("draw_every", self.draw_every, least=0)
        require_one_of("trainable", self.trainable, get_args(Trainable))
        if self.lora is not None and self.trainable != "all":
            raise ValueError(
                f"trainable={self.trainable!r} does not go with lora_rank; write lora_targets="
                '"text" for changes that leave drawing alone'
            )
        if self.quantize is not None:
            require_one_of("quantize", self.quantize, get_args(Quantization))
            if self.lora is None and self.trainable != "decision":
                raise ValueError(
                    "quantize goes with lora_rank or trainable=decision: weights in few bits "
                    "cannot be learnt themselves"
                )
        if isinstance(self.held_out, int | float) and not 0 < self.held_out < 1:
            raise ValueError(
                f"held_out must be a share between 0 and 1, or a file, got {self.held_out}"
            )
        if self.dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {self.dtype}")

    @property
    def keeps_weights(self) -> bool:
        """Whether the checkpoint's own weights stay as they are."""
        return self.lora is not None or self.trainable == "decision"

    @property
    def writes_alone(self) -> bool:
        """Whether nothing is learnt that only drawing goes through."""
        return self.trainable == "text" or (self.lora is not None and self.lora.targets == "text")

    def plan(self) -> Plan:
        """Return how long and how fast to learn."""
        usual = 1e-5 if self.lora is None else 2e-4
        return Plan(
            steps=self.steps,
            learning_rate=usual if self.learning_rate is None else self.learning_rate,
            mse_weight=0.0 if self.writes_alone else 1.0,
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
        weights = (*OTHER_WEIGHTS, *(("model.safetensors",) if self.keeps_weights else ()))
        other = next((n for n in weights if os.path.lexists(self.output / n)), None)
        if other is not None:
            raise ValueError(
                f"output must not be another checkpoint's directory, and {self.output} holds "
                f"{other}; name a new one"
            )
