"""From a scene to its picture: a background with its traits, and the things pasted on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from PIL import Image, ImageDraw

from picturebook.sprites import Rgb, sprite
from picturebook.world import CELL_SIZE, PICTURE_SIZE, THING_SIZE, Scene, Traits, corner_of

# Where the ground begins, in pixels from the top: always inside the third row of cells.
HORIZON_ROWS = {"high": 34, "level": 40, "low": 46}
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Backdrop:
    """The flat colours of a background and the marks on its ground.

    `marks` are boxes (left, top, right, bottom) in pixels, repeated every 16 pixels along the
    ground, the rows counted from the horizon.
    """

    sky: Rgb
    pattern: Rgb
    ground: Rgb
    edge: Rgb
    mark: Rgb
    marks: tuple[tuple[float, float, float, float], ...]


BACKDROPS = {
    "meadow": Backdrop(
        (142, 204, 240), (184, 226, 250), (128, 196, 92), (92, 164, 68), (98, 170, 72),
        ((2, 6, 4, 10), (5, 5, 7, 10), (10, 13, 12, 17), (13, 12, 15, 17)),
    ),
    "snow": Backdrop(
        (158, 172, 208), (204, 212, 236), (240, 246, 252), (206, 218, 236), (214, 224, 240),
        ((1, 6, 7, 8), (9, 13, 15, 15)),
    ),
    "sea": Backdrop(
        (150, 222, 212), (206, 246, 238), (40, 138, 176), (120, 204, 220), (88, 176, 202),
        ((1, 6, 7, 8), (9, 13, 15, 15)),
    ),
    "space": Backdrop(
        (30, 32, 78), (76, 78, 140), (140, 136, 156), (180, 176, 194), (112, 108, 130),
        ((2, 6, 7, 9), (10, 13, 14, 15)),
    ),
    "table": Backdrop(
        (250, 228, 188), (238, 196, 138), (196, 138, 84), (150, 98, 56), (172, 116, 68),
        ((0, 9, 16, 11), (0, 19, 16, 21)),
    ),
    "sunset": Backdrop(
        (248, 138, 96), (254, 190, 136), (112, 70, 116), (84, 48, 92), (138, 92, 140),
        ((1, 6, 7, 8), (9, 13, 15, 15)),
    ),
    "street": Backdrop(
        (182, 190, 196), (222, 228, 230), (86, 88, 100), (150, 152, 160), (236, 226, 170),
        ((3, 12, 12, 14),),
    ),
    "forest": Backdrop(
        (92, 138, 110), (122, 166, 134), (176, 140, 94), (60, 100, 62), (150, 114, 74),
        ((2, 7, 6, 9), (10, 13, 14, 15)),
    ),
}  # fmt: skip


def render(scene: Scene) -> Image.Image:
    """Draw a scene.

    Returns:
        An RGB picture of 64 x 64 pixels; equal scenes give equal pixels.
    """
    picture = backdrop(scene.background, scene.traits).copy()
    for thing in scene.things:
        row, column = corner_of(thing.place)
        shape = sprite(thing.kind, thing.colour)
        picture.paste(shape, (column, row), shape)
    return picture


@lru_cache(maxsize=128)
def backdrop(background: str, traits: Traits) -> Image.Image:
    """The empty picture of a background, RGB, 64 x 64 pixels; do not draw on it."""
    colours = BACKDROPS[background]
    size = PICTURE_SIZE * SUPERSAMPLING
    canvas = Image.new("RGB", (size, size), colours.sky)
    draw = ImageDraw.Draw(canvas)
    for box in _bands(traits.sky):
        draw.rectangle(_scaled(box), fill=colours.pattern)
    for x, y in _dots(traits.sky):
        draw.ellipse(_scaled((x - 4, y - 4, x + 4, y + 4)), fill=colours.pattern)
    if background == "table":
        draw.rectangle(_scaled((0, THING_SIZE - 3, PICTURE_SIZE, THING_SIZE)), fill=colours.edge)
    _draw_ground(draw, colours, HORIZON_ROWS[traits.horizon])
    return canvas.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX)


def _bands(sky: str) -> list[tuple[float, float, float, float]]:
    starts = range(4, PICTURE_SIZE, CELL_SIZE)
    if sky == "stripes":
        return [(0, start, PICTURE_SIZE, start + 8) for start in starts]
    if sky == "bars":
        return [(start, 0, start + 8, PICTURE_SIZE) for start in starts]
    return []


def _dots(sky: str) -> list[tuple[int, int]]:
    """Centres in the corners and the middle of every cell."""
    if sky != "dots":
        return []
    corners = range(0, PICTURE_SIZE + 1, CELL_SIZE)
    middles = range(CELL_SIZE // 2, PICTURE_SIZE, CELL_SIZE)
    return [*product(corners, corners), *product(middles, middles)]


def _draw_ground(draw: ImageDraw.ImageDraw, colours: Backdrop, horizon: int) -> None:
    draw.rectangle(_scaled((0, horizon, PICTURE_SIZE, PICTURE_SIZE)), fill=colours.ground)
    draw.rectangle(_scaled((0, horizon, PICTURE_SIZE, horizon + 2)), fill=colours.edge)
    for offset in range(0, PICTURE_SIZE, 16):
        for left, top, right, bottom in colours.marks:
            box = (left + offset, top + horizon, right + offset, bottom + horizon)
            draw.rectangle(_scaled(box), fill=colours.mark)


def _scaled(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A box in pixels on the supersampled canvas; Pillow counts the last pixel in."""
    left, top, right, bottom = (number * SUPERSAMPLING for number in box)
    return left, top, right - 1, bottom - 1
