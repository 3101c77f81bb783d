"""A run asks and a driver answers: the loop runs without a model, and failures come where asked."""

from __future__ import annotations

from collections.abc import Generator
from itertools import groupby
from typing import Any

import pytest
import torch
from PIL import Image

from auto_interleaved.drivers.direct import Direct, drive
from auto_interleaved.options.generation import make_options
from auto_interleaved.run import asks
from auto_interleaved.run.engine import Run
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.setting import Setting
from data.output.events import Event, ImageDone, TextDone
from data.prompts import parse_prompt
from data.protocols import find_protocol
from modeling.context import Context
from modeling.flow import FlowStep
from tests.builders import EOS, START
from tests.scripted import SHAPE, encoded, toy_parts


class Hand:
    """Answers by a script, over contexts that hold no numbers."""

    def __init__(self, *ids: int) -> None:
        self._ids = iter(ids)
        self.asked: list[str] = []

    def __call__(self, question: asks.Ask[Any]) -> Any:
        self.asked.append(type(question).__name__)
        match question:
            case asks.ReadIds(ids=ids, context=context):
                return longer(context, len(ids)), EOS
            case asks.NextToken(text=text):
                text.context = longer(text.context, 1)
                return next(self._ids), text.context
            case asks.NextStep():
                latent = torch.zeros(4, 16)
                return FlowStep(index=1, num_steps=2, time=0.5, latent=latent, clean=latent)
            case asks.DecodeImage(shape=(height, width)):
                return Image.new("RGB", (width, height), "red")
            case asks.ReadLatent(context=context) | asks.ReadVision(context=context):
                return longer(context, 6)
        raise AssertionError(question)


class Block:
    def __init__(self, advance: int) -> None:
        self.advance = advance


def longer(context: Context, count: int) -> Context:
    with context.room(count) as tail:
        return context.after(tail, Block(count))


def run_of(prompt: str, **options: Any) -> tuple[asks.Work[str], RunRecord]:
    setting = Setting(
        options=make_options({"num_timesteps": 3, "image_shape": SHAPE, **options}),
        protocol=find_protocol("native"),
        image_shape=SHAPE,
        progress={"disable": True},
    )
    record = RunRecord({})
    return Run(toy_parts(), setting, record).work(parse_prompt(prompt)), record


def driven(work: asks.Work[str], answer: Any) -> list[Event | str]:
    """Return all events of a run, and why it ended."""
    reasons: list[Event | str] = []

    def noted() -> Generator[Event, None, None]:
        reasons.append((yield from drive(work, answer)))

    told = list(noted())
    return [*told, *reasons]


def test_a_run_is_driven_by_hand_with_made_up_answers() -> None:
    first, last = encoded("Once"), encoded("The end")
    hand = Hand(*first, START, *last, EOS)
    work, record = run_of("Tell.")
    *events, reason = driven(work, hand)
    assert reason == "stop"
    made = [segment for segment in record.segments if segment.role == "generated"]
    assert [segment.text or segment.image.getpixel((0, 0)) for segment in made] == [
        "Once",
        (255, 0, 0),
        "The end",
    ]
    assert sum(isinstance(event, ImageDone) for event in events) == 1
    assert sum(isinstance(event, TextDone) for event in events) == 2
    # The prompt, which all contexts share; a text; what it led to, for the reader and without
    # images; and the drawing.
    kinds = [kind for kind, _ in groupby(hand.asked)]
    assert kinds == [
        "ReadIds",
        "NextToken",
        "ReadIds",
        "NextStep",
        "DecodeImage",
        "ReadLatent",
        "ReadVision",
        "NextToken",
        "ReadIds",
    ]
    assert hand.asked.count("NextToken") == len(first) + len(last) + 2
    assert hand.asked.count("NextStep") == 2


@pytest.mark.parametrize("error", [RuntimeError("no memory"), KeyboardInterrupt()])
def test_a_failure_comes_where_the_run_asked_and_what_was_made_is_recorded(
    error: BaseException,
) -> None:
    hand = Hand(*encoded("Once"), START)

    def failing(question: asks.Ask[Any]) -> Any:
        if isinstance(question, asks.DecodeImage):
            raise error
        return hand(question)

    work, record = run_of("Tell.")
    with pytest.raises(type(error)):
        list(drive(work, failing))
    text, image = record.segments[-2:]
    assert text.text == "Once"
    assert image.image is None
    assert image.error is not None


def test_a_failure_may_be_caught_by_who_asked() -> None:
    def work() -> Generator[Any, Any, str]:
        try:
            return (yield from asks.ask(asks.EncodeImage(picture=Image.new("RGB", (8, 8)))))
        except ValueError as error:
            return f"caught {error}"

    def fail(question: asks.Ask[Any]) -> Any:
        raise ValueError("it")

    with pytest.raises(StopIteration, match="caught it"):
        next(drive(work(), fail))


def test_closing_a_driven_run_ends_its_jobs() -> None:
    ended: list[str] = []

    class State:
        def close(self) -> None:
            ended.append("closed")

    hand = Hand(*encoded("Once"), START)

    def answer(question: asks.Ask[Any]) -> Any:
        match question:
            case asks.NextToken(text=job) | asks.NextStep(drawing=job):
                job.state = job.state or State()
        return hand(question)

    work, record = run_of("Tell.")
    steps = drive(work, answer)
    while not any(segment.kind == "text" for segment in record.segments[1:]):
        next(steps)
    assert ended == ["closed"]  # the text's, before the image
    while "NextStep" not in hand.asked:
        next(steps)
    steps.close()
    assert ended == ["closed", "closed"]
    assert record.segments[-1].error == "interrupted"


def test_a_question_that_no_driver_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="what no driver knows: Ask"):
        Direct(toy_parts()).answer(asks.Ask())
