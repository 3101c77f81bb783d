"""The published inferencer's contexts: dictionaries that calls change, with a value in each."""

import copy
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from data.data_utils import pil_img2rgb
from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache
from modeling.context import Context
from tests.builders import picture, toy_inferencer
from tests.scripted import arguments_of

GenContext = dict[str, Any]
SHAPE = (8, 16)


@pytest.fixture(scope="module")
def inferencer() -> InterleaveInferencer:
    return toy_inferencer()


@pytest.fixture
def context(inferencer: InterleaveInferencer) -> GenContext:
    made = inferencer.init_gen_context()
    inferencer.update_context_text("a red fox", made)
    return made


def rows(context: GenContext) -> list[Tensor]:
    cache = context["past_key_values"]
    return [*cache.key_cache.values(), *cache.value_cache.values()]


def value(context: GenContext) -> Context:
    [held] = context["past_key_values"].contexts()
    return held


def same(first: GenContext, second: GenContext) -> bool:
    ends = ("kv_lens", "ropes")
    return all(first[name] == second[name] for name in ends) and all(
        map(torch.equal, rows(first), rows(second))
    )


def test_a_context_is_the_published_dictionary(inferencer: InterleaveInferencer) -> None:
    context = inferencer.init_gen_context()
    assert type(context) is dict
    assert list(context) == ["kv_lens", "ropes", "past_key_values"]
    assert (context["kv_lens"], context["ropes"]) == ([0], [0])
    assert isinstance(context["past_key_values"], NaiveCache)
    assert (context["past_key_values"].num_layers, context["past_key_values"].seq_lens) == (2, 0)


def test_a_call_changes_the_context_that_it_is_given_and_returns_it(
    inferencer: InterleaveInferencer,
) -> None:
    context = inferencer.init_gen_context()
    cache = context["past_key_values"]
    assert inferencer.update_context_text("a red fox", context) is context
    length = len(inferencer.tokenizer.encode("a red fox")) + 2
    assert (context["kv_lens"], context["ropes"], cache.seq_lens) == ([length], [length], length)
    assert inferencer.update_context_image(picture(), context) is context
    assert (context["kv_lens"], context["ropes"]) == ([length + 20], [length + 2])
    assert context["past_key_values"] is cache
    assert cache.key_cache[0].shape == (length + 20, 2, 8)


