"""Small layers that join the pathways: position tables, time embedding, connector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from modeling.activations import activation
from modeling.linear import Linear


def sincos_table(dim: int, side: int) -> Tensor:
    """Compute the fixed two-dimensional position table.

    The first half of the channels encodes the column, the second half the row; each half is sines
    then cosines of frequencies `1 / 10000^(i / (dim / 4))`, as in the ViT-MAE table.

    Args:
        dim: channels, a multiple of 4.
        side: rows and columns of the table.

    Returns:
        (side * side, dim), float32, row by row, on the CPU whatever the default device is.
    """
    quarter = dim // 4
    # The CPU by name, because a model is often built on the meta device, and no file need bring a
    # computed table back. float64, because rounding a frequency shows at distant positions.
    places = torch.arange(max(quarter, side), device="cpu", dtype=torch.float64)
    frequencies = 1 / 10000 ** (places[:quarter] / quarter)
    angles = places[:side, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (side, dim / 2)
    columns = line[None, :, :].expand(side, side, -1)
    rows = line[:, None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, dim)


class PositionEmbedding(nn.Module):
    """A fixed sin-cos table: computed, and replaced by a file that holds one.

    Every loader finds the table under its published name. Files may leave it out: it has its
    values from the beginning, also where all parameters are built on the meta device.

    Args:
        max_num_patch_per_side: side of the table.
        hidden_size: channels, a multiple of 4.
    """

    pos_embed: Tensor

    def __init__(self, max_num_patch_per_side: int, hidden_size: int) -> None:
        super().__init__()
        # A buffer, because accelerate's `init_empty_weights` drops the values of parameters, and
        # nothing would bring them back with a file that lacks them.
        self.register_buffer("pos_embed", sincos_table(hidden_size, max_num_patch_per_side))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Name the table; asked for this module's own alone, only while it is without values.

        This is how accelerate asks what it shall take off this module and fetch again before each
        call. A table that a file lacks could not be fetched, and one that has its values needs not.
        """
        if recurse or self.pos_embed.is_meta:
            yield from super().named_buffers(prefix, recurse, remove_duplicate)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}pos_embed")
        if stored is None:
            return  # computed
        if stored.shape != self.pos_embed.shape:
            raise ValueError(
                f"{prefix}pos_embed must be {tuple(self.pos_embed.shape)}, as its model is "
                f"configured, got {tuple(stored.shape)}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, positions: Tensor) -> Tensor:
        """Look up (tokens,) positions; the result is (tokens, hidden)."""
        return self.pos_embed[positions.to(self.pos_embed.device)]


class TimestepEmbedder(nn.Module):
    """Embeds flow times in [0, 1]: 256 cosines and sines, then an MLP.

    Args:
        hidden_size: channels of the result.
        frequency_embedding_size: number of cosines and sines.
    """

    def __init__(self, hidden_size: int, frequency_embedding_size: int = 256) -> None:
        super().__init__()
        self.frequency_embedding_size = frequency_embedding_size
        self.mlp = nn.Sequential(
            Linear(frequency_embedding_size, hidden_size),
            nn.SiLU(),
            Linear(hidden_size, hidden_size),
        )

    def forward(self, times: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed (tokens,) times; the angles are float32, the result is (tokens, hidden)."""
        half = self.frequency_embedding_size // 2
        steps = torch.arange(half, dtype=torch.float32, device=times.device)
        angles = times.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype))


class MLPconnector(nn.Module):  # noqa: N801 - the published name
    """Carries vision features into the decoder's space.

    Args:
        in_dim: channels of a vision feature.
        out_dim: channels of the decoder.
        hidden_act: activation between the two layers, by transformers' name.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_act: str) -> None:
        super().__init__()
        self.activation_fn = activation(hidden_act)
        self.fc1 = Linear(in_dim, out_dim)
        self.fc2 = Linear(out_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map (tokens, in_dim) to (tokens, out_dim)."""
        return self.fc2(self.activation_fn(self.fc1(features)))
