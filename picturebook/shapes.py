"""The pictures of the things: each kind is a short list of strokes in a square of 32 units.

A stroke is `(shape, paint, *numbers)`: polygons and lines list points (a line its width last), an
ellipse or box its corners (a box its radius last), a chord or arc its box and two angles in
degrees (an arc its width last).
"""

from __future__ import annotations

import math

Stroke = tuple[str | float, ...]


def _wheel(x: float, y: float, radii: tuple[float, float], num_points: int) -> tuple[float, ...]:
    """A star: points at alternating radii, the first one straight up."""
    numbers: list[float] = []
    for index in range(2 * num_points):
        angle = math.pi * index / num_points
        radius = radii[index % 2]
        numbers += [x + radius * math.sin(angle), y - radius * math.cos(angle)]
    return tuple(numbers)


def _petals(x: float, y: float, distance: float, radius: float) -> tuple[Stroke, ...]:
    """Five discs around a centre."""
    strokes: list[Stroke] = []
    for index in range(5):
        angle = 2 * math.pi * index / 5
        px, py = x + distance * math.sin(angle), y - distance * math.cos(angle)
        for paint, size in (("shade", radius), ("main", 0.76 * radius)):
            strokes.append(("ellipse", paint, px - size, py - size, px + size, py + size))
    return tuple(strokes)


