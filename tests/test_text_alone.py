"""Text alone: a model that was taught to draw, told not to."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from data.output.events import ImageStarted, TextDone
from data.protocols import PROTOCOLS
from tests.builders import START, picture, toy_bagel, toy_inferencer
from tests.bundled import bundled
from tests.scripted import (
    Said,
    ScriptedInferencer,
    asks,
    counted,
    encoded,
    events_of,
    generate,
    says,
)

STORIES = (
    "Write a short story about a robot's adventure in space with illustrations.",
    "Create a recipe for chocolate chip cookies with images showing key steps.",
    "Explain the water cycle with diagrams for each stage.",
)


@pytest.mark.parametrize("prompt", STORIES)
def test_the_bundled_model_tells_its_story_to_the_end(prompt: str) -> None:
    """With nothing in the place of a picture it turned in circles for ever."""
    output = bundled().auto_interleaved_generation(prompt, max_images=0)
    assert output.finish_reason == "stop"
    assert len(output) == 1
    sentences = output.text.split("\n")
    assert len(sentences) >= 4
    assert len(set(sentences)) == len(sentences)


def test_nothing_is_drawn_and_what_was_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    inferencer = ScriptedInferencer(asks("One"), says("Two", then=START), says("Three"))
    with caplog.at_level(logging.WARNING):
        events, output = events_of(inferencer, "Go.", max_images=0)
    assert (output, output.finish_reason) == (["One\nTwo\nThree"], "stop")
    assert not inferencer.drawn
    assert not [event for event in events if isinstance(event, ImageStarted)]
    asked = [event.requested_image for event in events if isinstance(event, TextDone)]
    assert asked == [True, True, False]
    assert not caplog.messages


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_writes_on(name: str) -> None:
    trigger = PROTOCOLS[name].trigger
    marker = getattr(trigger, "pattern", "")
    in_text = getattr(trigger, "in_text", False)
    first = asks("One") if in_text else says(f"One{marker}", then=START)
    script = (first, says("Two<ans>"))  # one of them is taught to end so
    output = generate(
        ScriptedInferencer(*script, protocol=name), "Go.", max_images=0, max_interleaved_blocks=2
    )
    assert output == ["One\nTwo<ans>"]
    assert output.finish_reason == ("max_blocks" if name == "every-block" else "stop")


def test_a_limit_of_the_protocols_own_is_as_good() -> None:
    protocol = replace(PROTOCOLS["native"], max_images=0)
    output = generate(ScriptedInferencer(asks("One"), says("Two"), protocol=protocol), "Go.")
    assert (output, output.finish_reason) == (["One\nTwo"], "stop")


def test_rounds_are_counted_as_if_there_were_pictures() -> None:
    script = (asks("One"), asks("Two"), asks("Three"))
    output = generate(ScriptedInferencer(*script), "Go.", max_images=0, max_interleaved_blocks=2)
    assert (output, output.finish_reason) == (["One\nTwo"], "max_blocks")


def test_a_place_that_the_caller_asked_for_is_passed_over() -> None:
    inferencer = ScriptedInferencer(says("One"))
    output = generate(inferencer, "A.<|vision_start|>B.", max_images=0)
    assert (output, output.finish_reason) == (["One"], "stop")
    assert [segment.text for segment in output.segments] == ["A.", "B.", "One"]


@pytest.mark.parametrize(
    "changes", [{}, {"reads_vision": False}, {"text_view": "vision"}], ids=["vision", "latent", "v"]
)
def test_what_stands_for_a_picture_is_as_small_as_one_can_be(changes: dict[str, Any]) -> None:
    """A blank of 8 x 8 pixels: four tokens, two markers."""
    protocol = replace(PROTOCOLS["native"], **changes)
    inferencer = ScriptedInferencer(asks("One"), says("Two"), protocol=protocol)
    generate(inferencer, [picture(), "Go."], max_images=0)
    before, after = (view.length for view in inferencer.views)
    assert after - before == len(encoded("One")) + 2 + 4 + 2


def test_contexts_that_nothing_is_drawn_over_are_given_up() -> None:
    script = (asks("One"), says("Two", then=START), says("Three"))
    parts = toy_inferencer(toy_bagel())
    with counted(parts.model) as counts:
        generate(ScriptedInferencer(*script, parts=parts), "Go.", max_images=0)
    texts = [len(encoded(text)) + 2 for text in ("Go.", "One", "Two", "Three")]
    assert counts["tokens"] == sum(texts) + 2 * (2 + 4)


def test_what_stands_for_a_picture_needs_room() -> None:
    room = len(encoded("Go.")) + 2 + len(encoded("One")) + 2
    for spare, words in ((1, ["One"]), (2, ["One"]), (5, ["One\nTw"])):
        parts = toy_inferencer(toy_bagel(max_position_embeddings=room + spare))
        script = (asks("One"), Said(encoded("Two")))
        output = generate(ScriptedInferencer(*script, parts=parts), "Go.", max_images=0)
        assert (output, output.finish_reason) == (words, "context_full")


def test_what_stands_for_a_picture_counts_as_memory() -> None:
    script = [asks("a" * 9)] * 9
    limit = ScriptedInferencer().bytes_per_token * 100
    options = {"max_images": 0, "max_text_length": 10, "max_context_memory": limit}
    output = generate(ScriptedInferencer(*script), "Go.", **options)
    assert output.finish_reason == "context_full"
    assert 1 < len(output.text.split("\n")) < 9
