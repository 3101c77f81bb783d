"""The world of the picture book: which things, colours, places and backgrounds there are.

A picture is 64 x 64 pixels, four by four cells of 16. A thing fills two by two cells, so that it
never straddles the border of a cell; a band (top or bottom) holds one thing in its middle or one
at either side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, permutations, product
from random import Random

from data.wording import shown

PICTURE_SIZE = 64
CELL_SIZE = 16
THING_SIZE = 32

BANDS = ("top", "bottom")
COLUMNS = {"left": 0, "middle": CELL_SIZE, "right": THING_SIZE}
PLACES = tuple(f"{band} {column}" for band, column in product(BANDS, COLUMNS))
RELATIONS = ("left", "right", "above", "below")

PAINTS = ("red", "orange", "yellow", "green", "blue", "purple")
COLOURS = (*PAINTS, "white", "brown")
SHAPES = ("circle", "square", "triangle", "star", "heart")
FREE_KINDS = (*SHAPES, "house", "tree", "flower", "car", "cat", "bird", "robot")

# Things that come in natural colours only; the free kinds come in every paint.
NATURAL_COLOURS = {
    "sun": ("yellow", "orange", "red"),
    "cloud": ("white", "blue", "purple"),
    "drop": ("blue",),
    "mountain": ("purple", "brown", "green", "blue"),
    "leaf": ("green", "yellow", "orange", "red"),
    "rocket": ("white", *PAINTS),
    "planet": PAINTS,
    "paper": ("white", *PAINTS),
    "airplane": ("white", *PAINTS),
    "bowl": ("white", *PAINTS),
    "oven": ("white", *PAINTS),
    "cookie": ("brown", "yellow"),
}
KINDS = (*FREE_KINDS, *NATURAL_COLOURS)
BACKGROUNDS = ("meadow", "snow", "sea", "space", "table", "sunset", "street", "forest")

# Never said in words: the pattern of the sky and the height of the ground.
SKIES = ("plain", "stripes", "bars", "dots")
HORIZONS = ("high", "level", "low")


def colours_of(kind: str) -> tuple[str, ...]:
    """The colours a kind of thing comes in."""
    if kind in FREE_KINDS:
        return (*PAINTS, "white") if kind in ("square", "triangle") else PAINTS
    return NATURAL_COLOURS[kind]


def _require(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}; got {shown(value)}")


@dataclass(frozen=True)
class Thing:
    """One thing of a picture: its kind, colour and place.

    Raises:
        ValueError: if a name is none of this world's.
    """

    kind: str
    colour: str
    place: str

    def __post_init__(self) -> None:
        _require("kind", self.kind, KINDS)
        _require("colour", self.colour, COLOURS)
        _require("place", self.place, PLACES)


@dataclass(frozen=True)
class Traits:
    """What only pictures show: the pattern of the sky and the height of the ground."""

    sky: str = "plain"
    horizon: str = "level"

    def __post_init__(self) -> None:
        _require("sky", self.sky, SKIES)
        _require("horizon", self.horizon, HORIZONS)


PLAIN = Traits()


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows; the things stand in the order in which they came.

    Raises:
        ValueError: if the background is unknown or two things overlap.
    """

    background: str
    things: tuple[Thing, ...] = ()
    traits: Traits = field(default=PLAIN)

    def __post_init__(self) -> None:
        _require("background", self.background, BACKGROUNDS)
        for first, second in combinations(self.things, 2):
            if overlap(first.place, second.place):
                raise ValueError(f"two things overlap: {first} and {second}; move one of them")

    def with_thing(self, thing: Thing) -> Scene:
        """This scene and one more thing."""
        return Scene(self.background, (*self.things, thing), self.traits)

    def same_content(self, other: Scene) -> bool:
        """Whether both show the same things on the same background, traits aside."""
        return self.background == other.background and set(self.things) == set(other.things)


@lru_cache(maxsize=64)
def corner_of(place: str) -> tuple[int, int]:
    """The top left pixel of a place, (row, column)."""
    band, column = place.split()
    return BANDS.index(band) * THING_SIZE, COLUMNS[column]


def overlap(first: str, second: str) -> bool:
    """Whether things at the two places would share a cell."""
    (row, column), (other_row, other_column) = corner_of(first), corner_of(second)
    return row == other_row and abs(column - other_column) < THING_SIZE


def related_place(place: str, relation: str) -> str | None:
    """The place that touches `place` on one side, or None where the picture ends."""
    return next((other for other in PLACES if relation_between(other, place) == relation), None)


@lru_cache(maxsize=64)
def relation_between(place: str, anchor: str) -> str | None:
    """How `place` lies to `anchor`: "left", "right", "above", "below", or None of these."""
    (row, column), (anchor_row, anchor_column) = corner_of(place), corner_of(anchor)
    if row == anchor_row and abs(column - anchor_column) == THING_SIZE:
        return "left" if column < anchor_column else "right"
    if column == anchor_column and row != anchor_row:
        return "above" if row < anchor_row else "below"
    return None


@lru_cache(maxsize=8)
def layouts(num_things: int) -> tuple[tuple[str, ...], ...]:
    """Every way to give places to things, in order, without an overlap."""
    return tuple(
        places
        for places in permutations(PLACES, num_things)
        if not any(overlap(first, second) for first, second in combinations(places, 2))
    )


def random_traits(rng: Random) -> Traits:
    """Traits drawn evenly."""
    return Traits(rng.choice(SKIES), rng.choice(HORIZONS))
