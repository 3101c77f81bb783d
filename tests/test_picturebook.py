"""Laws of the picture book: the stories tell what they show, and the judge misses nothing."""

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data.picturebook import (
    IMAGE_REQUEST,
    STORY_KINDS,
    Request,
    Scene,
    Story,
    Thing,
    Traits,
    Wish,
    caption,
    illustrated,
    is_held_out,
    judge_answer,
    judge_edit,
    judge_picture,
    judge_plan,
    judge_story,
    novelties,
    parse_text,
    rates,
    read_picture,
    render,
    sample_caption,
    sample_edit,
    sample_question,
    sample_story,
)
from data.picturebook.composition import free_place
from data.picturebook.language import BACKGROUND_NOUNS, BACKGROUND_PHRASES
from data.picturebook.render import BACKDROPS
from data.picturebook.scenes import NAMED_SCENES
from data.picturebook.shapes import SPRITES
from data.picturebook.split import NOVELTIES
from data.picturebook.sprites import sprite
from data.picturebook.tasks import QUESTIONS
from data.picturebook.world import (
    BACKGROUNDS,
    COLOURS,
    FREE_KINDS,
    HORIZONS,
    KINDS,
    PAINTS,
    PLACES,
    RELATIONS,
    SKIES,
    colours_of,
    corner_of,
    layouts,
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
Items = list[str | Image.Image]

CIRCLE = Thing("circle", "red", "top left")
SQUARE = Thing("square", "blue", "top right")
CAT = Thing("cat", "green", "bottom left")
MEADOW = Scene("meadow", (CIRCLE, SQUARE, CAT), Traits("dots", "low"))


def stories(count: int, seed: int = 0, kind: str | None = None, **options: bool) -> list[Story]:
    rng = Random(seed)
    return [sample_story(rng, kind, **options) for _ in range(count)]


def words_of(story: Story) -> list[str]:
    return [story.prompt, story.closing, story.thought or "", *(step.text for step in story.steps)]


def worn(picture: Image.Image, seed: int) -> Image.Image:
    """Blur, noise and a shift of colours, about 29 dB in all: worse than an autoencoder's."""
    generator = numpy.random.default_rng(seed)
    pixels = numpy.asarray(picture.filter(ImageFilter.GaussianBlur(0.5)), dtype=float)
    pixels = pixels + generator.normal(0, 5, pixels.shape) + generator.uniform(-6, 6, 3)
    return Image.fromarray(pixels.clip(0, 255).round().astype("uint8"))


def request_for(*things: Thing, background: str | None = None) -> Request:
    wishes = tuple(Wish(kind=thing.kind, colour=thing.colour) for thing in things)
    return Request(wishes=wishes, exact=True, background=background, num_steps=len(things))


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


# Texts read back.


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A red cat is here.", "the red cat has no place"),
        ("A red cat is at the top middle.", "a red cat stands on the red circle"),
        ("The red cat sees a blue car at the bottom right.", "there is no red cat to speak of"),
        ("A red cat is above it, at the bottom right.", "bottom right is not above of"),
        ("A red cat is at the bottom right, on a snowy field.", "turns from meadow to snow"),
        ("The red circle is at the bottom right.", "the red circle is not at the bottom right"),
    ],
)
def test_a_text_that_cannot_be_drawn_says_why(text: str, problem: str) -> None:
    assert any(problem in found for found in parse_text(text, MEADOW).problems)


def test_a_first_text_must_name_a_background() -> None:
    reading = parse_text("A red cat is at the top left.")
    assert reading.scene is None
    assert reading.problems == ("no background is named",)


def test_a_relation_alone_gives_a_place() -> None:
    reading = parse_text("A red cat is below the blue square.", MEADOW)
    assert reading.added == (Thing("cat", "red", "bottom right"),)
    assert not reading.problems


def test_a_numbered_scene_begins_anew() -> None:
    reading = parse_text("Scene 2: A calm sea. A red cat is at the top left.", MEADOW)
    assert reading.scene == Scene("sea", (Thing("cat", "red", "top left"),))


# Pictures read back.


def test_worn_pictures_are_read_without_an_error() -> None:
    rng = Random(5)
    for seed in range(100):
        scene = sample_caption(rng, traits=None).scene
        seen = read_picture(worn(render(scene), seed))
        assert seen.scene.same_content(scene)
        assert seen.scene.traits == scene.traits
        assert seen.is_clear()


@pytest.mark.parametrize("shift", [15, -15])
def test_a_mild_shift_of_all_colours_is_forgiven(shift: int) -> None:
    rng = Random(1)
    for _ in range(30):
        scene = sample_caption(rng, traits=None).scene
        pixels = numpy.asarray(render(scene), dtype=int) + shift
        seen = read_picture(Image.fromarray(pixels.clip(0, 255).astype("uint8")))
        assert seen.scene.same_content(scene)
        assert seen.scene.traits == scene.traits
        assert seen.is_clear()


def without(scene: Scene, thing: Thing) -> Scene:
    things = tuple(other for other in scene.things if other != thing)
    return Scene(scene.background, things, scene.traits)


