"""Teaching the decoder: one loop for the bundled model and for any checkpoint.

Accelerate decides where and on how many processes it runs: one core, several (`torchrun
--nproc-per-node 2 train.py ...`), a GPU, or a sharded model by `accelerate launch`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from data.packing import Part, SpecialIds, pack
from modeling.bagel import Bagel

logger = logging.getLogger("auto_interleaved.training")

Batch = list[list[Part]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: after warm-up, until the decay.
        warm_up: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to a hundredth.
        ce_weight: weight of the text loss beside the picture loss.
        mse_weight: weight of the picture loss.
        clip: largest norm of a gradient.
        save_every: steps between two saved states.
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: int = 60
    decay: float = 0.4
    ce_weight: float = 0.25
    mse_weight: float = 1.0
    clip: float = 1.0
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        falling = (self.steps - step) / max(1, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up, max(0.01, falling))


class Average:
    """An exponential moving average of a model's parameters.

    Args:
        model: the model.
        decay: how much of the average stays at a step; less during the first steps.
    """

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model."""
        decay = min(self._decay, (step + 1) / (step + 10))
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors by name."""
        return self.tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take averaged tensors over."""
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)


class _Progress:
    """The steps done so far, as part of a saved state."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return optimisers for training from nothing: Muon on the trunk's matrices, AdamW elsewhere.

    They need whole matrices: a sharded model takes AdamW alone.
    """
    # By AdamW's larger steps the way from pixels to the decoder grows until positions drown in it.
    trunk_names = (".layers.", "patch_embedding", "connector")
    trunk, rest = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and any(part in name for part in trunk_names)
        (trunk if matrix else rest).append(parameter)
    return [
        torch.optim.Muon(trunk, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def accelerator(device: str) -> Accelerator:
    """Return what runs the loop: mixed precision in bfloat16 on this device."""
    # A batch without pictures, or without texts to learn, leaves parameters without a gradient.
    uneven = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision="bf16",
        cpu=torch.device(device).type == "cpu",
        kwargs_handlers=[uneven],
    )


def train_decoder(  # noqa: PLR0913 - what, from what, how, with what, where to
    model: Bagel,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Callable[[int], Iterable[Batch]],
    special: SpecialIds,
    plan: Plan,
    state: Path,
    runner: Accelerator,
    *,
    average: Average | None = None,
) -> nn.Module:
    """Train, or go on training, a decoder and everything that feeds it.

    Args:
        model: the model; trained in place unless it is sharded.
        optimizers: of its parameters.
        batches: given the step to begin at, the batches from there on, each a list of sequences;
            every process has its own.
        special: ids that frame texts and images.
        plan: how long and how fast.
        state: the directory of the state to resume from.
        runner: see `accelerator`.
        average: follows the weights.

    Returns:
        The model as accelerate prepared it.
    """
    model, *optimizers = runner.prepare(model, *optimizers)
    progress = _Progress()
    runner.register_for_checkpointing(progress, *([] if average is None else [average]))
    if state.is_dir():
        runner.load_state(str(state))
    totals = torch.zeros(2, device=runner.device)
    for step, sequences in enumerate(batches(progress.step), start=progress.step):
        if step >= plan.steps:
            break
        totals += _learn(model, optimizers, pack(sequences, special), plan, step, runner)
        progress.step = step + 1
        if average is not None:
            average.update(runner.unwrap_model(model), step)
        if progress.step % 50 == 0:
            _report(progress.step, totals / 50, runner)
            totals.zero_()
        if progress.step % plan.save_every == 0 or progress.step == plan.steps:
            _save(state, runner)
    return model


def _learn(  # noqa: PLR0913 - one step of the above
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Any,
    plan: Plan,
    step: int,
    runner: Accelerator,
) -> Tensor:
    """Take one step; return its text and picture loss."""
    losses = model(batch.to(runner.device))
    # The mean of nothing is not a number; its sum is a zero that still has a gradient.
    ce, mse = (x.mean() if x.numel() else x.sum() for x in (losses.ce, losses.mse))
    runner.backward(plan.mse_weight * mse + plan.ce_weight * ce)
    runner.clip_grad_norm_(model.parameters(), plan.clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return torch.stack([ce.detach(), mse.detach()])


def _report(step: int, losses: Tensor, runner: Accelerator) -> None:
    ce, mse = runner.reduce(losses, "mean").tolist()
    if runner.is_main_process:
        logger.info("step %d ce %.4f mse %.4f", step, ce, mse)


def _save(state: Path, runner: Accelerator) -> None:
    """Write the state beside the old one, then put it in its place."""
    beside = state.with_suffix(".new")
    runner.save_state(str(beside))
    runner.wait_for_everyone()
    if runner.is_main_process:  # an interruption leaves one of them whole
        shutil.rmtree(state, ignore_errors=True)
        beside.rename(state)
    runner.wait_for_everyone()
