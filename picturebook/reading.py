"""From a picture back to its scene, by comparison with everything that could be there.

Nothing here knows a model. Each half of a picture is compared, pixel by pixel, with every backdrop
and every thing in every colour at every place; the nearest explanation is what the picture shows.
A part that is far from its nearest explanation counts as unclear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import Image

from picturebook.render import backdrop, render
from picturebook.sprites import sprite
from picturebook.world import (
    BACKGROUNDS,
    BANDS,
    CELL_SIZE,
    COLOURS,
    COLUMNS,
    HORIZONS,
    KINDS,
    PICTURE_SIZE,
    SKIES,
    THING_SIZE,
    Scene,
    Thing,
    Traits,
    corner_of,
)

Array = NDArray[numpy.floating[Any]]

# Root mean square error of a patch, in units of the full range, above which it is unclear.
MAX_PATCH_ERROR = 0.16
PATCH_SIZE = 8
# A constant shift of colours that is forgiven, in the same units.
MAX_DRIFT = 0.06
# A smaller shift cannot mislead the comparison, which is then not repeated without it.
MIN_DRIFT = 0.01

CANDIDATES = tuple(product(KINDS, COLOURS))
SCENERIES = tuple(
    (background, Traits(sky, horizon))
    for background, sky, horizon in product(BACKGROUNDS, SKIES, HORIZONS)
)
# The horizon lies in the bottom band: the top looks the same for neighbouring sceneries.
SCENERIES_PER_LOOK = {"top": len(HORIZONS), "bottom": 1}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a picture shows.

    Attributes:
        scene: the nearest scene, its things in the order of their places.
        unclear: where the picture is far from it, as (row, column) of patches of 8 pixels.
        error: root mean square difference from the nearest scene, 0 to 1.
    """

    scene: Scene
    unclear: tuple[tuple[int, int], ...]
    error: float

    def is_clear(self, place: str | None = None) -> bool:
        """Whether the picture, or the part of it at one place, is what `scene` says."""
        if place is None:
            return not self.unclear
        top, left = (number // PATCH_SIZE for number in corner_of(place))
        size = THING_SIZE // PATCH_SIZE
        return not any(0 <= y - top < size and 0 <= x - left < size for y, x in self.unclear)


class _Sprites(NamedTuple):
    """Every candidate, flattened; weight is how much of a pixel the thing covers, 0 to 1.

    Composed on a backdrop B a thing is weight * colour + (1 - weight) * B, and its distance from a
    picture X falls apart into products that need no composed picture. Weights depend on the kind
    alone.
    """

    weights: Array  # (kinds, pixels * 3)
    painted: Array  # (candidates, pixels * 3), weight * colour


class _Half(NamedTuple):
    """The looks a backdrop has in one band, at the three columns, and their constant products."""

    blocks: Array  # (3, pixels * 3, looks)
    cells: Array  # (looks, 4, cell pixels * 3)
    norms: Array  # (looks, 4), the squared norms of the cells
    constants: Array  # (candidates, looks, 3)


def read_picture(picture: Image.Image) -> Seen:
    """Find the scene that a picture shows.

    Args:
        picture: 64 x 64 pixels, as the renderer or a model draws them; some blur, noise and a mild
            shift of colours are forgiven.

    Raises:
        ValueError: if the picture has another size.
    """
    if picture.size != (PICTURE_SIZE, PICTURE_SIZE):
        raise ValueError(f"a picture must be 64 x 64 pixels, got {picture.size}; resize it before")
    pixels = to_array(picture)
    scene = _nearest_scene(pixels)
    drift = _drift(pixels - to_array(render(scene)))
    if numpy.abs(drift).max() > MIN_DRIFT:
        scene = _nearest_scene(pixels - drift)
    difference = pixels - to_array(render(scene))
    difference -= _drift(difference)
    return Seen(
        scene=scene,
        unclear=_unclear_patches(difference),
        error=float(numpy.sqrt((difference**2).mean())),
    )


def to_array(picture: Image.Image) -> Array:
    """The pixels of a picture as (height, width, 3), 0 to 1."""
    return numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255


@lru_cache(maxsize=1)
def _sprites() -> _Sprites:
    images = [numpy.asarray(sprite(*name), dtype=numpy.float32) / 255 for name in CANDIDATES]
    stack = numpy.stack(images)
    painted = (stack[..., 3:] * stack[..., :3]).reshape(len(images), -1)
    weights = numpy.repeat(stack[:: len(COLOURS), ..., 3:], 3, axis=-1)
    return _Sprites(weights.reshape(len(KINDS), -1), painted)


@lru_cache(maxsize=2)
def _half(band: str) -> _Half:
    sceneries = SCENERIES[:: SCENERIES_PER_LOOK[band]]
    pictures = numpy.stack([to_array(backdrop(*scenery)) for scenery in sceneries])
    blocks, cells = _cut(pictures, band)
    sprites = _sprites()
    weights = sprites.weights
    flat = blocks.reshape(-1, blocks.shape[-1]).T
    constants = 2 * (sprites.painted * (1 - _per_candidate(weights))) @ flat
    constants += (sprites.painted**2).sum(1)[:, None]
    constants += _per_candidate((weights**2 - 2 * weights) @ flat**2)
    shape = (len(CANDIDATES), len(sceneries), 3)
    columns = numpy.ascontiguousarray(blocks.transpose(1, 2, 0))
    return _Half(columns, cells, (cells**2).sum(-1), constants.reshape(shape))


def _per_candidate(per_kind: Array) -> Array:
    return numpy.repeat(per_kind, len(COLOURS), axis=0)


def _cut(pictures: Array, band: str) -> tuple[Array, Array]:
    """One band of pictures, which are (n, 64, 64, 3).

    Returns:
        What a thing may fill, (n, 3, values), and the columns of cells, (n, 4, values).
    """
    top = BANDS.index(band) * THING_SIZE
    rows = pictures[:, top : top + THING_SIZE]
    count = len(pictures)
    blocks = [rows[:, :, left : left + THING_SIZE].reshape(count, -1) for left in COLUMNS.values()]
    cells = [
        rows[:, :, left : left + CELL_SIZE].reshape(count, -1)
        for left in range(0, PICTURE_SIZE, CELL_SIZE)
    ]
    return numpy.stack(blocks, axis=1), numpy.stack(cells, axis=1)


def _explain(pixels: Array, band: str) -> tuple[Array, Array, Array]:
    """Squared error of the best layout of a band on each look, and what it consists of.

    Returns:
        The error (looks,), the best candidate for each column (looks, 3), and which columns hold
        one (looks, 3).
    """
    half, sprites = _half(band), _sprites()
    block, cells = _cut(pixels[None], band)
    empty = half.norms + (cells**2).sum(-1) - 2 * numpy.einsum("scv,cv->sc", half.cells, cells[0])
    # |X - (painted + (1 - weight) B)|^2 - |X - B|^2, expanded.
    covered = (sprites.weights * block[0][:, None, :]) @ half.blocks  # (3, kinds, looks)
    painted = sprites.painted @ block[0].T  # (candidates, 3)
    gains = half.constants + 2 * (_per_candidate(covered.transpose(1, 2, 0)) - painted[:, None, :])
    choice = gains.argmin(0)  # (looks, 3)
    gain = gains.min(0)
    sides = numpy.minimum(gain[:, [0, 2]], 0)
    in_middle = gain[:, 1] < sides.sum(1)
    held = numpy.stack([sides[:, 0] < 0, gain[:, 1] < 0, sides[:, 1] < 0], axis=1)
    held[:, 1] &= in_middle
    held[in_middle, 0] = held[in_middle, 2] = False
    error = empty.sum(1) + numpy.where(in_middle, gain[:, 1], sides.sum(1))
    return error, choice, held


def _nearest_scene(pixels: Array) -> Scene:
    halves = {band: _explain(pixels, band) for band in BANDS}
    errors = [numpy.repeat(halves[band][0], SCENERIES_PER_LOOK[band]) for band in BANDS]
    best = int((errors[0] + errors[1]).argmin())
    background, traits = SCENERIES[best]
    things = tuple(thing for band in BANDS for thing in _things(halves[band], best, band))
    return Scene(background, things, traits)


def _things(explained: tuple[Array, Array, Array], scenery: int, band: str) -> list[Thing]:
    _, choice, held = explained
    look = scenery // SCENERIES_PER_LOOK[band]
    return [
        Thing(*CANDIDATES[int(choice[look, index])], f"{band} {column}")
        for index, column in enumerate(COLUMNS)
        if held[look, index]
    ]


def _drift(difference: Array) -> Array:
    """The constant shift of each channel, as far as it is mild."""
    return numpy.median(difference, axis=(0, 1)).clip(-MAX_DRIFT, MAX_DRIFT)


def _unclear_patches(difference: Array) -> tuple[tuple[int, int], ...]:
    side = PICTURE_SIZE // PATCH_SIZE
    patches = difference.reshape(side, PATCH_SIZE, side, PATCH_SIZE, 3)
    errors = numpy.sqrt((patches**2).mean(axis=(1, 3, 4)))
    return tuple(
        (int(row), int(column)) for row, column in numpy.argwhere(errors > MAX_PATCH_ERROR)
    )
