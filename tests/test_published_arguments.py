"""The published calls and their arguments: what they refuse, and what they take.

Whatever is wrong is refused by its name before anything is computed, in every call that takes it.
"""

import io
from collections import UserList, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from auto_interleaved_inference import AutoInterleavedInferencer
from inferencer import InterleaveInferencer
from modeling.context import Context
from tests.builders import picture, told, toy_inferencer
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


@pytest.fixture(scope="module")
def context(inferencer: InterleaveInferencer) -> Context:
    return inferencer.update_context_text("a red circle", inferencer.model.new_context())


@pytest.fixture
def idle(inferencer: InterleaveInferencer, context: Context) -> Iterator[None]:
    """Fail as soon as a model computes."""

    def fail(*_: Any) -> None:
        raise AssertionError("something was computed")

    parts = (inferencer.model.language_model.model, inferencer.vae_model.encoder)
    hooks = [part.register_forward_pre_hook(fail) for part in parts]
    yield
    for hook in hooks:
        hook.remove()


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


# Options, in every call that takes them.


SHAPES = [64, None, "8x16", (8,), (8, 16, 3), (8.0, 16), ("8", "16"), (True, 8), (0, 8), (-8, 8)]
SHAPES += [(10, 16), (8, 64), {8, 16}, np.array([8, 16])]
DRAWING: dict[str, list[Any]] = {
    "cfg_text_scale": ["4", None, True, [4.0], float("nan"), float("inf"), -1.0, torch.ones(1)],
    "cfg_img_scale": ["1.5", None, False, -0.1, float("nan"), 1j],
    "cfg_interval": [0.4, None, "04", (0.4,), (0.4, 1.0, 1.0), ("0", "1"), (0.9, 0.1), (0, 2)],
    "cfg_renorm_min": ["0", None, 2, -1, float("nan")],
    "cfg_renorm_type": ["local", None, 3, ["global"], ""],
    "num_timesteps": ["5", 5.0, None, True, 1, 0, -3, 10**9],
    "timestep_shift": ["3", None, 0, -1.0, float("inf"), float("nan")],
    "enable_taylorseer": ["yes", 1, None],
}
WRITING: dict[str, list[Any]] = {
    "do_sample": ["yes", 1, None],
    "max_think_token_n": ["9", 9.0, None, True, 0, -1],
    "text_temperature": ["1", None, True, float("nan"), float("inf"), [0.3]],
    "think": ["no", 1, None],
    "understanding_output": ["no", 0, None],
}
INTERLEAVED = {**DRAWING, **WRITING, "image_shapes": SHAPES}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    pairs = [(name, value) for name, values in table.items() for value in values]
    return [pytest.param(*pair, id=f"{pair[0]}={pair[1]!r}") for pair in pairs]


