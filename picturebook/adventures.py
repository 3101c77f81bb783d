"""Short stories of a hero who finds things, in one of several places."""

from __future__ import annotations

import string
from random import Random

from picturebook.language import (
    BACKGROUND_PHRASES,
    NUMBER_WORDS,
    capitalised,
    place_phrase,
    thing_phrase,
    with_article,
)
from picturebook.records import Request, Step, Story, Wish
from picturebook.world import Scene, Thing, colours_of, layouts, random_traits

HEROES = ("robot", "cat", "bird")
# What can be found where: things of the ground, things of the sky.
FINDS = {
    "space": (("rocket", "mountain"), ("star", "planet", "sun")),
    "meadow": (("tree", "flower", "house"), ("sun", "cloud", "heart")),
    "snow": (("tree", "house", "mountain"), ("star", "cloud", "sun")),
    "forest": (("tree", "flower", "house"), ("star", "sun", "leaf")),
    "street": (("car", "house", "tree"), ("sun", "cloud", "heart")),
    "sunset": (("tree", "house", "mountain"), ("cloud", "star", "heart")),
}
VERBATIM = "Write a short story about a robot's adventure in space with illustrations."
PROMPTS = (
    "Write a short story about {a_kind}'s adventure {where} with illustrations.",
    "Write a short story about {hero}'s adventure {where} with illustrations.",
    "Create an illustrated story about {hero} {where}.",
    "Tell a story about {hero} {where} in {count} pictures.",
    "Tell a story about {hero} who finds {find} {where}.",
    "Tell a story about {hero} who finds {find}. Use {count} pictures.",
)
OPENINGS = (
    "Once there was {hero} {place}, {where}.",
    "One day {hero} wakes up {place}, {where}.",
)
MEETINGS = (
    "The {name} sees {thing} {place}.",
    "The {name} finds {thing} {place}.",
    "Then {thing} appears {place}.",
)
ENDINGS = ("At last the {name} finds {thing} {place}.", "Soon {thing} is there {place}.")
CLOSINGS = ("The end.", "The {name} is happy. The end.")
VERBATIM_RATE = 0.25


def sample_adventure(rng: Random) -> Story:
    """One adventure of two to four steps; any combination, held out or not."""
    verbatim = rng.random() < VERBATIM_RATE
    prompt = VERBATIM if verbatim else rng.choice(PROMPTS)
    fields = {name for _, name, _, _ in string.Formatter().parse(prompt) if name}
    # Two steps are few: nobody gets them without asking.
    num_steps = rng.choice((2, 3, 4) if "count" in fields else (3, 4))
    background = "space" if verbatim else rng.choice(tuple(FINDS))
    things = _cast(rng, "robot" if verbatim else rng.choice(HEROES), background, num_steps)
    hero = things[0]
    return Story(
        kind="adventure",
        prompt=prompt.format(
            a_kind=with_article(hero.kind),
            hero=thing_phrase(hero),
            find=thing_phrase(things[-1]),
            where="in space" if background == "space" else BACKGROUND_PHRASES[background],
            count=NUMBER_WORDS[num_steps],
        ),
        request=_request(things, background, fields, verbatim),
        steps=_steps(rng, things, background),
        closing=rng.choice(CLOSINGS).format(name=_name(hero)),
    )


def _cast(rng: Random, hero: str, background: str, num_things: int) -> list[Thing]:
    """The hero on the ground and what is found, each kind once, sky things in the sky."""
    places = rng.choice([each for each in layouts(num_things) if each[0].startswith("bottom")])
    things = [Thing(hero, rng.choice(colours_of(hero)), places[0])]
    for place in places[1:]:
        found = FINDS[background][place.startswith("top")]
        kind = rng.choice([kind for kind in found if kind not in {thing.kind for thing in things}])
        things.append(Thing(kind, rng.choice(colours_of(kind)), place))
    return things


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}"


def _request(things: list[Thing], background: str, fields: set[str], verbatim: bool) -> Request:
    hero, find = things[0], things[-1]
    wishes = [Wish(kind=hero.kind, colour=hero.colour if "hero" in fields else None)]
    if "find" in fields:
        wishes.append(Wish(kind=find.kind, colour=find.colour))
    return Request(
        wishes=tuple(wishes),
        background=background if verbatim or "where" in fields else None,
        num_steps=len(things) if "count" in fields else None,
    )


def _steps(rng: Random, things: list[Thing], background: str) -> tuple[Step, ...]:
    scene = Scene(background, (), random_traits(rng))
    steps = []
    for index, thing in enumerate(things):
        scene = scene.with_thing(thing)
        middle = MEETINGS if index < len(things) - 1 else ENDINGS
        text = rng.choice(middle if index else OPENINGS).format(
            hero=thing_phrase(thing),
            thing=thing_phrase(thing),
            name=_name(things[0]),
            place=place_phrase(thing.place),
            where=BACKGROUND_PHRASES[background],
        )
        steps.append(Step(capitalised(text), scene))
    return tuple(steps)
