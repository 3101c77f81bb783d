"""Activations that are computed again where their gradients are needed, instead of being kept."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from modeling.bagel import Bagel


def compute_again(model: Bagel) -> None:
    """Keep of each of the decoder's layers nothing but what goes in, in this model from now on."""
    for layer in model.language_model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
