"""What moves the weights: optimisers, and an average that follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return optimisers for training from nothing: Muon on the trunk's matrices, AdamW elsewhere.

    They need whole matrices: a sharded model takes AdamW alone.
    """
    # By AdamW's larger steps the way from pixels to the decoder grows until positions drown in it.
    trunk_names = (".layers.", "patch_embedding", "connector")
    trunk: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and any(part in name for part in trunk_names)
        (trunk if matrix else rest).append(parameter)
    return [
        torch.optim.Muon(trunk, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
    ]
