"""Measures what a model makes of the picture book, through the public interface alone.

Judged by `picturebook`, which knows no model. Units (see `Rate`): stories are grouped by
prompt; captions, questions and edits stand alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from picturebook import (
    Caption,
    Edit,
    PictureJudgement,
    Question,
    Story,
    StoryJudgement,
    judge_answer,
    judge_edit,
    judge_picture,
    judge_plan,
    judge_story,
    render,
)
from picturebook.benchmark.rates import Counts, Rate

Items = list[str | Image.Image]


class Teller(Protocol):
    """Who is asked in the loop: an `AutoInterleavedInferencer`, or a server (`Served`)."""

    def auto_interleaved_generation(self, prompt: Any, **options: Any) -> InterleavedOutput:
        """Answer a prompt in texts and pictures."""


@dataclass(frozen=True, kw_only=True)
class ToldStory:
    """A story's prompt, what the model made of it, and what is right about that."""

    story: Story
    output: InterleavedOutput
    judgement: StoryJudgement

    @property
    def step_texts(self) -> list[str]:
        """The texts that have a picture after them."""
        pairs = zip(self.output, self.output[1:], strict=False)
        return [text for text, then in pairs if isinstance(text, str) and not isinstance(then, str)]

    @property
    def plan_agrees(self) -> bool:
        """Whether the texts are what the plan says; False where there is no plan, or no text."""
        if not (self.output.thoughts and self.step_texts):
            return False
        return judge_plan(self.output.thoughts[0], self.story.request, self.step_texts).correct

    @property
    def writes(self) -> bool:
        """Whether the texts are the model's own and not the prompt's."""
        return not self.story.request.in_place

    @property
    def later(self) -> tuple[PictureJudgement, ...]:
        """The pictures after the first."""
        return self.judgement.pictures[1:]


# What is asked of a story, each the flags of one story; those of no story at all are left out.
STORY_FIGURES: dict[str, Callable[[ToldStory], list[bool]]] = {
    "structure": lambda told: [told.judgement.structure],
    "text does what was asked": lambda told: [told.judgement.text_follows_prompt] * told.writes,
    "picture: thing": lambda told: [each.thing for each in told.judgement.pictures],
    "picture: colour": lambda told: [each.colour for each in told.judgement.pictures],
    "picture: place": lambda told: [each.place for each in told.judgement.pictures],
    "picture: background": lambda told: [each.background for each in told.judgement.pictures],
    "picture matches its text": lambda told: [
        each.matches_text for each in told.judgement.pictures
    ],
    # A prompt that lists whole scenes has nothing stay from one to the next.
    "earlier things kept": lambda told: (
        [] if told.story.request.scenes else [each.kept for each in told.later]
    ),
    "traits kept": lambda told: [each.traits for each in told.later],
    "all of it right": lambda told: [told.judgement.correct],
}


def tell_story(inferencer: Teller, story: Story, *, seed: int, **options: Any) -> ToldStory:
    """Let a model answer a story's prompt.

    Args:
        inferencer: the model.
        story: whose prompt, and what it asks for.
        seed: of the texts and pictures.
        **options: of `auto_interleaved_generation`.
    """
    output = inferencer.auto_interleaved_generation(
        story.prompt, seed=seed, on_error="raise", **options
    )
    judgement = judge_story(story.request, list(output), output.finish_reason)
    return ToldStory(story=story, output=output, judgement=judgement)


def tell_stories(
    inferencer: Teller,
    stories: Sequence[Story],
    *,
    seed: int = 0,
    **options: Any,
) -> list[ToldStory]:
    """Let a model answer the prompts of stories, each with a seed of its own from `seed` on."""
    return [
        tell_story(inferencer, story, seed=seed + index, **options)
        for index, story in enumerate(stories)
    ]


def count_stories(told: Sequence[ToldStory]) -> Counts:
    """Count every figure of `STORY_FIGURES`; with plans, whether these agree with the texts."""
    figures = dict(STORY_FIGURES)
    if any(each.output.thoughts for each in told):
        figures["plan agrees with the texts"] = lambda each: [each.plan_agrees] * each.writes
    return {
        name: Rate.of(_by_prompt(told, [flags(each) for each in told]))
        for name, flags in figures.items()
    }


