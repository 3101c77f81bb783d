"""Options that have no effect are told of, and those that are told of have none."""

import logging
from typing import Any

import pytest

from auto_interleaved.options.idle_options import _RULES
from data.output.events import ImagePreview
from tests.builders import BOS
from tests.scripted import (
    ScriptedInferencer,
    asks,
    events_of,
    generate,
    layout,
    pixels,
    says,
    toy_writer,
)


def first_of_all(images: Any, text: str) -> int:
    return 0


IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "text_temperature": ({"temperature": 0.9}, "0.9 has no effect without do_sample=True"),
    "top_p": ({"top_p": 0.5}, "0.5 has no effect without do_sample=True"),
    "top_k": ({"top_k": 3}, "3 has no effect without do_sample=True"),
    "max_think_token_n": ({"max_think_token_n": 3}, "3 has no effect without think=True"),
    "cfg_img_scale": (
        {"cfg_text_scale": 1, "cfg_img_scale": 2},
        "2.0 has no effect while cfg_text_scale is at most 1",
    ),
    "cfg_interval": (
        {"cfg_text_scale": 1, "cfg_img_scale": 1, "cfg_interval": (0, 1)},
        "(0.0, 1.0) has no effect while cfg_text_scale is at most 1",
    ),
    "cfg_renorm_min": (
        {"cfg_text_scale": 1, "cfg_img_scale": 1, "cfg_renorm_min": 1},
        "1.0 has no effect while cfg_text_scale is at most 1",
    ),
    "cfg_renorm_type": (
        {"cfg_text_scale": 1, "cfg_img_scale": 1, "cfg_renorm_type": "channel"},
        "'channel' has no effect while cfg_text_scale is at most 1",
    ),
    "enable_taylorseer": (
        {"enable_taylorseer": True, "num_timesteps": 6},
        "True has no effect while num_timesteps is at most 6",
    ),
    "choose": (
        {"choose": first_of_all},
        f"{repr(first_of_all)[:40]} has no effect while num_candidates is 1",
    ),
    "preview_every": (
        {"preview_every": 3},
        "3 has no effect outside of stream(), which alone shows previews",
    ),
    "max_images": (
        {"protocol": "thinkmorph", "max_images": 4},
        "4 has no effect beyond the 3 of protocol 'thinkmorph'",
    ),
}


def warnings_of(caplog: pytest.LogCaptureFixture, **options: Any) -> tuple[Any, list[str]]:
    caplog.clear()
    # The warning about pictures that did not come is none about options.
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        output = generate(toy_writer(protocol="every-block"), "Go.", seed=1, **LEAST | options)
    return output, [message for message in caplog.messages if "never asked" not in message]


LEAST: dict[str, Any] = {"max_text_length": 3, "max_interleaved_blocks": 1}


@pytest.mark.parametrize("name", IDLE)
def test_an_option_without_effect_is_warned_of_once_and_has_none(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, words = IDLE[name]
    output, messages = warnings_of(caplog, **options)
    assert messages == [f"{name}={words}"]
    given = {key: value for key, value in options.items() if key not in (name, "temperature")}
    without, messages = warnings_of(caplog, **given, **NEUTRAL.get(name, {}))
    assert (layout(without), messages) == (layout(output), [])
    assert pixels(without) == pixels(output)


NEUTRAL = {"cfg_img_scale": {"cfg_img_scale": 1}}  # its default is warned of as well


def test_every_rule_is_tried_here() -> None:
    assert {name for rule in _RULES for name in rule.names} <= {*IDLE}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "temperature": 0.9, "top_p": 0.5, "top_k": 3},
        {"temperature": 0},  # asks for the likeliest token, which is what is taken
        {"think": True, "max_think_token_n": 3},
        {"cfg_text_scale": 1, "cfg_img_scale": 1},
        {"enable_taylorseer": True, "num_timesteps": 7},
        {"max_images": 0, "num_timesteps": 9},
    ],
)
def test_what_has_an_effect_or_is_at_its_default_is_not_warned_of(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(caplog, **options)[1] == []


def test_previews_that_nobody_could_see_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    inferencer = ScriptedInferencer(asks("One"), says("x"))
    monkeypatch.setattr(inferencer, "preview_image", None)
    assert generate(inferencer, "Go.", preview_every=1).images


def test_previews_of_a_stream_come_where_there_are_so_many_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = []
    for every in (2, 3):
        inferencer = ScriptedInferencer(asks("One"), says("x"))
        events, _ = events_of(inferencer, "Go.", preview_every=every, num_timesteps=3)
        counts.append(sum(isinstance(event, ImagePreview) for event in events))
    assert counts == [1, 0]
    assert caplog.messages == [
        "preview_every=3 has no effect while an image has fewer steps, num_timesteps less one"
    ]


def test_options_are_told_of_as_often_as_they_are_given(caplog: pytest.LogCaptureFixture) -> None:
    """Once a run, however many texts it writes."""
    script = (says("One", then=BOS), asks("Two"), says("x"))
    generate(ScriptedInferencer(*script), "Go.", top_k=3, top_p=0.5)
    assert len(caplog.messages) == 2