def refused(call: Callable[[], Any], name: str) -> None:
    """Check that a call is refused in a line that begins with what is wrong."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    words = (name, "height", "width") if "shape" in name else (name,)
    assert message.startswith(words) or f" of {name} must" in message, message
    assert "must" in message
    assert "got" in message
    assert len(message) < 200


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("name", "value"), cases(INTERLEAVED))
def test_interleave_inference_refuses_a_wrong_option(
    inferencer: InterleaveInferencer, name: str, value: Any
) -> None:
    refused(lambda: inferencer.interleave_inference(["x"], **FAST | {name: value}), name)
    refused(lambda: inferencer(text="x", **FAST | {name: value}), name)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("name", "value"), cases({**DRAWING, "image_shape": SHAPES}))
def test_gen_image_refuses_a_wrong_option(
    inferencer: InterleaveInferencer, context: Context, name: str, value: Any
) -> None:
    given = {"image_shape": (8, 16), "cfg_text_precontext": context, "cfg_img_precontext": context}
    refused(lambda: inferencer.gen_image(gen_context=context, **given | {name: value}), name)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        {
            "max_length": WRITING["max_think_token_n"],
            "do_sample": WRITING["do_sample"],
            "temperature": WRITING["text_temperature"],
        }
    ),
)
def test_gen_text_refuses_a_wrong_option(
    inferencer: InterleaveInferencer, context: Context, name: str, value: Any
) -> None:
    refused(lambda: inferencer.gen_text(context, **{name: value}), name)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", ["vae", "vit"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_update_context_image_refuses_a_wrong_flag(
    inferencer: InterleaveInferencer, context: Context, name: str, value: Any
) -> None:
    refused(lambda: inferencer.update_context_image(picture(), context, **{name: value}), name)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("given", [{"split_special_tokens": "no"}, {"text": "a\ud800b"}], ids=str)
def test_update_context_text_refuses_what_no_tokenizer_takes(
    inferencer: InterleaveInferencer, given: dict[str, Any]
) -> None:
    words = "must be True or False" if "text" not in given else "text holds half a character at 1"
    with pytest.raises((TypeError, ValueError), match=words):
        inferencer.update_context_text(
            **{"text": "x", "gen_context": inferencer.init_gen_context()} | given
        )


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_decode_image_refuses_a_wrong_size(inferencer: InterleaveInferencer, shape: Any) -> None:
    refused(lambda: inferencer.decode_image(torch.zeros(8, 16), shape), "image_shape")


@pytest.mark.parametrize(
    "latent", [None, [[0.0]], np.zeros((8, 16)), torch.zeros(8, 16, dtype=torch.int64)], ids=type
)
def test_decode_image_refuses_what_is_no_latent(
    inferencer: InterleaveInferencer, latent: Any
) -> None:
    refused(lambda: inferencer.decode_image(latent, (8, 16)), "latent")


@pytest.mark.parametrize("size", [(16, 8), (8,), (9, 16), (1, 8, 16)])
def test_decode_image_refuses_a_latent_of_another_size(
    inferencer: InterleaveInferencer, size: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"latent must be .* = \(8, 16\) for an image"):
        inferencer.decode_image(torch.zeros(size), (8, 16))


@pytest.mark.parametrize("tile", [0, -1, 1, 7, "x", True, 8.0])
def test_tiles_are_refused_where_they_are_set(fresh: InterleaveInferencer, tile: Any) -> None:
    def set_it() -> None:
        fresh.vae_tile = tile

    refused(set_it, "vae_tile")
    assert fresh.vae_tile is None
    with pytest.raises((TypeError, ValueError), match="tile must be"):
        fresh.vae_model.decode(torch.zeros(1, 4, 8, 8), tile)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s is not None], ids=repr)
def test_the_size_of_ones_own_is_refused_where_it_is_set(
    fresh: InterleaveInferencer, shape: Any
) -> None:
    def set_it() -> None:
        fresh.image_shape = shape

    refused(set_it, "image_shape")


@pytest.mark.parametrize("name", ["sample_posterior", "split_special_tokens", "as_viewed"])
def test_switches_are_true_or_false(fresh: InterleaveInferencer, name: str) -> None:
    refused(lambda: InterleaveInferencer(*arguments_of(fresh), **{name: "no"}), name)
    assert getattr(InterleaveInferencer(*arguments_of(fresh), **{name: True}), name) is True


def test_values_that_mean_the_same_are_taken(
    inferencer: InterleaveInferencer,
) -> None:
    def draw(**options: Any) -> Image.Image:
        torch.manual_seed(1)
        return inferencer(text="x", **FAST | options)["image"]

    plain = draw(cfg_interval=(0.0, 1.0), cfg_text_scale=3.0)
    assert same(plain, draw(cfg_interval=[0, 1], cfg_text_scale=np.float32(3)))
    assert same(plain, draw(cfg_interval=(0, 1), image_shapes=[np.int64(8), 16]))
    assert same(plain, draw(cfg_interval=(0, 1), num_timesteps=np.int32(3), image_shapes=(8, 16)))


def test_an_unknown_keyword_is_refused(inferencer: InterleaveInferencer) -> None:
    with pytest.raises(TypeError, match="num_timestep"):
        inferencer(text="x", num_timestep=5)


# Inputs.


@pytest.mark.parametrize("make", [tuple, iter, deque, UserList, lambda items: (i for i in items)])
def test_inputs_may_come_from_anything_in_order(
    inferencer: InterleaveInferencer, make: Callable[[list[Any]], Any]
) -> None:
    """A generator was used up by the check, and the picture did not go by the prompt."""
    torch.manual_seed(1)
    expected = inferencer.interleave_inference([picture(), "make it blue"], **FAST)[0]
    torch.manual_seed(1)
    found = inferencer.interleave_inference(make([picture(), "make it blue"]), **FAST)[0]
    assert same(found, expected)  # type: ignore[arg-type]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("inputs", [{"x": 1}, {"x"}, frozenset("x"), b"x", 3, None], ids=repr)
def test_inputs_without_an_order_are_refused(inferencer: InterleaveInferencer, inputs: Any) -> None:
    with pytest.raises(TypeError, match="input_lists must be a list of strings and PIL"):
        inferencer.interleave_inference(inputs, **FAST)


@pytest.mark.parametrize("inputs", [[], (), iter([])], ids=type)
def test_no_inputs_at_all_are_refused(inferencer: InterleaveInferencer, inputs: Any) -> None:
    with pytest.raises(ValueError, match="input_lists must hold a string or an image at least"):
        inferencer.interleave_inference(inputs, **FAST)


@pytest.mark.usefixtures("idle")
def test_an_image_that_cannot_be_read_is_refused_before_what_stands_first(
    inferencer: InterleaveInferencer, tmp_path: Path
) -> None:
    picture(64, 64).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    cut = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(OSError, match="truncated"):
        inferencer.interleave_inference(["x", cut], **FAST)
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 5"):
        inferencer.interleave_inference(["x", Image.new("RGB", (0, 5))], **FAST)


def test_a_list_may_be_called_as_scripts_for_weave_do(inferencer: InterleaveInferencer) -> None:
    inputs = ["first", picture(), "then"]
    torch.manual_seed(1)
    expected = inferencer.interleave_inference(inputs, **FAST)
    torch.manual_seed(1)
    [image] = inferencer.interleave_call(inputs, **FAST)
    assert same(image, expected[0])  # type: ignore[arg-type]


def test_a_subclass_may_read_in_its_own_way(fresh: InterleaveInferencer) -> None:
    """The published loop goes through the published calls."""
    read: list[Any] = []

    class Own(InterleaveInferencer):
        def update_context_text(self, text: str, gen_context: Any, **named: Any) -> Any:
            read.append(text)
            return super().update_context_text(text, gen_context, **named)

    own = Own(*arguments_of(fresh))
    own.interleave_inference(["one", picture(), "two"], understanding_output=True, **FAST)
    assert [text for text in read if text in ("one", "two")] == ["one", "two", "two"]


# The constructor.


class Anything:
    """What other people's tests pass for a part."""


@pytest.mark.parametrize("kind", [InterleaveInferencer, AutoInterleavedInferencer])
@pytest.mark.parametrize("ids", [{}, None, Anything()], ids=told)
def test_parts_are_kept_as_they_are(kind: type[InterleaveInferencer], ids: Any) -> None:
    given = [Anything(), Anything(), Anything(), Anything(), Anything(), ids]
    made = kind(*given)
    assert all(kept is part for kept, part in zip(arguments_of(made), given, strict=True))


def test_an_id_that_a_stand_in_lacks_is_named_when_it_is_needed(
    fresh: InterleaveInferencer,
) -> None:
    made = InterleaveInferencer(*arguments_of(fresh)[:5], {})
    with pytest.raises(ValueError, match="new_token_ids lacks bos_token_id; pass the second value"):
        made.update_context_text("x", made.model.new_context())
