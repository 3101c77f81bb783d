"""Every argument is checked before anything is computed, and at the call itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from auto_interleaved_inference import AutoInterleavedInferencer
from data.protocols import PROTOCOLS
from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from tests.builders import STRIDE, picture, told, toy_bagel, toy_inferencer
from tests.scripted import ScriptedInferencer, arguments_of, toy_parts, toy_writer

BAD_PROMPTS: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": ("", ValueError, "the prompt is empty"),
    "blank": (" \n", ValueError, "the prompt is empty"),
    "an empty list": ([], ValueError, "the prompt is empty"),
    "blank texts": (["", " "], ValueError, "the prompt is empty"),
    "a number": (3, TypeError, "prompt must be a string"),
    "none": (None, TypeError, "prompt must be a string"),
    "a list in a list": ([["a"]], TypeError, r"prompt\[0\] must be a string.*write it flat"),
    "one message": ({"role": "user", "content": "a"}, TypeError, "a list of messages"),
    "a role": ([{"role": "bot", "content": "a"}], ValueError, "must have a role"),
    "a url": (
        [{"role": "user", "content": [{"type": "image", "url": "https://a/b.png"}]}],
        ValueError,
        "URLs are not fetched",
    ),
    "a file that is not there": (Path("no such file.png"), ValueError, "must be a readable image"),
    "an image without pixels": (Image.new("RGB", (0, 4)), ValueError, "must have pixels"),
    "an array": (torch.zeros(3, 4, 4), TypeError, "Image.fromarray"),
}

BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_text_length": 0}, ValueError, "max_text_length must be at least 1, got 0"),
    ({"max_text_length": "5"}, TypeError, "max_text_length must be an integer"),
    ({"max_text_length": 2.5}, TypeError, "max_text_length must be an integer"),
    ({"max_text_length": True}, TypeError, "max_text_length must be an integer"),
    ({"max_interleaved_blocks": 0}, ValueError, "max_interleaved_blocks must be at least 1"),
    ({"think": 1}, TypeError, "think must be True or False"),
    ({"do_sample": "yes"}, TypeError, "do_sample must be True or False"),
    ({"do_sample": True, "text_temperature": 0.0}, ValueError, "text_temperature must be above 0"),
    ({"text_temperature": float("nan")}, ValueError, "text_temperature must be a finite number"),
    ({"cfg_text_scale": -1}, ValueError, "cfg_text_scale must be a finite number of at least 0"),
    ({"cfg_text_scale": "4"}, TypeError, "cfg_text_scale must be a number"),
    ({"cfg_img_scale": -0.5}, ValueError, "cfg_img_scale must be"),
    ({"cfg_interval": (1.0, 0.4)}, ValueError, "cfg_interval must be"),
    ({"cfg_interval": (0.4,)}, ValueError, "cfg_interval must be a pair"),
    ({"cfg_interval": 0.4}, TypeError, "cfg_interval must be a pair"),
    ({"timestep_shift": 0}, ValueError, "timestep_shift must be"),
    ({"num_timesteps": 1}, ValueError, "num_timesteps must be at least 2"),
    ({"num_timesteps": 50.0}, TypeError, "num_timesteps must be an integer"),
    ({"cfg_renorm_min": 2}, ValueError, "cfg_renorm_min must lie in"),
    ({"cfg_renorm_type": "none"}, ValueError, "cfg_renorm_type must be one of global"),
    ({"image_shape": (9, 8)}, ValueError, "height must be a positive multiple of 4, got 9; try 8"),
    ({"image_shape": (8, 36)}, ValueError, "width must be at most 32 for this model, got 36"),
    ({"image_shape": (8,)}, ValueError, "image_shape must be a pair"),
    ({"image_shape": (0, 8)}, ValueError, "height of image_shape must be at least 1"),
    ({"image_shape": "8x8"}, TypeError, "image_shape must be a pair"),
    ({"max_think_token_n": 0}, ValueError, "max_think_token_n must be at least 1"),
    ({"protocol": "zebra"}, ValueError, "unknown protocol 'zebra'; did you mean 'zebra-cot'"),
    ({"protocol": 3}, TypeError, "protocol must be a preset's name or a Protocol"),
    ({"max_images": -1}, ValueError, "max_images must be at least 0"),
    ({"stop_strings": ("",)}, ValueError, r"stop_strings\[0\] must not be empty"),
    ({"stop_strings": (3,)}, TypeError, r"stop_strings\[0\] must be a string"),
    ({"top_p": 0.0}, ValueError, "top_p must be above 0"),
    ({"top_p": 1.5}, ValueError, "top_p must be above 0 and at most 1"),
    ({"top_k": -1}, ValueError, "top_k must be at least 0"),
    ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be above 0"),
    ({"logits_processor": 3}, TypeError, "logits_processor must be callable"),
    ({"enable_taylorseer": "yes"}, TypeError, "enable_taylorseer must be True or False"),
    ({"image_feedback": "raw"}, ValueError, "image_feedback must be one of latent, pixels"),
    ({"image_memory": "none"}, ValueError, "image_memory must be one of all, vision, text"),
    ({"max_context_memory": 0}, ValueError, "max_context_memory must be at least 1, got 0"),
    ({"max_context_memory": "8GB"}, TypeError, "max_context_memory must be an integer"),
    ({"max_context_memory": 9}, ValueError, "max_context_memory must be at least .* this prompt"),
    ({"seed": -2}, ValueError, "seed must be from 0 to"),
    ({"seed": 2**64}, ValueError, "seed must be from 0 to"),
    ({"seed": 1.5}, TypeError, "seed must be an integer"),
    ({"generator": 3}, TypeError, "generator must be a torch.Generator"),
    ({"seed": 1, "generator": torch.Generator()}, ValueError, "seed and generator must not"),
    ({"callback_on_step_end": 3}, TypeError, "callback_on_step_end must be callable"),
    ({"on_error": "ignore"}, ValueError, "on_error must be one of return, raise"),
    ({"preview_every": -1}, ValueError, "preview_every must be at least 0"),
    ({"split_special_tokens": 1}, TypeError, "split_special_tokens must be True or False"),
    ({"max_lenght": 5}, TypeError, "unknown option 'max_lenght'; did you mean"),
    ({"cfg_image_scale": 2}, TypeError, "did you mean 'cfg_img_scale'"),
    ({"height": 8}, TypeError, "height and width must be given together"),
    ({"height": 9, "width": 8}, ValueError, "height must be a positive multiple of 4"),
    ({"num_timesteps": 4, "num_inference_steps": 4}, TypeError, "must not be given together"),
    ({"num_inference_steps": 1}, ValueError, "num_timesteps must be at least 2"),
]


@contextmanager
def nothing_computed(parts: InterleaveInferencer) -> Iterator[None]:
    calls: list[str] = []
    modules = {
        "decoder": parts.model.language_model.model,
        "embedding": parts.model.language_model.model.embed_tokens,
        "vision encoder": parts.model.vit_model,
        "encoder": parts.vae_model.encoder,
        "decoder of images": parts.vae_model.decoder,
    }
    with ExitStack() as hooks:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(
                lambda module, inputs, name=name: calls.append(name)
            )
            hooks.callback(hook.remove)
        yield
    assert not calls


def assert_refused(
    inferencer: AutoInterleavedInferencer,
    prompt: Any,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    before = inferencer.last_output
    with nothing_computed(inferencer):
        with pytest.raises(error, match=message):
            inferencer.auto_interleaved_generation(prompt, **options)
        with pytest.raises(error, match=message):
            inferencer.stream(prompt, **options)  # no event was asked for yet
    assert inferencer.last_output is before


# What an inferencer is given once, for all runs.


@pytest.mark.parametrize(
    ("shape", "error", "words"),
    [
        (64, TypeError, r"image_shape must be a pair \(height, width\), got 64"),
        (0, TypeError, "image_shape must be a pair"),
        ((), ValueError, "image_shape must be a pair"),
        ("input", TypeError, "image_shape must be a pair"),
        ((8.0, 8), TypeError, "height of image_shape must be an integer, got 8.0"),
        ((8, 8, 8), ValueError, r"image_shape must be a pair .*got \(8, 8, 8\)"),
        ((8, 9), ValueError, "width must be a positive multiple of 4, got 9; try 8"),
        ((8, 400), ValueError, "width must be at most 32"),
    ],
)
def test_a_size_of_all_runs_is_checked_where_it_is_given(
    shape: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        toy_writer(image_shape=shape)
    inferencer = toy_writer(image_shape=[np.int64(8), 12])
    assert inferencer.image_shape == (8, 12)
    with pytest.raises(error, match=words):
        inferencer.image_shape = shape
    assert inferencer.image_shape == (8, 12)


def test_a_protocol_may_be_set_later_and_is_checked_then() -> None:
    inferencer = toy_writer()
    inferencer.protocol = "twiff"  # type: ignore[assignment]
    assert inferencer.protocol is PROTOCOLS["twiff"]
    with pytest.raises(ValueError, match="unknown protocol 'nope'"):
        inferencer.protocol = "nope"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("tile", "error", "words"),
    [
        (0, ValueError, "vae_tile must be at least 8 latent positions, got 0; None is the whole"),
        (-1, ValueError, "got -1"),
        (1, ValueError, "got 1"),
        ("x", TypeError, "vae_tile must be an integer, got 'x'"),
        (True, TypeError, "vae_tile must be an integer, got True"),
        (8.0, TypeError, "got 8.0"),
    ],
)
def test_a_tile_is_checked_where_it_is_given(tile: Any, error: type[Exception], words: str) -> None:
    inferencer = toy_writer()
    with pytest.raises(error, match=words):
        inferencer.vae_tile = tile
    assert inferencer.vae_tile is None
    inferencer.vae_tile = np.int64(8)  # type: ignore[assignment]
    assert type(inferencer.vae_tile) is int


@pytest.mark.parametrize("disable", [{}, {"disable": True}], ids=["shown", "not shown"])
@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"foo": 1}, TypeError, "there is no setting 'foo' of a bar; tqdm's are ascii, "),
        ({"iterable": [1]}, TypeError, "there is no setting 'iterable'"),
        ({"bar_format": "{nope}"}, ValueError, "bar_format must .* got '{nope}'.*KeyError: 'nope'"),
        ({"bar_format": "{"}, ValueError, "bar_format must .*Single '{'"),
        ({"ncols": "x"}, TypeError, "ncols must be a number or None, got 'x'"),
        ({"mininterval": "1"}, TypeError, "mininterval must be a number or None"),
        ({"position": [0]}, TypeError, "position must be a number or None"),
        ({"desc": 5}, TypeError, "desc must be such that a bar can be shown, got 5"),
        ({"unit": None}, TypeError, "unit must be such that a bar can be shown, got None"),
        ({"ascii": 5}, TypeError, "ascii must be such that a bar can be shown, got 5"),
        ({"file": "log.txt"}, TypeError, "file must be a file to write to, got 'log.txt'"),
        ({"disable": "False"}, TypeError, "disable must be True, False or None, got 'False'"),
        ({"unit_scale": True, "unit_divisor": 0}, ValueError, "settings must be .*ZeroDivision"),
    ],
    ids=str,
)
def test_settings_of_bars_are_tried_where_they_are_given(
    config: dict[str, Any],
    error: type[Exception],
    words: str,
    disable: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They ended a run in the middle of its first picture."""
    inferencer = toy_writer()
    with pytest.raises(error, match=words):
        inferencer.set_progress_bar_config(**{**disable, **config})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "config", [{"ncols": 80, "leave": False}, {"bar_format": "{l_bar}{bar}"}, {"disable": None}]
)
def test_settings_that_a_bar_can_be_shown_with_are_taken(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    toy_writer().set_progress_bar_config(**config)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("prompt", "error", "message"), BAD_PROMPTS.values(), ids=BAD_PROMPTS)
def test_a_prompt_that_cannot_be_read_is_refused(
    prompt: Any, error: type[Exception], message: str
) -> None:
    assert_refused(toy_writer(), prompt, {}, error, message)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS, ids=told)
