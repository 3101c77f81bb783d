"""What the benchmark is measured on: drawn from generators that training never uses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from picturebook import (
    Caption,
    Edit,
    Question,
    Story,
    sample_caption,
    sample_edit,
    sample_question,
    sample_story,
)

T = TypeVar("T")

# The kind of story whose generator knows what each prompt asks for.
VERBATIM_PROMPTS = {
    "Create a step-by-step tutorial on how to make a paper airplane.": "howto",
    "Create a recipe for chocolate chip cookies with images showing key steps.": "recipe",
    "Explain the water cycle with diagrams for each stage.": "water_cycle",
    "Explain photosynthesis with diagrams": "photosynthesis",
    "Write a short story about a robot's adventure in space with illustrations.": "adventure",
    "Describe three scenes:\n1. A sunset over mountains <|vision_start|>\n"
    "2. A busy city street <|vision_start|>\n"
    "3. A quiet forest path <|vision_start|>": "marked_scenes",
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What one table is measured on."""

    stories: Sequence[Story] = ()
    plans: Sequence[Story] = ()
    captions: Sequence[Caption] = ()
    questions: Sequence[Question] = ()
    edits: Sequence[Edit] = ()


def draw_samples(numbers: argparse.Namespace, *, held_out: bool) -> Samples:
    """Draw what is measured, all of it or none of it with a held-out combination."""

    def drawn(count: int, sample: Callable[..., T]) -> list[T]:
        # Training's generators are named after its stages and steps.
        rng = Random(f"evaluation {numbers.seed} {sample.__name__} {held_out}")
        return [sample(rng, held_out=held_out) for _ in range(count)]

    stories = drawn(numbers.stories, sample_story)
    return Samples(
        stories=stories,
        plans=[story for story in stories if story.thought is not None][: numbers.stories // 2],
        captions=drawn(numbers.edits, sample_caption),
        questions=drawn(numbers.questions, sample_question),
        edits=drawn(numbers.edits, sample_edit),
    )


def verbatim_story(prompt: str) -> Story:
    """Return a story that answers one of `VERBATIM_PROMPTS`; its request is what counts."""
    rng = Random(0)
    while True:
        story = sample_story(rng, VERBATIM_PROMPTS[prompt])
        if story.prompt == prompt:
            return story


def verbatim_samples(numbers: argparse.Namespace) -> Samples:
    """Return each of the prompts that must work word for word, several times."""
    stories = [verbatim_story(prompt) for prompt in VERBATIM_PROMPTS]
    plans = [story for story in stories if story.thought is not None]
    return Samples(stories=stories * max(1, numbers.stories // 10), plans=plans)
