"""Laws of the picture book: what the stories tell, show and leave out of training."""

import re
from collections.abc import Callable
from random import Random

import numpy
import pytest
from picturebook_samples import CIRCLE, MEADOW, SQUARE, stories, words_of

from picturebook import (
    IMAGE_REQUEST,
    STORY_KINDS,
    Scene,
    Thing,
    Traits,
    is_held_out,
    judge_plan,
    novelties,
    parse_text,
    render,
    sample_caption,
    sample_edit,
    sample_question,
    sample_story,
)
from picturebook.composition import free_place
from picturebook.language import BACKGROUND_NOUNS, BACKGROUND_PHRASES
from picturebook.render import BACKDROPS
from picturebook.scenes import NAMED_SCENES
from picturebook.shapes import SPRITES
from picturebook.split import NOVELTIES
from picturebook.sprites import sprite
from picturebook.world import (
    BACKGROUNDS,
    FREE_KINDS,
    HORIZONS,
    KINDS,
    PAINTS,
    PLACES,
    RELATIONS,
    SKIES,
    corner_of,
    overlap,
    related_place,
    relation_between,
)

VERBATIM_PROMPTS = {
    "howto": "Create a step-by-step tutorial on how to make a paper airplane.",
    "recipe": "Create a recipe for chocolate chip cookies with images showing key steps.",
    "water_cycle": "Explain the water cycle with diagrams for each stage.",
    "photosynthesis": "Explain photosynthesis with diagrams",
    "adventure": "Write a short story about a robot's adventure in space with illustrations.",
    "marked_scenes": (
        "Describe three scenes:\n1. A sunset over mountains <|vision_start|>\n"
        "2. A busy city street <|vision_start|>\n3. A quiet forest path <|vision_start|>"
    ),
}


# The world and its pictures.


def test_every_name_has_its_picture_and_its_words() -> None:
    assert set(SPRITES) == set(KINDS)
    assert set(BACKDROPS) == set(BACKGROUND_PHRASES) == set(BACKGROUNDS)
    assert set(BACKGROUND_NOUNS.values()) == set(BACKGROUNDS)
    for background, phrase in BACKGROUND_PHRASES.items():
        assert parse_text(phrase).scene == Scene(background)


def test_a_thing_stays_inside_its_place() -> None:
    for kind in KINDS:
        alpha = numpy.asarray(sprite(kind, "red"))[..., 3]
        border = numpy.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert border.max() == 0, kind


def test_places_are_made_of_whole_cells() -> None:
    assert all(number % 16 == 0 for place in PLACES for number in corner_of(place))


def test_equal_scenes_give_equal_pixels_and_a_new_thing_changes_only_its_place() -> None:
    before = Scene("meadow", (CIRCLE, SQUARE), Traits("dots", "low"))
    change = numpy.asarray(render(MEADOW), int) - numpy.asarray(render(before), int)
    assert render(MEADOW).tobytes() == render(MEADOW).tobytes()
    assert change[32:, :32].any()
    assert not change[:32].any()
    assert not change[:, 32:].any()