def evaluate_stories(
    inferencer: Teller,
    stories: Sequence[Story],
    *,
    seed: int = 0,
    **options: Any,
) -> Counts:
    """Let a model answer the prompts of stories and count what is right; see `tell_stories`."""
    return count_stories(tell_stories(inferencer, stories, seed=seed, **options))


def _by_prompt(told: Sequence[ToldStory], flags: Iterable[list[bool]]) -> list[list[bool]]:
    units: dict[str, list[bool]] = {}
    for each, own in zip(told, flags, strict=True):
        units.setdefault(each.story.prompt, []).extend(own)
    return list(units.values())


# Understanding and editing: through the loop, and through the published call.


def answer_in_loop(inferencer: Teller, question: Question) -> str:
    """Ask about a picture in the loop, which reads latents and vision; "" if it did not end."""
    prompt: Items = [render(question.scene), question.question]
    output = inferencer.auto_interleaved_generation(prompt, max_images=0, on_error="raise")
    return output.text if output.finish_reason == "stop" else ""


def answer_by_vision(inferencer: AutoInterleavedInferencer, question: Question) -> str:
    """Ask about a picture by the published call, which reads vision alone."""
    [answer] = inferencer.interleave_inference(
        [render(question.scene), question.question], understanding_output=True
    )
    assert isinstance(answer, str)
    return answer


def edit_in_loop(
    inferencer: Teller, edit: Edit, *, seed: int, **options: Any
) -> Image.Image | None:
    """Edit a picture in the loop; None unless one picture came and the loop ended by itself."""
    prompt: Items = [render(edit.before), edit.instruction]
    output = inferencer.auto_interleaved_generation(prompt, seed=seed, on_error="raise", **options)
    right = len(output.images) == 1 and output.finish_reason == "stop"
    return output.images[0] if right else None


def edit_at_once(
    inferencer: AutoInterleavedInferencer, edit: Edit, *, seed: int, **options: Any
) -> Image.Image:
    """Edit a picture by the published call."""
    return _picture(inferencer, [render(edit.before), edit.instruction], seed, options)


def draw_caption(
    inferencer: AutoInterleavedInferencer, caption: Caption, *, seed: int, **options: Any
) -> Image.Image:
    """Draw what a caption says, by the published call."""
    return _picture(inferencer, [caption.text], seed, options)


def _picture(
    inferencer: AutoInterleavedInferencer,
    inputs: Items,
    seed: int,
    options: dict[str, Any],
) -> Image.Image:
    with torch.random.fork_rng(devices=[]):  # the published call draws from the global generator
        torch.manual_seed(seed)
        [picture] = inferencer.interleave_inference(
            inputs, image_shapes=inferencer.image_shape, **options
        )
    assert isinstance(picture, Image.Image)
    return picture


Ask = Callable[[Any, Question], str]
Draw = Callable[..., Image.Image | None]


def evaluate_questions(inferencer: Teller, questions: Sequence[Question], ask: Ask) -> Rate:
    """Count right answers; `ask` is `answer_in_loop` or `answer_by_vision`."""
    return Rate.of([judge_answer(each, ask(inferencer, each)).correct] for each in questions)


def evaluate_edits(
    inferencer: Teller,
    edits: Sequence[Edit],
    draw: Draw,
    *,
    seed: int = 0,
    **options: Any,
) -> Rate:
    """Count edits of which nothing is wrong; `draw` is `edit_in_loop` or `edit_at_once`."""
    return Rate.of(
        [picture is not None and judge_edit(edit, picture).correct]
        for edit, picture in (
            (edit, draw(inferencer, edit, seed=seed + index, **options))
            for index, edit in enumerate(edits)
        )
    )


def evaluate_captions(
    inferencer: AutoInterleavedInferencer,
    captions: Sequence[Caption],
    *,
    seed: int = 0,
    **options: Any,
) -> Rate:
    """Count pictures that show what their caption says."""
    return Rate.of(
        [judge_picture(picture, caption.scene).matches_text]
        for caption, picture in (
            (caption, draw_caption(inferencer, caption, seed=seed + index, **options))
            for index, caption in enumerate(captions)
        )
    )
