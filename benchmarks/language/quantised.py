"""What rounding weights does to real language: formats of quantisation, computed by hand.

Weights are rounded and multiplied as before: only the rounding counts, and no GPU is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_BLOCK = 64


def int8(weight: Tensor) -> Tensor:
    """Round (rows, columns) to 255 steps a row."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def nf4(weight: Tensor) -> Tensor:
    """Round blocks of 64 weights to the nearest of 16 quantiles of a normal distribution."""
    blocks = weight.reshape(-1, _BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    levels = _levels().to(weight)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape)


def _levels() -> Tensor:
    """Return NF4's levels (Dettmers et al., "QLoRA", 2023), 7 below zero, zero, 8 above."""
    farthest = 0.5 * (1 - 1 / 32 + 1 - 1 / 30)

    def quantiles(count: int) -> Tensor:
        probabilities = torch.linspace(farthest, 0.5, count, dtype=torch.float64)[:-1]
        return torch.erfinv(2 * probabilities - 1) * math.sqrt(2)

    levels = torch.cat([-quantiles(8), torch.zeros(1, dtype=torch.float64), quantiles(9)])
    return (levels / levels.abs().max()).sort().values


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16 weights": lambda weight: weight.bfloat16().float(),
    "int8": int8,
    "nf4": nf4,
}


@torch.no_grad()
def rounded(layers: nn.Module, form: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Round the text weights of all linear layers; return what they were, by name."""
    before = {}
    for name, module in layers.named_modules():
        if isinstance(module, nn.Linear) and "moe_gen" not in name:
            before[name] = module.weight.clone()
            module.weight.copy_(form(module.weight))
    return before


@torch.no_grad()
def restore(layers: nn.Module, before: dict[str, Tensor]) -> None:
    """Give layers the weights that `rounded` took."""
    for name, weight in before.items():
        layers.get_submodule(name).weight.copy_(weight)
