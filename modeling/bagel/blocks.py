"""Blocks: the runs of tokens that enter the model together, and how images are cut into tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """One run of tokens, embedded and ready to enter a context.

    Attributes:
        text: (tokens, hidden), what goes through the text weights: a text's tokens, or an image's
            two markers followed by its ViT tokens.
        latent: (tokens, hidden), what goes through the generation weights: VAE latent tokens.
        causal: text is; an image's tokens all see one another and share one position.
    """

    text: Tensor
    latent: Tensor | None = None
    causal: bool = False

    @property
    def num_text(self) -> int:
        """Tokens for the text weights."""
        return self.text.shape[0]

    @property
    def num_latent(self) -> int:
        """Tokens for the generation weights."""
        return 0 if self.latent is None else self.latent.shape[0]

    @property
    def length(self) -> int:
        """All tokens of the block."""
        return self.num_text + self.num_latent

    @property
    def advance(self) -> int:
        """How far the block moves the position."""
        return self.num_text if self.causal else 1


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut an image into tokens, row by row.

    Args:
        image: (channels, rows * patch_size, columns * patch_size).
        patch_size: side of a patch.

    Returns:
        (rows * columns, patch_size * patch_size * channels), each token ordered as (row in patch,
        column in patch, channel).
    """
    channels, height, width = image.shape
    rows, columns = height // patch_size, width // patch_size
    cells = image.reshape(channels, rows, patch_size, columns, patch_size)
    return cells.permute(1, 3, 2, 4, 0).reshape(rows * columns, patch_size**2 * channels)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put tokens back together: the inverse of `patchify`.

    Args:
        tokens: (rows * columns, patch_size * patch_size * channels).
        grid: (rows, columns).
        patch_size: side of a patch.

    Returns:
        (channels, rows * patch_size, columns * patch_size).
    """
    rows, columns = grid
    cells = tokens.reshape(rows, columns, patch_size, patch_size, -1)
    return cells.permute(4, 0, 2, 1, 3).reshape(-1, rows * patch_size, columns * patch_size)


def flattened_positions(grid: tuple[int, int], max_per_side: int, interpolate: bool) -> Tensor:
    """Number the patches of a grid within the position table of a `max_per_side` square.

    Args:
        grid: (rows, columns).
        max_per_side: rows and columns of the table.
        interpolate: spread the grid over the whole table instead of its top left corner.

    Returns:
        (rows * columns,) indices into the table.

    Raises:
        ValueError: if the grid is larger than the table.
    """
    rows, columns = grid
    if max(rows, columns) > max_per_side and not interpolate:
        raise ValueError(
            f"an image of {rows} x {columns} patches does not fit the position table of "
            f"{max_per_side} x {max_per_side}; use a smaller image"
        )
    row, column = (
        _spread(count, max_per_side) if interpolate else torch.arange(count) for count in grid
    )
    return (row[:, None] * max_per_side + column[None, :]).flatten()


def _spread(count: int, max_per_side: int) -> Tensor:
    """Return the table row of each of `count` patches that share the table's length evenly."""
    # The float32 edges decide what falls left or right of a border where count and table have a
    # common divisor; exact integer arithmetic would not give the published numbers there.
    edges = torch.arange(1 / max_per_side, 1.0, 1 / max_per_side)
    fractions = torch.arange(0, 1 - 1e-6, 1 / count)
    return torch.bucketize(fractions, edges, right=True)
