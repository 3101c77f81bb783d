"""Training sequences: texts and images packed side by side, with who sees whom.

The layout follows what inference does: a text is causal; an image's tokens see one another and
share one position; a noised image is seen by nobody else and leaves the position to the clean copy
that follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A text.

    Attributes:
        ids: token ids, without bos and eos.
        loss: train the model to write it.
        following: what to predict after eos, such as vision_start where a picture follows; None
            leaves it untrained.
    """

    ids: tuple[int, ...]
    loss: bool = True
    following: int | None = None

    @property
    def length(self) -> int:
        """Tokens of the block."""
        return len(self.ids) + 2


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentPart:
    """An image's latents.

    Attributes:
        latent: clean latent tokens, (rows * columns, patch values).
        grid: (rows, columns).
        time: flow time in (0, 1] of a noised copy to train on; None for a clean image to read.
    """

    latent: Tensor
    grid: Grid
    time: float | None = None

    @property
    def length(self) -> int:
        """Tokens of the block."""
        return self.grid[0] * self.grid[1] + 2


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionPart:
    """An image for the vision encoder.

    Attributes:
        patches: (rows * columns, patch values).
        grid: (rows, columns).
    """

    patches: Tensor
    grid: Grid

    @property
    def length(self) -> int:
        """Tokens of the block."""
        return self.grid[0] * self.grid[1] + 2


Part = TextPart | LatentPart | VisionPart


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The ids that frame texts and images."""

    bos: int
    eos: int
    start_of_image: int
    end_of_image: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBatch:
    """Sequences of equal padded length, ready for `Bagel.forward`.

    A *place* is an index into the flattened (sequences * length) batch.

    Attributes:
        positions: (sequences * length,) RoPE positions.
        mask: (sequences, length, length), True where a token may look.
        text_ids, text_places: ids of texts and markers.
        patches, patch_places, patch_grids: patches for the vision encoder, all images in a row.
        latents, latent_places, latent_grids: clean latents, all images in a row.
        times: (latent tokens,) flow times; 0 for a clean image.
        noised: (latent tokens,) True where the velocity is trained.
        ce_places, ce_labels: where a token is predicted, and which.
    """

    positions: Tensor
    mask: Tensor
    text_ids: Tensor
    text_places: Tensor
    patches: Tensor | None
    patch_places: Tensor
    patch_grids: tuple[Grid, ...]
    latents: Tensor | None
    latent_places: Tensor
    latent_grids: tuple[Grid, ...]
    times: Tensor
    noised: Tensor
    ce_places: Tensor
    ce_labels: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch on a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass
class _Columns:
    """What a batch is made of while it grows."""

    positions: list[int] = field(default_factory=list)
    text_ids: list[int] = field(default_factory=list)
    text_places: list[int] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    patch_places: list[int] = field(default_factory=list)
    patch_grids: list[Grid] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    latent_places: list[int] = field(default_factory=list)
    latent_grids: list[Grid] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    noised: list[bool] = field(default_factory=list)
    ce_places: list[int] = field(default_factory=list)
    ce_labels: list[int] = field(default_factory=list)


def pack(samples: Sequence[Sequence[Part]], special: SpecialIds) -> PackedBatch:
    """Pack samples into one batch, padded to the longest.

    Args:
        samples: the parts of each sequence, in order.
        special: the ids that frame texts and images.

    Raises:
        ValueError: if there is no sample, or one is empty.
    """
    if not samples or not all(samples):
        raise ValueError("pack() needs at least one sample, each of at least one part")
    length = max(sum(part.length for part in sample) for sample in samples)
    columns = _Columns()
    masks = [
        _pack_sample(columns, sample, special, row * length, length)
        for row, sample in enumerate(samples)
    ]
    c = columns
    return PackedBatch(
        positions=torch.tensor(c.positions),
        mask=torch.stack(masks),
        text_ids=torch.tensor(c.text_ids),
        text_places=torch.tensor(c.text_places),
        patches=torch.cat(c.patches) if c.patches else None,
        patch_places=torch.tensor(c.patch_places, dtype=torch.long),
        patch_grids=tuple(c.patch_grids),
        latents=torch.cat(c.latents) if c.latents else None,
        latent_places=torch.tensor(c.latent_places, dtype=torch.long),
        latent_grids=tuple(c.latent_grids),
        times=torch.tensor(c.times, dtype=torch.float32),
        noised=torch.tensor(c.noised, dtype=torch.bool),
        ce_places=torch.tensor(c.ce_places, dtype=torch.long),
        ce_labels=torch.tensor(c.ce_labels, dtype=torch.long),
    )


def _pack_sample(
    columns: _Columns, sample: Sequence[Part], special: SpecialIds, start: int, length: int
) -> Tensor:
    """Append one sample's columns; return its (length, length) mask."""
    mask = torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no row is empty
    seen = torch.zeros(length, dtype=torch.bool)
    place = position = 0
    for part in sample:
        size = part.length
        span = slice(place, place + size)
        mask[span] |= seen
        if isinstance(part, TextPart):
            mask[span, span] = torch.ones(size, size, dtype=torch.bool).tril()
            _add_text(columns, part, special, start + place)
            columns.positions += range(position, position + size)
            position += size
        else:
            mask[span, span] = True
            _add_image(columns, part, special, start + place)
            columns.positions += [position] * size
        noised = isinstance(part, LatentPart) and part.time is not None
        seen[span] = not noised
        position += 0 if noised or isinstance(part, TextPart) else 1
        place += size
    columns.positions += [0] * (length - place)
    return mask


def _add_text(columns: _Columns, part: TextPart, special: SpecialIds, start: int) -> None:
    ids = [special.bos, *part.ids, special.eos]
    columns.text_ids += ids
    columns.text_places += range(start, start + len(ids))
    if part.loss:
        labels = ids[1:] + ([] if part.following is None else [part.following])
        columns.ce_places += range(start, start + len(labels))
        columns.ce_labels += labels


def _add_image(
    columns: _Columns, part: LatentPart | VisionPart, special: SpecialIds, start: int
) -> None:
    count = part.grid[0] * part.grid[1]
    columns.text_ids += [special.start_of_image, special.end_of_image]
    columns.text_places += [start, start + count + 1]
    places = range(start + 1, start + 1 + count)
    if isinstance(part, VisionPart):
        columns.patches.append(part.patches)
        columns.patch_places += places
        columns.patch_grids.append(part.grid)
        return
    columns.latents.append(part.latent)
    columns.latent_places += places
    columns.latent_grids.append(part.grid)
    columns.times += [part.time or 0.0] * count
    columns.noised += [part.time is not None] * count
