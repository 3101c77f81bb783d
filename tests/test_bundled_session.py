"""A talk with the bundled model: it edits what it drew, whatever happened on the way."""

from pathlib import Path
from typing import Any

import torch

from auto_interleaved.sessions.session import Session
from picturebook.reading import read_picture
from picturebook.world import Thing
from tests.bundled import SAMPLING, bundled
from tests.scripted import counted
from tests.test_session import near, send

DRAW = "<|vision_start|>"
CIRCLE = Thing("circle", "red", "top left")
SQUARE = Thing("square", "blue", "bottom right")


def begun() -> Session:
    session = bundled(torch.float32).start_session(
        seed=1, max_interleaved_blocks=1, **SAMPLING | {"num_timesteps": 15}
    )
    send(session, f"A red circle at the top left, by the blue sea.{DRAW}", max_text_length=1)
    return session


def things(session: Session) -> set[Any]:
    [*_, last] = (image for turn in session.history for image in turn.output.images)
    return set(read_picture(last).scene.things)


def test_a_picture_is_edited_turn_by_turn_and_questions_are_about_the_last_one() -> None:
    session = begun()
    assert things(session) == {CIRCLE}
    send(session, f"Add a blue square at the bottom right.{DRAW}")
    assert things(session) == {CIRCLE, SQUARE}
    assert send(session, "What colour is the square?").text == "The square is blue."
    assert send(session.rewind(2), "What is at the top left?").text == "A red circle."


def test_a_saved_talk_goes_on_in_the_same_words_and_pictures(tmp_path: Path) -> None:
    session = begun()
    session.save(tmp_path / "talk")
    again = bundled(torch.float32).load_session(tmp_path / "talk")
    for message in ("Add a blue square at the bottom right.", "What is in the picture?"):
        assert near(send(session, message), send(again, message))


def test_ten_turns_cost_what_two_do() -> None:
    """Time is measured in benchmarks; here tokens are counted that enter the decoder."""
    session = begun()
    cost = []
    for _ in range(10):
        with counted(session._inferencer.model) as counts:
            send(session, f"Make the circle green.{DRAW}", num_timesteps=2, max_text_length=1)
        cost.append(counts["tokens"])
    assert len(set(cost)) == 1
