"""Training samples as outlines: texts and pictures in the order in which a model meets them.

An outline says nothing of tokens; `parts_of` turns one into the parts of a packed sequence, with
noised copies to learn drawing from and the dropped contexts that guidance needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor

from data.packing import Grid, LatentPart, Part, TextPart, VisionPart


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text.

    Attributes:
        text: its characters.
        learnt: whether the model learns to write it.
        following: what comes after its eos: a picture, the end, or nothing that is learnt.
        thought: it is a plan, which only the full context holds.
    """

    text: str
    learnt: bool = True
    following: str | None = None
    thought: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture.

    Attributes:
        image: RGB.
        drawn: whether the model learns to draw it; otherwise it is only read.
        latent: whether its latents are read, which drawing goes by.
    """

    image: Image.Image
    drawn: bool
    latent: bool = True


Outline = tuple[Text | Picture, ...]
Batch = list[list[Part]]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPicture:
    """A picture as the model sees it.

    Attributes:
        latent: (rows * columns, patch values).
        grid: (rows, columns) of latents.
        patches: (rows * columns, patch values) for the vision encoder.
        patch_grid: (rows, columns) of patches.
    """

    latent: Tensor
    grid: Grid
    patches: Tensor
    patch_grid: Grid


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How outlines become training parts.

    Attributes:
        copies: noised copies of a picture that is learnt.
        drop_text: chance of a copy that does not see the text before it.
        drop_images: chance that a whole sequence is texts and noised copies only.
        context_noise: upper bound of the noise on latents that are read.
        time_shift: how far training times lean towards noise.
        uniform_times: share of times that are uniform; the others are logit-normal.
    """

    copies: int = 2
    drop_text: float = 0.15
    drop_images: float = 0.08
    context_noise: float = 0.15
    time_shift: float = 2.0
    uniform_times: float = 0.15

    def draw_time(self, rng: Random) -> float:
        """Draw a flow time in (0, 1)."""
        even = rng.random() if rng.random() < self.uniform_times else None
        time = even if even is not None else torch.sigmoid(torch.tensor(rng.gauss(0, 1))).item()
        shifted = self.time_shift * time / (1 + (self.time_shift - 1) * time)
        return min(max(shifted, 1e-3), 1.0)


@dataclass(frozen=True, kw_only=True)
class FollowingIds:
    """The ids learnt after a text's eos."""

    image: int
    end: int

    def of(self, following: str | None) -> int | None:
        """Return the id for what follows."""
        return {"image": self.image, "end": self.end, None: None}[following]


def parts_of(
    outline: Outline,
    encoded: dict[int, EncodedPicture],
    tokenize: Callable[[str], list[int]],
    following: FollowingIds,
    recipe: Recipe,
    rng: Random,
) -> list[Part]:
    """Turn an outline into the parts of one sequence.

    A copy that lacks a text stands before that text: exactly what the context of text guidance
    holds when the picture is drawn. A sequence without images is what the context of image
    guidance holds, positions included.

    Args:
        outline: the sample.
        encoded: its pictures, by their place in the outline.
        tokenize: text to ids.
        following: ids learnt after a text's eos.
        recipe: copies, drops and noise.
        rng: the only source of chance but for torch's, which draws the context noise.
    """
    drop_images = any(isinstance(i, Picture) and i.drawn for i in outline)
    drop_images = drop_images and rng.random() < recipe.drop_images
    drop_text = 0.0 if drop_images else recipe.drop_text
    parts: list[Part] = []
    for place, item in enumerate(outline):
        if isinstance(item, Text):
            if item.thought and drop_images:
                continue
            upcoming = encoded.get(place + 1)
            if upcoming and _is_drawn(outline, place + 1) and rng.random() < drop_text:
                parts.append(_noised(upcoming, recipe, rng))
            parts.append(
                TextPart(
                    ids=tuple(tokenize(item.text)),
                    loss=item.learnt and not drop_images,
                    following=following.of(item.following),
                )
            )
            continue
        picture = encoded[place]
        if item.drawn:
            parts += [_noised(picture, recipe, rng) for _ in range(recipe.copies)]
        if not drop_images and place + 1 < len(outline):
            parts += _read(picture, item.latent, recipe, rng)
    return parts


def _is_drawn(outline: Outline, place: int) -> bool:
    item = outline[place]
    return isinstance(item, Picture) and item.drawn


def _noised(picture: EncodedPicture, recipe: Recipe, rng: Random) -> LatentPart:
    return LatentPart(latent=picture.latent, grid=picture.grid, time=recipe.draw_time(rng))


def _read(picture: EncodedPicture, latent: bool, recipe: Recipe, rng: Random) -> list[Part]:
    parts: list[Part] = []
    if latent:
        # What the model drew itself is never quite clean; it should look familiar all the same.
        noise = rng.random() * recipe.context_noise * torch.randn_like(picture.latent)
        parts.append(LatentPart(latent=picture.latent + noise, grid=picture.grid))
    return [*parts, VisionPart(patches=picture.patches, grid=picture.patch_grid)]


def by_length(sequences: Sequence[list[Part]], batch_tokens: int, rng: Random) -> list[Batch]:
    """Cut sequences into batches of like length, in random order."""
    grouped: list[Batch] = [[]]
    for sequence in sorted(sequences, key=_length):
        if (len(grouped[-1]) + 1) * _length(sequence) > batch_tokens and grouped[-1]:
            grouped.append([])
        grouped[-1].append(sequence)
    rng.shuffle(grouped)
    return grouped


def _length(sequence: list[Part]) -> int:
    return sum(part.length for part in sequence)
