"""Prompts that list whole scenes, in words or with a mark where each picture goes."""

from __future__ import annotations

from random import Random

from picturebook.language import NUMBER_WORDS, caption, list_phrase
from picturebook.records import IMAGE_REQUEST, Request, Step, Story
from picturebook.world import (
    BACKGROUNDS,
    KINDS,
    PLAIN,
    Scene,
    Thing,
    Traits,
    colours_of,
    layouts,
    random_traits,
)

# A phrase stands for one scene, always the same.
NAMED_SCENES = {
    "A sunset over mountains": Scene(
        "sunset",
        (
            Thing("sun", "yellow", "top middle"),
            Thing("mountain", "purple", "bottom left"),
            Thing("mountain", "brown", "bottom right"),
        ),
    ),
    "A busy city street": Scene(
        "street",
        (
            Thing("house", "blue", "bottom left"),
            Thing("car", "red", "bottom right"),
            Thing("cloud", "white", "top right"),
        ),
    ),
    "A quiet forest path": Scene(
        "forest",
        (
            Thing("tree", "green", "bottom left"),
            Thing("tree", "orange", "bottom right"),
            Thing("bird", "blue", "top left"),
        ),
    ),
    "A calm blue sea": Scene(
        "sea", (Thing("sun", "orange", "top left"), Thing("cloud", "white", "top right"))
    ),
    "A flowery meadow": Scene(
        "meadow",
        (
            Thing("flower", "red", "bottom left"),
            Thing("flower", "purple", "bottom right"),
            Thing("sun", "yellow", "top right"),
        ),
    ),
    "A cold snowy field": Scene(
        "snow", (Thing("house", "red", "bottom middle"), Thing("star", "yellow", "top left"))
    ),
    "A flight through space": Scene(
        "space",
        (
            Thing("rocket", "white", "bottom middle"),
            Thing("planet", "red", "top left"),
            Thing("star", "yellow", "top right"),
        ),
    ),
    "A baking table": Scene(
        "table", (Thing("bowl", "blue", "bottom left"), Thing("cookie", "brown", "bottom right"))
    ),
}
VERBATIM_PHRASES = ("A sunset over mountains", "A busy city street", "A quiet forest path")
PROMPTS = ("Describe {count} scenes: {names}.", "Illustrate {names}.", "Show me {names}.")
VERBATIM_RATE = 0.3


def sample_scenes(rng: Random) -> Story:
    """A story of unrelated scenes, named in the prompt: the model writes a text to each."""
    phrases = _random_phrases(rng)
    traits = random_traits(rng)
    scenes = [_with_traits(NAMED_SCENES[phrase], traits) for phrase in phrases]
    count = NUMBER_WORDS[len(phrases)]
    names = list_phrase([_lowered(phrase) for phrase in phrases])
    steps = tuple(
        Step(f"Scene {number}: {phrase}. {caption(scene)}", scene)
        for number, (phrase, scene) in enumerate(zip(phrases, scenes, strict=True), start=1)
    )
    return Story(
        kind="scenes",
        prompt=rng.choice(PROMPTS).format(count=count, names=names),
        request=Request(num_steps=len(phrases), scenes=tuple(scenes)),
        steps=steps,
        closing=_closing(len(phrases)),
    )


def sample_marked_scenes(rng: Random) -> Story:
    """A prompt that marks where each picture goes; the texts are the prompt's own."""
    verbatim = rng.random() < VERBATIM_RATE
    traits = random_traits(rng)
    listed = rng.random() < 0.6
    pairs = []
    for phrase in VERBATIM_PHRASES if verbatim else _random_phrases(rng):
        scene = (
            NAMED_SCENES[phrase] if verbatim or listed else random_scene(rng, rng.choice((1, 2)))
        )
        words = phrase if verbatim or listed else caption(scene).rstrip(".")
        pairs.append((words, _with_traits(scene, traits)))
    return marked_story(pairs)


def marked_story(pairs: list[tuple[str, Scene]]) -> Story:
    """The story of a prompt that lists these words and wants these scenes drawn in place."""
    lines = [f"{number}. {words} " for number, (words, _) in enumerate(pairs, start=1)]
    lines[0] = f"Describe {NUMBER_WORDS[len(pairs)]} scenes:\n{lines[0]}"
    texts = [line if index == 0 else f"\n{line}" for index, line in enumerate(lines)]
    scenes = tuple(scene for _, scene in pairs)
    return Story(
        kind="marked_scenes",
        prompt="".join(f"{text}{IMAGE_REQUEST}" for text in texts),
        request=Request(num_steps=len(pairs), scenes=scenes, in_place=True),
        steps=tuple(Step(text, scene) for text, scene in zip(texts, scenes, strict=True)),
        closing=_closing(len(pairs)),
    )


def random_scene(rng: Random, num_things: int | None = None, traits: Traits = PLAIN) -> Scene:
    """Any background with one to three (or the given number of) different things, anywhere."""
    names: list[tuple[str, str]] = []
    places = rng.choice(layouts(num_things or rng.choice((1, 2, 2, 3))))
    while len(names) < len(places):
        kind = rng.choice(KINDS)
        if kind not in {name for name, _ in names}:
            names.append((kind, rng.choice(colours_of(kind))))
    things = tuple(Thing(*name, place) for name, place in zip(names, places, strict=True))
    return Scene(rng.choice(BACKGROUNDS), things, traits)


def _random_phrases(rng: Random) -> list[str]:
    return rng.sample(tuple(NAMED_SCENES), rng.choice((2, 3)))


def _with_traits(scene: Scene, traits: Traits) -> Scene:
    return Scene(scene.background, scene.things, traits)


def _lowered(phrase: str) -> str:
    return phrase[:1].lower() + phrase[1:]


def _closing(num_scenes: int) -> str:
    return f"These are the {NUMBER_WORDS[num_scenes]} scenes."
