"""The size of pictures: what is drawn for an input image, and its own size given back."""

import logging
from typing import Any

import pytest
from PIL import Image

from data.output import InterleavedOutput
from data.output.events import Event, ImageDone, ImagePreview, ImageStarted
from tests.builders import picture
from tests.scripted import ScriptedInferencer, asks, events_of, pixels, says

ODD = picture(30, 21)  # read at 32 x 20


def drawn(prompt: Any, **options: Any) -> tuple[list[Event], InterleavedOutput]:
    inferencer = ScriptedInferencer(asks("One"), says("Two"))
    return events_of(inferencer, prompt, **{"image_shape": None, "seed": 1} | options)


def test_a_picture_for_an_input_image_is_drawn_at_the_size_that_the_model_reads_it_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "auto_interleaved"):
        events, output = drawn([ODD, "Go."])
    assert output.images[0].size == (32, 20)
    assert [(e.width, e.height) for e in events if isinstance(e, ImageStarted)] == [(32, 20)]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages == [
        "pictures are drawn at 32 x 20 pixels, at which the model reads the input image of "
        "30 x 21 pixels; image_shape='input' resizes them to its own size"
    ]


def test_nothing_is_told_of_a_size_that_is_kept_or_was_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "auto_interleaved"):
        drawn([picture(32, 20), "Go."])
        drawn([ODD, "Go."], image_shape=(8, 8))
        drawn([ODD, "Go."], image_shape="input")
    assert not caplog.messages


def test_on_request_a_picture_has_the_size_of_the_input_image() -> None:
    plain_events, plain = drawn([ODD, "Go."], preview_every=1)
    events, output = drawn([ODD, "Go."], preview_every=1, image_shape="input")
    assert output.images[0].size == ODD.size
    resized = plain.images[0].resize(ODD.size, Image.Resampling.LANCZOS)
    assert output.images[0].tobytes() == resized.tobytes()
    done = next(event for event in events if isinstance(event, ImageDone))
    assert done.image is output.images[0]
    assert done.segment.size == (20, 32)  # what was drawn is on record
    for kind in (ImageStarted, ImagePreview):
        told, known = ([e for e in each if isinstance(e, kind)] for each in (events, plain_events))
        assert len(told) == len(known)
        assert [vars_of(event) for event in told] == [vars_of(event) for event in known]


def vars_of(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__slots__ if name != "image"}


def test_the_model_goes_on_from_what_it_drew() -> None:
    """The resized picture is for the caller: what follows is as it would be without."""
    for feedback in ("latent", "pixels"):
        latents = []
        for shape in (None, "input"):
            inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("Three"))
            options = {"image_shape": shape, "seed": 1, "image_feedback": feedback}
            events_of(inferencer, [ODD, "Go."], **options)
            latents.append(inferencer.drawn[1].latent)
        assert (latents[0] == latents[1]).all()


def test_the_last_input_image_decides() -> None:
    _, output = drawn([picture(9, 30), "Go.", ODD])
    assert output.images[0].size == (32, 20)
    _, output = drawn([picture(9, 30), ODD, "Go."], image_shape="input")
    assert output.images[0].size == ODD.size


def test_a_picture_that_was_resized_comes_back_from_disk(tmp_path: Any) -> None:
    _, output = drawn([ODD, "Go."], image_shape="input")
    again = InterleavedOutput.load(output.save(tmp_path / "story.json"))
    assert pixels(again) == pixels(output)
    assert again.segments[-2].size == (20, 32)


def test_without_an_input_image_its_size_cannot_be_had() -> None:
    with pytest.raises(ValueError, match="^image_shape='input' needs an image in the prompt"):
        drawn("Go.", image_shape="input")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((21, 30), r"got 21; the nearest is image_shape=\(20, 32\)"),
        ((20, 30), "^width must be a positive multiple of 4, got 30; try 32$"),
        ((20, 700), r"at most 32 for this model, got 700; the nearest is image_shape=\(20, 32\)"),
        ((1, 700), r"the nearest is image_shape=\(4, 32\)$"),
    ],
)
def test_an_exact_size_that_is_not_drawn_is_refused_with_the_nearest(
    shape: tuple[int, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        drawn("Go.", image_shape=shape)


def test_the_size_of_the_input_image_is_refused_with_how_to_have_it() -> None:
    with pytest.raises(ValueError, match="; image_shape='input' gives pictures the size of the"):
        drawn([ODD, "Go."], image_shape=(21, 30))
