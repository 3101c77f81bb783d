"""What a compiler leaves alone; imported when one comes by, as it brings PyTorch's along."""

from __future__ import annotations

import torch
from torch import Tensor

from modeling.attention import Projected, Sequences


# A compiler would make code of its own for every layer's number and every length of a cache.
@torch.compiler.disable
def attend(
    sequences: Sequences, layer: int, text: Projected, latent: Projected | None
) -> tuple[Tensor, Tensor | None]:
    """Attend as the sequences do."""
    return sequences.attend(layer, text, latent)
