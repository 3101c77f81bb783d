"""States of what is learnt alone, where the rest stays as the checkpoint has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor, nn


def save_learnt_alone(runner: Accelerator) -> None:
    """Leave out of saved states, from now on, what has no gradients, and load such states.

    A sharded model's states are whole all the same: each process writes its own part of them.

    Args:
        runner: with one model, prepared or not yet.
    """
    runner.register_save_state_pre_hook(_leave_out)
    runner.register_load_state_pre_hook(_load)


def _learnt(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _leave_out(models: list[nn.Module], weights: list[dict[str, Tensor]], _: str) -> None:
    for model, state in zip(models, weights, strict=False):  # without weights where it is sharded
        learnt = _learnt(model)
        for name in state.keys() - learnt.keys():
            del state[name]


def _load(models: list[Any], folder: str) -> None:
    if not models:
        return
    [model] = models
    learnt, stored = _learnt(model), load_file(Path(folder) / SAFE_WEIGHTS_NAME)
    if _shapes(learnt) != _shapes(stored):
        raise ValueError("it holds other weights than are learnt")
    for name, parameter in learnt.items():
        parameter.data.copy_(stored[name])
    models.clear()  # accelerate would load the whole of it


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
