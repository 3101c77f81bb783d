"""Why a run ends: every finish reason, and the one warning."""

import logging
from dataclasses import replace

import pytest

from data.output.events import Finished, ImageDone, ImageStarted, TextDelta
from data.output.segments import FinishReason
from data.protocols import PROTOCOLS, Protocol, Written
from tests.builders import BOS, START, picture, toy_bagel, toy_inferencer
from tests.scripted import (
    SHORT,
    Said,
    ScriptedInferencer,
    asks,
    counted,
    encoded,
    events_of,
    frame,
    generate,
    layout,
    says,
    toy_parts,
)

TALE = "abcdefghij"  # one token a letter


def reason_of(*script: Said, **options: object) -> FinishReason:
    return generate(ScriptedInferencer(*script), "Tell me.", **options).finish_reason


def test_a_model_that_has_drawn_and_ends_its_text_stops() -> None:
    assert reason_of(asks("One"), says("Two")) == "stop"


def test_an_image_that_only_the_caller_asked_for_is_an_image() -> None:
    output = generate(ScriptedInferencer(says("One")), "Go.<|vision_start|>")
    assert output.finish_reason == "stop"


def test_a_text_that_reaches_its_limit_ends_a_run_that_tokens_trigger() -> None:
    inferencer = ScriptedInferencer(asks("One"), Said(encoded(TALE)))
    output = generate(inferencer, "Go.", max_text_length=6)
    assert output.finish_reason == "length"
    assert layout(output) == ["One", "*", "abcdef"]


def test_a_text_at_its_limit_ends_a_run_that_markers_trigger() -> None:
    inferencer = ScriptedInferencer(Said(encoded(TALE)), protocol="bagel")
    output = generate(inferencer, "Go.", max_text_length=6)
    assert (output, output.finish_reason) == (["abcdef"], "length")


def test_a_text_at_its_limit_is_a_text_like_others_where_every_text_draws() -> None:
    inferencer = ScriptedInferencer(Said(encoded(TALE)), protocol="every-block")
    output = generate(inferencer, "Go.", max_text_length=6, max_interleaved_blocks=1)
    assert layout(output) == ["abcdef", "*"]


def test_the_end_of_a_text_right_before_its_limit_is_an_end() -> None:
    assert reason_of(asks("One"), says(TALE), max_text_length=len(TALE) + 1) == "stop"


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_rounds_are_counted(rounds: int) -> None:
    script = (asks("One"), asks("Two"), asks("Three"), asks("Four"))
    output = generate(ScriptedInferencer(*script), "Go.", max_interleaved_blocks=rounds)
    assert output.finish_reason == "max_blocks"
    assert len(output.images) == rounds


def test_a_text_that_leads_to_more_text_is_a_round() -> None:
    script = (says(word, then=BOS) for word in ("One", "Two", "Three"))
    output = generate(ScriptedInferencer(*script), "Go.", max_interleaved_blocks=2)
    assert (output, output.finish_reason) == (["One\nTwo"], "max_blocks")


def test_requests_of_the_caller_are_no_rounds() -> None:
    prompt = "<|vision_start|><|vision_start|>"
    output = generate(ScriptedInferencer(asks("One")), prompt, max_interleaved_blocks=1)
    assert layout(output) == ["*", "*", "One", "*"]


def test_a_run_ends_at_the_image_that_is_one_too_many() -> None:
    """The text after the last image is still written: it may be the answer."""
    script = (asks("One"), asks("Two"), asks("Three"))
    output = generate(ScriptedInferencer(*script), "Go.", max_images=2)
    assert layout(output) == ["One", "*", "Two", "*", "Three"]
    assert output.finish_reason == "max_images"


def test_where_images_are_forbidden_the_text_goes_on() -> None:
    output = generate(ScriptedInferencer(asks("One"), says("Two")), "Go.", max_images=0)
    assert (output, output.finish_reason) == (["One\nTwo"], "stop")


def test_a_request_of_the_caller_is_an_image_that_counts() -> None:
    prompt = "A.<|vision_start|>B.<|vision_start|>C."
    output = generate(ScriptedInferencer(), prompt, max_images=1)
    assert layout(output) == ["*"]
    assert output.finish_reason == "max_images"


# Stop strings.


@pytest.mark.parametrize("pieces", [("STOP",), ("S", "T", "O", "P"), ("ST", "OP it")])
def test_a_text_is_cut_before_a_stop_string_however_it_is_split(pieces: tuple[str, ...]) -> None:
    ids = tuple(id_ for piece in ("a ", *pieces) for id_ in encoded(piece))
    inferencer = ScriptedInferencer(asks("One"), Said(ids))
    output = generate(inferencer, "Go.", stop_strings=("STOP",))
    assert layout(output) == ["One", "*", "a "]
    assert output.finish_reason == "stop_string"


