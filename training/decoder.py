"""Teaching the decoder: one loop for the bundled model and for any checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.packing import Part, SpecialIds, pack
from modeling.bagel import Bagel

logger = logging.getLogger("auto_interleaved.training")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: after warm-up, until the decay.
        warm_up: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to a hundredth.
        ce_weight: weight of the text loss beside the picture loss.
        ema: decay of the averaged weights, which are what is kept.
        clip: largest norm of a gradient.
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: int = 60
    decay: float = 0.4
    ce_weight: float = 0.25
    ema: float = 0.998
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        falling = (self.steps - step) / max(1, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up, max(0.01, falling))


class Optimizers:
    """Muon on the trunk's matrices, AdamW on everything else.

    Args:
        model: what is learnt.
    """

    def __init__(self, model: Bagel) -> None:
        trunk, rest = [], []
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim == 2 and ".layers." in name
            (trunk if matrix else rest).append(parameter)
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(trunk, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, learning_rate: float) -> None:
        """Take a step and clear the gradients."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Average:
    """An exponential moving average of a model's parameters.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move towards the model."""
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1 - decay)


def train_decoder(
    model: Bagel,
    batches: Callable[[int], Iterable[list[list[Part]]]],
    special: SpecialIds,
    plan: Plan,
    state_file: Path,
    *,
    report: Callable[[int, Average], None] | None = None,
    report_every: int = 500,
) -> Average:
    """Train, or go on training, a decoder and everything that feeds it.

    Args:
        model: the model, on its device; trained in place.
        batches: given the step to begin at, the batches from there on, each a list of sequences.
        special: ids that frame texts and images.
        plan: how long and how fast.
        state_file: where the state to resume from is kept.
        report: called with the step and the averaged weights now and then.
        report_every: steps between reports and saved states.

    Returns:
        The averaged weights.
    """
    optimizers, average, first = Optimizers(model), Average(model), 0
    if state_file.exists():
        first = _restore(state_file, model, optimizers, average)
    device = model.device
    totals = torch.zeros(2, device=device)
    for step, sequences in enumerate(batches(first), start=first):
        if step >= plan.steps:
            break
        with _fast(device):
            losses = model(pack(sequences, special).to(device))
            ce = losses.ce.mean() if losses.ce.numel() else losses.ce.sum()
            mse = losses.mse.mean() if losses.mse.numel() else losses.mse.sum()
            (mse + plan.ce_weight * ce).backward()
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizers.step(plan.rate(step))
        average.update(model, min(plan.ema, (step + 1) / (step + 10)))
        totals += torch.stack([ce.detach(), mse.detach()])
        if (step + 1) % 50 == 0:
            ce_mean, mse_mean = (totals / 50).tolist()
            logger.info("step %d ce %.4f mse %.4f", step + 1, ce_mean, mse_mean)
            totals.zero_()
        if (step + 1) % report_every == 0 or step + 1 == plan.steps:
            _save(state_file, model, optimizers, average, step + 1)
            if report is not None:
                report(step + 1, average)
    return average


@contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """Compute in bfloat16, with the attention that suits small heads and dense masks."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _save(
    path: Path, model: nn.Module, optimizers: Optimizers, average: Average, step: int
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers.all],
        "average": average.tensors,
        "step": step,
    }
    beside = path.with_suffix(".new")  # so that an interruption leaves the old state whole
    torch.save(state, beside)
    beside.replace(path)


def _restore(path: Path, model: nn.Module, optimizers: Optimizers, average: Average) -> int:
    state = torch.load(path, map_location="cpu")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers.all, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for name, tensor in state["average"].items():
        average.tensors[name].copy_(tensor)
    return int(state["step"])
