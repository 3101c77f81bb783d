"""The published calls: what they draw at random, and their bars; and the loop beside them."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from auto_interleaved_inference import AutoInterleavedInferencer
from inferencer import InterleaveInferencer
from modeling.progress import with_bar
from tests.builders import BOS, EOS, VOCABULARY, picture, teach, toy_inferencer
from tests.scripted import arguments_of

FAST: dict[str, Any] = {"num_timesteps": 3, "image_shapes": (8, 16)}


@pytest.fixture(scope="module")
def inferencer() -> InterleaveInferencer:
    made = toy_inferencer()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def fresh(inferencer: InterleaveInferencer) -> InterleaveInferencer:
    """One that a test may set otherwise, over the same parts."""
    return InterleaveInferencer(*arguments_of(inferencer))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


# Draws at random.


@pytest.fixture(scope="module")
def taught() -> InterleaveInferencer:
    """One whose model each test teaches anew what to write."""
    return toy_inferencer()


def draws(count: int, seed: int = 1) -> torch.Tensor:
    """Return what the global generator gives after tokens were drawn so often."""
    torch.manual_seed(seed)
    for _ in range(count):
        torch.empty(VOCABULARY).exponential_()
    return torch.rand(1)


@pytest.mark.parametrize(
    ("ids", "maximum", "kept", "count"),
    [
        ([70, 71, EOS, 72, 73], 6, [70, 71], 3),
        ([70, 71, 72, 73, 74], 4, [70, 71, 72], 4),  # cut: one draw more than tokens
        ([70, 71, 72, EOS, 74], 4, [70, 71, 72], 4),
        ([70, BOS, 71, 72, EOS, 73], 7, [70], 5),  # an inner bos does not end the drawing
        ([70, BOS, 71, 72, 73, 74], 5, [70], 5),
        ([EOS, 71], 3, [], 1),
        ([70, 71], 1, [], 1),
    ],
)
def test_as_many_tokens_are_drawn_as_the_published_code_draws(
    taught: InterleaveInferencer, ids: list[int], maximum: int, kept: list[int], count: int
) -> None:
    """What is drawn afterwards, such as a picture's noise, was another one."""
    context = taught.update_context_text("a red circle", taught.model.new_context())
    teach(taught.model, context, ids)
    expected = draws(count)
    torch.manual_seed(1)
    text = taught.gen_text(context, maximum, do_sample=True, temperature=0.01)
    assert text == taught.tokenizer.decode(kept)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("spelled", ["<|im_end|>", "<|im_start|>"])
def test_a_marker_that_is_spelled_out_ends_a_text_too(
    taught: InterleaveInferencer, spelled: str
) -> None:
    ids = taught.encode_text(f"a{spelled}b")[:24]
    context = taught.update_context_text("x", taught.model.new_context())
    teach(taught.model, context, ids)
    assert taught.gen_text(context, len(ids) + 1, do_sample=False) == "a"


# Bars.


class Broken(io.StringIO):
    """A stream that nothing can be written to."""

    def write(self, _: str) -> int:
        raise BrokenPipeError("nobody reads")


def bars(inferencer: InterleaveInferencer, stream: Any, **config: Any) -> Any:
    inferencer.set_progress_bar_config(file=stream, mininterval=0, **config)
    inferencer(text="x", **FAST)
    return stream


def test_a_bar_shows_the_steps_of_an_image(fresh: InterleaveInferencer) -> None:
    shown = bars(fresh, io.StringIO()).getvalue()
    assert "0/2" in shown
    assert "2/2" in shown
    assert bars(fresh, io.StringIO(), disable=True).getvalue() == ""
    assert "my words" in bars(fresh, io.StringIO(), desc="my words").getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("stream", [Broken(), None], ids=["broken", "absent"])
def test_a_bar_that_cannot_be_shown_costs_nothing(
    fresh: InterleaveInferencer, monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    torch.manual_seed(1)
    expected = bars_off(fresh)
    monkeypatch.setattr(sys, "stderr", stream)
    fresh.set_progress_bar_config(mininterval=0)
    torch.manual_seed(1)
    assert same(fresh(text="x", **FAST)["image"], expected)


def bars_off(inferencer: InterleaveInferencer) -> Image.Image:
    inferencer.set_progress_bar_config(disable=True)
    return inferencer(text="x", **FAST)["image"]


@pytest.mark.parametrize(
    "config",
    [{"foo": 1}, {"bar_format": "{nope}"}, {"ncols": "x"}, {"mininterval": "x"}, {"ascii": 3}],
    ids=str,
)
def test_a_bar_that_tqdm_cannot_make_is_refused_where_it_is_asked_for(
    fresh: InterleaveInferencer, config: dict[str, Any]
) -> None:
    [name] = config
    with pytest.raises((TypeError, ValueError), match=name):
        fresh.set_progress_bar_config(**config)
    assert isinstance(fresh(text="x", **FAST)["image"], Image.Image)


def test_a_failure_under_a_bar_is_the_callers_to_see() -> None:
    def steps() -> Iterator[int]:
        yield 1
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        list(with_bar(steps(), 2, {"file": io.StringIO()}))


# The loop beside them.


def test_the_interleaved_loop_keeps_its_own_ways(fresh: InterleaveInferencer) -> None:
    """It takes means, turns pictures upright, and reads markers as characters."""
    both = AutoInterleavedInferencer(*arguments_of(fresh))
    both.set_progress_bar_config(disable=True)
    sideways = picture(16, 8)
    sideways.getexif()[0x0112] = 6

    def run(seed: int) -> Image.Image:
        torch.manual_seed(seed)  # the global generator, by which published calls draw
        output = both.auto_interleaved_generation(
            [sideways, "<|im_end|> blue<|vision_start|>"],
            seed=1,
            num_timesteps=3,
            max_text_length=1,
            max_interleaved_blocks=1,
        )
        assert output.segments[1].token_ids == tuple(both.encode_text("<|im_end|> blue"))
        return output.images[0]

    assert run(1).size == (8, 16)
    assert same(run(1), run(2))
    [published] = both.interleave_inference([sideways, "blue"], num_timesteps=3)
    assert isinstance(published, Image.Image)
    assert published.size == (16, 8)