def test_what_could_have_become_a_stop_string_is_text() -> None:
    script = (says("a STO"),)
    output = generate(ScriptedInferencer(*script), "Go.", max_images=0, stop_strings=("STOP",))
    assert (output, output.finish_reason) == (["a STO"], "stop")


def test_a_stop_string_at_the_limit_of_a_text_is_heard() -> None:
    assert reason_of(Said(encoded("STOP")), stop_strings="STOP", max_text_length=4) == "stop_string"


def test_a_stop_string_holds_where_every_text_draws() -> None:
    inferencer = ScriptedInferencer(says("a STOP"), protocol="every-block")
    assert generate(inferencer, "Go.", stop_strings=("STOP",)) == ["a "]


def test_a_stop_string_at_the_very_beginning_leaves_no_text() -> None:
    output = generate(ScriptedInferencer(says("STOP")), "Go.", stop_strings=("STOP",))
    assert (output, output.finish_reason) == ([], "stop_string")


# The model's positions.


def run_within(
    positions: int, *script: Said, prompt: object = "abc", **options: object
) -> tuple[ScriptedInferencer, list[str], FinishReason]:
    """Run a model that was made for so many positions."""
    parts = toy_inferencer(toy_bagel(max_position_embeddings=positions))
    inferencer = ScriptedInferencer(*script, parts=parts)
    output = generate(inferencer, prompt, **options)
    return inferencer, layout(output), output.finish_reason


PROMPT = len(frame(encoded("abc")))


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_a_text_ends_where_the_models_positions_do(tokens: int) -> None:
    """Its bos and its eos fit as well."""
    positions = PROMPT + 2 + tokens
    _, texts, reason = run_within(positions, Said(encoded(TALE)))
    assert (texts, reason) == ([TALE[:tokens]], "context_full")


def test_a_text_that_ends_by_itself_before_the_last_position_has_ended_by_itself() -> None:
    assert run_within(PROMPT + 2 + 5, says("abcd"), max_images=0)[1:] == (["abcd"], "stop")


def test_of_two_limits_at_the_same_token_the_callers_is_told() -> None:
    result = run_within(PROMPT + 2 + 4, Said(encoded(TALE)), max_text_length=4)
    assert result[1:] == (["abcd"], "length")


def test_no_text_begins_that_cannot_have_a_token() -> None:
    for spare in range(3):
        inferencer, texts, reason = run_within(PROMPT + spare, says("One"))
        assert (texts, reason) == ([], "context_full")
        assert not inferencer.views


def test_an_image_starts_only_where_it_can_be_read_afterwards() -> None:
    text = len(frame(encoded("d")))
    script = (asks("d"), says("e"))
    assert run_within(PROMPT + text + 1, *script)[1:] == (["d"], "context_full")
    # It takes two positions, for its latents and for what is seen; no text has room behind them.
    assert run_within(PROMPT + text + 2, *script)[1:] == (["d", "*"], "context_full")
    assert run_within(PROMPT + text + 2 + 4, *script)[1:] == (["d", "*", "e"], "stop")


def test_a_prompt_that_leaves_no_room_to_write_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_within(PROMPT + 2)
    assert caplog.messages == [
        f"the prompt leaves 2 of the model's {PROMPT + 2} positions, too few for a text"
    ]


def test_a_requested_image_starts_only_where_it_fits() -> None:
    prompt = "abc<|vision_start|>"
    assert run_within(PROMPT + 1, prompt=prompt)[1:] == ([], "context_full")
    assert run_within(PROMPT + 2, prompt=prompt)[1:] == (["*"], "context_full")


@pytest.mark.parametrize("prompt", ["abcd", ["abc", picture()], ["<|vision_start|>", "abc", "a"]])
def test_a_prompt_beyond_the_models_positions_is_refused_before_it_is_read(prompt: object) -> None:
    """It ended as a run without a word and without an error."""
    parts = toy_inferencer(toy_bagel(max_position_embeddings=PROMPT))
    inferencer = ScriptedInferencer(parts=parts)
    with (
        counted(parts.model) as counts,
        pytest.raises(ValueError, match=f"at most {PROMPT} positions.*got .*; shorten its texts"),
    ):
        inferencer.stream(prompt, **SHORT)
    assert not counts