SPRITES: dict[str, tuple[Stroke, ...]] = {
    "circle": (
        ("ellipse", "shade", 4, 4, 28, 28),
        ("ellipse", "main", 4, 4, 26.5, 26.5),
        ("ellipse", "light", 8, 7.5, 14, 12.5),
    ),
    "square": (
        ("box", "shade", 4, 4, 28, 28, 2),
        ("box", "main", 4, 4, 25.5, 25.5, 2),
        ("box", "light", 6.5, 6.5, 16, 9, 1),
    ),
    "triangle": (
        ("polygon", "shade", 16, 4, 29, 28, 3, 28),
        ("polygon", "main", 16, 4, 25, 25, 3.6, 27),
        ("polygon", "light", 15.4, 9, 16.6, 12, 11.6, 19, 10.4, 18.5),
    ),
    "star": (
        ("polygon", "shade", *_wheel(16, 17, (13.5, 6), 5)),
        ("polygon", "main", *_wheel(15.5, 16.2, (12.2, 5.4), 5)),
        ("polygon", "light", *_wheel(14.4, 15, (5, 2.2), 5)),
    ),
    "heart": (
        ("ellipse", "main", 3.5, 5, 17, 18.5),
        ("ellipse", "main", 15, 5, 28.5, 18.5),
        ("polygon", "main", 4.6, 15.5, 16, 28.5, 27.4, 15.5, 16, 10),
        ("polygon", "shade", 16, 28.5, 27.4, 15.5, 24, 16.5, 15, 25.5),
        ("ellipse", "light", 7, 8, 12, 12.5),
    ),
    "house": (
        ("box", "shade", 21, 5, 24.5, 13, 0),
        ("box", "main", 6.5, 14, 25.5, 28, 0),
        ("polygon", "shade", 3, 16, 16, 4, 29, 16),
        ("box", "bark", 13.5, 20, 18.5, 28, 1),
        ("box", "glass", 8.5, 18, 12, 22, 0),
        ("box", "glass", 20, 18, 23.5, 22, 0),
        ("ellipse", "glass", 14, 10, 18, 14),
    ),
    "tree": (
        ("box", "bark", 13.7, 18, 18.3, 29, 1),
        ("ellipse", "shade", 5, 9, 18, 22),
        ("ellipse", "shade", 14, 9, 27, 22),
        ("ellipse", "main", 5, 7.5, 16, 19),
        ("ellipse", "main", 15, 7.5, 26, 19),
        ("ellipse", "main", 8.5, 3, 23.5, 18),
        ("ellipse", "light", 10.5, 5.5, 16, 10),
    ),
    "flower": (
        ("line", "sprout", 16, 15, 16, 28, 2.4),
        ("ellipse", "sprout", 7, 22, 16, 27),
        ("ellipse", "sprout", 16, 20.5, 25, 25.5),
        *_petals(16, 12.2, 5.4, 4.2),
        ("ellipse", "bark", 12.6, 8.8, 19.4, 15.6),
        ("ellipse", "gold", 13.4, 9.6, 18.6, 14.8),
    ),
    "car": (
        ("polygon", "main", 7.5, 16, 11, 8, 21, 8, 25.5, 16),
        ("box", "main", 3, 14.5, 29, 23.5, 3),
        ("box", "shade", 3, 20, 29, 23.5, 1.5),
        ("polygon", "glass", 9.8, 15, 12, 10, 15.4, 10, 15.4, 15),
        ("polygon", "glass", 17, 15, 17, 10, 20.2, 10, 22.8, 15),
        ("ellipse", "ink", 5.5, 19, 13, 26.5),
        ("ellipse", "ink", 19, 19, 26.5, 26.5),
        ("ellipse", "steel", 7.6, 21.1, 10.9, 24.4),
        ("ellipse", "steel", 21.1, 21.1, 24.4, 24.4),
        ("ellipse", "gold", 26, 16, 29, 19),
    ),
    "cat": (
        ("line", "main", 22, 27, 27, 25, 28, 18.5, 3),
        ("ellipse", "shade", 8, 15, 24, 29),
        ("ellipse", "light", 12, 19, 20, 29),
        ("polygon", "main", 7.2, 12, 7, 3, 14.5, 6.5),
        ("polygon", "main", 24.8, 12, 25, 3, 17.5, 6.5),
        ("ellipse", "main", 6.5, 5, 25.5, 19.5),
        ("polygon", "pink", 8.5, 7.5, 8.4, 5.2, 11, 6.6),
        ("polygon", "pink", 23.5, 7.5, 23.6, 5.2, 21, 6.6),
        ("ellipse", "paper", 9.4, 9, 14, 14.6),
        ("ellipse", "paper", 18, 9, 22.6, 14.6),
        ("ellipse", "ink", 11, 10, 13.6, 14),
        ("ellipse", "ink", 18.4, 10, 21, 14),
        ("polygon", "pink", 14.4, 14.8, 17.6, 14.8, 16, 17),
    ),
    "bird": (
        ("line", "gold", 14, 24, 14, 28.6, 1.6),
        ("line", "gold", 19, 24, 19, 28.6, 1.6),
        ("polygon", "shade", 9, 20, 3, 11, 3.4, 20),
        ("polygon", "gold", 24.5, 8, 29.5, 11, 24.5, 13.5),
        ("ellipse", "main", 5.5, 10, 24.5, 26),
        ("ellipse", "main", 14.5, 4, 26.5, 16.5),
        ("ellipse", "light", 14, 16.5, 23.5, 25),
        ("ellipse", "shade", 7, 14, 17.5, 22),
        ("ellipse", "paper", 19, 7, 24, 12),
        ("ellipse", "ink", 20.8, 8.2, 23.6, 11),
    ),
    "robot": (
        ("line", "steel", 16, 4, 16, 8, 1.4),
        ("ellipse", "gold", 14, 2.6, 18, 6.2),
        ("box", "shade", 3.2, 17.5, 7, 24.5, 1.8),
        ("box", "shade", 25, 17.5, 28.8, 24.5, 1.8),
        ("box", "shade", 9.5, 25, 14, 29.2, 1),
        ("box", "shade", 18, 25, 22.5, 29.2, 1),
        ("box", "main", 8, 7, 24, 17, 3),
        ("box", "main", 8, 16, 24, 26.5, 2),
        ("line", "shade", 9, 17, 23, 17, 1.2),
        ("box", "ink", 10, 9, 22, 14.6, 2.4),
        ("ellipse", "glass", 11.6, 10, 15, 13.6),
        ("ellipse", "glass", 17, 10, 20.4, 13.6),
        ("box", "light", 12, 19, 20, 24, 1),
        ("ellipse", "pink", 14.4, 20, 17.6, 23.2),
    ),
    "sun": (
        ("polygon", "shade", *_wheel(16, 16, (13.4, 8.6), 10)),
        ("ellipse", "main", 7.6, 7.6, 24.4, 24.4),
        ("ellipse", "ink", 11.6, 12.4, 14, 15.6),
        ("ellipse", "ink", 18, 12.4, 20.4, 15.6),
        ("arc", "ink", 11.6, 11.6, 20.4, 20.4, 30, 150, 1.4),
    ),
    "cloud": (
        ("ellipse", "shade", 3, 13, 15, 25),
        ("ellipse", "shade", 17, 12, 29, 25),
        ("box", "shade", 8, 18, 25, 25, 3),
        ("ellipse", "main", 3.6, 12.6, 14.6, 22.6),
        ("ellipse", "main", 17, 11.4, 28.4, 22.6),
        ("ellipse", "main", 8, 6.4, 22, 22.4),
        ("ellipse", "light", 11, 8.6, 16.6, 13),
    ),
    "drop": (
        ("polygon", "main", 16, 3, 24.4, 17, 7.6, 17),
        ("ellipse", "shade", 6.6, 10.8, 25.4, 29.2),
        ("ellipse", "main", 6.6, 10.8, 23.8, 27.6),
        ("polygon", "main", 16, 4, 23, 17, 9, 17),
        ("ellipse", "light", 10, 17.6, 14, 24),
    ),
    "mountain": (
        ("polygon", "shade", 11, 28, 21.5, 11, 29, 28),
        ("polygon", "main", 3, 28, 13, 5, 23, 28),
        ("polygon", "shade", 13, 5, 23, 28, 16, 28, 14.5, 15),
        ("polygon", "paper", 13, 5, 16.6, 13, 14.4, 11.6, 12.8, 14.4, 11.2, 11.6, 9.4, 13),
    ),
    "leaf": (
        ("line", "bark", 4.4, 27.6, 9, 23, 2.4),
        ("polygon", "main", 8, 24, 5.4, 16, 9, 9, 17, 4.6, 27.6, 4, 27, 15, 23, 22, 16, 26.4),
        ("polygon", "shade", 8, 24, 27.6, 4, 27, 15, 23, 22, 16, 26.4),
        ("line", "light", 9, 23, 24, 8, 1.2),
        ("line", "light", 13, 19, 11, 12.5, 1),
        ("line", "light", 17.5, 14.5, 17, 8.5, 1),
        ("line", "light", 13, 19, 19.5, 21, 1),
        ("line", "light", 17.5, 14.5, 23.5, 15, 1),
    ),
    "rocket": (
        ("polygon", "gold", 12, 24, 16, 29.6, 20, 24),
        ("polygon", "shade", 11, 16, 5, 22, 5, 27.6, 12, 24.6),
        ("polygon", "shade", 21, 16, 27, 22, 27, 27.6, 20, 24.6),
        ("polygon", "main", 16, 2.6, 21, 9, 22, 17, 20.4, 25, 11.6, 25, 10, 17, 11, 9),
        ("polygon", "shade", 16, 2.6, 20, 7.8, 12, 7.8),
        ("ellipse", "ink", 12.2, 10, 19.8, 17.6),
        ("ellipse", "glass", 13.4, 11.2, 18.6, 16.4),
        ("box", "shade", 11.6, 21.4, 20.4, 25, 0),
    ),
    "planet": (
        ("arc", "cream", 2.6, 10.6, 29.4, 21.4, 180, 360, 2),
        ("ellipse", "shade", 6.4, 6.4, 25.6, 25.6),
        ("ellipse", "main", 6.4, 6.4, 24, 24),
        ("ellipse", "light", 9.6, 8.6, 14.6, 12.4),
        ("ellipse", "shade", 17, 9, 20.4, 12),
        ("ellipse", "shade", 11, 21, 14, 23.4),
        ("arc", "cream", 2.6, 10.6, 29.4, 21.4, 0, 180, 2.4),
    ),
    "paper": (
        ("polygon", "main", 7, 3.6, 19.6, 3.6, 25, 9, 25, 28.4, 7, 28.4),
        ("polygon", "shade", 19.6, 3.6, 25, 9, 19.6, 9),
        ("line", "shade", 10, 12.5, 22, 12.5, 1.4),
        ("line", "shade", 10, 16.5, 22, 16.5, 1.4),
        ("line", "shade", 10, 20.5, 22, 20.5, 1.4),
        ("line", "shade", 10, 24.5, 17, 24.5, 1.4),
    ),
    "airplane": (
        ("polygon", "main", 29, 5, 3, 12.6, 12, 18),
        ("polygon", "shade", 29, 5, 12, 18, 13, 26.4, 17, 20.6),
        ("polygon", "main", 29, 5, 16.6, 20, 22.6, 25.6),
        ("line", "light", 26, 6.6, 8, 12.8, 1),
    ),
    "bowl": (
        ("line", "bark", 19, 15, 25.6, 4.4, 2.2),
        ("box", "shade", 10.6, 25, 21.4, 29, 1),
        ("chord", "main", 3, 2.6, 29, 27.4, 0, 180),
        ("chord", "shade", 9, 2.6, 29, 27.4, 0, 90),
        ("ellipse", "shade", 3, 11, 29, 19),
        ("ellipse", "cream", 5.4, 12.4, 26.6, 17.6),
        ("line", "bark", 19, 15, 22.6, 9.2, 2.2),
        ("ellipse", "light", 6.6, 19.4, 9.6, 22.6),
    ),
    "oven": (
        ("box", "main", 4, 4, 28, 28.4, 2),
        ("box", "shade", 4, 4, 28, 9.6, 2),
        ("ellipse", "paper", 6.6, 5.2, 9.8, 8.4),
        ("ellipse", "paper", 11.4, 5.2, 14.6, 8.4),
        ("box", "ink", 18.4, 5.4, 25.4, 8.2, 0.6),
        ("line", "steel", 8, 12.4, 24, 12.4, 1.6),
        ("box", "ink", 7, 15, 25, 25.6, 1.4),
        ("box", "gold", 9, 17, 23, 23.6, 1),
        ("line", "bark", 9.6, 21.6, 22.4, 21.6, 1.4),
    ),
    "cookie": (
        ("ellipse", "shade", 3.6, 4.6, 28.4, 28.4),
        ("ellipse", "main", 3.6, 4, 27.4, 26.6),
        ("ellipse", "chocolate", 8, 8.6, 12.4, 12.6),
        ("ellipse", "chocolate", 16.4, 6.6, 20.4, 10.4),
        ("ellipse", "chocolate", 20.4, 13.4, 24.8, 17.4),
        ("ellipse", "chocolate", 13.2, 14, 17.4, 18),
        ("ellipse", "chocolate", 7, 17.6, 11, 21.4),
        ("ellipse", "chocolate", 16.6, 20.6, 21, 24.4),
    ),
}