def test_an_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "preview_every" not in options:
        assert_refused(toy_writer(), ["Go.", picture()], options, error, message)
    with nothing_computed(toy_parts()), pytest.raises(error, match=message):
        toy_writer().stream("Go.", **options)


def test_a_bad_argument_is_raised_whatever_is_to_happen_on_errors() -> None:
    with pytest.raises(ValueError, match="top_p"):
        toy_writer().auto_interleaved_generation("Go.", top_p=2.0, on_error="return")


# Sizes that only the model knows.


def parts_with(**transforms: ImageTransform) -> InterleaveInferencer:
    parts = toy_inferencer(toy_parts().model)
    for name, transform in transforms.items():
        setattr(parts, name, transform)
    return parts


def test_an_image_that_is_read_beyond_the_position_table_is_refused() -> None:
    """The model draws and reads 32 pixels a side; this transform would let 64 pass."""
    inferencer = ScriptedInferencer(parts=parts_with(vae_transform=ImageTransform(64, 8, STRIDE)))
    message = (
        "an image of 80 x 40 pixels is read at 64 x 32 pixels, where width must be at most 32 "
        "for this model, got 64; pass a vae_transform"
    )
    assert_refused(inferencer, ["Go.", picture(80, 40)], {}, ValueError, message)
    with nothing_computed(inferencer):
        inferencer.stream(["Go.", picture(16, 8)])  # one that fits is fine


