"""Blocks: the runs of tokens that enter the model together, and how images are cut into tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from data.patches import (
    get_flattened_position_ids_extrapolate,
    get_flattened_position_ids_interpolate,
    patchify,
)

__all__ = ["Block", "Grid", "Shape", "flattened_positions", "grid_of", "patchify", "unpatchify"]

Grid = tuple[int, int]  # rows and columns of patches


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


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many tokens of each expert a row has, and whether they are causal."""

    num_text: int
    num_latent: int
    causal: bool

    @classmethod
    def of(cls, block: Block) -> Shape:
        """Return a block's shape."""
        return cls(num_text=block.num_text, num_latent=block.num_latent, causal=block.causal)


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


def grid_of(pixels: Tensor, stride: int, name: str) -> Grid:
    """Return the (rows, columns) of patches of an image, (..., height, width).

    Raises:
        ValueError: if its sides are no positive multiples of the stride.
    """
    height, width = pixels.shape[-2:]
    if height % stride or width % stride or not (height and width):
        raise ValueError(
            f"an image's sides must be positive multiples of the {name} {stride}, "
            f"got height {height} and width {width}; resize it with the model's transform"
        )
    return height // stride, width // stride


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
    number = (
        get_flattened_position_ids_interpolate
        if interpolate
        else get_flattened_position_ids_extrapolate
    )
    return number(*grid, 1, max_per_side)
