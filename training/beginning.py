"""What teaching begins from: a checkpoint that was loaded, and data that was checked against it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data.packing import SpecialIds
from modeling.checkpoint import Checkpoint, load_checkpoint
from training.conversations import Conversation
from training.decoder import not_finite
from training.held_out import split
from training.lessons import Lessons
from training.measuring import Ruler, fitting
from training.quantizing import quantize_layers
from training.samples import FollowingIds
from training.task import FineTuning
from training.tokenizer import special_ids


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginning:
    """What there is before the first step.

    Attributes:
        checkpoint: as it was loaded.
        conversations: what is learnt from.
        held_out: what is tested with.
        lessons: makes sequences and batches of them.
        special: ids that frame texts and images.
        following: ids learnt after a text's eos.
    """

    checkpoint: Checkpoint
    conversations: list[Conversation]
    held_out: list[Conversation]
    lessons: Lessons
    special: SpecialIds
    following: FollowingIds


def begin(task: FineTuning, device: torch.device) -> Beginning:
    """Read and check the data, load the checkpoint, and see whether they fit.

    Raises:
        FileNotFoundError: the data or an image is not there.
        ValueError: a line is bad, or a conversation too long, and `task.skip_bad` is not set; or a
            weight of the checkpoint is no number.
        ImportError: what quantisation needs is not installed.
    """
    conversations, others = split(task.data, task.held_out, skip_bad=task.skip_bad)
    checkpoint = load_checkpoint(
        task.checkpoint,
        decision=task.decision,
        dtype=task.dtype or (None if task.keeps_weights else torch.float32),
        device="cpu" if task.quantize else device,
    )
    ruler = Ruler(checkpoint)
    conversations = fitting(conversations, ruler).good(skip_bad=task.skip_bad)
    if others:
        others = fitting(others, ruler).good(skip_bad=task.skip_bad)
    if (name := not_finite(checkpoint.model)) is not None:
        raise ValueError(f"{name} in {task.checkpoint} holds values that are no finite numbers")
    if task.quantize is not None:
        quantize_layers(checkpoint.model, task.quantize, device)
        checkpoint.vae_model.to(device)
    special, following = special_ids(checkpoint.tokenizer)
    return Beginning(
        checkpoint=checkpoint,
        conversations=conversations,
        held_out=others,
        lessons=Lessons(checkpoint, following, task.batch_tokens, skip_bad=task.skip_bad),
        special=special,
        following=following,
    )
