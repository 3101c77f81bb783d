"""Stories on a known subject: a script, performed in some of its versions, places and colours."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import lru_cache
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
from picturebook.scripts import SCRIPTS, Script, Stage
from picturebook.world import (
    PLACES,
    Scene,
    Thing,
    colours_of,
    layouts,
    random_traits,
    related_place,
)

# How often a prompt is word for word the first one of its script.
VERBATIM = 0.35
# How often a story has four, three and two steps.
VERSION_WEIGHTS = (2, 2, 1)


def sample_topic(rng: Random, name: str) -> Story:
    """One story after the script of this name; any combination, held out or not."""
    script = SCRIPTS[name]
    version = rng.choices(script.versions, VERSION_WEIGHTS)[0]
    stages = [script.stages[index] for index in version]
    things = _cast(rng, script, stages, version)
    prompt = _choose_prompt(rng, script, version)
    values = {"count": NUMBER_WORDS[len(version)]}
    for index, thing in zip(version, things, strict=True):
        values[f"colour{index}"] = with_article(thing.colour)
        values[f"place{index}"] = place_phrase(thing.place)
    return Story(
        kind=script.name,
        prompt=prompt.format(**values),
        request=_request(script, version, things, _fields(prompt)),
        steps=_steps(rng, script, stages, things),
        closing=rng.choice(script.closings),
    )


def _cast(
    rng: Random, script: Script, stages: Sequence[Stage], version: tuple[int, ...]
) -> list[Thing]:
    bands = tuple(stage.band for stage in stages)
    below = tuple(
        version.index(stage.below) if stage.below in version else None for stage in stages
    )
    places = rng.choice(_arrangements(bands, below, script.ordered))
    colours = [rng.choice(stage.colours or colours_of(stage.kind)) for stage in stages]
    if script.one_colour:
        colours = [colours[0]] * len(colours)
    return [
        Thing(stage.kind, colour, place)
        for stage, colour, place in zip(stages, colours, places, strict=True)
    ]


@lru_cache(maxsize=64)
def _arrangements(
    bands: tuple[str, ...], below: tuple[int | None, ...], ordered: bool
) -> tuple[tuple[str, ...], ...]:
    """The layouts that suit every stage."""
    return tuple(
        places
        for places in layouts(len(bands))
        if all(place.startswith(band) for place, band in zip(places, bands, strict=True))
        and all(
            other is None or place == related_place(places[other], "below")
            for place, other in zip(places, below, strict=True)
        )
        and (not ordered or list(places) == sorted(places, key=PLACES.index))
    )


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _choose_prompt(rng: Random, script: Script, version: tuple[int, ...]) -> str:
    """A prompt that wishes for nothing which the version leaves out."""
    if len(version) > 2 and rng.random() < VERBATIM:
        return script.prompts[0]
    usable = {"count", *(f"{field}{index}" for field in ("colour", "place") for index in version)}
    fitting = [prompt for prompt in script.prompts if _fields(prompt) <= usable]
    # Two steps are few: nobody gets them without asking.
    if len(version) == 2:
        fitting = [prompt for prompt in fitting if "count" in _fields(prompt)]
    return rng.choice(fitting)


def _request(
    script: Script, version: tuple[int, ...], things: Sequence[Thing], fields: set[str]
) -> Request:
    counted = "count" in fields
    # A prompt without a number leaves the fourth stage to the writer.
    needed = version if counted else script.versions[1]
    wishes = []
    for index, thing in zip(version, things, strict=True):
        coloured = f"colour{0 if script.one_colour else index}" in fields
        fixed = coloured or len(script.stages[index].colours) == 1
        placed = f"place{index}" in fields
        if index in needed:
            colour, place = thing.colour if fixed else None, thing.place if placed else None
            wishes.append(Wish(kind=thing.kind, colour=colour, place=place))
    return Request(
        wishes=tuple(wishes),
        background=script.background,
        num_steps=len(version) if counted else None,
    )


def _steps(
    rng: Random, script: Script, stages: Sequence[Stage], things: Sequence[Thing]
) -> tuple[Step, ...]:
    scene = Scene(script.background, (), random_traits(rng))
    steps = []
    for number, (stage, thing) in enumerate(zip(stages, things, strict=True), start=1):
        scene = scene.with_thing(thing)
        text = capitalised(
            rng.choice(stage.texts).format(
                thing=thing_phrase(thing),
                place=place_phrase(thing.place),
                where=BACKGROUND_PHRASES[script.background],
            )
        )
        steps.append(Step(f"Step {number}: {text}" if script.numbered else text, scene))
    return tuple(steps)
