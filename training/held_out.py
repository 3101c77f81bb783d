"""What is not learnt from, so that it tells whether what is learnt holds for anything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import torch
from torch import nn

from data.packing import SpecialIds, pack
from training.conversations import Conversation, read_conversations
from training.lines import Data
from training.samples import Batch

_MOST = 64  # conversations that are looked at: more would cost a step's time and tell little more


def split(
    data: Data | Iterable[Data], held_out: Data | float | None, *, skip_bad: bool
) -> tuple[list[Conversation], list[Conversation]]:
    """Read conversations to learn from, and others to be tested with.

    Args:
        data: see `read_conversations`.
        held_out: files of conversations, a share of `data`, or None for nothing.
        skip_bad: see `read_conversations`.

    Raises:
        FileNotFoundError, ValueError: see `read_conversations`; or nothing would be left to learn.
    """
    conversations = read_conversations(data, skip_bad=skip_bad)
    if held_out is None:
        return conversations, []
    if not isinstance(held_out, int | float):
        return conversations, read_conversations(held_out, skip_bad=skip_bad)[:_MOST]
    if len(conversations) < 2:
        raise ValueError("held_out must be a file where the data is a single conversation")
    number = min(max(1, round(held_out * len(conversations))), len(conversations) - 1)
    chosen = set(Random(0).sample(range(len(conversations)), number))
    learnt = [c for place, c in enumerate(conversations) if place not in chosen]
    return learnt, [conversations[place] for place in sorted(chosen)][:_MOST]


class HeldOut:
    """Batches that a model is tested with.

    Args:
        batches: the same each time.
        special: ids that frame texts and images.
    """

    def __init__(self, batches: Sequence[Batch], special: SpecialIds) -> None:
        self._batches = batches
        self._special = special

    @torch.no_grad()
    def losses(self, model: nn.Module, device: torch.device) -> tuple[float, float]:
        """Return the text loss and the picture loss, each a mean over all tokens.

        The noise is the same each time, and what training draws is not touched by it.
        """
        sums, counts = torch.zeros(2), torch.zeros(2)
        others = [] if device.type == "cpu" else [device]
        kind = device.type if others else "cuda"
        with torch.random.fork_rng(others, device_type=kind):
            torch.manual_seed(0)
            for batch in self._batches:
                losses = model(pack(batch, self._special).to(device))
                for place, values in enumerate((losses.ce, losses.mse)):
                    sums[place] += values.float().sum().cpu()
                    counts[place] += values.numel()
        ce, mse = (sums / counts.clamp(min=1)).tolist()
        return ce, mse