def test_a_plan_ends_where_the_models_positions_do() -> None:
    instruction = generate(
        ScriptedInferencer(says("plan"), says("One")), "abc", think=True, max_images=0
    ).usage.prompt_tokens
    for room in (3, 5):
        parts = toy_inferencer(toy_bagel(max_position_embeddings=instruction + room))
        output = generate(ScriptedInferencer(Said(encoded(TALE)), parts=parts), "abc", think=True)
        assert output.finish_reason == "context_full"
        assert output.usage.thought_tokens == room - 2
    parts = toy_inferencer(toy_bagel(max_position_embeddings=instruction + 2))
    assert generate(ScriptedInferencer(parts=parts), "abc", think=True).thoughts == []


def test_positions_that_only_the_full_context_takes_count() -> None:
    """Where images are seen and not read, text is written at lower positions than it is kept at."""
    parts = toy_inferencer(toy_bagel(max_position_embeddings=PROMPT + 2 + 2 + 3))
    protocol = replace(PROTOCOLS["zebra-cot"], system_prompt=None)
    inferencer = ScriptedInferencer(Said(encoded(TALE)), parts=parts, protocol=protocol)
    output = generate(inferencer, ["abc", picture()])
    assert (output, output.finish_reason) == (["abc"], "context_full")


# No image at all.


def warnings_of(
    caplog: pytest.LogCaptureFixture, *script: Said, **options: object
) -> tuple[FinishReason, list[str]]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        reason = reason_of(*script, **options)
    return reason, [record.getMessage() for record in caplog.records]


def test_a_run_without_an_image_warns_once_and_names_the_presets_to_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reason, messages = warnings_of(caplog, says("One", then=BOS), says("Two", then=BOS), says("x"))
    assert reason == "no_image"
    assert len(messages) == 1
    assert "never asked for a picture" in messages[0]
    assert "'native'" in messages[0]
    assert "protocol='bagel'" in messages[0]
    assert "protocol='every-block'" in messages[0]