def test_writing_and_drawing_leave_a_context_as_it_is(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    before = copy.deepcopy(context)
    inferencer.gen_text(context, 5)
    inferencer.gen_image(
        SHAPE,
        context,
        cfg_text_precontext=inferencer.init_gen_context(),
        cfg_img_precontext=context,
        num_timesteps=3,
    )
    assert same(context, before)
    assert value(context) == value(before)


def test_a_deep_copy_costs_no_keys_and_goes_its_own_way(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    forked = copy.deepcopy(context)
    assert value(forked).store is value(context).store
    kept = copy.deepcopy(context)
    inferencer.update_context_text("one way", forked)
    assert same(context, kept)
    inferencer.update_context_text("the other", context)
    inferencer.update_context_text("one way", kept)
    torch.testing.assert_close(rows(kept), rows(forked))
    assert context["kv_lens"] != forked["kv_lens"]


def test_a_call_that_fails_leaves_the_context(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    """The latents of an image were read when its vision features failed."""
    before = copy.deepcopy(context)
    hook = inferencer.model.vit_model.register_forward_pre_hook(_fail)
    with pytest.raises(ZeroDivisionError):
        inferencer.update_context_image(picture(), context)
    hook.remove()
    assert same(context, before)


def _fail(*_: Any) -> None:
    raise ZeroDivisionError


# Loops of one's own.


def by_hand(inferencer: InterleaveInferencer, inputs: list[Any]) -> Image.Image:
    """Do what fine-tunes do: contexts copied deeply, what a call returns not used."""
    full = inferencer.init_gen_context()
    without_text, without_images = copy.deepcopy(full), copy.deepcopy(full)
    for item in inputs:
        if isinstance(item, str):
            without_text = copy.deepcopy(full)
            inferencer.update_context_text(item, full)
            inferencer.update_context_text(item, without_images)
        else:
            image = inferencer.vae_transform.resize_transform(pil_img2rgb(item))
            inferencer.update_context_image(image, full)
            without_text = copy.deepcopy(full)
    return inferencer.gen_image(
        SHAPE,
        full,
        cfg_text_precontext=without_text,
        cfg_img_precontext=without_images,
        cfg_text_scale=3.0,
        num_timesteps=4,
    )


@pytest.mark.parametrize("inputs", [["a red circle"], [picture(16, 8), "make it blue", "and big"]])
def test_a_loop_that_ignores_what_calls_return_draws_the_same(
    inferencer: InterleaveInferencer, inputs: list[Any]
) -> None:
    torch.manual_seed(1)
    ours = by_hand(inferencer, inputs)
    torch.manual_seed(1)
    [theirs] = inferencer.interleave_inference(inputs, num_timesteps=4, image_shapes=SHAPE)
    assert isinstance(theirs, Image.Image)
    pixels = [torch.tensor(list(image.tobytes())).int() for image in (ours, theirs)]
    assert (pixels[0] - pixels[1]).abs().max() <= 1


def test_the_models_calls_work_on_what_a_context_holds(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    expected = copy.deepcopy(context)
    inferencer.update_context_text("more", expected)
    inputs, lengths, ropes = inferencer.model.prepare_prompts(
        context["kv_lens"],
        context["ropes"],
        ["more"],
        inferencer.tokenizer,
        inferencer.new_token_ids,
    )
    context["past_key_values"] = inferencer.model.forward_cache_update_text(
        context["past_key_values"], **inputs
    )
    context["kv_lens"], context["ropes"] = lengths, ropes
    assert (context["kv_lens"], context["ropes"]) == (expected["kv_lens"], expected["ropes"])
    torch.testing.assert_close(rows(context), rows(expected), atol=1e-5, rtol=1e-4)
    assert inferencer.gen_text(context, 6, False) == inferencer.gen_text(expected, 6, False)


def test_a_position_that_a_script_sets_is_where_reading_goes_on(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    other = copy.deepcopy(context)
    other["ropes"] = [other["ropes"][0] + 7]
    for one in (context, other):
        inferencer.update_context_text("more", one)
    assert other["ropes"] == [context["ropes"][0] + 7]
    assert not torch.allclose(rows(context)[0], rows(other)[0], atol=1e-3)


def test_values_are_taken_as_well_and_stay_as_they_are(
    inferencer: InterleaveInferencer, context: GenContext
) -> None:
    start = inferencer.new_context()
    read = inferencer.update_context_text("a red fox", start)
    assert isinstance(read, Context)
    assert (start.length, read.length) == (0, context["kv_lens"][0])
    for precontext in (start, inferencer.init_gen_context()):
        torch.manual_seed(1)
        image = inferencer.gen_image(
            SHAPE,
            read,
            cfg_text_precontext=precontext,
            cfg_img_precontext=context,
            num_timesteps=3,
        )
        assert image.size == (16, 8)
    assert inferencer.gen_text(read, 6, False) == inferencer.gen_text(context, 6, False)


def test_the_interleaved_inferencer_has_them_too(inferencer: InterleaveInferencer) -> None:
    i = inferencer
    parts = (i.model, i.vae_model, i.tokenizer, i.vae_transform, i.vit_transform, i.new_token_ids)
    own = AutoInterleavedInferencer(*parts)
    context = own.update_context_text("a red fox", own.init_gen_context())
    assert type(context) is dict
    assert isinstance(own.gen_text(context, 4), str)


# What is no context is refused.


def shallow(inferencer: InterleaveInferencer, context: GenContext) -> GenContext:
    other = context.copy()
    inferencer.update_context_text("more", context)
    return other


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (lambda _, c: None, TypeError, "must be what init_gen_context.* returned, got NoneType"),
        (lambda _, c: [c], TypeError, "got list"),
        (lambda _, c: {"kv_lens": [0]}, ValueError, "lacks ropes, past_key_values"),
        (lambda _, c: c | {"kv_lens": [1, 2]}, ValueError, "one sample, got 2 in kv_lens"),
        (lambda _, c: c | {"kv_lens": [1]}, ValueError, "holds 6 tokens, but the lengths say .1."),
        (lambda _, c: c | {"ropes": []}, ValueError, "ropes must have one entry"),
        (lambda _, c: c | {"ropes": ["x"]}, TypeError, "ropes must be a list or tensor of whole"),
        (lambda _, c: c | {"past_key_values": {}}, TypeError, "must be a NaiveCache, got dict"),
        (shallow, ValueError, "copy.deepcopy"),
    ],
)
def test_what_is_no_context_is_refused(
    inferencer: InterleaveInferencer,
    context: GenContext,
    made: Any,
    kind: type[Exception],
    message: str,
) -> None:
    given = made(inferencer, context)
    hook = inferencer.model.language_model.model.register_forward_pre_hook(_fail)
    try:
        for call in (
            lambda: inferencer.update_context_text("x", given),
            lambda: inferencer.update_context_image(picture(), given),
            lambda: inferencer.gen_text(given, 4),
            lambda: inferencer.gen_image(SHAPE, given, 1.0, 1.0, num_timesteps=2),
        ):
            with pytest.raises(kind, match=message):
                call()
        if given is not None:  # which says that there is none
            with pytest.raises(kind, match=message):
                inferencer.gen_image(SHAPE, context, 2.0, 1.0, given, num_timesteps=2)
    finally:
        hook.remove()


def test_a_tokenizer_may_know_no_more_than_a_text(inferencer: InterleaveInferencer) -> None:
    """Published code calls `encode(text)` and `decode(ids)`, and stand-ins have no more."""

    class Small:
        def encode(self, text: str) -> list[int]:
            return list(text.encode())

        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids))

    parts = list(arguments_of(inferencer))
    parts[2] = Small()
    small = InterleaveInferencer(*parts)
    context = small.update_context_text("abc", small.init_gen_context())
    assert context["kv_lens"] == [5]
    assert isinstance(small.gen_text(context, 3, do_sample=False), str)
