"""The things drawn: the strokes of a kind in the paints of a colour, with a dark outline around.

The paints "main", "shade" and "light" follow the colour of the thing; the others are fixed.
"""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw

from picturebook.shapes import SPRITES, Stroke
from picturebook.world import THING_SIZE

Rgb = tuple[int, int, int]

COLOUR_VALUES: dict[str, Rgb] = {
    "red": (224, 58, 52),
    "orange": (245, 140, 36),
    "yellow": (252, 216, 60),
    "green": (66, 166, 76),
    "blue": (48, 112, 220),
    "purple": (150, 76, 190),
    "white": (250, 250, 246),
    "brown": (146, 92, 54),
}
FIXED_PAINTS: dict[str, Rgb] = {
    "ink": (38, 34, 52),
    "paper": (252, 250, 240),
    "glass": (176, 226, 244),
    "gold": (250, 200, 70),
    "cream": (250, 232, 190),
    "bark": (116, 72, 44),
    "chocolate": (74, 42, 30),
    "sprout": (58, 140, 66),
    "pink": (244, 150, 160),
    "steel": (196, 200, 210),
}
OUTLINE = 1.0
SUPERSAMPLING = 8


def paints_of(colour: str) -> dict[str, Rgb]:
    """Every paint a stroke may name, for a thing of this colour."""
    red, green, blue = COLOUR_VALUES[colour]
    value = (red, green, blue)
    shade = (round(red * 0.76), round(green * 0.76), round(blue * 0.76))
    light = (red + (255 - red) // 2, green + (255 - green) // 2, blue + (255 - blue) // 2)
    return {**FIXED_PAINTS, "main": value, "shade": shade, "light": light}


@lru_cache(maxsize=256)
def sprite(kind: str, colour: str) -> Image.Image:
    """A thing on a transparent ground, RGBA, 32 x 32 pixels."""
    size = THING_SIZE * SUPERSAMPLING
    canvas = Image.new("RGBA", (size, size), (*FIXED_PAINTS["ink"], 0))
    draw = ImageDraw.Draw(canvas)
    paints = paints_of(colour)
    for stroke in SPRITES[kind]:
        _draw(draw, stroke, FIXED_PAINTS["ink"], OUTLINE)
    for stroke in SPRITES[kind]:
        _draw(draw, stroke, paints[str(stroke[1])], 0.0)
    return canvas.resize((THING_SIZE, THING_SIZE), Image.Resampling.BOX)


def _draw(draw: ImageDraw.ImageDraw, stroke: Stroke, rgb: Rgb, grow: float) -> None:
    """Draw one stroke, `grow` units larger on every side."""
    shape, scale = stroke[0], SUPERSAMPLING
    *numbers, last = [float(number) * scale for number in stroke[2:]]
    grow = grow * scale
    if shape == "polygon":
        points = [*numbers, last]
        draw.polygon(points, fill=rgb)
        if grow:
            _trace(draw, [*points, *points[:2]], rgb, 2 * grow)
    elif shape == "line":
        _trace(draw, numbers, rgb, last + 2 * grow)
    elif shape == "box":
        draw.rounded_rectangle(_grown(numbers, grow), last + grow, fill=rgb)
    elif shape == "ellipse":
        draw.ellipse(_grown([*numbers, last], grow), fill=rgb)
    elif shape == "chord":
        start, end = stroke[6:8]
        draw.chord(_grown(numbers[:4], grow), float(start), float(end), fill=rgb)
    else:
        start, end = stroke[6:8]
        width = round(last + 2 * grow)
        draw.arc(_grown(numbers[:4], grow), float(start), float(end), fill=rgb, width=width)


def _trace(draw: ImageDraw.ImageDraw, points: list[float], rgb: Rgb, width: float) -> None:
    """A line with round joints and ends."""
    draw.line(points, fill=rgb, width=round(width))
    radius = width / 2
    for x, y in zip(points[::2], points[1::2], strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb)


def _grown(box: list[float], grow: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left - grow, top - grow, right + grow, bottom + grow