def test_relations_turn_round() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for place in PLACES:
        for relation in RELATIONS:
            other = related_place(place, relation)
            if other is not None:
                assert relation_between(other, place) == relation
                assert relation_between(place, other) == opposite[relation]
                assert not overlap(place, other)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Thing("dragon", "red", "top left"),
        lambda: Thing("cat", "mauve", "top left"),
        lambda: Thing("cat", "red", "centre"),
        lambda: Traits("rain", "low"),
        lambda: Traits("dots", "deep"),
        lambda: Scene("moon"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be one of .*; got"):
        build()


def test_overlapping_things_are_refused() -> None:
    with pytest.raises(ValueError, match="two things overlap.*move one"):
        Scene("meadow", (CIRCLE, Thing("cat", "red", "top middle")))


# What is told.


def test_the_same_seed_tells_the_same_story() -> None:
    assert stories(20, seed=7) == stories(20, seed=7) != stories(20, seed=8)


@pytest.mark.parametrize("kind", [kind for kind in STORY_KINDS if kind != "marked_scenes"])
def test_reading_the_texts_gives_the_scenes(kind: str) -> None:
    for story in stories(60, kind=kind):
        scene = None
        for step in story.steps:
            reading = parse_text(step.text, scene)
            assert not reading.problems
            assert reading.scene is not None
            assert reading.scene.same_content(step.scene)
            scene = reading.scene
        assert not parse_text(story.closing, scene).added


def test_the_steps_of_a_growing_story_keep_what_was_there() -> None:
    for story in stories(80, kind="composition") + stories(80, seed=1, kind="recipe"):
        for before, after in zip(story.steps, story.steps[1:], strict=False):
            assert after.scene.things[:-1] == before.scene.things


def test_tutorials_stand_in_reading_order_and_an_airplane_has_the_colour_of_its_paper() -> None:
    for story in stories(60, kind="howto"):
        things = story.steps[-1].scene.things
        assert len({thing.colour for thing in things}) == 1
        assert [thing.place for thing in things] == sorted(
            (thing.place for thing in things), key=PLACES.index
        )


@pytest.mark.parametrize("kind", STORY_KINDS)
def test_traits_vary_between_stories_but_not_within(kind: str) -> None:
    found = stories(150, kind=kind)
    assert {story.hidden_traits.sky for story in found} == set(SKIES)
    assert {story.hidden_traits.horizon for story in found} == set(HORIZONS)
    assert all(step.scene.traits == story.hidden_traits for story in found for step in story.steps)


def test_no_word_ever_tells_a_trait() -> None:
    secret = re.compile(rf"\b({'|'.join((*SKIES, *HORIZONS))}|stripe|sky|horizon)\b")
    told = [text for story in stories(500) for text in words_of(story)]
    told += [sample_caption(Random(seed), traits=None).text for seed in range(100)]
    assert not [text for text in told if secret.search(text.lower())]


def test_a_caption_fixes_every_pixel_unless_traits_are_freed() -> None:
    rng = Random(0)
    assert {sample_caption(rng).scene.traits for _ in range(50)} == {Traits()}
    assert len({sample_caption(rng, traits=None).scene.traits for _ in range(200)}) == 12


@pytest.mark.parametrize(("kind", "prompt"), VERBATIM_PROMPTS.items())
def test_the_prompts_that_must_work_are_trained_word_for_word(kind: str, prompt: str) -> None:
    found = [story for story in stories(120, kind=kind) if story.prompt == prompt]
    assert len(found) > 10
    assert len({story.request for story in found}) == 1 or kind == "marked_scenes"
    assert len({story.steps for story in found}) > 10


def test_a_marked_prompt_is_its_texts_with_a_mark_after_each() -> None:
    for story in stories(50, kind="marked_scenes"):
        texts = [step.text for step in story.steps]
        assert story.prompt == "".join(text + IMAGE_REQUEST for text in texts)
        assert story.thought is None


def test_the_free_place_of_a_first_thing_leaves_room_for_all_others() -> None:
    unplaced = [
        story for story in stories(300, kind="composition") if story.request.wishes[0].place is None
    ]
    assert len(unplaced) > 50
    for story in unplaced:
        assert free_place(story.request.wishes) == story.steps[0].scene.things[0].place


def test_the_vocabulary_is_small_and_closed() -> None:
    def vocabulary(seed: int, count: int) -> set[str]:
        texts = [text for story in stories(count, seed) for text in words_of(story)]
        return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}

    known = vocabulary(0, 1500)
    assert len(known) < 260
    assert vocabulary(1, 150) <= known


def test_a_plan_names_the_steps_and_a_changed_plan_is_noticed() -> None:
    planned = [story for story in stories(150) if story.thought]
    for story in planned:
        texts = [step.text for step in story.steps]
        assert judge_plan(story.thought or "", story.request, texts).correct
        other = planned[0] if story.steps[0] != planned[0].steps[0] else planned[1]
        verdict = judge_plan(other.thought or "", story.request, texts)
        assert not verdict.correct
        assert "the plan" in verdict.problems[0]


# What is held out.


def test_training_never_sees_a_held_out_combination() -> None:
    rng = Random(3)
    scenes = [step.scene for story in stories(400) for step in story.steps]
    scenes += [sample_caption(rng).scene for _ in range(200)]
    scenes += [sample_question(rng).scene for _ in range(200)]
    edits = [sample_edit(rng) for _ in range(200)]
    scenes += [scene for edit in edits for scene in (edit.before, edit.after)]
    assert not any(is_held_out(scene) for scene in scenes)


def test_every_sort_of_held_out_combination_can_be_asked_for() -> None:
    rng = Random(4)
    found = stories(60, held_out=True)
    assert all(story.held_out for story in found)
    assert set().union(*(story.novelties for story in found)) == set(NOVELTIES)
    assert all(is_held_out(sample_caption(rng, held_out=True).scene) for _ in range(20))
    assert all(is_held_out(sample_question(rng, held_out=True).scene) for _ in range(20))
    edits = [sample_edit(rng, held_out=True) for _ in range(20)]
    assert all(is_held_out(edit.after) and not is_held_out(edit.before) for edit in edits)


def test_each_name_of_a_held_out_combination_is_familiar() -> None:
    rng = Random(5)
    scenes = [story.steps[-1].scene for story in stories(500)]
    scenes += [sample_caption(rng).scene for _ in range(1500)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.place for thing in things} == set(PLACES)
    for kind in FREE_KINDS:
        mine = [thing for thing in things if thing.kind == kind]
        assert len({thing.colour for thing in mine} & set(PAINTS)) >= 5, kind
        assert {thing.place for thing in mine} == set(PLACES), kind


def test_a_combination_is_held_out_by_what_it_shows_not_by_its_words() -> None:
    assert novelties(Scene("sea", (Thing("cat", "purple", "top left"),))) >= {"colour"}
    assert not is_held_out(Scene("sea", (Thing("cat", "red", "bottom left"),)))
    pair = (Thing("circle", "red", "top left"), Thing("circle", "blue", "top right"))
    assert novelties(Scene("sea", pair)) == {"pair"} == novelties(Scene("sea", pair[::-1]))


def test_the_named_scenes_can_be_trained() -> None:
    assert not any(is_held_out(scene) for scene in NAMED_SCENES.values())


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of composition, .*got 'opera'"):
        sample_story(Random(0), "opera")
    with pytest.raises(ValueError, match="only compositions are held out; got 'recipe'"):
        sample_story(Random(0), "recipe", held_out=True)
