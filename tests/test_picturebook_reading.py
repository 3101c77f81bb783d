"""Texts and pictures of the picture book are read back, and no error in them goes unseen."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy
import pytest
from picturebook_samples import (
    CAT,
    CIRCLE,
    MEADOW,
    SQUARE,
    with_background,
    with_colour,
    with_horizon,
    with_kind,
    with_one_less,
    with_one_more,
    with_place,
    with_sky,
    without,
    worn,
)
from PIL import Image, ImageDraw

from picturebook import (
    Scene,
    Thing,
    Traits,
    judge_picture,
    parse_text,
    read_picture,
    render,
    sample_caption,
)
from picturebook.world import (
    BACKGROUNDS,
    KINDS,
    colours_of,
    layouts,
)

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
