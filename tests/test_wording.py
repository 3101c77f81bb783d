"""What messages show of a caller's values is a line at most, and never an error."""

from random import Random
from typing import Any

import pytest
import torch

from auto_interleaved.options.generation import make_options
from data.output import Segment
from data.text_stream import TextStream
from data.transforms import ImageTransform
from data.wording import did_you_mean, listed, one_line, shown, shown_error
from modeling.autoencoder import AutoEncoderParams
from modeling.flow import ImageOptions
from picturebook.stories import sample_story


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("not today")


class Endless:
    def __repr__(self) -> str:
        return repr(self)


class Loud:
    def __repr__(self) -> str:
        return "a\n\x1b[31mb\ud800" + "c" * 1_000_000


class Wrong:
    def __repr__(self):
        return 7


def nested(depth: int) -> list:
    return [nested(depth - 1)] * 7 if depth else []


ROUND: list = []
ROUND.append(ROUND)
NASTY = {
    "a long string": "x" * 2_000_000,
    "long bytes": b"x" * 2_000_000,
    "a long number": 10**100_000,
    "a repr that raises": Mute(),
    "one in a list": [Mute()] * 10,
    "a key that raises": {Mute(): Mute()},
    "endless": Endless(),
    "loud": Loud(),
    "no string": Wrong(),
    "a circle": ROUND,
    "deep": nested(6),
    "a class that only sounds like a list": type("list", (), {})(),
    "a string of its own kind": type("Text", (str,), {})("x" * 100_000),
    "a large dictionary": dict.fromkeys(range(100_000)),
    "a tensor": torch.zeros(100, 100),
}


@pytest.mark.parametrize("value", NASTY.values(), ids=NASTY)
def test_whatever_is_shown_is_one_printable_line(value: object) -> None:
    text = shown(value)
    assert 0 < len(text) <= 100
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    "value",
    ["", "it's", "a\nb", "\u00e4", 0, -1.5, None, True, b"\0", [], [1, "a"], {"a": (1,)}, {2}, int],
)
def test_a_short_value_is_shown_as_it_is_written(value: object) -> None:
    assert shown(value) == repr(value)


def test_a_long_line_loses_its_middle() -> None:
    assert one_line(f"first {'x' * 10_000} last").startswith("first xxx")
    assert one_line(f"first {'x' * 10_000} last").endswith("xxx last")


def test_an_array_is_told_by_its_shape() -> None:
    assert shown(torch.zeros(3, 2)) == "<Tensor of shape (3, 2)>"


def test_an_error_is_shown_on_a_line_even_if_it_cannot_be_written() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert shown_error(MuteError()) == "MuteError"
    assert shown_error(ValueError("a\nb")) == "ValueError: a b"
    assert len(shown_error(OSError("x" * 1_000_000))) < 200


def test_names_are_listed_up_to_a_number() -> None:
    assert listed(["a", 1, Mute()]) == '"a", 1, <Mute>'
    assert listed(map(str, range(99))).endswith('"7", ...')


def test_the_nearest_word_is_named_if_there_is_one() -> None:
    assert did_you_mean("imgae", ("image", "path")) == '; did you mean "image"?'
    assert did_you_mean("x", ("image", "path")) == did_you_mean(None, ("image",)) == ""
    assert did_you_mean("x" * 1_000_000, ("image",)) == ""


@pytest.mark.parametrize("value", ["x" * 1_900_000, b"x" * 1_900_000, Mute()], ids=range(3))
@pytest.mark.parametrize(
    "refuse",
    [
        lambda value: ImageTransform(value, 8, 4),
        lambda value: ImageTransform(8, 8, 4, image_mean=value),
        lambda value: ImageOptions(cfg_renorm_type=value),
        lambda value: AutoEncoderParams(ch=value),
        lambda value: make_options({"height": value}),
        lambda value: make_options({"image_feedback": value}),
        lambda value: Segment(kind=value, role="prompt"),
        lambda value: Segment(kind="image", role="prompt", image=value),
        lambda value: TextStream(bytes.decode, marker=[value]),
        lambda value: sample_story(Random(0), kind=value),
    ],
    ids=range(10),
)
def test_no_refusal_repeats_a_long_value_or_fails_on_it(refuse: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        refuse(value)
    assert len(str(raised.value)) < 500