def test_an_image_whose_latents_lie_off_the_grid_is_refused() -> None:
    inferencer = ScriptedInferencer(parts=parts_with(vae_transform=ImageTransform(30, 6, 6)))
    message = "is read at 18 x 12 pixels, where width must be a positive multiple of 4, got 18"
    assert_refused(inferencer, picture(18, 12), {}, ValueError, message)


def test_an_image_that_is_shown_beyond_the_vision_encoders_table_is_refused() -> None:
    inferencer = ScriptedInferencer(
        parts=parts_with(vit_transform=ImageTransform(32, 8, 4)), image_shape=(8, 8)
    )
    message = (
        "an image of 32 x 16 pixels is shown to the vision encoder at 32 x 16 pixels, which must "
        "be at most 24 a side for this model; pass a vit_transform"
    )
    assert_refused(inferencer, picture(32, 16), {}, ValueError, message)
    shapes = {"image_shape": (16, 32)}
    assert_refused(inferencer, "Go.", shapes, ValueError, "shown to the vision encoder at 32 x 16")


def test_pixels_that_could_not_be_fed_back_are_refused() -> None:
    """Drawn at a size that fits, they would be enlarged to one that does not."""
    inferencer = ScriptedInferencer(
        parts=parts_with(vae_transform=ImageTransform(64, 40, STRIDE)), image_shape=(8, 8)
    )
    options = {"image_feedback": "pixels"}
    assert_refused(inferencer, "Go.", options, ValueError, "an image of 8 x 8 pixels is read at")
    with nothing_computed(inferencer):
        inferencer.stream("Go.", image_feedback="latent")


def test_a_model_that_stretches_its_table_takes_any_size() -> None:
    parts = toy_inferencer(toy_bagel(interpolate_pos=True))
    parts.vit_transform = ImageTransform(32, 8, 4)
    inferencer = ScriptedInferencer(parts=parts)
    with nothing_computed(inferencer):
        inferencer.stream(picture(32, 16), image_shape=(64, 64))


# The inferencer itself.


def test_an_inferencers_own_size_must_fit_its_model() -> None:
    with pytest.raises(ValueError, match="height must be a positive multiple of 4, got 10"):
        toy_writer(image_shape=(10, 8))
    with pytest.raises(ValueError, match="width must be at most 32"):
        toy_writer(image_shape=(8, 64))


def test_an_inferencers_own_protocol_must_exist() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'none'"):
        toy_writer(protocol="none")


def test_an_inferencer_needs_all_special_ids() -> None:
    *parts, new_token_ids = arguments_of(toy_parts())
    lacking = {name: id_ for name, id_ in new_token_ids.items() if name != "start_of_image"}
    with pytest.raises(ValueError, match="new_token_ids lacks start_of_image"):
        AutoInterleavedInferencer(*parts, lacking)
