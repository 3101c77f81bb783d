"""Activations by the names that configurations give them."""

from __future__ import annotations

from torch import nn

# What BAGEL's files name. transformers has them as well, but takes 0.7 s to be asked: its table
# imports PyTorch's compiler.
_USUAL = "gelu_pytorch_tanh"


def activation(name: str) -> nn.Module:
    """Return the activation that transformers has under a name.

    Raises:
        KeyError: it has none.
    """
    if name == _USUAL:
        return nn.GELU(approximate="tanh")
    from transformers.activations import ACT2FN

    return ACT2FN[name]


def is_activation(name: object) -> bool:
    """Return whether transformers has an activation under a name."""
    if name == _USUAL:
        return True
    from transformers.activations import ACT2FN

    return isinstance(name, str) and name in ACT2FN