def test_a_preset_that_failed_is_not_named_as_one_to_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reason, messages = warnings_of(caplog, says("One"), protocol="bagel")
    assert reason == "no_image"
    assert "protocol='bagel'" not in messages[0]
    assert "protocol='native'" in messages[0]


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        (PROTOCOLS["native"], {"max_images": 0}),
        (replace(PROTOCOLS["native"], max_images=0), {}),
    ],
)
def test_where_no_image_could_be_expected_none_is_missed(
    protocol: Protocol, options: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(caplog, says("One"), protocol=protocol, **options) == ("stop", [])


@pytest.mark.parametrize(
    "prompt",
    [
        [picture(), "What is in the picture?"],
        ["What is this? Say it in one word.", picture()],
        [picture(), "Describe it."],
        picture(),
        [{"role": "user", "content": [{"type": "image", "image": picture()}]}],
        "What is the capital of France?",
        'What do they mean by "no image"?\n',
        "\u4ec0\u4e48\u662f\u732b\uff1f",
        ["Tell me.", "And why?"],
    ],
    ids=range(9),
)
def test_a_plain_answer_is_all_that_a_question_asks_for(
    prompt: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        output = generate(ScriptedInferencer(says("One")), prompt)
    assert (output, output.finish_reason, caplog.messages) == (["One"], "stop", [])


@pytest.mark.parametrize("prompt", ["What? Tell me with pictures.", ["Why?", "Tell me."]])
def test_what_is_said_after_a_question_may_ask_for_pictures(prompt: object) -> None:
    assert generate(ScriptedInferencer(says("One")), prompt).finish_reason == "no_image"


def test_an_image_that_came_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, asks("One"), says("Two")) == ("stop", [])


@pytest.mark.parametrize(
    ("script", "options", "reason"),
    [
        ((Said(encoded(TALE)),), {"max_text_length": 3}, "length"),
        ((says("STOP"),), {"stop_strings": ("STOP",)}, "stop_string"),
        ((says("One", then=BOS),), {"max_interleaved_blocks": 1}, "max_blocks"),
    ],
)
def test_a_limit_that_ended_a_run_before_any_image_is_no_reason_to_warn(
    script: tuple[Said, ...],
    options: dict[str, object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert warnings_of(caplog, *script, **options) == (reason, [])


# Ended from outside.


def test_a_closed_iterator_leaves_what_exists() -> None:
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("Three"))
    stream = inferencer.stream("Go.", **SHORT)
    for event in stream:
        if isinstance(event, ImageDone):
            break
    stream.close()
    output = inferencer.last_output
    assert output is not None
    assert layout(output) == ["One", "*"]
    assert output.finish_reason == "interrupted"
    assert isinstance(output.error, GeneratorExit)
    assert next(stream, None) is None


def test_an_interrupted_text_keeps_what_was_held_back() -> None:
    """And what sets it off from the text before."""

    def trigger(written: Written) -> str:
        if written.token_ids == encoded("STO"):
            raise KeyboardInterrupt
        return "write"

    inferencer = ScriptedInferencer(
        says("One"), says("STOcking"), protocol=Protocol(name="own", trigger=trigger)
    )
    with pytest.raises(KeyboardInterrupt):
        generate(inferencer, "Go.", stop_strings=("STOP",))
    assert inferencer.last_output == ["One\nSTO"]


def test_an_image_that_was_interrupted_is_recorded_and_not_returned() -> None:
    inferencer = ScriptedInferencer(asks("One"))
    stream = inferencer.stream("Go.", seed=3, **SHORT)
    for event in stream:
        if isinstance(event, ImageStarted):
            break
    stream.close()
    output = inferencer.last_output
    assert output is not None
    assert layout(output) == ["One"]
    segment = output.segments[-1]
    assert (segment.kind, segment.image, segment.error) == ("image", None, "interrupted")
    assert segment.size == (8, 8)
    assert segment.seed is not None
    assert output.usage.images == 0


def test_ctrl_c_goes_on_to_the_caller_and_leaves_what_exists() -> None:
    inferencer = ScriptedInferencer(asks("One"), asks("Two"))
    steps: list[int] = []

    def interrupt(*arguments: object) -> None:
        steps.append(1)
        if len(steps) == 3:  # in the second image
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(inferencer, "Go.", callback_on_step_end=interrupt)
    output = inferencer.last_output
    assert output is not None
    assert layout(output) == ["One", "*", "Two"]
    assert output.finish_reason == "interrupted"
    assert isinstance(output.error, KeyboardInterrupt)


def test_ctrl_c_goes_on_whatever_is_to_happen_on_errors() -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    for on_error in ("return", "raise"):
        with pytest.raises(KeyboardInterrupt):
            generate(
                ScriptedInferencer(asks("One")),
                "Go.",
                callback_on_step_end=interrupt,
                on_error=on_error,
            )


def test_the_last_output_is_not_an_earlier_runs_once_another_is_asked_for() -> None:
    """A handler saved the story before, where a stream was closed before its first event."""
    inferencer = ScriptedInferencer(says("One"), says("Two"))
    generate(inferencer, "Go.", max_images=0)
    stream = inferencer.stream("Go.", **SHORT)
    assert inferencer.last_output is None
    stream.close()  # type: ignore[attr-defined]
    assert inferencer.last_output is None


def test_the_last_output_follows_a_run_that_is_held_and_not_closed() -> None:
    """After Ctrl-C in the consumer of a stream that a variable holds, nothing ends the run."""
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("x"))
    stream = inferencer.stream("Go.", seed=3, think=False, **SHORT)
    seen: list[str] = []
    for event in stream:
        output = inferencer.last_output
        assert output is not None
        assert output.finish_reason == "interrupted" or isinstance(event, Finished)
        seen += [event.text] if isinstance(event, TextDelta) else []
        assert output.text == "".join(seen)
        assert len(output.segments) >= 2  # the prompt, and what is being made
    output = inferencer.last_output
    assert output is not None
    assert (layout(output), output.finish_reason) == (["One", "*", "Two", "*", "x"], "stop")
    assert len(output.segments) == 6


def test_what_a_run_made_is_the_last_output() -> None:
    inferencer = ScriptedInferencer()
    assert inferencer.last_output is None
    for word in ("One", "Two"):
        inferencer.script = iter([says(word)])
        output = generate(inferencer, "Go.", max_images=0)
        assert inferencer.last_output is output
        assert output == [word]


def test_the_reason_is_the_last_events_too() -> None:
    events, output = events_of(ScriptedInferencer(asks("One"), says("Two")), "Go.")
    assert events[-1].reason == output.finish_reason == "stop"  # type: ignore[union-attr]


def test_the_marker_token_of_a_protocol_that_heeds_none_ends_nothing() -> None:
    script = Said((*encoded("a"), START, *encoded("b"), toy_parts().eos))
    inferencer = ScriptedInferencer(script, protocol="every-block")
    output = generate(inferencer, "Go.", max_interleaved_blocks=1)
    assert layout(output) == ["ab", "*"]
