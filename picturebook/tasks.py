"""Single samples: captioned pictures, questions about a picture, and edits of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from picturebook.language import (
    BACKGROUND_PHRASES,
    NUMBER_WORDS,
    capitalised,
    caption,
    known_phrase,
    place_phrase,
    thing_phrase,
    with_article,
)
from picturebook.scenes import random_scene
from picturebook.split import is_held_out
from picturebook.world import (
    BACKGROUNDS,
    KINDS,
    PLACES,
    PLAIN,
    Scene,
    Thing,
    Traits,
    colours_of,
    overlap,
    random_traits,
)

# From a source of chance and a scene to a question and its answer.
Ask: TypeAlias = Callable[[Random, Scene], tuple[str, str]]


@dataclass(frozen=True)
class Caption:
    """A sentence and the picture that it describes."""

    text: str
    scene: Scene


@dataclass(frozen=True)
class Question:
    """A picture, a question about it and the right answer."""

    scene: Scene
    question: str
    answer: str


@dataclass(frozen=True)
class Edit:
    """A picture, an instruction and what the picture must become; traits stay."""

    before: Scene
    instruction: str
    after: Scene


def sample_caption(
    rng: Random, *, traits: Traits | None = PLAIN, held_out: bool = False
) -> Caption:
    """Draw one captioned picture.

    Args:
        rng: the only source of chance.
        traits: those of the picture, so that the caption fixes every pixel; None for any.
        held_out: whether it must contain a held-out combination; else it contains none.
    """
    while True:
        scene = random_scene(rng, traits=random_traits(rng) if traits is None else traits)
        if is_held_out(scene) == held_out:
            return Caption(caption(scene), scene)


def sample_question(rng: Random, *, held_out: bool = False) -> Question:
    """Draw one question about a picture with any traits; `held_out` as in `sample_caption`."""
    return ask_about(rng, sample_caption(rng, traits=None, held_out=held_out).scene)


def ask_about(rng: Random, scene: Scene, kinds: Sequence[Ask] | None = None) -> Question:
    """Draw one question about this scene, of one of these kinds; any of `QUESTIONS` by default."""
    question, answer = rng.choice(kinds or QUESTIONS)(rng, scene)
    return Question(scene, question, answer)


def sample_edit(rng: Random, *, held_out: bool = False) -> Edit:
    """Draw one edit of a picture with any traits.

    Args:
        rng: the only source of chance.
        held_out: whether the edited picture must contain a held-out combination; the picture
            before never does, nor do both where this is False.
    """
    while True:
        before = sample_caption(rng, traits=None).scene
        instruction, after = rng.choice(EDITS)(rng, before)
        if after != before and is_held_out(after) == held_out:
            return Edit(before, instruction, after)


def _ask_all(rng: Random, scene: Scene) -> tuple[str, str]:
    """The answer goes in reading order, as the picture knows no other."""
    things = sorted(scene.things, key=lambda thing: PLACES.index(thing.place))
    answer = caption(Scene(scene.background, tuple(things)))
    return rng.choice(("Describe the picture.", "What is in the picture?")), answer


def _ask_colour(rng: Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    return f"What colour is the {thing.kind}?", f"The {thing.kind} is {thing.colour}."


def _ask_place(rng: Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    answer = f"The {thing.kind} is {place_phrase(thing.place)}."
    return f"Where is the {thing.kind}?", answer


def _ask_thing(rng: Random, scene: Scene) -> tuple[str, str]:
    thing = rng.choice(scene.things)
    question = f"What is {place_phrase(thing.place)}?"
    return question, f"{capitalised(thing_phrase(thing))}."


def _ask_number(_: Random, scene: Scene) -> tuple[str, str]:
    number = len(scene.things)
    noun = "thing is" if number == 1 else "things are"
    answer = f"{capitalised(NUMBER_WORDS[number])} {noun} in the picture."
    return "How many things are in the picture?", answer


def _ask_background(_: Random, scene: Scene) -> tuple[str, str]:
    return "Where does it happen?", f"It happens {BACKGROUND_PHRASES[scene.background]}."


def _ask_presence(rng: Random, scene: Scene) -> tuple[str, str]:
    """Half of these ask for something there; the rest change its kind or its colour."""
    thing = rng.choice(scene.things)
    kind, colour = thing.kind, thing.colour
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            kind = rng.choice([other for other in KINDS if colour in colours_of(other)])
        else:
            colour = rng.choice(colours_of(kind))
    there = any((kind, colour) == (other.kind, other.colour) for other in scene.things)
    return f"Is there {with_article(f'{colour} {kind}')}?", "Yes." if there else "No."


DESCRIPTIONS: tuple[Ask, ...] = (_ask_all,)  # their answers answer every other question
DETAILS: tuple[Ask, ...] = (
    _ask_colour,
    _ask_place,
    _ask_thing,
    _ask_number,
    _ask_background,
    _ask_presence,
)
# Which thing has which colour: the hardest to learn, as "Yes." says so little.
BINDINGS: tuple[Ask, ...] = (_ask_presence, _ask_presence, _ask_colour, _ask_thing)
QUESTIONS: tuple[Ask, ...] = (*DESCRIPTIONS, *DESCRIPTIONS, *DETAILS)


def _replaced(scene: Scene, old: Thing, new: Thing) -> Scene:
    things = tuple(new if thing == old else thing for thing in scene.things)
    return Scene(scene.background, things, scene.traits)


def _recolour(rng: Random, scene: Scene) -> tuple[str, Scene]:
    thing = rng.choice(scene.things)
    colour = rng.choice(colours_of(thing.kind))
    new = Thing(thing.kind, colour, thing.place)
    return f"Make the {thing.kind} {colour}.", _replaced(scene, thing, new)


def _turn_into(rng: Random, scene: Scene) -> tuple[str, Scene]:
    thing = rng.choice(scene.things)
    taken = {other.kind for other in scene.things}
    kinds = [kind for kind in KINDS if thing.colour in colours_of(kind) and kind not in taken]
    if not kinds:
        return "", scene
    new = Thing(rng.choice(kinds), thing.colour, thing.place)
    instruction = f"Turn {known_phrase(thing)} into {thing_phrase(new)}."
    return instruction, _replaced(scene, thing, new)


def _free_places(scene: Scene) -> list[str]:
    return [
        place for place in PLACES if not any(overlap(place, thing.place) for thing in scene.things)
    ]


def _add(rng: Random, scene: Scene) -> tuple[str, Scene]:
    places = _free_places(scene)
    if not places:
        return "", scene
    taken = {thing.kind for thing in scene.things}
    kind = rng.choice([kind for kind in KINDS if kind not in taken])
    new = Thing(kind, rng.choice(colours_of(kind)), rng.choice(places))
    return f"Add {thing_phrase(new)} {place_phrase(new.place)}.", scene.with_thing(new)


def _remove(rng: Random, scene: Scene) -> tuple[str, Scene]:
    gone = rng.choice(scene.things)
    things = tuple(thing for thing in scene.things if thing != gone)
    return f"Remove the {gone.kind}.", Scene(scene.background, things, scene.traits)


def _move(rng: Random, scene: Scene) -> tuple[str, Scene]:
    thing = rng.choice(scene.things)
    others = Scene(
        scene.background, tuple(other for other in scene.things if other != thing), scene.traits
    )
    new = Thing(thing.kind, thing.colour, rng.choice(_free_places(others)))
    instruction = f"Move the {thing.kind} to the {new.place}."
    return instruction, _replaced(scene, thing, new)


def _relocate(rng: Random, scene: Scene) -> tuple[str, Scene]:
    background = rng.choice(BACKGROUNDS)
    instruction = f"Put it {BACKGROUND_PHRASES[background]}."
    return instruction, Scene(background, scene.things, scene.traits)


EDITS: tuple[Callable[[Random, Scene], tuple[str, Scene]], ...] = (
    _recolour,
    _turn_into,
    _add,
    _remove,
    _move,
    _relocate,
)
