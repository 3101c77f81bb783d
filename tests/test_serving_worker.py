"""The worker: requests come and go while others run, and none pays for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from auto_interleaved.drivers.batch import Batch
from auto_interleaved.options.generation import make_options
from auto_interleaved.run.prepared import prepare
from auto_interleaved.run.standing import Standing
from auto_interleaved.serving.kept import KeptResponses, NotKeptError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import Accepted, BusyError, Order, StoppingError
from auto_interleaved.serving.worker import Worker
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output.events import ImageDone, ImageStarted, ImageStep, TextDelta, TextDone
from tests.bundled import bundled
from tests.scripted import counted
from tests.serving import DRAW, STORY, alike, alone, order, same, wait_until


@pytest.fixture(scope="module")
def inferencer() -> AutoInterleavedInferencer:
    return AutoInterleavedInferencer.from_pretrained(dtype=torch.float32)


@pytest.fixture
def worker(inferencer: AutoInterleavedInferencer) -> Iterator[Worker]:
    yield from _working(inferencer)


def _working(inferencer: Any, **limits: Any) -> Iterator[Worker]:
    made = Worker(inferencer, Limits(**limits)).start()
    yield made
    made.stop(60)
    assert not made.is_alive


def test_who_joins_while_others_run_gets_what_it_gets_alone(worker: Worker) -> None:
    first = order(worker, STORY, seed=1)
    first.until(ImageStep)
    second = order(worker, DRAW, seed=2)
    second.until(TextDone)
    third = order(worker, [{"type": "text", "text": DRAW}], seed=2, max_images=1)
    for ordered, prompt, options in (
        (first, STORY, {"seed": 1}),
        (second, DRAW, {"seed": 2}),
        (third, DRAW, {"seed": 2, "max_images": 1}),
    ):
        over, expected = ordered.over, alone(prompt, **options)
        assert same(list(over.output), expected)
        assert over.reason == expected.finish_reason
        assert ordered.text == expected.text


def test_events_come_as_from_a_stream(worker: Worker) -> None:
    ordered = order(worker)
    assert isinstance(ordered.next(), Accepted)
    assert ordered.over.reason == "stop"
    kinds = [type(told) for told in ordered.told if not isinstance(told, TextDelta)]
    steps = [ImageStep] * 3
    block = [TextDone, ImageStarted, *steps, ImageDone]
    assert kinds[1:-1] == [*block, *block, TextDone]


@pytest.mark.parametrize("kind", [TextDelta, ImageStep])
def test_one_that_is_cancelled_leaves_before_the_next_round(worker: Worker, kind: Any) -> None:
    other = order(worker, DRAW, seed=5, num_timesteps=12)
    gone = order(worker, STORY, seed=6, num_timesteps=100)
    gone.until(kind)
    rounds = worker.state.rounds
    worker.cancel(gone.number)
    over = gone.over
    assert over.reason == "interrupted"
    assert worker.state.rounds - rounds <= 3
    assert over.output.text or over.output.segments
    assert same(list(other.over.output), alone(DRAW, seed=5, num_timesteps=12))
    wait_until(lambda: worker.outstanding == 0)


def test_a_cancelled_one_that_waits_never_begins(inferencer: Any) -> None:
    for worker in _working(inferencer, max_running=1):
        first = order(worker, STORY, num_timesteps=20)
        first.until(TextDelta)
        second = order(worker)
        second.until(Accepted)
        worker.cancel(second.number)
        assert not second.over.begun
        assert first.over.reason == "stop"


def test_a_failure_belongs_to_one(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    inferencer = worker._runs._inferencer
    decode = inferencer.decode_images

    def broken(latents: Any, shape: tuple[int, int]) -> Any:
        if shape == (32, 32):
            raise RuntimeError("broken on purpose")
        return decode(latents, shape)

    monkeypatch.setattr(inferencer, "decode_images", broken)
    other = order(worker, seed=4)
    broken_one = order(worker, image_shape=(32, 32))
    over = broken_one.over
    assert over.reason == "error"
    assert str(over.output.error) == "broken on purpose"
    assert over.output.text.startswith("First")
    assert same(list(other.over.output), alone(DRAW, seed=4))


def test_a_round_that_fails_as_a_whole_ends_all_and_the_worker_goes_on(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        ordered = order(worker, STORY)
        ordered.until(ImageStep)

        def broken(_: Batch) -> Any:
            raise RuntimeError("no run's own")

        patch.setattr(Batch, "_next_group", broken)
        over = ordered.over
    assert over.reason == "error"
    assert over.output.text
    assert same(list(order(worker).over.output), alone(DRAW, seed=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_shape": (40, 40)}, "multiple of 16"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "word " * 4000}, "at most 2048 positions"),
        ({"max_context_memory": 1000}, "max_context_memory must be at least"),
    ],
)
def test_what_cannot_be_is_refused_before_it_waits(
    worker: Worker, given: dict[str, Any], message: str
) -> None:
    error = order(worker, **given).refused
    assert isinstance(error, ValueError)
    assert message in str(error)
    assert worker.outstanding == 0


def test_no_more_wait_than_may(inferencer: Any) -> None:
    for worker in _working(inferencer, max_running=1, max_waiting=1):
        orders = [order(worker, STORY), order(worker)]
        with pytest.raises(BusyError):
            order(worker)
        assert not worker.is_free
        assert [ordered.over.reason for ordered in orders] == ["stop", "stop"]
        assert worker.is_free


def test_memory_is_for_all_together(inferencer: Any) -> None:
    """One that does not fit beside another waits for it; both end as alone."""
    limit = 2048 * 700  # bytes; one run of two pictures may come to take most of that
    for worker in _working(inferencer, max_context_memory=limit):
        options = {"max_text_length": 60, "max_interleaved_blocks": 3}
        orders = [order(worker, seed=seed, **options) for seed in (1, 2)]
        orders[0].until(TextDelta)
        assert worker.state.running == 1
        assert worker.state.waiting == 1
        assert 0 < worker.state.context_bytes <= limit
        for seed, ordered in zip((1, 2), orders, strict=True):
            assert same(list(ordered.over.output), alone(DRAW, seed=seed, **options))


def test_tokens_and_pictures_are_counted_over_all_blocks(worker: Worker) -> None:
    whole = alone(DRAW, seed=3)
    over = order(worker, max_tokens=20).over
    assert over.reason == "max_tokens"
    told = order(worker, max_tokens=20)
    assert told.over.output.usage.text_tokens <= 21
    assert whole.text.startswith(told.text)
    assert sum(len(t.token_ids) for t in told.told if isinstance(t, TextDelta)) <= 20
    one = order(worker, wanted_images=1).over
    assert one.reason == "max_images"
    assert alike(one.output.images[0], whole.images[0])
    assert len(one.output) == 2


def test_time_is_limited_and_what_was_made_is_kept(inferencer: Any) -> None:
    for worker in _working(inferencer, max_seconds=0.4):
        over = order(worker, STORY, num_timesteps=200).over
        assert over.reason == "time_limit"
        assert over.output.text


def test_stopping_refuses_more_and_tells_what_was_made(inferencer: Any) -> None:
    for worker in _working(inferencer):
        ordered = order(worker, STORY, num_timesteps=200)
        ordered.until(ImageStep)
        worker.refuse_more()
        with pytest.raises(StoppingError):
            order(worker)
        worker.end_all()
        over = ordered.over
        assert over.reason == "stopping"
        assert over.output.text.startswith("Once")


def test_who_does_not_hear_leaves(worker: Worker) -> None:
    def deaf(_: Any) -> None:
        raise RuntimeError("the loop is closed")

    worker.submit(Order(prompt=STORY, options=make_options({"num_timesteps": 200}), tell=deaf))
    wait_until(lambda: worker.outstanding == 0)
    assert order(worker).over.reason == "stop"


# Responses that others continue.


def test_what_was_read_is_not_read_again(worker: Worker, inferencer: Any) -> None:
    order(worker, keep_as="one").wait()
    with counted(inferencer.model) as tokens:
        told = order(worker, "What colour is the square?", after="one", keep_as="two").over
    assert told.output.text == "The square is blue."
    assert tokens["tokens"] < 50  # the question and the answer
    assert worker.state.kept == 2


def test_one_response_may_be_continued_in_several_ways(worker: Worker) -> None:
    order(worker, keep_as="one").wait()
    asked = [
        order(worker, question, after="one")
        for question in ("What colour is the square?", "What colour is the circle?")
    ]
    assert [each.over.output.text for each in asked] == [
        "The square is blue.",
        "The circle is red.",
    ]


def test_contexts_that_had_to_leave_are_read_again(inferencer: Any) -> None:
    for worker in _working(inferencer, kept_memory=200_000):  # pictures fit, contexts do not
        order(worker, keep_as="one").wait()
        assert worker.state.kept == 1
        assert worker.state.kept_bytes < 200_000
        with counted(inferencer.model) as tokens:
            told = order(worker, "What colour is the square?", after="one").over
        assert told.output.text == "The square is blue."
        assert tokens["tokens"] > 100


def test_a_response_is_there_for_its_owner_alone(worker: Worker) -> None:
    order(worker, keep_as="one", owner="me").wait()
    error = order(worker, "And?", after="one", owner="you").refused
    assert isinstance(error, NotKeptError)
    assert order(worker, "And now?", after="one", owner="me").over.reason != "error"
    heard: list[bool] = []
    for owner in ("you", "me", "me"):
        done = threading.Event()
        worker.forget("one", owner, lambda was, done=done: (heard.append(was), done.set()))
        assert done.wait(30)
    assert heard == [False, True, False]


def test_of_too_many_responses_the_least_used_leave(inferencer: Any) -> None:
    for worker in _working(inferencer, kept_responses=2):
        for name in ("one", "two"):
            order(worker, keep_as=name, max_images=0).wait()
        order(worker, "What is there?", after="one", keep_as="three").wait()
        assert isinstance(order(worker, "And?", after="two").refused, NotKeptError)
        assert order(worker, "And?", after="one").over.reason != "error"


def test_one_that_failed_or_was_cut_is_not_kept(worker: Worker) -> None:
    order(worker, keep_as="cut", max_tokens=20).wait()
    assert isinstance(order(worker, "And?", after="cut").refused, NotKeptError)


def test_kept_responses_share_what_they_have_in_common(worker: Worker) -> None:
    order(worker, keep_as="one").wait()
    before = worker.state.kept_bytes
    for number in range(5):
        after = f"turn {number - 1}" if number else "one"
        told = order(worker, "What colour is it?", after=after, keep_as=f"turn {number}").over
        assert told.reason == "stop"
    assert worker.state.kept == 6
    assert worker.state.kept_bytes < 2 * before


def test_nothing_is_kept_beyond_its_limit() -> None:
    kept = KeptResponses(count=2, memory=10**9)
    session = bundled(torch.float32).start_session(seed=1, num_timesteps=3, max_images=1)
    session.send(DRAW)
    for number in range(3):
        kept.keep(str(number), "me", session.standing)
    assert len(kept) == 2
    with pytest.raises(NotKeptError):
        kept.find("0", "me")
    whole = kept.nbytes
    kept.allow(whole // 2)
    assert 0 < kept.nbytes <= whole // 2
    assert kept.find("2", "me").contexts is None
    assert kept.find("2", "me").items
    kept.allow(0)
    assert len(kept) == 0


def test_what_a_run_begins_with_counts_whether_it_is_kept_or_read_again(inferencer: Any) -> None:
    session = inferencer.start_session(seed=1, num_timesteps=3)
    session.send(DRAW)
    standing = session.standing

    def most(start: Standing | None) -> int:
        return prepare(
            inferencer,
            "And now?",
            make_options({"max_interleaved_blocks": 1, "max_text_length": 5}),
            protocol=inferencer.protocol,
            understanding=inferencer.understanding,
            progress={},
            start=start,
        ).most_memory()

    before = standing.length * inferencer.bytes_per_token
    assert most(standing) >= most(None) + before
    assert most(replace(standing, contexts=None)) >= most(None) + before


def test_a_limit_of_plans_concerns_none_but_who_plans() -> None:
    """It was set in every request, and the log told of each that it had no effect."""
    limits = Limits(max_tokens=30)
    assert "max_think_token_n" not in limits.completed({})
    limits.check(make_options(limits.completed({})))
    assert limits.completed({"think": True})["max_think_token_n"] == 30
    with pytest.raises(ValueError, match="max_think_token_n must be at most 30"):
        limits.check(make_options({"max_text_length": 5, "think": True}))
