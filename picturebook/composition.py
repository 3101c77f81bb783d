"""Stories that place one thing after another: the systematic part, in any combination."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from picturebook.language import (
    BACKGROUND_PHRASES,
    NUMBER_WORDS,
    capitalised,
    place_phrase,
    relation_phrase,
    thing_phrase,
)
from picturebook.records import Request, Step, Story, Wish
from picturebook.world import (
    BACKGROUNDS,
    FREE_KINDS,
    PAINTS,
    Scene,
    Thing,
    layouts,
    random_traits,
    relation_between,
)

OPENINGS = (
    "{thing} is {place}, {where}.",
    "First, {thing} is {place}, {where}.",
    "Here is {thing} {place}, {where}.",
)
ADDITIONS = (
    "{thing} is {how}.",
    "Then {thing} comes {how}.",
    "Now {thing} is {how}.",
)
CLOSINGS = ("The picture is done.", "That is the whole picture.")
PROMPTS = (
    "Draw {first}, {rest}.",
    "Draw {first}, {rest}.",
    "Paint {first}, {rest}.",
    "Start with {first}, {rest}.",
    "Draw {first}, {rest}. Use {count} pictures.",
)
# How often a later thing is placed by another thing, how often that one is named, and how often
# the prompt leaves the place of the first thing open.
RELATED, NAMED, UNPLACED = 0.75, 0.3, 0.4


def sample_composition(rng: Random) -> Story:
    """One composition of two to four things; any combination, held out or not."""
    unplaced = rng.random() < UNPLACED
    while True:
        things = _random_things(rng)
        wishes = _wishes(things, _random_anchors(rng, things))
        if not unplaced or things[0].place == free_place(wishes):
            break
    if unplaced:
        wishes = (Wish(kind=things[0].kind, colour=things[0].colour), *wishes[1:])
    background = rng.choice(BACKGROUNDS)
    said = background if rng.random() < 0.5 else None
    template = rng.choice(PROMPTS)
    return Story(
        kind="composition",
        prompt=_prompt(template, things, wishes, said),
        request=Request(wishes=wishes, exact=True, background=said, num_steps=len(things)),
        steps=_steps(rng, things, wishes, Scene(background, (), random_traits(rng))),
        closing=rng.choice(CLOSINGS),
    )


def free_place(wishes: Sequence[Wish]) -> str | None:
    """Where the first thing goes if the prompt does not say, so that all others find room.

    It stands at the bottom unless something comes below it, on the side away from the first thing
    that comes beside another, and in the middle if none does. None if any other has a fixed place.
    """
    if any(wish.relation is None for wish in wishes[1:]):
        return None
    relations = [wish.relation for wish in wishes[1:]]
    sides = [relation for relation in relations if relation in ("left", "right")]
    levels = [relation for relation in relations if relation in ("above", "below")]
    band = "top" if levels[:1] == ["below"] else "bottom"
    column = {"left": "right", "right": "left"}[sides[0]] if sides else "middle"
    return f"{band} {column}"


def _random_things(rng: Random) -> tuple[Thing, ...]:
    places = rng.choice(layouts(rng.choice((2, 3, 3, 4))))
    names: list[tuple[str, str]] = []
    while len(names) < len(places):
        name = (rng.choice(FREE_KINDS), rng.choice(PAINTS))
        if name not in names:
            names.append(name)
    return tuple(Thing(*name, place) for name, place in zip(names, places, strict=True))


def _random_anchors(rng: Random, things: Sequence[Thing]) -> list[int | None]:
    """For each thing the index of an earlier one that it is placed by, or None."""
    anchors: list[int | None] = []
    for index, thing in enumerate(things):
        touching = [
            other
            for other in range(index)
            if relation_between(thing.place, things[other].place) is not None
        ]
        related = touching and rng.random() < RELATED
        # The last thing is "it"; the others must be named.
        last = index - 1 in touching and rng.random() >= NAMED
        anchors.append((index - 1 if last else rng.choice(touching)) if related else None)
    return anchors


def _wishes(things: Sequence[Thing], anchors: Sequence[int | None]) -> tuple[Wish, ...]:
    wishes = []
    for thing, anchor in zip(things, anchors, strict=True):
        if anchor is None:
            wishes.append(Wish(kind=thing.kind, colour=thing.colour, place=thing.place))
            continue
        relation = relation_between(thing.place, things[anchor].place)
        wishes.append(Wish(kind=thing.kind, colour=thing.colour, relation=relation, anchor=anchor))
    return tuple(wishes)


def _where(index: int, things: Sequence[Thing], wish: Wish) -> str:
    """The words that place a thing: "to its right", "above the red circle" or "at the top left"."""
    if wish.relation is None or wish.anchor is None:
        return place_phrase(things[index].place)
    return relation_phrase(wish.relation, None if wish.anchor == index - 1 else things[wish.anchor])


def _prompt(
    template: str, things: Sequence[Thing], wishes: Sequence[Wish], background: str | None
) -> str:
    first = thing_phrase(things[0])
    if wishes[0].place is not None:
        first += f" {place_phrase(wishes[0].place)}"
    if background is not None:
        first += f" {BACKGROUND_PHRASES[background]}"
    rest = [
        f"then add {thing_phrase(thing)} {_where(index, things, wishes[index])}"
        for index, thing in enumerate(things)
        if index
    ]
    return template.format(first=first, rest=", ".join(rest), count=NUMBER_WORDS[len(things)])


def _steps(
    rng: Random, things: Sequence[Thing], wishes: Sequence[Wish], scene: Scene
) -> tuple[Step, ...]:
    steps = []
    for index, (thing, wish) in enumerate(zip(things, wishes, strict=True)):
        scene = scene.with_thing(thing)
        where = _where(index, things, wish)
        if wish.relation is not None:
            where = f"{where}, {place_phrase(thing.place)}"
        template = rng.choice(ADDITIONS if index else OPENINGS)
        text = template.format(
            thing=thing_phrase(thing),
            place=place_phrase(thing.place),
            where=BACKGROUND_PHRASES[scene.background],
            how=where,
        )
        steps.append(Step(capitalised(text), scene))
    return tuple(steps)
