"""The published inferencer: over context values, and as scripts that use its calls by hand do.

What its numbers must be is held by the golden tests.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor

from data.data_utils import pil_img2rgb
from inferencer import (
    GEN_THINK_SYSTEM_PROMPT,
    VLM_THINK_SYSTEM_PROMPT,
    InterleaveInferencer,
)
from modeling.bagel.blocks import patchify
from modeling.bagel.drawing import draw
from modeling.context import Context
from modeling.flow import ImageOptions
from tests.builders import BOS, EOS, MARKERS, picture, teach, toy_bagel, toy_inferencer
from tests.scripted import counted

FAST: dict[str, Any] = {"num_timesteps": 4, "image_shapes": (8, 16)}
SHAPE = (8, 16)


@pytest.fixture
def inferencer() -> InterleaveInferencer:
    return toy_inferencer()


@pytest.fixture
def context(inferencer: InterleaveInferencer) -> Context:
    return inferencer.update_context_text("a red circle", inferencer.new_context())


def snapshot(context: Context) -> tuple[int, int, list[Tensor]]:
    pairs = [context.rows(layer) for layer in range(2)]
    rows = [rows.clone() for pair in pairs if pair is not None for rows in pair]
    return context.length, context.position, rows


def unchanged(context: Context, before: tuple[int, int, list[Tensor]]) -> bool:
    length, position, rows = snapshot(context)
    return (length, position) == before[:2] and all(map(torch.equal, rows, before[2]))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and ImageChops.difference(first, second).getbbox() is None


def all_same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a == b if isinstance(a, str) else same(a, b) for a, b in zip(first, second, strict=True)
    )


# Contexts.


def test_no_verb_changes_a_context_value(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    before = snapshot(context)
    verbs: list[Callable[[], Any]] = [
        lambda: inferencer.update_context_text("more", context),
        lambda: inferencer.update_context_image(picture(), context),
        lambda: inferencer.gen_text(context, max_length=6),
        lambda: inferencer.gen_image(SHAPE, context, cfg_text_scale=1.0, cfg_img_scale=1.0),
        lambda: inferencer.gen_image(
            SHAPE,
            context,
            cfg_text_precontext=inferencer.new_context(),
            cfg_img_precontext=context,
            num_timesteps=3,
        ),
    ]
    for verb in verbs:
        verb()
        assert unchanged(context, before)


def test_a_text_is_read_between_bos_and_eos(inferencer: InterleaveInferencer) -> None:
    ids = inferencer.tokenizer.encode("a red circle")
    read = inferencer.update_context_text("a red circle", inferencer.new_context())
    block = inferencer.model.text_block([BOS, *ids, EOS])
    expected, _ = inferencer.model.read(inferencer.new_context(), block)
    assert unchanged(read, snapshot(expected))


def test_an_empty_text_is_its_two_borders(inferencer: InterleaveInferencer) -> None:
    assert inferencer.update_context_text("", inferencer.new_context()).length == 2


def test_an_image_enters_as_latents_and_then_as_vision_tokens(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    image = picture(16, 8)  # 4 x 2 latent tokens, 4 x 2 patches
    start = context.length
    inferencer.sample_posterior = False
    latents = inferencer.update_context_image(image, context, vit=False)
    vision = inferencer.update_context_image(image, context, vae=False)
    both = inferencer.update_context_image(image, context)
    assert (latents.length - start, vision.length - start, both.length - start) == (10, 10, 20)
    assert [c.position - context.position for c in (latents, vision, both)] == [1, 1, 2]
    by_hand = inferencer.update_context_image(image, latents, vae=False)
    assert unchanged(both, snapshot(by_hand))
    assert not unchanged(latents, snapshot(vision))


def test_a_read_images_latents_are_drawn_from_the_global_generator(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    def read() -> Context:
        torch.manual_seed(5)
        return inferencer.update_context_image(picture(), context)

    first, follows = read(), torch.rand(1)
    assert unchanged(read(), snapshot(first))
    assert not unchanged(inferencer.update_context_image(picture(), context), snapshot(first))
    torch.manual_seed(5)
    noise = torch.randn(1, 4, 4, 8)  # of the latents, before they are cut into tokens
    assert torch.equal(torch.rand(1), follows)
    with torch.inference_mode():
        pixels = inferencer.vae_transform(picture())[None]
        mean, log_variance = inferencer.vae_model.encoder(pixels).chunk(2, dim=1)
    params = inferencer.vae_model.params
    sample = mean + (log_variance / 2).exp() * noise
    latent = patchify(params.scale_factor * (sample[0] - params.shift_factor), 2)
    by_hand = inferencer.read_latent(latent, (2, 4), context)
    again = inferencer.read_vision(picture(), by_hand)
    torch.testing.assert_close(snapshot(again)[2], snapshot(first)[2])


def test_a_switch_takes_the_mean_of_a_read_image_instead(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    """A latent sampled from the posterior makes a chain depend on more than its noise."""
    inferencer.sample_posterior = False
    state = torch.get_rng_state()
    first = inferencer.update_context_image(picture(), context)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert unchanged(first, snapshot(inferencer.update_context_image(picture(), context)))


def test_vision_alone_draws_nothing(inferencer: InterleaveInferencer, context: Context) -> None:
    state = torch.get_rng_state()
    inferencer.update_context_image(picture(), context, vae=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_any_mode_of_image_is_read_as_rgb(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    grey = picture().convert("L")
    inferencer.sample_posterior = False
    first = inferencer.update_context_image(grey, context)
    second = inferencer.update_context_image(grey.convert("RGB"), context)
    assert unchanged(first, snapshot(second))


def sideways() -> Image.Image:
    image = picture(16, 8)
    image.getexif()[0x0112] = 6
    return image


def odd_images() -> dict[str, Image.Image]:
    levels = np.linspace(0, 65535, 128, dtype=np.uint16).reshape(8, 16)
    grey = Image.fromarray((levels // 256).astype(np.uint8))
    return {
        "LA": Image.merge("LA", (grey, picture(seed=1).convert("L"))),
        "I;16": Image.fromarray(levels),
        "F": Image.fromarray(levels.astype(np.float32) / 65535),
        "sideways": sideways(),
    }


@pytest.mark.parametrize("name", odd_images())
def test_an_image_is_read_as_it_is_stored(inferencer: InterleaveInferencer, name: str) -> None:
    """As published: no turn, no white page behind grey, no scaling of deep grey."""
    image = odd_images()[name]
    plain = Image.fromarray(np.asarray(image.convert("RGB")))

    def edit(image: Image.Image) -> Image.Image:
        torch.manual_seed(1)
        return inferencer.interleave_inference([image, "x"], **FAST)[0]  # type: ignore[return-value]

    assert same(edit(image), edit(plain))
    start = inferencer.new_context()
    inferencer.sample_posterior = False
    read = [inferencer.update_context_image(i, start) for i in (image, plain, pil_img2rgb(image))]
    assert unchanged(read[0], snapshot(read[1]))
    inferencer.as_viewed = True
    viewed = inferencer.update_context_image(image, start)
    assert unchanged(viewed, snapshot(read[2]))
    assert not unchanged(viewed, snapshot(read[0]))
    viewed_too = edit(image)
    assert viewed_too.size == pil_img2rgb(image).size


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_transparent_image_is_read_on_white(inferencer: InterleaveInferencer, mode: str) -> None:
    if mode == "RGBA":
        image = Image.new("RGBA", (16, 8), (200, 0, 0, 0))
    else:
        image = Image.new("P", (16, 8), 0)
        image.putpalette([200, 0, 0])
        image.info["transparency"] = 0
    inferencer.sample_posterior = False
    start = inferencer.new_context()
    page = inferencer.update_context_image(Image.new("RGB", (16, 8), "white"), start)
    assert unchanged(inferencer.update_context_image(image, start), snapshot(page))


def test_markers_in_a_text_are_tokens_unless_they_are_to_be_characters(
    inferencer: InterleaveInferencer,
) -> None:
    start = inferencer.new_context()
    assert inferencer.update_context_text("<|vision_start|>", start).length == 3
    asked = inferencer.update_context_text("<|vision_start|>", start, split_special_tokens=True)
    assert asked.length > 10
    inferencer.split_special_tokens = True
    assert inferencer.update_context_text("<|vision_start|>", start).length == asked.length


# Writing.


def test_at_most_one_token_less_than_the_maximum_is_written(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    """The maximum counts the bos that is fed."""
    ids = [70, 71, 72, 73, 74, 75]
    teach(inferencer.model, context, ids)
    runs: list[int] = []
    inferencer.model.language_model.model.register_forward_hook(lambda *_: runs.append(1))
    for maximum in (1, 2, 4, 6):
        runs.clear()
        text = inferencer.gen_text(context, maximum, do_sample=False)
        assert text == inferencer.tokenizer.decode(ids[: maximum - 1])
        assert len(runs) == maximum - 1


@pytest.mark.parametrize("end", [EOS, BOS])
def test_writing_stops_at_eos_and_at_bos(
    inferencer: InterleaveInferencer, context: Context, end: int
) -> None:
    teach(inferencer.model, context, [70, 71, end, 72, 73])
    text = inferencer.gen_text(context, 6, do_sample=False)
    assert text == inferencer.tokenizer.decode([70, 71])


def test_an_end_at_once_is_an_empty_text(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    teach(inferencer.model, context, [EOS, 70])
    assert inferencer.gen_text(context, 5, do_sample=False) == ""


def test_sampling_repeats_under_the_same_global_seed(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    def sample(seed: int) -> str:
        torch.manual_seed(seed)
        return inferencer.gen_text(context, 12)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_low_temperature_comes_to_the_likeliest_token(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    teach(inferencer.model, context, [70, 71, 72])
    greedy = inferencer.gen_text(context, 4, do_sample=False)
    assert inferencer.gen_text(context, 4, do_sample=True, temperature=0.01) == greedy
    assert inferencer.gen_text(context, 4, do_sample=True, temperature=1000.0) != greedy


def test_without_sampling_nothing_is_drawn_and_the_temperature_plays_no_part(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    state = torch.get_rng_state()
    texts = {inferencer.gen_text(context, 8, False, temperature) for temperature in (0.0, 0.3, 2.0)}
    assert len(texts) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_sampling_without_a_temperature_is_refused(
    inferencer: InterleaveInferencer, context: Context, temperature: float
) -> None:
    with pytest.raises(ValueError, match=f"above 0 when sampling, got {temperature}; for the like"):
        inferencer.gen_text(context, do_sample=True, temperature=temperature)


def test_a_text_of_no_length_is_refused(inferencer: InterleaveInferencer, context: Context) -> None:
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        inferencer.gen_text(context, max_length=0)


# Drawing.


def test_an_image_begins_as_noise_of_the_global_generator(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    torch.manual_seed(3)
    image = inferencer.gen_image(SHAPE, context, 1.0, 1.0, num_timesteps=4)
    follows = torch.rand(3)
    torch.manual_seed(3)
    options = ImageOptions(cfg_text_scale=1.0, cfg_img_scale=1.0, num_timesteps=4)
    *_, last = draw(
        inferencer.model,
        full=context,
        without_text=None,
        without_images=None,
        noise=torch.randn(2 * 4, 16),
        grid=(2, 4),
        markers=MARKERS,
        options=options,
    )
    assert torch.equal(torch.rand(3), follows)
    assert same(inferencer.decode_image(last.latent, SHAPE), image)
    assert image.size == (16, 8)


def test_pixels_are_truncated_to_eight_bits(inferencer: InterleaveInferencer) -> None:
    latent, grid = inferencer.encode_image(picture(16, 8))
    assert grid == (2, 4)
    image = np.asarray(inferencer.decode_image(latent, SHAPE))
    with torch.inference_mode():
        pixels = inferencer.vae_transform(picture(16, 8))
        decoded = inferencer.vae_model(pixels[None])[0].permute(1, 2, 0)
    expected = np.floor(((decoded + 1) / 2).clamp(0, 1).numpy() * 255)
    # Rounding moves a few values across a whole number.
    assert np.abs(image - expected).max() <= 1
    assert (image != expected).mean() < 0.01


@pytest.mark.parametrize(
    ("shape", "max_side", "size"),
    [((16, 32), 8, (8, 4)), ((8, 16), 64, (16, 8)), ((4, 32), 4, (4, 2)), ((32, 4), 8, (2, 8))],
)
def test_a_preview_is_a_smaller_image(
    inferencer: InterleaveInferencer,
    shape: tuple[int, int],
    max_side: int,
    size: tuple[int, int],
) -> None:
    """Of a strip whose shorter side shrank below one latent, nothing was left to decode."""
    latent = torch.randn(shape[0] * shape[1] // 16, 16)
    assert inferencer.preview_image(latent, shape, max_side).size == size


def test_image_guidance_without_text_guidance_warns(
    inferencer: InterleaveInferencer, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """The published code ignores it without a word."""
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        inferencer.gen_image(SHAPE, context, cfg_text_scale=1.0, num_timesteps=2)
    assert [record.getMessage() for record in caplog.records] == [
        "cfg_img_scale=1.5 has no effect while cfg_text_scale is at most 1"
    ]


def test_guidance_that_works_does_not_warn(
    inferencer: InterleaveInferencer, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    inferencer.gen_image(SHAPE, context, 1.0, 1.0, num_timesteps=2)
    inferencer.gen_image(
        SHAPE, context, cfg_text_precontext=context, cfg_img_precontext=context, num_timesteps=2
    )
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": (10, 16)}, "height must be a positive multiple of 4, got 10; try 8"),
        ({"image_shape": (8, 36)}, "width must be at most 32 for this model, got 36"),
        ({"cfg_text_precontext": None}, "cfg_text_scale=4.0 needs a context without the text"),
        ({"cfg_img_precontext": None}, "cfg_img_scale=1.5 needs a context without the images"),
        ({"cfg_interval": (0.5, 0.1)}, "cfg_interval must be"),
        ({"cfg_renorm_type": "local"}, "cfg_renorm_type must be one of"),
        ({"num_timesteps": 1}, "num_timesteps must be at least 2"),
    ],
)
def test_an_image_that_cannot_be_drawn_is_refused_before_any_computing(
    inferencer: InterleaveInferencer, context: Context, change: dict[str, Any], message: str
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("the decoder ran")

    inferencer.model.language_model.model.register_forward_hook(fail)
    settings = {
        "image_shape": SHAPE,
        "gen_context": context,
        "cfg_text_precontext": context,
        "cfg_img_precontext": context,
    }
    with pytest.raises(ValueError, match=message):
        inferencer.gen_image(**settings | change)


# The published loop, and the same by hand.


def by_hand(inferencer: InterleaveInferencer, inputs: list[Any], *, think: bool, answer: bool):
    """Do what published scripts do: three contexts, copied deeply wherever one is kept."""
    full = inferencer.init_gen_context()
    without_text, without_images, shape = copy.deepcopy(full), copy.deepcopy(full), SHAPE
    if think:
        prompt = VLM_THINK_SYSTEM_PROMPT if answer else GEN_THINK_SYSTEM_PROMPT
        full = inferencer.update_context_text(prompt, full)
        without_images = inferencer.update_context_text(prompt, without_images)
    for item in inputs:
        if isinstance(item, str):
            without_text = copy.deepcopy(full)
            full = inferencer.update_context_text(item, full)
            without_images = inferencer.update_context_text(item, without_images)
        else:
            image = inferencer.vae_transform.resize_transform(pil_img2rgb(item))
            full = inferencer.update_context_image(image, full, vae=not answer)
            without_text, shape = copy.deepcopy(full), image.size[::-1]
    output: list[Any] = []
    if think or answer:
        output.append(inferencer.gen_text(copy.deepcopy(full), 7, do_sample=False))
        if answer:
            return output
        full = inferencer.update_context_text(output[0], full)
    image = inferencer.gen_image(
        shape,
        full,
        cfg_text_precontext=without_text,
        cfg_img_precontext=without_images,
        cfg_text_scale=3.0,
        num_timesteps=4,
    )
    return [*output, image]


INPUTS = {
    "text": ["a red circle"],
    "edit": [picture(40, 20), "make it blue"],
    "image": [picture(40, 20)],
    "story": ["first", picture(16, 16, 1), "then", picture(12, 24, 2), "both"],
}


@pytest.mark.parametrize("answer", [False, True], ids=["draw", "answer"])
@pytest.mark.parametrize("think", [False, True], ids=["plain", "think"])
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_scripts_that_use_the_verbs_by_hand_get_the_same(
    inferencer: InterleaveInferencer, inputs: list[Any], think: bool, answer: bool
) -> None:
    torch.manual_seed(1)
    expected = by_hand(inferencer, inputs, think=think, answer=answer)
    torch.manual_seed(1)
    found = inferencer.interleave_inference(
        inputs, think=think, understanding_output=answer, max_think_token_n=7, **FAST
    )
    assert [type(item) for item in found] == [type(item) for item in expected]
    if think or answer:
        assert found[0] == expected[0]
    if not answer:
        # A context without images that is read apart rounds otherwise than one that is the full.
        levels = [np.asarray(item).astype(int) for item in (found[-1], expected[-1])]
        assert levels[0].shape == levels[1].shape
        assert np.abs(levels[0] - levels[1]).max() <= 1


def test_an_input_image_decides_the_size(inferencer: InterleaveInferencer) -> None:
    [image] = inferencer.interleave_inference([picture(16, 16), picture(40, 20), "x"], **FAST)
    assert image.size == inferencer.vae_transform.resize_transform(picture(40, 20)).size
    [image] = inferencer.interleave_inference(["x"], **FAST)
    assert image.size == (16, 8)


def test_until_an_image_is_read_the_context_without_images_is_the_full_one(
    inferencer: InterleaveInferencer,
) -> None:
    """Its velocity was computed a second time."""
    every_step = {"cfg_interval": (0.0, 1.0), **FAST}
    with counted(inferencer.model) as counts:
        inferencer.interleave_inference(["a", "b"], **every_step)
    assert counts["image rows"] == 3 * 2  # three steps of two branches
    with counted(inferencer.model) as counts:
        inferencer.interleave_inference([picture(), "b"], **every_step)
    assert counts["image rows"] == 1 + 3 * 3  # the picture's latents; three branches


def test_a_thought_changes_the_image(inferencer: InterleaveInferencer) -> None:
    plain = inferencer.interleave_inference(["x"], **FAST)
    torch.manual_seed(0)
    thought, image = inferencer.interleave_inference(["x"], think=True, max_think_token_n=5, **FAST)
    assert thought
    assert not same(plain[-1], image)


def test_an_answer_reads_no_latents(inferencer: InterleaveInferencer) -> None:
    """What latents hold is for drawing; vision tokens alone are understood."""
    inferencer.vae_model.requires_grad_(False)
    with torch.no_grad():
        for parameter in inferencer.vae_model.parameters():
            parameter.fill_(float("nan"))
    for name, parameter in inferencer.model.named_parameters():
        if "_moe_gen" in name or "vae2llm" in name:
            parameter.data.fill_(float("nan"))
    clean = toy_inferencer()
    settings: dict[str, Any] = {"understanding_output": True, "max_think_token_n": 6}
    inputs = [picture(), "what is it?"]
    assert inferencer.interleave_inference(inputs, **settings) == clean.interleave_inference(
        inputs, **settings
    )


def test_the_same_global_seed_gives_the_same_answer(inferencer: InterleaveInferencer) -> None:
    def run(seed: int) -> list[Any]:
        torch.manual_seed(seed)
        return inferencer.interleave_inference(
            [picture(), "x"], think=True, do_sample=True, max_think_token_n=6, **FAST
        )

    assert all_same(run(1), run(1))
    assert not all_same(run(1), run(2))


def test_no_run_leaves_anything_behind(inferencer: InterleaveInferencer) -> None:
    def run(**changes: Any) -> list[Any]:
        torch.manual_seed(4)
        return inferencer.interleave_inference([picture(), "x"], **FAST | changes)

    first = run()
    run(enable_taylorseer=True, num_timesteps=9)
    run(understanding_output=True, max_think_token_n=4)
    with pytest.raises(ValueError, match="cfg_renorm_min"):
        run(cfg_renorm_min=2.0)
    assert all_same(run(), first)


# The call.


def test_a_call_answers_with_an_image_and_a_text(inferencer: InterleaveInferencer) -> None:
    draw = inferencer(text="a red circle", **FAST)
    assert draw.keys() == {"image", "text"}
    assert isinstance(draw["image"], Image.Image)
    assert draw["text"] is None
    both = inferencer(picture(), "a red circle", think=True, max_think_token_n=4, **FAST)
    assert isinstance(both["image"], Image.Image)
    assert isinstance(both["text"], str)
    answer = inferencer(image=picture(), understanding_output=True, max_think_token_n=4)
    assert answer["image"] is None
    assert isinstance(answer["text"], str)


def test_a_call_reads_the_image_before_the_text(inferencer: InterleaveInferencer) -> None:
    torch.manual_seed(1)
    called = inferencer(text="x", image=picture(), **FAST)["image"]
    torch.manual_seed(1)
    assert same(called, inferencer.interleave_inference([picture(), "x"], **FAST)[0])


def test_a_call_with_nothing_is_refused(inferencer: InterleaveInferencer) -> None:
    with pytest.raises(ValueError, match="give an image, a text, or both"):
        inferencer()


# Wrong input.


@pytest.mark.parametrize(("wrong", "name"), [(3, "int"), (None, "NoneType"), (b"x", "bytes")])
def test_an_input_of_another_type_is_refused(
    inferencer: InterleaveInferencer, wrong: Any, name: str
) -> None:
    runs: list[int] = []
    inferencer.model.language_model.model.register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(TypeError, match=f"input 1 must be a string or a PIL image, got {name}"):
        inferencer.interleave_inference(["x", wrong], think=True, **FAST)
    assert not runs


@pytest.mark.parametrize("alone", ["a red circle", picture()], ids=["text", "image"])
def test_inputs_that_are_not_in_a_list_are_refused(
    inferencer: InterleaveInferencer, alone: Any
) -> None:
    """A string was read letter by letter."""
    with pytest.raises(TypeError, match="must be a list of strings and PIL images, got .*; put it"):
        inferencer.interleave_inference(alone, **FAST)


def test_the_default_size_is_the_checkpoints_own(inferencer: InterleaveInferencer) -> None:
    """It was the published 1024, which a smaller checkpoint refused though nobody had asked."""
    [image] = inferencer.interleave_inference(["x"], num_timesteps=2)
    assert image.size == (32, 32)
    assert inferencer(text="x", num_timesteps=2)["image"].size == (32, 32)
    inferencer.image_shape = (8, 16)
    assert inferencer(text="x", num_timesteps=2)["image"].size == (16, 8)


def test_a_size_that_was_asked_for_is_refused_by_a_model_that_cannot_draw_it(
    inferencer: InterleaveInferencer,
) -> None:
    with pytest.raises(ValueError, match="height must be at most 32 for this model, got 1024"):
        inferencer.interleave_inference(["x"], image_shapes=(1024, 1024))
    with pytest.raises(ValueError, match="height must be at most 32 for this model, got 1024"):
        inferencer.image_shape = (1024, 1024)


def test_reading_something_else_is_refused(
    inferencer: InterleaveInferencer, context: Context
) -> None:
    with pytest.raises(TypeError, match="text must be a string, got Image"):
        inferencer.update_context_text(picture(), context)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PIL"):
        inferencer.update_context_image("a.png", context)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vae and vit are both False"):
        inferencer.update_context_image(picture(), context, vae=False, vit=False)


@pytest.mark.parametrize("name", ["eos_token_id", "start_of_image"])
def test_missing_special_ids_are_named(inferencer: InterleaveInferencer, name: str) -> None:
    ids = {key: value for key, value in inferencer.new_token_ids.items() if key != name}
    with pytest.raises(ValueError, match=f"new_token_ids lacks {name}; pass the second value"):
        InterleaveInferencer(
            inferencer.model,
            inferencer.vae_model,
            inferencer.tokenizer,
            inferencer.vae_transform,
            inferencer.vit_transform,
            ids,
        )


def test_special_ids_are_the_callers_choice() -> None:
    """Another tokenizer's ids take effect everywhere, not only the usual ones."""
    model = toy_bagel()
    usual, other = toy_inferencer(model), toy_inferencer(model, bos_token_id=7, eos_token_id=8)
    start = usual.new_context()
    contexts = [inferencer.update_context_text("x", start) for inferencer in (usual, other)]
    assert not unchanged(contexts[0], snapshot(contexts[1]))
    first = other.update_context_text("", start)
    expected, _ = model.read(start, model.text_block([7, 8]))
    assert unchanged(first, snapshot(expected))
    teach(model, contexts[0], [70, 8, 71])
    assert usual.gen_text(contexts[0], 4, do_sample=False) == usual.tokenizer.decode([70, 8, 71])
