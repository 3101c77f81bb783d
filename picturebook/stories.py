"""Illustrated stories of every family, drawn from a random generator, and their plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from PIL import Image

from data.wording import shown
from picturebook.adventures import sample_adventure
from picturebook.composition import sample_composition
from picturebook.language import (
    BACKGROUND_PHRASES,
    NUMBER_WORDS,
    capitalised,
    place_phrase,
    thing_phrase,
)
from picturebook.records import Step, Story
from picturebook.render import render
from picturebook.scenes import sample_marked_scenes, sample_scenes
from picturebook.scripts import SCRIPTS
from picturebook.split import NOVELTIES
from picturebook.topics import sample_topic

STORY_KINDS: dict[str, Callable[[Random], Story]] = {
    "composition": sample_composition,
    "adventure": sample_adventure,
    **{name: partial(sample_topic, name=name) for name in SCRIPTS},
    "scenes": sample_scenes,
    "marked_scenes": sample_marked_scenes,
}
# How often each family comes, out of 20.
STORY_SHARES = {
    "composition": 8,
    "adventure": 3,
    "howto": 1.5,
    "recipe": 1.5,
    "water_cycle": 1.5,
    "photosynthesis": 1.5,
    "scenes": 1,
    "marked_scenes": 2,
}


def sample_story(rng: Random, kind: str | None = None, *, held_out: bool = False) -> Story:
    """Draw one story.

    Args:
        rng: the only source of chance; equal states give equal stories.
        kind: a key of `STORY_KINDS`, or None for a mixture.
        held_out: False for stories that training may see, which contain no held-out combination;
            True for stories that contain one, which only compositions do.

    Raises:
        ValueError: if the kind is unknown, or not a composition where `held_out`.
    """
    if kind is not None and kind not in STORY_KINDS:
        raise ValueError(f"kind must be one of {', '.join(STORY_KINDS)} or None; got {shown(kind)}")
    if held_out and kind not in (None, "composition"):
        raise ValueError(f"only compositions are held out; got {shown(kind)}; leave the kind away")
    if held_out:
        return _novel_composition(rng)
    if kind is None:
        kind = rng.choices(tuple(STORY_SHARES), tuple(STORY_SHARES.values()))[0]
    while True:
        story = STORY_KINDS[kind](rng)
        if not story.held_out:
            return _with_plan(story)


def _novel_composition(rng: Random) -> Story:
    """A composition with a held-out combination, of each sort equally often."""
    wanted = rng.choice(NOVELTIES)
    while True:
        story = sample_composition(rng)
        if wanted in story.novelties:
            return _with_plan(story)


def _with_plan(story: Story) -> Story:
    return story if story.request.in_place else replace(story, thought=plan(story))


def plan(story: Story) -> str:
    """The steps of a story in short, as a thought before the first of them."""
    count = f"{NUMBER_WORDS[len(story.steps)]} pictures"
    if story.request.scenes:
        lines = [step.text.split(".")[0] for step in story.steps]
        return f"{capitalised(count)}. {'. '.join(lines)}."
    where = BACKGROUND_PHRASES[story.steps[0].scene.background]
    lines = [f"{number}. {_line(step)}." for number, step in enumerate(story.steps, start=1)]
    return f"{capitalised(count)}, {where}. {' '.join(lines)}"


def illustrated(story: Story) -> list[str | Image.Image]:
    """A story as a perfect model would answer its prompt: texts and pictures, the closing last."""
    items: list[str | Image.Image] = []
    for step in story.steps:
        if not story.request.in_place:
            items.append(step.text)
        items.append(render(step.scene))
    return [*items, story.closing]


def _line(step: Step) -> str:
    """The thing that a step brings: "a red circle at the top left"."""
    newest = step.scene.things[-1]
    return f"{thing_phrase(newest)} {place_phrase(newest.place)}"