def with_kind(rng: Random, scene: Scene) -> Scene:
    thing = scene.things[0]
    kind = rng.choice([kind for kind in KINDS if kind != thing.kind])
    return without(scene, thing).with_thing(Thing(kind, thing.colour, thing.place))


def with_colour(rng: Random, scene: Scene) -> Scene:
    thing = scene.things[0]
    colour = rng.choice([colour for colour in COLOURS if colour != thing.colour])
    return without(scene, thing).with_thing(Thing(thing.kind, colour, thing.place))


def with_place(rng: Random, scene: Scene) -> Scene:
    thing, rest = scene.things[0], without(scene, scene.things[0])
    taken = (thing, *rest.things)
    free = [
        place
        for place in PLACES
        if place != thing.place and not any(overlap(place, other.place) for other in taken[1:])
    ]
    return rest.with_thing(Thing(thing.kind, thing.colour, rng.choice(free)))


def with_one_less(rng: Random, scene: Scene) -> Scene:
    return without(scene, rng.choice(scene.things))


def with_one_more(rng: Random, scene: Scene) -> Scene:
    free = [
        place for place in PLACES if not any(overlap(place, thing.place) for thing in scene.things)
    ]
    return scene.with_thing(Thing(rng.choice(KINDS), rng.choice(COLOURS), rng.choice(free)))


def with_background(rng: Random, scene: Scene) -> Scene:
    others = [background for background in BACKGROUNDS if background != scene.background]
    return replace(scene, background=rng.choice(others))


def with_sky(rng: Random, scene: Scene) -> Scene:
    sky = rng.choice([sky for sky in SKIES if sky != scene.traits.sky])
    return replace(scene, traits=replace(scene.traits, sky=sky))


def with_horizon(rng: Random, scene: Scene) -> Scene:
    horizon = rng.choice([each for each in HORIZONS if each != scene.traits.horizon])
    return replace(scene, traits=replace(scene.traits, horizon=horizon))


@pytest.mark.parametrize(
    ("spoil", "criterion"),
    [
        (with_kind, "thing"),
        (with_colour, "colour"),
        (with_place, "place"),
        (with_one_less, "thing"),
        (with_one_more, "thing"),
        (with_background, "background"),
        (with_sky, "traits"),
        (with_horizon, "traits"),
    ],
)
def test_each_error_fails_its_own_criterion_and_no_other(
    spoil: Callable[[Random, Scene], Scene], criterion: str
) -> None:
    rng = Random(6)
    names = ("thing", "colour", "place", "background", "kept", "traits")
    for seed in range(12):
        places = rng.choice(layouts(2))
        names_of = [(kind, rng.choice(colours_of(kind))) for kind in rng.sample(KINDS, 2)]
        things = tuple(Thing(*name, place) for name, place in zip(names_of, places, strict=True))
        scene = Scene(rng.choice(BACKGROUNDS), things, Traits("bars", "level"))
        if spoil in (with_one_more, with_place) and "middle" in places[0] + places[1]:
            continue  # there may be no room
        picture = worn(render(spoil(rng, scene)), seed)
        judgement = judge_picture(picture, scene, traits=scene.traits)
        assert [name for name in names if not getattr(judgement, name)] == [criterion]
        assert judgement.problems
        assert not judgement.correct


def test_a_changed_old_thing_is_not_kept_while_the_new_one_matches() -> None:
    for spoiled in (
        replace(MEADOW, things=(Thing("circle", "blue", "top left"), SQUARE, CAT)),
        replace(MEADOW, things=(Thing("star", "red", "top left"), SQUARE, CAT)),
        replace(MEADOW, things=(SQUARE, CAT)),
        replace(MEADOW, things=(Thing("circle", "red", "bottom right"), SQUARE, CAT)),
    ):
        judgement = judge_picture(render(spoiled), MEADOW, earlier=(CIRCLE, SQUARE))
        assert judgement.matches_text
        assert not judgement.kept


@pytest.mark.parametrize("half", [0, 16])
def test_half_a_thing_is_no_thing(half: int) -> None:
    picture, empty = render(MEADOW), render(without(MEADOW, CAT))
    box = (0, 32 + half, 32, 48 + half)
    picture.paste(empty.crop(box), box[:2])
    judgement = judge_picture(picture, MEADOW)
    assert not judgement.thing
    assert judgement.background


def test_a_faint_thing_is_no_thing() -> None:
    picture = Image.blend(render(MEADOW), render(without(MEADOW, CAT)), 0.5)
    assert not judge_picture(picture, MEADOW).thing


def test_a_blot_spoils_the_background() -> None:
    picture = render(MEADOW)
    ImageDraw.Draw(picture).ellipse((44, 36, 54, 46), fill=(224, 58, 52))
    judgement = judge_picture(picture, MEADOW)
    assert not judgement.background
    assert judgement.thing
    assert judgement.kept


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"64 x 64 pixels, got \(32, 64\); resize it"):
        read_picture(Image.new("RGB", (32, 64)))


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


def test_right_answers_are_right_and_those_to_another_picture_are_mostly_not() -> None:
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
