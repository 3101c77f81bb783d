"""Decoding in tiles: less memory at once, and nearly the same picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Of each tile's side. Tiles see nothing beyond their border, so that they differ most there.
_OVERLAP = 0.25


def decode_in_tiles(
    decode: Callable[[Tensor], Tensor], latent: Tensor, tile: int, scale: int
) -> Tensor:
    """Decode overlapping tiles one after the other, and blend them linearly.

    Args:
        decode: turns (batch, channels, height, width) into pixels of `scale` times its sides.
        latent: (batch, channels, height, width).
        tile: side of a tile in latent positions, at least 2.
        scale: pixels a latent position spans in each direction.

    Returns:
        Pixels (batch, channels, height * scale, width * scale), float32.
    """
    height, width = latent.shape[-2:]
    pixels: Tensor | None = None
    size = (height * scale, width * scale)
    weights = torch.zeros(size, dtype=torch.float32, device=latent.device)
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            piece = decode(latent[..., top:bottom, left:right])
            rows, columns = slice(top * scale, bottom * scale), slice(left * scale, right * scale)
            if pixels is None:
                pixels = weights.new_zeros(*piece.shape[:2], *weights.shape)
            down, across = (_ramp(side, tile * scale, weights) for side in piece.shape[-2:])
            weight = down[:, None] * across
            pixels[..., rows, columns] += weight * piece
            weights[rows, columns] += weight
    assert pixels is not None  # there is one tile at least
    return pixels / weights


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Return evenly spread starts and stops of tiles that cover a length and overlap."""
    if length <= tile:
        return [(0, length)]
    last = length - tile
    steps = math.ceil(last / max(1, int(tile * (1 - _OVERLAP))))
    starts = [round(last * step / steps) for step in range(steps + 1)]
    return [(start, start + tile) for start in starts]


def _ramp(length: int, tile: int, like: Tensor) -> Tensor:
    """Return weights that rise from both ends of a tile and are 1 in its middle."""
    places = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    return (torch.minimum(places, length - places) / (tile * _OVERLAP)).clamp(max=1)
