"""Sessions: what was read stays read, what failed is forgotten, and all of it can be kept."""

import gc
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from auto_interleaved.options.seeds import turn_seed
from auto_interleaved.sessions.session import Session
from auto_interleaved_inference import GenerationError
from data.output import InterleavedOutput
from data.output.events import Finished, ImageStep, TextDelta
from data.prompts import ImageInput, ImageRequest, TextInput
from data.protocols import PROTOCOLS, Sampled
from inferencer import GEN_THINK_SYSTEM_PROMPT
from tests.builders import picture
from tests.scripted import (
    SHORT,
    Said,
    ScriptedInferencer,
    Seen,
    asks,
    counted,
    encoded,
    frame,
    generate,
    layout,
    pixels,
    says,
    toy_writer,
)
from tests.stores import living_stores
from tests.test_failures import failing

IMAGE = 2 + 4  # tokens of an image in either kind of block
FIRST, SECOND = (asks("One"), says("Two")), (asks("Three"), says("Four"))
EVERYTHING: dict[str, Any] = {"protocol": "every-block", "max_interleaved_blocks": 1}


def talk(*script: Said, **options: Any) -> tuple[ScriptedInferencer, Session]:
    inferencer = ScriptedInferencer(*script)
    return inferencer, inferencer.start_session(**SHORT | {"seed": 5} | options)


def send(session: Session, message: Any, **options: Any) -> InterleavedOutput:
    """Send a message, and refuse a turn that failed."""
    output = session.send(message, **options)
    if output.error is not None:
        raise output.error
    return output


def alike(one: InterleavedOutput, other: InterleavedOutput) -> bool:
    return layout(one) == layout(other) and pixels(one) == pixels(other)


def near(one: InterleavedOutput, other: InterleavedOutput) -> bool:
    """Say whether texts are equal, and pictures to rounding."""
    pairs = zip(one.images, other.images, strict=True)
    differences = [
        abs(x - y) for a, b in pairs for x, y in zip(a.tobytes(), b.tobytes(), strict=True)
    ]
    return layout(one) == layout(other) and max(differences, default=0) <= 1


def same_rows(one: Seen, other: Seen) -> bool:
    return (
        one.length == other.length
        and one.position == other.position
        and torch.allclose(one.keys, other.keys, atol=1e-4)
        and torch.allclose(one.values, other.values, atol=1e-4)
    )


def worked_over(inferencer: ScriptedInferencer) -> list[Seen]:
    """Return copies of every context that anything was written or drawn over."""
    drawn = [s for d in inferencer.drawn for s in (d.full, d.without_text, d.without_images)]
    return [*inferencer.views, *drawn]


# One turn after another.


