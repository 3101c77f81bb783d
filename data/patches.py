"""Images as patches: how they are cut, and where in a position table each patch belongs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut an image into tokens, row by row.

    Args:
        image: (channels, rows * patch_size, columns * patch_size).
        patch_size: side of a patch.

    Returns:
        (rows * columns, patch_size * patch_size * channels), each token ordered as (row in patch,
        column in patch, channel).

    Raises:
        ValueError: if the sides are no multiples of the patch size.
    """
    channels, height, width = image.shape
    rows, columns = height // patch_size, width // patch_size
    if (rows * patch_size, columns * patch_size) != (height, width):
        raise ValueError(
            f"an image's sides must be multiples of patch_size {patch_size}, "
            f"got height {height} and width {width}"
        )
    cells = image.reshape(channels, rows, patch_size, columns, patch_size)
    return cells.permute(1, 3, 2, 4, 0).reshape(rows * columns, patch_size**2 * channels)


def get_flattened_position_ids_extrapolate(
    img_h: int, img_w: int, patch_size: int, max_num_patches_per_side: int
) -> Tensor:
    """Number an image's patches as the top left corner of a square table of positions.

    Args:
        img_h: height of the image in pixels.
        img_w: width of the image in pixels.
        patch_size: side of a patch in pixels.
        max_num_patches_per_side: rows and columns of the table.

    Returns:
        (rows * columns,) indices into the table.

    Raises:
        ValueError: if the image has more patches a side than the table.
    """
    rows, columns = img_h // patch_size, img_w // patch_size
    if max(rows, columns) > max_num_patches_per_side:
        raise ValueError(
            f"an image of {rows} x {columns} patches does not fit the position table of "
            f"{max_num_patches_per_side} x {max_num_patches_per_side}; use a smaller image"
        )
    return _flattened(rows, columns, max_num_patches_per_side, _in_order)


def get_flattened_position_ids_interpolate(
    img_h: int, img_w: int, patch_size: int, max_num_patches_per_side: int
) -> Tensor:
    """Number an image's patches so that they spread over a whole square table of positions.

    Args and result are those of `get_flattened_position_ids_extrapolate`; any image fits.
    """
    rows, columns = img_h // patch_size, img_w // patch_size
    return _flattened(rows, columns, max_num_patches_per_side, _spread)


def _flattened(
    rows: int, columns: int, max_per_side: int, places: Callable[[int, int], Tensor]
) -> Tensor:
    row, column = (places(count, max_per_side) for count in (rows, columns))
    return (row[:, None] * max_per_side + column[None, :]).flatten()


def _in_order(count: int, _: int) -> Tensor:
    return torch.arange(count, device="cpu")


def _spread(count: int, max_per_side: int) -> Tensor:
    """Return the table row of each of `count` patches that share the table's length evenly."""
    # The float32 edges decide what falls left or right of a border where count and table have a
    # common divisor; exact integer arithmetic would not give the published numbers there.
    edges, fractions = (
        torch.arange(*line, dtype=torch.float32, device="cpu")
        for line in ((1 / max_per_side, 1.0, 1 / max_per_side), (0, 1 - 1e-6, 1 / count))
    )
    return torch.bucketize(fractions, edges, right=True)
