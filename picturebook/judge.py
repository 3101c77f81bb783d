"""Judges what a model made by its pixels and words: stories, plans and answers.

A picture is judged against what the model itself wrote, the texts against the prompt, and what no
text says against the first picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from picturebook.language import BACKGROUND_NOUNS, NUMBER_WORDS, Reading, parse_text
from picturebook.picture_judge import PictureJudgement, judge_picture
from picturebook.records import Request
from picturebook.tasks import Question
from picturebook.wishes import plan_problems, read_texts, unmet_wishes
from picturebook.world import COLOURS, KINDS, PLACES


@dataclass(frozen=True, kw_only=True)
class StoryJudgement:
    """What is right about one illustrated story.

    Attributes:
        structure: texts and pictures take turns and the story ended by itself.
        text_follows_prompt: the texts are sound and do what was asked.
        pictures: one judgement a picture that could be judged.
        problems: everything that is wrong, in words.
    """

    structure: bool
    text_follows_prompt: bool
    pictures: tuple[PictureJudgement, ...]
    problems: tuple[str, ...]

    @property
    def pictures_match(self) -> bool:
        """Whether there are pictures and each shows what its text says is new."""
        return bool(self.pictures) and all(picture.matches_text for picture in self.pictures)

    @property
    def kept(self) -> bool:
        """Whether every picture keeps the things of those before it."""
        return all(picture.kept for picture in self.pictures)

    @property
    def traits_kept(self) -> bool:
        """Whether every picture keeps the traits of the first."""
        return all(picture.traits for picture in self.pictures)

    @property
    def correct(self) -> bool:
        """Whether nothing is wrong."""
        words = self.structure and self.text_follows_prompt
        return words and self.pictures_match and self.kept and self.traits_kept


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an answer or a plan is right, and what is wrong with it, in words."""

    correct: bool
    problems: tuple[str, ...] = ()


def judge_story(
    request: Request, items: Sequence[str | Image.Image], finish_reason: str
) -> StoryJudgement:
    """Judge an illustrated story.

    Args:
        request: what the prompt asked for.
        items: texts and pictures of 64 x 64 pixels, in order, without control tokens. For a request
            that marks where pictures go, the prompt's own texts may stand among them or not.
        finish_reason: "stop" if the model ended by itself.

    Raises:
        ValueError: if a picture has another size.
    """
    pictures = [item for item in items if not isinstance(item, str)]
    texts, problems = _structure(request, items, finish_reason)
    readings = [] if request.in_place else read_texts(texts)
    text_problems = [] if request.in_place else unmet_wishes(request, readings)
    closing = items[-1] if items and isinstance(items[-1], str) else ""
    if pictures and parse_text(closing, readings[-1].scene if readings else None).added:
        text_problems.append("the closing text brings something that no picture shows")
    judged = _judge_pictures(request, pictures, readings)
    picture_problems = [
        f"picture {number}: {problem}"
        for number, picture in enumerate(judged, start=1)
        for problem in picture.problems
    ]
    return StoryJudgement(
        structure=not problems,
        text_follows_prompt=not text_problems,
        pictures=tuple(judged),
        problems=(*problems, *text_problems, *picture_problems),
    )


def _structure(
    request: Request, items: Sequence[str | Image.Image], finish_reason: str
) -> tuple[list[str], list[str]]:
    """The text of each picture, "" where there is none, and what is wrong with the order."""
    problems = [] if finish_reason == "stop" else [f"the story ended by {finish_reason!r}"]
    positions = [index for index, item in enumerate(items) if not isinstance(item, str)]
    if not positions:
        problems.append("there is no picture")
    if request.in_place:
        if len(positions) != len(request.scenes):
            problems.append(f"{len(request.scenes)} pictures were asked for, not {len(positions)}")
        return [], problems
    if any(isinstance(item, str) == (index % 2 == 1) for index, item in enumerate(items)):
        problems.append("texts and pictures do not take turns")
    before = [items[index - 1] if index else "" for index in positions]
    return [text if isinstance(text, str) else "" for text in before], problems


def _judge_pictures(
    request: Request, pictures: Sequence[Image.Image], readings: Sequence[Reading]
) -> list[PictureJudgement]:
    judged: list[PictureJudgement] = []
    scenes = request.scenes if request.in_place else [reading.scene for reading in readings]
    for index, (picture, scene) in enumerate(zip(pictures, scenes, strict=False)):
        new = () if request.in_place else readings[index].added
        told = scene.things if scene and not request.in_place else ()
        earlier = [thing for thing in told if thing not in new]
        traits = judged[0].seen.scene.traits if judged else None
        judged.append(judge_picture(picture, scene, earlier=earlier, traits=traits))
    return judged


def judge_plan(thought: str, request: Request, texts: Sequence[str]) -> Verdict:
    """Whether a plan names the steps that were then written.

    Args:
        thought: the plan, with its tags or without.
        request: what the prompt asked for.
        texts: the text of each step, without the closing one.
    """
    problems = plan_problems(thought, request, read_texts(texts))
    return Verdict(correct=not problems, problems=tuple(problems))


def judge_answer(question: Question, answer: str) -> Verdict:
    """Whether an answer says what the picture shows, in whatever words.

    A description must name every thing with its colour and place, and the background; any other
    answer must contain the same facts as the right one, those in the question aside.
    """
    right, given = parse_text(question.answer), parse_text(answer)
    if right.scene is not None and right.added:
        same = given.scene is not None and given.scene.same_content(right.scene)
        problems = given.problems if same else (f"{answer!r} instead of {question.answer!r}",)
        return Verdict(correct=not problems, problems=problems)
    known = _facts(question.question)
    if _facts(answer) - known == _facts(question.answer) - known:
        return Verdict(correct=True)
    return Verdict(correct=False, problems=(f"{answer!r} instead of {question.answer!r}",))


def _facts(sentence: str) -> frozenset[str]:
    words = (*COLOURS, *KINDS, *PLACES, *BACKGROUND_NOUNS, *NUMBER_WORDS.values(), "yes", "no")
    pattern = rf"\b(?:{'|'.join(words)})\b"
    return frozenset(re.findall(pattern, sentence.lower()))


def rates(judgements: Sequence[StoryJudgement]) -> dict[str, float]:
    """The share of stories, or of their pictures, that is right by each criterion, 0 to 1.

    "kept" and "traits" count the pictures after the first, as the first can only be right.

    Raises:
        ValueError: if there is nothing to count.
    """
    if not judgements:
        raise ValueError("rates need at least one judgement, got none")
    pictures = [picture for judgement in judgements for picture in judgement.pictures]
    later = [picture for judgement in judgements for picture in judgement.pictures[1:]]
    return {
        "structure": _share([judgement.structure for judgement in judgements]),
        "text_follows_prompt": _share([judgement.text_follows_prompt for judgement in judgements]),
        "thing": _share([picture.thing for picture in pictures]),
        "colour": _share([picture.colour for picture in pictures]),
        "place": _share([picture.place for picture in pictures]),
        "background": _share([picture.background for picture in pictures]),
        "matches_text": _share([picture.matches_text for picture in pictures]),
        "kept": _share([picture.kept for picture in later]),
        "traits": _share([picture.traits for picture in later]),
        "correct": _share([judgement.correct for judgement in judgements]),
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else float("nan")