def test_the_first_turn_is_what_a_run_alone_gives() -> None:
    _, session = talk(*FIRST)
    alone = generate(ScriptedInferencer(*FIRST), "Go.", seed=5)
    output = send(session, "Go.")
    assert alike(output, alone)
    assert output.usage.prompt_tokens == alone.usage.prompt_tokens
    assert output.config == {**alone.config, "protocol": "native"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_later_turn_works_over_what_one_long_prompt_would_have_read(name: str) -> None:
    """The model's own answers are further blocks, as they are in one run's contexts."""
    protocol = replace(PROTOCOLS[name], trigger=Sampled())
    inferencer, session = talk(says("One"), says("Two"), protocol=protocol)
    send(session, "Go.")
    send(session, ["And this?", picture()])
    alone = ScriptedInferencer(says("Two"))
    generate(alone, ["Go.", "One", "And this?", picture()], protocol=protocol)
    assert same_rows(inferencer.views[-1], alone.views[-1])


def test_a_turn_reads_its_own_message_and_nothing_that_was_read() -> None:
    inferencer, session = talk(*FIRST, *SECOND, says("Five"))
    tokens = []
    for message in ("Go.", "More, please.", "And now?"):
        with counted(inferencer.model) as counts:
            send(session, message)
        tokens.append(counts["tokens"])
    said = [len(frame(encoded(text))) for text in ("More, please.", "Three", "Four")]
    # Since the first picture each text enters the context without images as well. Two steps draw a
    # picture, each over three contexts, and it is read by both its halves.
    assert tokens[1] == 2 * sum(said) + 2 * 3 * IMAGE + 2 * IMAGE
    assert tokens[2] == 2 * len(frame(encoded("And now?"))) + 2 * len(frame(encoded("Five")))


def test_a_picture_drawn_last_is_read_once_in_its_own_turn() -> None:
    inferencer, session = talk(says("One"), says("Two"), **EVERYTHING)
    assert send(session, "Go.").usage.image_tokens == 2 * IMAGE
    with counted(inferencer.model) as counts:
        output = send(session, "More.", max_images=0)
    assert layout(output) == ["Two"]
    assert (
        inferencer.views[-1].length
        == sum(len(frame(encoded(text))) for text in ("Go.", "One", "More.")) + 2 * IMAGE
    )
    blank = IMAGE  # seen, in place of the picture of this turn
    texts = 2 * len(frame(encoded("More."))) + 2 * len(frame(encoded("Two")))
    assert counts["tokens"] == texts + blank


@pytest.mark.parametrize("name", ["bagel", "zebra-cot"])
def test_instructions_are_read_once(name: str) -> None:
    scripts = [says(text) for text in ("plan", "One", "plan", "Two", "plan", "Three")]
    inferencer, session = talk(*scripts, protocol=name)
    system = PROTOCOLS[name].system_prompt
    assert system is not None
    lengths = [len(frame(encoded(text))) for text in (system, GEN_THINK_SYSTEM_PROMPT, "Go.")]
    said = len(frame(encoded("plan"))) + len(frame(encoded("One")))
    used = [send(session, "Go.", think=True).usage.prompt_tokens for _ in range(3)]
    assert used == [sum(lengths), lengths[2], lengths[2]]
    assert inferencer.views[2].length == sum(lengths) + said + lengths[2]


def test_a_plan_that_is_first_wanted_later_is_asked_for_there() -> None:
    _, session = talk(says("One"), says("plan"), says("Two"))
    send(session, "Go.")
    output = send(session, "Go.", think=True)
    asked = len(frame(encoded(GEN_THINK_SYSTEM_PROMPT)))
    assert output.usage.prompt_tokens == asked + len(frame(encoded("Go.")))
    assert output.thoughts == ["plan"]


def test_after_texts_alone_pictures_are_guided_as_ever() -> None:
    """A single run of texts gives its guidance contexts up; a session may draw again."""
    inferencer, session = talk(asks("One"), says("Two"), *SECOND)
    send(session, "Go.", max_images=0)
    send(session, "More.")
    drawn = inferencer.drawn[0]
    texts = [len(frame(encoded(text))) for text in ("Go.", "One", "Two", "More.", "Three")]
    assert drawn.without_images.length == sum(texts)
    assert drawn.full.length == drawn.without_text.length + texts[-1]
    assert drawn.full.length > drawn.without_images.length


def test_limits_and_numbers_of_pictures_are_of_a_turn() -> None:
    _, session = talk(*FIRST, asks("Three"), asks("Four"), max_images=1)
    outputs = [send(session, "Go."), send(session, "Go.")]
    assert [output.usage.images for output in outputs] == [1, 1]
    assert [output.finish_reason for output in outputs] == ["stop", "max_images"]
    assert outputs[1].seeds == [turn_seed(5, 1)]


def test_an_answer_about_an_earlier_picture_misses_none(caplog: pytest.LogCaptureFixture) -> None:
    _, session = talk(*FIRST, says("Three"))
    send(session, "Go.")
    with caplog.at_level(logging.WARNING):
        assert send(session, "Tell me about it.").finish_reason == "stop"
    assert not caplog.records


def test_pictures_are_as_large_as_the_last_input_image_of_any_turn() -> None:
    _, session = talk(says("One"), *FIRST, *FIRST, image_shape=None)
    send(session, ["Look.", picture(16, 8)])
    assert send(session, "Draw it.").images[0].size == (16, 8)
    odd = send(session, ["And this.", picture(20, 9)], image_shape="input")
    assert odd.images[0].size == (20, 9)
    session.rewind()
    inferencer = ScriptedInferencer(*FIRST)
    session._begin = inferencer._begin  # the same talk with other words
    assert send(session, "Draw.", image_shape="input").images[0].size == (16, 8)


@pytest.mark.parametrize("image_memory", ["vision", "text"])
def test_older_images_are_forgotten_across_turns(image_memory: str) -> None:
    inferencer, session = talk(*FIRST, *SECOND, says("Five"), image_memory=image_memory)
    for message in ("Go.", "More.", "And?"):
        send(session, message)
    texts = [
        len(frame(encoded(t))) for t in ("Go.", "One", "Two", "More.", "Three", "Four", "And?")
    ]
    left = IMAGE if image_memory == "vision" else 0
    assert inferencer.views[-1].length == sum(texts) + left + 2 * IMAGE


# Seeds.


def test_a_session_with_a_seed_comes_out_the_same_again() -> None:
    outputs = []
    for _ in range(2):
        session = toy_writer().start_session(**SHORT, **EVERYTHING, seed=9, do_sample=True)
        outputs.append([send(session, message) for message in ("a", "b")])
    assert all(alike(one, other) for one, other in zip(*outputs, strict=True))
    assert [output.seed for output in outputs[0]] == [9, turn_seed(9, 1)]
    assert len({*pixels(outputs[0][0]), *pixels(outputs[0][1])}) == 2


def test_a_turn_has_the_seed_that_it_is_given_and_others_go_on_as_before() -> None:
    _, session = talk(*[says("a")] * 4)
    seeds = [send(session, "Go.", **given).seed for given in ({}, {"seed": 5}, {"seed": 0}, {})]
    assert seeds == [5, 5, 0, turn_seed(5, 3)]


def test_a_turn_that_is_sent_again_after_a_failure_is_what_it_would_have_been() -> None:
    inferencer, session = talk(*FIRST, asks("Three"), *SECOND)
    send(session, "Go.")
    with failing(inferencer.vae_model.decoder, 1, RuntimeError("it")):
        assert session.send("More.").error is not None
    again = send(session, "More.")
    _, whole = talk(*FIRST, *SECOND)
    send(whole, "Go.")
    assert alike(again, send(whole, "More."))


def test_a_generator_is_drawn_from_on_and_on_and_copied_by_a_fork() -> None:
    generator = torch.Generator("cpu").manual_seed(3)
    _, session = talk(says("One"), says("Two"), says("Two"), seed=None, generator=generator)
    send(session, "Go.", **EVERYTHING)
    fork = session.fork()
    one = send(session, "Go.", **EVERYTHING)
    assert alike(one, send(fork, "Go.", **EVERYTHING))
    assert one.seed == fork.history[-1].seed


# Failures.


def ended(session: Session, inferencer: ScriptedInferencer, how: str) -> None:
    """Let a turn come to nothing."""
    error: BaseException = RuntimeError("it")
    if how == "Ctrl-C":
        error = KeyboardInterrupt()
    if how == "a closed stream":
        events = session.stream("Fail.")
        next(event for event in events if isinstance(event, ImageStep))
        events.close()  # type: ignore[attr-defined]
    elif how == "a stream that nobody holds":
        for event in session.stream("Fail."):
            if isinstance(event, ImageStep):
                break
    elif how == "a callback":

        def broken(*arguments: Any) -> None:
            raise error

        session.send("Fail.", callback_on_step_end=broken)
    else:
        part = inferencer.vae_model.decoder
        with failing(part, 1, error), suppress(KeyboardInterrupt, GenerationError):
            session.send("Fail.", on_error="raise" if how == "a raised error" else "return")


HOW = ("an error", "a raised error", "Ctrl-C", "a closed stream", "a stream that nobody holds")


@pytest.mark.parametrize("how", [*HOW, "a callback"])
def test_whatever_ends_a_turn_the_session_goes_on_as_if_it_had_not_been(how: str) -> None:
    inferencer, session = talk(*FIRST, asks("lost"), *SECOND)
    send(session, "Go.")
    ended(session, inferencer, how)
    output = send(session, "More.")
    whole, other = talk(*FIRST, *SECOND)
    send(other, "Go.")
    assert alike(output, send(other, "More."))
    assert all(map(same_rows, inferencer.views[-2:], whole.views[-2:]))
    assert [turn.failed for turn in session.history] == [False, True, False]
    assert layout(session.history[1].output)[0] == "lost"
    reason = "error" if how in ("an error", "a raised error", "a callback") else "interrupted"
    assert session.history[1].output.finish_reason == reason


def test_a_failed_turn_leaves_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    inferencer, session = talk(*FIRST, asks("lost"))
    send(session, "Go.")
    gc.collect()
    with living_stores(monkeypatch) as living:
        ended(session, inferencer, "an error")
        stores = {context.store for context in session.standing.each}
        assert set(living._stores) <= stores


def test_going_on_ends_a_turn_that_was_left_in_the_middle() -> None:
    """As in a notebook after Ctrl-C, where the traceback keeps the stream."""
    _, session = talk(*FIRST, *SECOND)
    events = session.stream("Left.")
    next(event for event in events if isinstance(event, TextDelta))
    session._begin.__self__.script = iter(SECOND)  # type: ignore[attr-defined]
    send(session, "More.")
    assert [turn.failed for turn in session.history] == [True, False]
    assert list(events) == []


def test_a_stream_that_the_session_has_left_behind_is_refused() -> None:
    _, session = talk(*FIRST, *SECOND)
    late = session.stream("Late.")
    send(session, "Go.")
    with pytest.raises(RuntimeError, match="has gone on since this turn was asked for; ask"):
        next(late)
    assert len(session.history) == 1


@pytest.mark.parametrize("act", [lambda s: s.send("x"), lambda s: s.rewind()])
def test_within_a_turn_the_session_takes_no_other_step(act: Any) -> None:
    _, session = talk(*FIRST, *SECOND)
    send(session, "Go.")

    def within(*arguments: Any) -> None:
        assert len(session.fork().history) == 1
        act(session)

    output = session.send("More.", callback_on_step_end=within)
    with pytest.raises(RuntimeError, match="a turn of this session is under way; take its events"):
        raise output.error
    assert [turn.failed for turn in session.history] == [False, True]


# History, forks and steps back.


def test_the_history_tells_what_was_asked_and_made_and_how() -> None:
    _, session = talk(*FIRST, says("Three"), text_temperature=0.5, do_sample=True)
    send(session, ["Look.", picture(), "Draw.<|vision_start|>"], top_k=1)
    output = send(session, "More.")
    first, second = session.history
    kinds = [type(part) for part in first.prompt]
    assert kinds == [TextInput, ImageInput, TextInput, ImageRequest]
    assert first.options["top_k"] == 1
    assert (second.options["top_k"], second.options["text_temperature"]) == (0, 0.5)
    assert second.output is output
    assert (first.seed, second.seed) == (5, turn_seed(5, 1))
    assert [turn.failed for turn in session.history] == [False, False]
    assert repr(session) == "<Session of 2 turns>"


def test_a_stream_tells_what_a_run_tells_and_the_turn_is_over_with_its_last_event() -> None:
    inferencer, session = talk(*FIRST)
    events = session.stream("Go.", preview_every=1)
    told = []
    for event in events:
        told.append(type(event).__name__)
        if isinstance(event, Finished):
            assert session.history[-1].output is event.output
            assert inferencer.last_output is event.output
    assert told == [
        type(e).__name__ for e in ScriptedInferencer(*FIRST).stream("Go.", preview_every=1, **SHORT)
    ]


def test_a_fork_takes_no_memory_and_each_side_goes_its_own_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inferencer, session = talk(*FIRST, *SECOND, says("Six"), says("Seven"))
    send(session, "Go.")
    with living_stores(monkeypatch) as living, counted(inferencer.model) as counts:
        fork = session.fork()
    assert living.nbytes == counts["tokens"] == 0
    one = send(session, "More.")
    with counted(inferencer.model) as counts:
        send(fork, "Else.")
    assert counts["tokens"] == 2 * (len(frame(encoded("Else."))) + len(frame(encoded("Six"))))
    send(session, "Again.")
    assert [len(turns) for turns in (session.history, fork.history)] == [3, 2]
    whole, other = talk(*FIRST, *SECOND, says("Seven"))
    send(other, "Go.")
    assert alike(one, send(other, "More."))
    send(other, "Again.")
    assert same_rows(inferencer.views[-1], whole.views[-1])


def test_each_side_of_a_fork_can_be_taken_back_and_reads_nothing_again() -> None:
    inferencer, session = talk(*FIRST, *SECOND, *SECOND)
    send(session, "Go.")
    fork = session.fork()
    outputs = [send(side, "More.") for side in (session, fork)]
    for side in (session, fork):
        inferencer.script = iter(SECOND)
        with counted(inferencer.model) as counts:
            assert alike(send(side.rewind(), "More."), outputs[0])
        whole, other = talk(*FIRST, *SECOND)
        send(other, "Go.")
        with counted(whole.model) as wanted:
            send(other, "More.")
        assert counts == wanted
    held = [{c.store for e in side._entries for c in e.end.each} for side in (session, fork)]
    assert not held[0] & held[1]
    assert held == [{c.store for c in side.standing.each} for side in (session, fork)]


def test_streams_of_a_session_and_its_fork_may_take_turns() -> None:
    inferencer = ScriptedInferencer(*FIRST)
    session = inferencer.start_session(**SHORT, seed=5)
    send(session, "Go.")
    fork = session.fork()
    inferencer.script = iter((asks("a"), asks("b"), says("c"), says("d")))
    with suppress(StopIteration):
        for one, other in zip(session.stream("x"), fork.stream("y"), strict=True):
            assert type(one) is type(other)
    for said, message, text in (("a", "x", "c"), ("b", "y", "d")):
        _, alone = talk(*FIRST, asks(said), says(text))
        send(alone, "Go.")
        session_of = session if message == "x" else fork
        assert alike(session_of.history[1].output, send(alone, message))


def test_a_step_back_forgets_a_turn_and_reads_nothing_again() -> None:
    inferencer, session = talk(*FIRST, *SECOND, asks("lost"), *SECOND)
    send(session, "Go.")
    send(session, "Wrong.")
    ended(session, inferencer, "an error")
    with counted(inferencer.model) as counts:
        assert session.rewind() is session
    assert counts["tokens"] == 0
    assert [turn.prompt for turn in session.history] == [(TextInput("Go."),)]
    with counted(inferencer.model) as counts:
        output = send(session, "More.")
    whole, other = talk(*FIRST, *SECOND)
    send(other, "Go.")
    with counted(whole.model) as wanted:
        assert alike(output, send(other, "More."))
    assert counts == wanted


@pytest.mark.parametrize("options", [{"image_memory": "text"}, {"protocol": "twiff"}])
def test_contexts_of_older_turns_take_no_memory_and_can_be_gone_back_to(options: Any) -> None:
    """Where they would take some they are read again, if they are wanted again at all."""
    options = {"max_interleaved_blocks": 2, **options}
    texts = [asks(t) if options.get("image_memory") else says(t) for t in ("a", "b", "c", "d")]
    inferencer, session = talk(*[*texts, *texts][:6], *texts[:2], **options)
    for message in ("x", "y", "z"):
        send(session, message)
    held = {context.store for context in session.standing.each}
    assert {context.store for e in session._entries if e.end for context in e.end.each} == held
    if "image_memory" in options:  # an image was cut out since, in a copy
        assert session._entries[0].end.contexts is None
    output = send(session.rewind(2), "z")
    _, other = talk(*texts[:2], *texts[:2], **options)
    send(other, "x")
    assert near(output, send(other, "z"))


def test_a_session_may_go_back_to_its_beginning() -> None:
    inferencer, session = talk(*FIRST, *FIRST)
    first = send(session, "Go.")
    assert alike(send(session.rewind(), "Go."), first)
    assert len(session.history) == 1
    assert inferencer.views[0].length == inferencer.views[2].length


# Limits.


def test_a_session_keeps_within_its_memory_and_refuses_what_cannot_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inferencer = ScriptedInferencer()
    limit = 400 * inferencer.bytes_per_token
    session = inferencer.start_session(**SHORT, seed=5, max_context_memory=limit)
    reasons = []

    def go_on() -> None:
        while len(reasons) < 100:
            inferencer.script = iter(FIRST)
            reasons.append(send(session, "Go on, with a rather long message.").finish_reason)

    with living_stores(monkeypatch) as living:
        with pytest.raises(ValueError, match="max_context_memory must be at least .* after what"):
            go_on()
        assert living.peak <= limit
    assert len(reasons) > 1
    assert reasons[0] == "stop"
    assert set(reasons) == {"stop", "context_full"}
    inferencer.script = iter(FIRST)
    assert send(session.rewind(len(reasons) - 1), "Go.").finish_reason == "stop"


def test_what_a_fork_goes_on_with_is_foretold_as_the_copy_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inferencer = ScriptedInferencer(*FIRST)
    with living_stores(monkeypatch) as living:
        session = inferencer.start_session(**SHORT, seed=5)
        send(session, "Go on, with a rather long message.")
        fork = session.fork()
        inferencer.script = iter((says("Two"),))
        send(session, "More.")
        held = living.nbytes
        with pytest.raises(ValueError, match="max_context_memory must be at least"):
            fork.send("More.", max_context_memory=held)


def test_a_message_beyond_the_positions_is_refused_with_what_went_before() -> None:
    _, session = talk(*[says("a")] * 3)
    message = "b" * 200  # a token each
    for _ in range(2):
        send(session, message)
    with pytest.raises(ValueError, match="512 positions.* got 612 with the 410 that were read"):
        session.send(message)
    assert [turn.failed for turn in session.history] == [False, False]


# What is refused.


@pytest.mark.parametrize("message", ["", "  ", [], None, ["a", 3]])
def test_a_message_that_is_none_is_refused_before_anything_is_computed(message: Any) -> None:
    inferencer, session = talk(says("a"))
    with counted(inferencer.model) as counts:
        for ask in (session.send, session.stream):
            with pytest.raises((ValueError, TypeError), match="prompt"):
                ask(message)
    assert counts["tokens"] == 0
    assert session.history == ()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_image": 3}, "unknown option.*max_image"),
        ({"top_p": 2}, "top_p must be"),
        ({"image_shape": (9, 9)}, "height must be a positive multiple"),
        ({"seed": 1, "generator": torch.Generator("cpu")}, "must not be given together"),
        ({"temperature": 1, "text_temperature": 1}, "must not be given together"),
        ({"protocol": "nativ"}, "did you mean 'native'"),
    ],
)
def test_bad_options_are_refused_by_a_session_and_by_a_message(options: Any, match: str) -> None:
    inferencer, session = talk(says("a"))
    for ask in (inferencer.start_session, lambda **o: session.send("a", **o)):
        with pytest.raises((ValueError, TypeError), match=match):
            ask(**options)
    assert session.history == ()


