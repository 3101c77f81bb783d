"""The picture-book benchmark itself: its intervals, what it says of perfect and of worse models."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from PIL import Image

from benchmarks import candidates
from data.output import InterleavedOutput, Segment, Usage
from picturebook import (
    IMAGE_REQUEST,
    Story,
    illustrated,
    render,
    sample_caption,
    sample_edit,
    sample_question,
    sample_story,
)
from picturebook.benchmark import __main__ as picturebook
from picturebook.benchmark import samples
from picturebook.benchmark.measures import (
    STORY_FIGURES,
    answer_by_vision,
    answer_in_loop,
    edit_at_once,
    edit_in_loop,
    evaluate_captions,
    evaluate_edits,
    evaluate_questions,
    evaluate_stories,
)
from picturebook.benchmark.rates import Rate, wilson
from tests.bundled import bundled

Items = list[str | Image.Image]


def output(items: Sequence[str | Image.Image], thought: str | None = None) -> InterleavedOutput:
    segments = [] if thought is None else [Segment(kind="text", role="thought", text=thought)]
    for item in items:
        if isinstance(item, str):
            segments.append(Segment(kind="text", role="generated", text=item))
        else:
            segments.append(Segment(kind="image", role="generated", image=item))
    return InterleavedOutput.from_segments(
        segments, finish_reason="stop", usage=Usage(), error=None, config={}
    )


class Answers:
    """Knows the right answer to every prompt; `spoil` may make it worse."""

    image_shape = (64, 64)

    def __init__(self, answers: dict[str, Items], plans: dict[str, str] | None = None) -> None:
        self.answers = answers
        self.plans = plans or {}

    def auto_interleaved_generation(
        self, prompt: Any, think: bool = False, **_: Any
    ) -> InterleavedOutput:
        words = prompt if isinstance(prompt, str) else prompt[-1]
        return output(self.answers[words], self.plans.get(words) if think else None)

    def interleave_inference(self, inputs: Items, **_: Any) -> Items:
        return [item for item in self.answers[inputs[-1]] if item not in ("Here it is.", "Done.")]


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    rng = Random(5)
    kinds = ("composition", "adventure", "howto", "scenes", "marked_scenes")
    return [sample_story(rng, kind) for kind in kinds for _ in range(2)]


def told(stories: list[Story], **options: Any) -> dict[str, Rate]:
    answers = Answers(
        {story.prompt: illustrated(story) for story in stories},
        {story.prompt: story.thought for story in stories if story.thought},
    )
    return evaluate_stories(answers, stories, **options)


def test_wilsons_interval_has_its_known_values() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_units_of_one_are_counted_as_they_are() -> None:
    rate = Rate.of([[True]] * 90 + [[False]] * 10)
    assert rate.effective == pytest.approx(99, abs=1)
    assert str(rate) == "90.0% [82.5, 94.5] n=100"


def test_what_fails_together_counts_as_one() -> None:
    together = Rate.of([[True] * 4] * 20 + [[False] * 4] * 5)
    apart = Rate.of([[True] * 4] * 5 + [[True, True, True, False]] * 20)
    assert together.share == apart.share == 0.8
    assert together.effective == pytest.approx(24, abs=1)
    assert apart.effective == 100


def test_pictures_that_are_all_right_count_by_their_stories() -> None:
    rate = Rate.of([[True] * 4] * 25)
    assert rate.count == 100
    assert rate.interval == wilson(1.0, 25)


def test_a_perfect_model_gets_everything_right(stories: list[Story]) -> None:
    counts = told(stories)
    assert set(counts) == set(STORY_FIGURES)
    assert all(rate.share == 1 for rate in counts.values())
    assert counts["structure"].count == len(stories)
    assert counts["text does what was asked"].count == len(stories) - 2  # two bring their texts
    pictures = sum(len(story.steps) for story in stories)
    assert counts["picture matches its text"].count == pictures
    assert counts["traits kept"].count == pictures - len(stories)


def test_plans_are_counted_where_there_are_some(stories: list[Story]) -> None:
    assert told(stories, think=True)["plan agrees with the texts"].share == 1


def test_a_plan_of_another_story_is_counted_wrong(stories: list[Story]) -> None:
    first, second = stories[:2]
    answers = Answers({first.prompt: illustrated(first)}, {first.prompt: second.thought or ""})
    counts = evaluate_stories(answers, [first], think=True)
    assert counts["plan agrees with the texts"].share == 0
    assert counts["all of it right"].share == 1


def test_silence_agrees_with_no_plan(stories: list[Story]) -> None:
    answers = Answers({stories[0].prompt: ["Hm."]}, {stories[0].prompt: "Hm."})
    counts = evaluate_stories(answers, stories[:1], think=True)
    assert counts["plan agrees with the texts"].share == 0
    assert counts["structure"].share == 0


def test_a_story_told_with_the_pictures_of_another_is_seen(stories: list[Story]) -> None:
    story = stories[0]
    items = illustrated(story)
    items[1::2] = [items[1]] * len(items[1::2])  # the first picture again and again
    counts = evaluate_stories(Answers({story.prompt: items}), [story])
    assert counts["picture matches its text"].right == 1
    assert counts["traits kept"].share == counts["structure"].share == 1


def test_stories_of_one_prompt_are_one_unit(stories: list[Story]) -> None:
    counts = told([stories[0]] * 3 + [stories[1]])
    assert counts["structure"].count == 4
    assert len(counts["structure"].units) == 2


def test_questions_edits_and_captions_are_counted() -> None:
    rng = Random(2)
    questions = [sample_question(rng) for _ in range(4)]
    edits = [sample_edit(rng) for _ in range(4)]
    captions = [sample_caption(rng) for _ in range(4)]
    for ask in (answer_in_loop, answer_by_vision):
        for question in questions:
            answers = Answers({question.question: [question.answer]})
            assert evaluate_questions(answers, [question], ask).share == 1
    for draw in (edit_in_loop, edit_at_once):
        for edit in edits:
            items: Items = ["Here it is.", render(edit.after), "Done."]
            assert evaluate_edits(Answers({edit.instruction: items}), [edit], draw).share == 1
            items[1] = render(edit.before)
            assert evaluate_edits(Answers({edit.instruction: items}), [edit], draw).share == 0
    right = Answers({caption.text: [render(caption.scene)] for caption in captions})
    assert evaluate_captions(right, captions).share == 1


def test_an_edit_that_draws_nothing_is_wrong() -> None:
    edit = sample_edit(Random(3))
    assert evaluate_edits(Answers({edit.instruction: ["No."]}), [edit], edit_in_loop).share == 0


def test_prompts_word_for_word_are_known_with_what_they_ask_for() -> None:
    for prompt, kind in samples.VERBATIM_PROMPTS.items():
        story = samples.verbatim_story(prompt)
        assert (story.prompt, story.kind) == (prompt, kind)
        assert story.request.in_place == (IMAGE_REQUEST in prompt)


def test_samples_are_what_was_asked_for_and_the_same_each_time() -> None:
    given = picturebook.parsed(["--stories", "4", "--questions", "3", "--edits", "2"])
    familiar = samples.draw_samples(given, held_out=False)
    novel = samples.draw_samples(given, held_out=True)
    assert not any(story.held_out for story in familiar.stories)
    assert all(story.held_out for story in novel.stories)
    assert familiar == samples.draw_samples(given, held_out=False)
    sizes = [len(familiar.stories), len(familiar.questions), len(familiar.edits)]
    assert sizes == [4, 3, 2]


def test_an_unknown_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        picturebook.parsed(["--settings", "latent,pixel"])
    assert "got pixel" in capsys.readouterr().err


def test_candidates_are_counted_by_the_models_choice_and_the_judges() -> None:
    rng = Random("candidates")
    captions = [sample_caption(rng) for _ in range(2)]
    own, best, seconds = candidates.measured(
        bundled(), captions, num_candidates=2, num_timesteps=2, cfg_text_scale=2.5
    )
    assert own.count == best.count == 2
    assert own.right <= best.right
    assert seconds > 0
