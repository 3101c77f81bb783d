"""Whether texts do what a prompt asked for."""

from __future__ import annotations

from collections.abc import Sequence

from picturebook.language import Reading, backgrounds_in, parse_text
from picturebook.records import Request, Wish
from picturebook.world import Thing, relation_between

FEWEST_STEPS, MOST_STEPS = 2, 4


def read_texts(texts: Sequence[str]) -> list[Reading]:
    """Read texts one after the other, each given the scene that those before it made."""
    readings: list[Reading] = []
    for text in texts:
        readings.append(parse_text(text, readings[-1].scene if readings else None))
    return readings


def unmet_wishes(request: Request, readings: Sequence[Reading]) -> list[str]:
    """What is wrong with the texts of a story, in words; empty if they do what was asked.

    Texts must also be sound in themselves: each brings something new, to a free place, and speaks
    only of what is there.
    """
    problems = [problem for reading in readings for problem in reading.problems]
    problems += [
        f"text {number} brings nothing new"
        for number, reading in enumerate(readings, start=1)
        if not reading.added
    ]
    problems += _wrong_count(request, len(readings))
    if request.scenes:
        return problems + _wrong_scenes(request, readings)
    background = readings[-1].scene.background if readings and readings[-1].scene else None
    if request.background not in (None, background):
        problems.append(f"{request.background} was asked for, not {background}")
    added = [thing for reading in readings for thing in reading.added]
    if request.exact:
        return problems + _wrong_exactly(request.wishes, added)
    return problems + _missing(request.wishes, added)


def plan_problems(thought: str, request: Request, readings: Sequence[Reading]) -> list[str]:
    """How a plan differs from the texts that followed it, in words."""
    planned = backgrounds_in(thought)
    told = [reading.scene.background for reading in readings if reading.scene]
    if planned != (told if request.scenes else told[:1]):
        return [f"the plan goes to {planned}, the texts to {told}"]
    if request.scenes:
        return []
    plan = list(parse_text(thought).added)
    added = [thing for reading in readings for thing in reading.added]
    return [] if plan == added else [f"the plan brings {plan}, the texts bring {added}"]


def _wrong_count(request: Request, count: int) -> list[str]:
    if request.num_steps not in (None, count):
        return [f"{request.num_steps} steps were asked for, there are {count}"]
    if not FEWEST_STEPS <= count <= MOST_STEPS:
        return [f"a story has {FEWEST_STEPS} to {MOST_STEPS} steps, there are {count}"]
    return []


def _wrong_scenes(request: Request, readings: Sequence[Reading]) -> list[str]:
    return [
        f"text {number} does not describe the scene that was asked for"
        for number, (reading, wanted) in enumerate(
            zip(readings, request.scenes, strict=False), start=1
        )
        if reading.scene is None or not reading.scene.same_content(wanted)
    ]


def _wrong_exactly(wishes: Sequence[Wish], added: Sequence[Thing]) -> list[str]:
    if len(wishes) != len(added):
        return [f"{len(wishes)} things were asked for, the texts bring {len(added)}"]
    return [
        f"the texts bring {thing} for {wish}"
        for wish, thing in zip(wishes, added, strict=True)
        if not _grants(thing, wish, added)
    ]


def _missing(wishes: Sequence[Wish], added: Sequence[Thing]) -> list[str]:
    """The wishes that nothing grants, when things are taken in order."""
    rest = iter(added)
    return [
        f"nothing grants {wish}"
        for wish in wishes
        if not any(_grants(thing, wish, added) for thing in rest)
    ]


def _grants(thing: Thing, wish: Wish, added: Sequence[Thing]) -> bool:
    if thing.kind != wish.kind:
        return False
    if wish.colour not in (None, thing.colour) or wish.place not in (None, thing.place):
        return False
    if wish.anchor is None:
        return True
    return relation_between(thing.place, added[wish.anchor].place) == wish.relation