def test_a_message_may_spell_an_option_otherwise_than_the_session() -> None:
    _, session = talk(says("a"), says("b"), do_sample=True, temperature=0.5)
    assert send(session, "a", text_temperature=0.25).config["text_temperature"] == 0.25
    assert send(session, "a").config["text_temperature"] == 0.5


def test_the_state_of_a_generator_is_no_seed_of_a_session() -> None:
    inferencer, session = talk(says("a"), seed=None)
    state = send(session, "a").seed
    with pytest.raises(ValueError, match="the seed of a session must be a number"):
        inferencer.start_session(seed=state)


@pytest.mark.parametrize(
    ("turns", "error", "match"),
    [
        (2, ValueError, "turns must be at most 1, .* got 2"),
        (0, ValueError, "turns must be at least 1, got 0"),
        (1.0, TypeError, "turns must be an integer"),
        (True, TypeError, "turns must be an integer"),
    ],
)
def test_no_session_goes_back_beyond_its_beginning(turns: Any, error: Any, match: str) -> None:
    inferencer, session = talk(*FIRST, asks("lost"))
    send(session, "Go.")
    ended(session, inferencer, "an error")
    with pytest.raises(error, match=match):
        session.rewind(turns)
    assert len(session.history) == 2


def test_previews_that_nobody_sees_are_warned_of_where_a_message_asks_for_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, session = talk(says("a"), says("b"), preview_every=1)
    with caplog.at_level(logging.WARNING):
        send(session, "a?")
        assert not caplog.records
        send(session, "a?", preview_every=1)
    assert "preview_every=1 has no effect outside of stream()" in caplog.text


def test_contexts_that_must_be_read_again_are_foretold_too() -> None:
    inferencer, session = talk(*FIRST, *FIRST, image_memory="text")
    for message in ("a", "b"):
        send(session, message)
    session.rewind()
    assert session.standing.contexts is None
    assert session.num_tokens > 2 * IMAGE
    limit = session.num_tokens * inferencer.bytes_per_token
    match = "max_context_memory must be at least .* after what"
    with counted(inferencer.model) as counts, pytest.raises(ValueError, match=match):
        session.send("c", max_context_memory=limit)
    assert counts["tokens"] == 0
