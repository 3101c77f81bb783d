"""The judge of the picture book finds what is wrong with stories, answers and edits."""

from dataclasses import replace
from random import Random

import pytest
from picturebook_samples import (
    CAT,
    CIRCLE,
    MEADOW,
    SQUARE,
    Items,
    request_for,
    stories,
    with_sky,
    without,
    worn,
)

from picturebook import (
    STORY_KINDS,
    Request,
    Scene,
    Thing,
    Traits,
    Wish,
    caption,
    illustrated,
    judge_answer,
    judge_edit,
    judge_story,
    rates,
    render,
    sample_edit,
    sample_question,
)
from picturebook.tasks import QUESTIONS
from picturebook.world import SKIES

# Stories judged.


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_a_perfect_story_is_right_in_everything(kind: str) -> None:
    for seed, story in enumerate(stories(4, kind=kind)):
        items = [item if isinstance(item, str) else worn(item, seed) for item in illustrated(story)]
        judgement = judge_story(story.request, items, "stop")
        assert judgement.correct, judgement.problems
        assert not judgement.problems
        assert len(judgement.pictures) == len(story.steps)


def test_a_held_out_story_told_well_is_right() -> None:
    for story in stories(10, held_out=True):
        assert judge_story(story.request, illustrated(story), "stop").correct


REQUEST = request_for(CIRCLE, SQUARE, background="meadow")
TEXTS = ("A red circle is at the top left, on a green meadow.", "A blue square is to its right.")
FIRST = Scene("meadow", (CIRCLE,), Traits("dots", "low"))
SECOND = FIRST.with_thing(SQUARE)


def items_of(first: Scene = FIRST, second: Scene = SECOND) -> Items:
    return [TEXTS[0], render(first), TEXTS[1], render(second), "The end."]


def test_the_first_picture_may_have_any_traits_and_the_later_ones_must_keep_them() -> None:
    for sky in SKIES:
        traits = Traits(sky, "high")
        kept = items_of(replace(FIRST, traits=traits), replace(SECOND, traits=traits))
        assert judge_story(REQUEST, kept, "stop").correct
    lost = judge_story(REQUEST, items_of(replace(FIRST, traits=Traits("bars", "low"))), "stop")
    assert not lost.traits_kept
    assert lost.pictures_match
    assert lost.kept
    assert not lost.correct


def test_a_lost_thing_is_not_kept() -> None:
    judgement = judge_story(REQUEST, items_of(second=without(SECOND, CIRCLE)), "stop")
    assert not judgement.kept
    assert judgement.pictures_match
    assert judgement.traits_kept
    assert judgement.text_follows_prompt
    assert "picture 2: a red circle at the top left is missing" in judgement.problems


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (items_of(), "length"),
        (items_of()[1:], "stop"),
        ([*items_of()[:2], *items_of()[3:]], "stop"),
        (["Step.", *items_of()], "stop"),
        ([TEXTS[0]], "stop"),
        ([], "no_image"),
    ],
)
def test_texts_and_pictures_must_take_turns_until_the_story_ends_by_itself(
    items: Items, reason: str
) -> None:
    judgement = judge_story(REQUEST, items, reason)
    assert not judgement.structure
    assert not judgement.correct


def test_the_closing_text_may_be_missing_but_must_not_bring_anything() -> None:
    assert judge_story(REQUEST, items_of()[:-1], "stop").correct
    more = [*items_of()[:-1], "A red cat is at the bottom left."]
    assert not judge_story(REQUEST, more, "stop").text_follows_prompt


@pytest.mark.parametrize(
    "request_",
    [
        request_for(Thing("circle", "green", "top left"), SQUARE),
        request_for(Thing("star", "red", "top left"), SQUARE),
        request_for(SQUARE, CIRCLE),
        request_for(CIRCLE),
        request_for(CIRCLE, SQUARE, CAT),
        replace(REQUEST, background="sea"),
        replace(REQUEST, num_steps=3),
        replace(REQUEST, wishes=(Wish(kind="circle", place="top right"), REQUEST.wishes[1])),
        replace(
            REQUEST,
            wishes=(REQUEST.wishes[0], Wish(kind="square", relation="below", anchor=0)),
        ),
        replace(REQUEST, exact=False, wishes=(*REQUEST.wishes, Wish(kind="cat"))),
        replace(REQUEST, scenes=(MEADOW, MEADOW)),
    ],
)
def test_a_story_that_ignores_a_wish_does_not_follow_its_prompt(request_: Request) -> None:
    judgement = judge_story(request_, items_of(), "stop")
    assert not judgement.text_follows_prompt
    assert judgement.structure
    assert judgement.pictures_match


