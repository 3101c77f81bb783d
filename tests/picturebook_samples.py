"""Stories, worn pictures, and scenes with one known error, for the picture-book tests."""

from dataclasses import replace
from random import Random

import numpy
from PIL import Image, ImageFilter

from picturebook import (
    Request,
    Scene,
    Story,
    Thing,
    Traits,
    Wish,
    sample_story,
)
from picturebook.world import (
    BACKGROUNDS,
    COLOURS,
    HORIZONS,
    KINDS,
    PLACES,
    SKIES,
    overlap,
)

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
