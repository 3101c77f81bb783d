"""Protocols: what a text must say for an image to be drawn, and what a protocol may be."""

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from data.output.events import TextDone
from data.protocols import (
    PROTOCOLS,
    EveryText,
    Marker,
    Protocol,
    Sampled,
    Written,
    find_protocol,
)
from tests.builders import BOS, EOS, START
from tests.scripted import (
    SILENCE,
    Said,
    ScriptedInferencer,
    asks,
    encoded,
    events_of,
    generate,
    layout,
    says,
)

PRESETS = (
    "native",
    "bagel",
    "every-block",
    "zebra-cot",
    "mathcanvas",
    "thinkmorph",
    "twiff",
)


def outcome(protocol: str | Protocol, *script: Said, **options: Any) -> tuple[list[str], str]:
    output = generate(ScriptedInferencer(*script, protocol=protocol), "Tell me.", **options)
    return layout(output), output.finish_reason


# Presets.


def test_the_presets_are_the_ones_that_users_were_promised() -> None:
    assert tuple(PROTOCOLS) == PRESETS
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize("name", ["bagel", "thinkmorph"])
def test_a_preset_with_a_marker_asks_for_that_marker(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert isinstance(protocol.trigger, Marker)
    assert isinstance(protocol.trigger.pattern, str)
    assert protocol.trigger.pattern in (protocol.system_prompt or "")


@pytest.mark.parametrize("name", ["native", "every-block", "mathcanvas"])
def test_a_preset_that_was_taught_none_has_no_system_prompt(name: str) -> None:
    assert PROTOCOLS[name].system_prompt is None


def test_native_draws_in_a_text_and_after_one_and_stops_at_anything_else() -> None:
    script = (asks("a"), says("b", then=START), says("c", then=BOS), says("d", then=SILENCE))
    assert outcome("native", *script) == (["a", "*", "b", "*", "c\nd"], "stop")


def test_bagel_draws_at_its_marker_and_stops_at_a_text_without_one() -> None:
    script = (says("a<image>"), says("b", then=START))
    assert outcome("bagel", *script) == (["a", "*", "b"], "stop")


def test_every_block_draws_after_each_text() -> None:
    layout_, reason = outcome("every-block", says("a"), says("b"), max_interleaved_blocks=2)
    assert (layout_, reason) == (["a", "*", "b", "*"], "max_blocks")


def test_zebra_cot_draws_after_a_text_only() -> None:
    """Inside a text the token is one like others."""
    script = (says("a", then=START), Said((*encoded("b"), START, *encoded("c"), EOS)))
    assert outcome("zebra-cot", *script) == (["a", "*", "bc"], "stop")


def test_zebra_cot_does_not_write_on_by_itself() -> None:
    script = (says("a", then=START), says("b", then=BOS))
    assert outcome("zebra-cot", *script) == (["a", "*", "b"], "stop")


@pytest.mark.parametrize("mark", ["Final Answer:", "<answer>"])
def test_zebra_cot_stops_after_the_text_with_its_answer(mark: str) -> None:
    script = (says("a", then=START), says(f"b {mark} 42", then=START))
    assert outcome("zebra-cot", *script) == (["a", "*", f"b {mark} 42"], "stop")


def test_mathcanvas_draws_or_writes_on_as_the_token_after_a_text_says() -> None:
    script = (says("a", then=START), says("b", then=BOS), says("c", then=SILENCE))
    assert outcome("mathcanvas", *script) == (["a", "*", "b\nc"], "stop")


def test_thinkmorph_draws_three_images_at_most() -> None:
    script = (says(f"{n}<image_start>") for n in "abcd")
    expected = (["a", "*", "b", "*", "c", "*", "d"], "max_images")
    assert outcome("thinkmorph", *script) == expected


def test_thinkmorph_stops_at_a_text_without_its_marker() -> None:
    script = (says("a<image_start>"), says("<answer>b</answer>"))
    assert outcome("thinkmorph", *script) == (["a", "*", "<answer>b</answer>"], "stop")


def test_twiff_draws_after_each_text_until_the_answer() -> None:
    script = (says("a"), says("b"), says("<ans>c"))
    assert outcome("twiff", *script) == (["a", "*", "b", "*", "<ans>c"], "stop")


def test_a_final_mark_goes_before_a_wish_for_an_image() -> None:
    script = (says("a", then=START), Said(encoded("Final Answer: b") * 9))
    result = outcome("zebra-cot", *script, max_text_length=len(encoded("Final Answer: b")))
    assert result == (["a", "*", "Final Answer: b"], "stop")


# Markers.


@pytest.mark.parametrize(
    "pieces",
    [
        ("<image>",),
        ("<", "i", "m", "a", "g", "e", ">"),
        ("<im", "age", ">"),
        ("a <ima", "ge> b"),
    ],
)
def test_a_marker_is_found_however_it_was_split_into_tokens(pieces: tuple[str, ...]) -> None:
    ids = tuple(id_ for piece in pieces for id_ in encoded(piece))
    inferencer = ScriptedInferencer(Said((*ids, EOS)), says("end"), protocol="bagel")
    output = generate(inferencer, "Tell me.")
    assert len(output.images) == 1
    assert "image" not in output.text


def test_a_marker_is_cut_while_its_tokens_stay_in_the_context() -> None:
    ids = encoded("cat <image>")
    inferencer = ScriptedInferencer(Said((*ids, *encoded("dog"))), says("end"), protocol="bagel")
    output = generate(inferencer, "Tell me.")
    assert layout(output) == ["cat ", "*", "end"]
    written = [s for s in output.segments if s.role == "generated"]
    assert (written[0].token_ids, written[0].text) == (ids, "cat ")
    assert inferencer.drawn[0].full.length == inferencer.views[0].length + len(ids) + 2


def test_no_token_is_sampled_after_a_marker() -> None:
    """The text ends there, whatever the model would go on with."""
    script = (Said(encoded("a<image>")), says("end"))  # one more id would be an error
    assert outcome("bagel", *script)[0] == ["a", "*", "end"]


def test_a_marker_may_be_all_that_a_text_says() -> None:
    assert outcome("bagel", says("<image>"), says("end")) == (["*", "end"], "stop")


def test_what_only_begins_like_a_marker_is_text() -> None:
    script = (says("a <ima> b"),)
    output = generate(ScriptedInferencer(*script, protocol="bagel"), "Tell me.", max_images=0)
    assert output == ["a <ima> b"]


def test_an_unfinished_marker_at_the_end_is_text() -> None:
    output = generate(ScriptedInferencer(says("a <ima"), protocol="bagel"), "Tell me.")
    assert output == ["a <ima"]


def test_a_marker_right_at_the_limit_of_a_text_counts() -> None:
    ids = encoded("a<image>")
    script = (Said(ids), says("end"))
    assert outcome("bagel", *script, max_text_length=len(ids))[0] == ["a", "*", "end"]


def test_a_marker_that_could_have_become_a_stop_string_counts_at_the_end_of_the_text() -> None:
    """It waits for what follows, and what follows is the end of the text.

    The marker was cut, and then nothing was drawn.
    """
    script = (says("a<image>"), says("end"))
    result = outcome("bagel", *script, stop_strings=("<image>!",))
    assert result == (["a", "*", "end"], "stop")


def test_of_a_marker_and_a_longer_stop_string_the_longer_is_heard() -> None:
    result = outcome("bagel", says("a<image>!b"), stop_strings=("<image>!",))
    assert result == (["a"], "stop_string")


def test_a_regular_expression_may_be_a_marker() -> None:
    protocol = Protocol(name="own", trigger=Marker(re.compile(r"\[draw\d\]")))
    script = (says("a [draw1]"), says("b [drawn]"), says("never"))
    assert outcome(protocol, *script) == (["a ", "*", "b [drawn]"], "stop")


def test_a_protocol_with_markers_ignores_the_token() -> None:
    """It is one like others there, and none that is shown."""
    script = (Said((*encoded("a"), START, *encoded("<image>"))), says("b", then=START))
    assert outcome("bagel", *script) == (["a", "*", "b"], "stop")


# Protocols of a user's own.


def test_a_preset_may_be_changed_in_one_field() -> None:
    protocol = replace(PROTOCOLS["bagel"], trigger=Marker("[pic]"), system_prompt=None)
    assert outcome(protocol, says("a[pic]"), says("b<image>")) == (["a", "*", "b<image>"], "stop")


def test_a_protocol_given_to_a_run_goes_before_the_inferencers_own() -> None:
    inferencer = ScriptedInferencer(says("a[pic]"), says("b"), protocol="every-block")
    protocol = Protocol(name="own", trigger=Marker("[pic]"))
    assert layout(generate(inferencer, "Tell me.", protocol=protocol)) == ["a", "*", "b"]
    assert inferencer.protocol is PROTOCOLS["every-block"]


def test_a_system_prompt_is_read_before_the_callers_first_word() -> None:
    plain = ScriptedInferencer(says("a"), protocol="native")
    told = ScriptedInferencer(
        says("a"), protocol=replace(PROTOCOLS["native"], system_prompt="Be brief.")
    )
    for inferencer in (plain, told):
        generate(inferencer, "Tell me.", max_images=0)
    assert told.views[0].length == plain.views[0].length + len(encoded("Be brief.")) + 2


def test_the_token_after_a_text_may_be_left_out_of_account() -> None:
    protocol = Protocol(name="own", trigger=Sampled(after_text=False))
    assert outcome(protocol, asks("a"), says("b", then=START)) == (["a", "*", "b"], "stop")


@pytest.mark.parametrize(
    ("protocol", "own", "expected"),
    [(2, None, 2), (None, 2, 2), (2, 1, 1), (1, 2, 1), (0, None, 0), (None, None, 3)],
)
def test_of_the_protocols_limit_of_images_and_the_runs_the_lower_holds(
    protocol: int | None, own: int | None, expected: int
) -> None:
    value = replace(PROTOCOLS["native"], max_images=protocol)
    script = (asks("a"), asks("b"), asks("c"), says("d"))
    layout_, _ = outcome(value, *script, max_images=own)
    assert layout_.count("*") == expected


# Triggers that are functions.


def deciding(function: Callable[[Written], Any]) -> Protocol:
    return Protocol(name="own", trigger=function)


def test_a_function_may_draw_in_the_middle_of_a_text() -> None:
    def trigger(written: Written) -> str:
        if written.text.endswith("!"):
            return "draw"
        return "stop" if written.ended else "write"

    script = (says("a! b"), says("c"))
    assert outcome(deciding(trigger), *script) == (["a!", "*", "c"], "stop")


def test_a_function_may_stop_in_the_middle_of_a_text() -> None:
    def trigger(written: Written) -> str:
        return "stop" if len(written.token_ids) == 3 else "write"

    layout_, _ = outcome(deciding(trigger), says("abcdefg"), max_images=0)
    assert layout_ == ["abc"]


def test_a_function_may_draw_after_a_text() -> None:
    def trigger(written: Written) -> str:
        if not written.ended:
            return "write"
        return "stop" if written.num_images else "draw"

    assert outcome(deciding(trigger), says("a"), says("b")) == (["a", "*", "b"], "stop")


def test_a_function_that_only_writes_begins_another_text() -> None:
    script = (says("a"), says("b"))
    result = outcome(deciding(lambda written: "write"), *script, max_interleaved_blocks=2)
    assert result == (["a\nb"], "max_blocks")


def test_a_function_sees_the_text_so_far_and_what_comes_next() -> None:
    shown: list[Written] = []

    def trigger(written: Written) -> str:
        shown.append(written)
        return "write"

    inferencer = ScriptedInferencer(says("ab", then=77), says("cd"), protocol=deciding(trigger))
    generate(inferencer, "Go.<|vision_start|>", max_interleaved_blocks=2)
    ids = encoded("ab")
    while_writing = [(written.token_ids, written.next_id) for written in shown[: len(ids)]]
    assert while_writing == [(ids[:count], None) for count in range(1, len(ids) + 1)]
    after = shown[len(ids)]
    assert (after.text, after.ended, after.next_id, after.num_images) == ("ab", True, 77, 1)
    # The line break that sets a second text off is the output's, not the model's.
    assert shown[-1].text == "cd"


@pytest.mark.parametrize("answer", ["image", None, True, ["draw"]])
def test_an_answer_that_is_none_of_the_three_is_an_error(answer: object) -> None:
    with pytest.raises(ValueError, match="'own' must answer one of write, draw, stop; got"):
        outcome(deciding(lambda written: answer), says("a"))


# What a protocol may be.


async def awaited(written: Written) -> str:
    """Answer when it is awaited, which nobody does."""
    return "stop"


def yielding(written: Written) -> Any:
    """Answer when it is asked for the next value, which nobody does."""
    yield "stop"


class Asked:
    """An object that can be called."""

    def __call__(self, written: Written) -> str:
        """Stop."""
        return "stop"


def test_a_protocol_is_a_value() -> None:
    assert replace(PROTOCOLS["native"]) == PROTOCOLS["native"]
    assert hash(replace(PROTOCOLS["twiff"])) == hash(PROTOCOLS["twiff"])
    with pytest.raises(FrozenInstanceError):
        PROTOCOLS["native"].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trigger": "<image>"}, r"trigger must be Sampled\(\), Marker.*got '<image>'"),
        ({"trigger": None}, "trigger must be .*got None"),
        ({"trigger": EveryText}, "trigger must be .*got <class"),
        ({"name": 3}, "name must be a string, got int"),
        ({"system_prompt": ["Be brief."]}, "system_prompt must be a string, got list"),
        ({"final_marks": "Answer:"}, r"final_marks must be a tuple.*put it in \(\)"),
        ({"final_marks": re.compile("a")}, r"final_marks must be a tuple.*put it in \(\)"),
        ({"final_marks": (3,)}, "a pattern must be a string or a compiled.*got 3"),
        ({"trigger": Marker(b"<image>")}, "a pattern must be a string or a compiled.*got b'"),
        ({"trigger": Marker(re.compile(b"a"))}, "a pattern must be a string or a compiled.*got"),
        ({"max_images": "3"}, "max_images must be an integer or None, got '3'"),
        ({"max_images": True}, "max_images must be an integer or None, got True"),
        ({"more_text": "yes"}, "more_text must be True or False, got 'yes'"),
        ({"more_text": 1}, "more_text must be True or False, got 1"),
        ({"reads_latent": None}, "reads_latent must be True or False, got None"),
        ({"reads_vision": "no"}, "reads_vision must be True or False, got 'no'"),
        ({"final_marks": 3}, "final_marks must be a tuple of patterns, got 3"),
        ({"final_marks": None}, "final_marks must be a tuple of patterns, got None"),
        ({"trigger": lambda: "draw"}, "a trigger takes one argument.*too many positional"),
        ({"trigger": lambda a, b: "draw"}, "a trigger takes one argument.*argument: 'b'"),
        ({"trigger": awaited}, "a trigger takes one argument.*it is a coroutine"),
        ({"trigger": yielding}, "a trigger takes one argument.*it is a generator"),
    ],
)
def test_what_is_of_a_wrong_type_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        replace(PROTOCOLS["native"], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_view": "images"}, "text_view must be one of full, vision; got 'images'"),
        ({"without_text": "all"}, "without_text must be one of before_last_text.*got 'all'"),
        ({"without_images": "all"}, "without_images must be one of all_texts.*got 'all'"),
        ({"reads_latent": False, "reads_vision": False}, "would never be seen again"),
        ({"max_images": -1}, "max_images must be at least 0, got -1"),
        ({"name": ""}, "name must not be blank, got ''"),
        ({"name": "a\nb"}, r"name must be printable, .* got 'a\\nb'"),
        ({"name": "\x1b[31m"}, "name must be printable"),
        ({"name": "\ud800"}, "name holds half a character at 0"),
        ({"system_prompt": "a\ud800"}, "system_prompt holds half a character at 1"),
        ({"final_marks": ("\udfff",)}, "a pattern holds half a character at 0"),
        ({"text_view": ["full"]}, "text_view must be one of full, vision; got"),
        ({"system_prompt": " "}, "system_prompt must not be blank, got ' '"),
        ({"final_marks": ("",)}, "a pattern must not match the empty text.*got ''"),
        ({"trigger": Marker("")}, "a pattern must not match the empty text.*got ''"),
        ({"trigger": Marker(re.compile("x*"))}, "a pattern must not match the empty text"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PROTOCOLS["native"], **changes)


def test_a_sampled_trigger_holds_somewhere() -> None:
    with pytest.raises(ValueError, match="no image would ever start.*set max_images=0"):
        Sampled(in_text=False, after_text=False)
    with pytest.raises(TypeError, match="in_text must be True or False, got 'yes'"):
        Sampled(in_text="yes")  # type: ignore[arg-type]


def test_what_is_refused_is_repeated_in_a_line_at_most() -> None:
    for changes in (
        {"text_view": "x" * 10**6},
        {"final_marks": "x" * 10**6},
        {"name": "\n" * 10**6},
    ):
        with pytest.raises((TypeError, ValueError)) as raised:
            replace(PROTOCOLS["native"], **changes)
        assert len(str(raised.value)) < 200


def test_numbers_and_lists_are_kept_in_plain_types() -> None:
    protocol = replace(PROTOCOLS["native"], max_images=np.int64(3), final_marks=["a"])
    assert type(protocol.max_images) is int
    assert protocol.final_marks == ("a",)
    assert hash(protocol)


@pytest.mark.parametrize("trigger", [print, len, lambda *all_of_it: "stop", Asked()])
def test_whatever_takes_one_argument_may_be_a_trigger(trigger: Any) -> None:
    assert replace(PROTOCOLS["native"], trigger=trigger).trigger is trigger


@pytest.mark.parametrize("name", ["Zebra_CoT", "ZEBRA-COT", " zebra cot "])
def test_a_presets_name_in_another_spelling_is_understood_in_the_refusal(name: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'zebra-cot'"):
        find_protocol(name)


def test_a_preset_is_found_by_its_name_and_a_protocol_as_it_is() -> None:
    own = Protocol(name="own", trigger=EveryText())
    assert find_protocol("twiff") is PROTOCOLS["twiff"]
    assert find_protocol(own) is own


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'zebracot'; did you mean 'zebra-cot'"):
        find_protocol("zebracot")
    with pytest.raises(ValueError, match="unknown protocol 'x'; the presets are native, bagel"):
        find_protocol("x")


def test_neither_a_name_nor_a_protocol_is_refused() -> None:
    with pytest.raises(TypeError, match="a preset's name or a Protocol, got int"):
        find_protocol(3)  # type: ignore[arg-type]


def test_an_image_is_requested_by_the_text_that_asked_for_it() -> None:
    events, _ = events_of(
        ScriptedInferencer(says("a<image>"), says("b"), protocol="bagel"), "Tell me."
    )
    done = [event for event in events if isinstance(event, TextDone)]
    assert [(event.text, event.requested_image) for event in done] == [("a", True), ("b", False)]