def test_a_story_of_one_step_is_too_short() -> None:
    request = Request(wishes=(Wish(kind="circle"),))
    judgement = judge_story(request, [TEXTS[0], render(FIRST)], "stop")
    assert "a story has 2 to 4 steps, there are 1" in judgement.problems


def test_every_text_must_bring_something() -> None:
    items: Items = [TEXTS[0], render(FIRST), "The red circle waits.", render(FIRST)]
    judgement = judge_story(Request(wishes=(Wish(kind="circle"),)), items, "stop")
    assert judgement.problems == ("text 2 brings nothing new",)
    assert not judgement.text_follows_prompt


def test_a_picture_without_a_readable_text_matches_nothing() -> None:
    items: Items = ["Hello.", render(FIRST), TEXTS[1], render(SECOND)]
    judgement = judge_story(REQUEST, items, "stop")
    assert not judgement.pictures[0].matches_text
    assert not judgement.text_follows_prompt


def test_marked_pictures_are_judged_by_the_prompt_with_or_without_its_texts() -> None:
    (story,) = stories(1, kind="marked_scenes")
    pictures = illustrated(story)[:-1]
    texts = [step.text for step in story.steps]
    mixed = [item for pair in zip(texts, pictures, strict=True) for item in pair]
    assert judge_story(story.request, pictures, "stop").correct
    assert judge_story(story.request, mixed, "stop").correct
    assert not judge_story(story.request, pictures[::-1], "stop").pictures_match
    assert not judge_story(story.request, pictures[:-1], "stop").structure


def test_rates_count_stories_and_pictures_apart() -> None:
    good = judge_story(REQUEST, items_of(), "stop")
    bad = judge_story(REQUEST, items_of(second=without(SECOND, SQUARE)), "length")
    found = rates([good, bad])
    assert found["structure"] == found["correct"] == 0.5
    assert found["thing"] == found["matches_text"] == 0.75
    assert found["colour"] == found["kept"] == found["traits"] == 1.0
    with pytest.raises(ValueError, match="at least one judgement, got none"):
        rates([])


# Answers and edits judged.


def test_a_right_answer_is_right_and_no_answer_is_wrong() -> None:
    rng = Random(8)
    for _ in range(150):
        question = sample_question(rng)
        assert judge_answer(question, question.answer).correct
        assert not judge_answer(question, "I do not know.").correct


def test_every_question_notices_a_wrong_answer() -> None:
    """The same question about a picture that shares nothing has another answer."""
    one = Scene("meadow", (Thing("cat", "red", "top left"),))
    two = Scene("sea", (Thing("cat", "blue", "bottom right"), Thing("sun", "red", "top left")))
    wrong = {
        "What colour is the cat?": "The cat is blue.",
        "Where is the cat?": "The cat is at the bottom right.",
        "What is at the top left?": "A red sun.",
        "How many things are in the picture?": "Two things are in the picture.",
        "Where does it happen?": "It happens by the blue sea.",
        "Describe the picture.": caption(two),
        "What is in the picture?": caption(two),
    }
    asked = set()
    for ask in QUESTIONS:
        for seed in range(8):
            question, answer = ask(Random(seed), one)
            other = wrong.get(question, "No." if answer == "Yes." else "Yes.")
            record = replace(
                sample_question(Random(0)), scene=one, question=question, answer=answer
            )
            asked.add(question)
            assert judge_answer(record, answer).correct
            assert not judge_answer(record, other).correct
    assert set(wrong) <= asked


def test_a_description_may_name_things_in_any_order_but_must_name_all() -> None:
    question = replace(
        sample_question(Random(0)),
        scene=MEADOW,
        question="Describe the picture.",
        answer=caption(MEADOW),
    )
    turned = caption(replace(MEADOW, things=MEADOW.things[::-1]))
    assert judge_answer(question, turned).correct
    assert not judge_answer(question, caption(without(MEADOW, CAT))).correct


def test_an_edit_is_right_only_if_it_was_done_and_the_rest_stayed() -> None:
    rng = Random(9)
    for seed in range(25):
        edit = sample_edit(rng)
        assert judge_edit(edit, worn(render(edit.after), seed)).correct
        assert not judge_edit(edit, worn(render(edit.before), seed)).correct
        assert not judge_edit(edit, render(with_sky(rng, edit.after))).traits


def test_every_sort_of_edit_is_asked_for() -> None:
    rng = Random(10)
    verbs = {sample_edit(rng).instruction.split()[0] for _ in range(100)}
    assert verbs == {"Make", "Turn", "Add", "Remove", "Move", "Put"}
