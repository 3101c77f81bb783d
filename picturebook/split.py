"""Which combinations training never sees, so that success on them is not memory.

Three kinds of combination are held out, each of names that are all familiar on their own: a kind
in a colour, a coloured thing at a place, and two kinds side by side or one above the other.
"""

from __future__ import annotations

from itertools import permutations

from picturebook.world import FREE_KINDS, PAINTS, PLACES, Scene, Thing, relation_between

NOVELTIES = ("colour", "place", "pair")

# Every paint once, on six different kinds.
HELD_OUT_COLOURS = frozenset(
    {
        ("cat", "purple"),
        ("star", "green"),
        ("circle", "orange"),
        ("heart", "blue"),
        ("house", "yellow"),
        ("tree", "red"),
    }
)


def is_held_out_colour(kind: str, colour: str) -> bool:
    """Whether training never shows this kind in this colour."""
    return (kind, colour) in HELD_OUT_COLOURS


def is_held_out_place(kind: str, colour: str, place: str) -> bool:
    """Whether training never shows this coloured thing at this place: one in eleven."""
    if kind not in FREE_KINDS or colour not in PAINTS:
        return False
    index = FREE_KINDS.index(kind) + 2 * PAINTS.index(colour) + 3 * PLACES.index(place)
    return index % 11 == 4


def is_held_out_pair(first: str, relation: str, second: str) -> bool:
    """Whether training never shows kind `second` on this side of kind `first`: one in eight.

    Args:
        first: the kind on the left or above.
        second: the kind on the right or below.
        relation: "right" or "below"; the other two say the same of the pair turned round.
    """
    if first not in FREE_KINDS or second not in FREE_KINDS:
        return False
    index = 5 * FREE_KINDS.index(first) + FREE_KINDS.index(second) + 3 * (relation == "below")
    return index % 8 == 0


def novelties(scene: Scene) -> frozenset[str]:
    """Which kinds of held-out combination a scene contains: some of `NOVELTIES`."""
    found = {novelty for thing in scene.things for novelty in _novelties_of(thing)}
    for first, second in permutations(scene.things, 2):
        relation = relation_between(second.place, first.place)
        if relation in ("right", "below") and is_held_out_pair(first.kind, relation, second.kind):
            found.add("pair")
    return frozenset(found)


def _novelties_of(thing: Thing) -> list[str]:
    found = []
    if is_held_out_colour(thing.kind, thing.colour):
        found.append("colour")
    if is_held_out_place(thing.kind, thing.colour, thing.place):
        found.append("place")
    return found


def is_held_out(scene: Scene) -> bool:
    """Whether training never sees this scene, as it contains a held-out combination."""
    return bool(novelties(scene))
