"""Every parameter of the public interface does something, and does what its name says."""

import inspect
import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer, GenerationError
from data.output import InterleavedOutput
from data.protocols import EveryText, Protocol
from tests.builders import picture, told
from tests.scripted import (
    SHAPE,
    ScriptedInferencer,
    Seen,
    asks,
    encoded,
    events_of,
    generate,
    layout,
    pixels,
    says,
    toy_parts,
    toy_writer,
)

EDIT = [picture(), "Make it red."]
WRITING: dict[str, Any] = {"protocol": "every-block", "max_interleaved_blocks": 1}


def drawn(**options: Any) -> bytes:
    """Draw one image over an image and a text, where every guidance branch counts."""
    options = {"seed": 5, "num_timesteps": 6} | options
    output = generate(
        ScriptedInferencer(says("x")),
        [*EDIT, "<|vision_start|>"],
        max_interleaved_blocks=1,
        **options,
    )
    return pixels(output)[0]


def babble(**options: Any) -> tuple[int, ...]:
    """Return the ids of a text that the toy model writes by itself."""
    options = {"seed": 5, "max_text_length": 12, "num_timesteps": 2} | options
    output = generate(toy_writer(), "Go.", **WRITING | options)
    return next(s.token_ids for s in output.segments if s.role == "generated")


# Images.

IMAGE_OPTIONS: dict[str, Any] = {
    "cfg_text_scale": 2.0,
    "cfg_img_scale": 3.0,
    "cfg_interval": (0.0, 0.9),
    "timestep_shift": 1.0,
    "num_timesteps": 4,
    "cfg_renorm_min": 0.9,
    "cfg_renorm_type": "text_channel",
}


@pytest.mark.parametrize("name", IMAGE_OPTIONS)
def test_an_option_of_sampling_changes_the_picture_as_the_published_code_does(name: str) -> None:
    option = {name: IMAGE_OPTIONS[name]}
    torch.manual_seed(11)
    [published] = toy_parts().interleave_inference(
        EDIT, **{"cfg_text_scale": 4.0, "num_timesteps": 6} | option
    )
    torch.manual_seed(11)
    assert drawn(seed=None, image_shape=None, **option) == published.tobytes()
    assert drawn(**option) != plainly_drawn()


@cache
def plainly_drawn() -> bytes:
    return drawn()


def test_the_channel_renorm_is_one_of_three() -> None:
    kinds = ("global", "channel", "text_channel")
    assert len({drawn(cfg_renorm_type=kind) for kind in kinds}) == 3


def test_text_guidance_of_one_is_none_and_takes_image_guidance_with_it() -> None:
    assert drawn(cfg_text_scale=1.0) == drawn(cfg_text_scale=1.0, cfg_img_scale=1.0)
    assert drawn(cfg_text_scale=1.0) == drawn(cfg_interval=(0.0, 0.0))


def test_taylorseer_changes_the_picture_as_the_published_code_does() -> None:
    torch.manual_seed(11)
    [published] = toy_parts().interleave_inference(
        EDIT, num_timesteps=12, cfg_text_scale=4.0, enable_taylorseer=True
    )
    options = {"seed": None, "num_timesteps": 12, "image_shape": None}
    torch.manual_seed(11)
    fast = drawn(enable_taylorseer=True, **options)
    torch.manual_seed(11)
    full = drawn(**options)
    assert fast == published.tobytes() != full


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (32, 4), [8, 8]])
def test_the_image_shape_is_height_and_width(shape: Any) -> None:
    output = generate(
        ScriptedInferencer(asks("x")), "Go.", image_shape=shape, max_interleaved_blocks=1
    )
    assert (output.images[0].height, output.images[0].width) == tuple(shape)


def test_image_feedback_decides_what_the_next_text_is_written_over() -> None:
    views: list[Seen] = []
    for feedback in ("latent", "pixels"):
        inferencer = ScriptedInferencer(asks("One"), says("x"))
        generate(inferencer, "Go.", image_feedback=feedback, seed=1, image_shape=(8, 8))
        views.append(inferencer.views[1])
    assert views[0].length == views[1].length
    assert not torch.allclose(views[0].keys, views[1].keys, atol=1e-3)


# Callback.


def test_a_callback_is_called_after_each_step_by_diffusers_convention() -> None:
    calls: list[tuple[Any, ...]] = []

    def callback(*arguments: Any) -> None:
        calls.append(arguments)

    inferencer = ScriptedInferencer(asks("One"), says("x"))
    generate(inferencer, "Go.", num_timesteps=4, callback_on_step_end=callback)
    assert [step for _, step, _, _ in calls] == [0, 1, 2]
    # Like diffusers' timesteps: where a step starts from.
    assert [time for _, _, time, _ in calls] == pytest.approx([1.0, 6 / 7, 0.6])
    assert all(given is inferencer for given, _, _, _ in calls)
    assert {tuple(state) for *_, state in calls} == {("latents",)}
    last = calls[-1][-1]["latents"]
    assert torch.equal(last, inferencer.drawn[0].latent)
    assert last.shape == (4, 16)


def test_a_callback_may_change_the_latents_of_any_step() -> None:
    plain = drawn(num_timesteps=4)

    def shift(at: int) -> Any:
        def callback(given: Any, step: int, time: float, state: dict[str, Tensor]) -> Any:
            return {"latents": state["latents"] + 0.5} if step == at else None

        return callback

    pictures = [drawn(num_timesteps=4, callback_on_step_end=shift(at)) for at in range(4)]
    assert pictures[3] == plain  # there are three steps
    assert len(set(pictures)) == 4


def test_latents_of_the_last_step_are_what_is_decoded_and_read() -> None:
    wanted = torch.full((4, 16), 0.25, dtype=torch.float64)

    def callback(given: Any, step: int, time: float, state: dict[str, Tensor]) -> Any:
        return {"latents": wanted} if step == 1 else {}

    inferencer = ScriptedInferencer(asks("One"), says("x"))
    output = generate(inferencer, "Go.", callback_on_step_end=callback)
    expected = toy_parts().decode_image(wanted, SHAPE)
    assert output.images[0].tobytes() == expected.tobytes()
    verbs = toy_parts()
    context = verbs.update_context_text("Go.", verbs.new_context())
    context = verbs.update_context_text("One", context)
    context = verbs.read_vision(expected, verbs.read_latent(wanted, (2, 2), context))
    torch.testing.assert_close(inferencer.views[1].keys, Seen.of(context).keys, atol=1e-4, rtol=0)


# Texts.


def test_the_length_of_a_text_is_limited() -> None:
    assert [len(babble(max_text_length=n)) for n in (1, 2, 7)] == [1, 2, 7]


def test_sampling_is_off_by_default() -> None:
    assert babble() == babble(seed=6) == babble(do_sample=False, text_temperature=9.0)


def test_sampling_varies_with_the_seed() -> None:
    hot = {"do_sample": True, "text_temperature": 2.0}
    assert babble(**hot) == babble(**hot)
    assert babble(**hot) != babble(seed=6, **hot)


def test_a_low_temperature_takes_the_likeliest() -> None:
    assert babble(do_sample=True, text_temperature=1e-3) == babble()
    assert babble(do_sample=True, text_temperature=3.0) != babble()


def test_top_k_of_one_takes_the_likeliest() -> None:
    hot = {"do_sample": True, "text_temperature": 3.0}
    assert babble(top_k=1, **hot) == babble() != babble(**hot)


def test_a_small_top_p_takes_the_likeliest() -> None:
    hot = {"do_sample": True, "text_temperature": 3.0}
    assert babble(top_p=1e-6, **hot) == babble() != babble(**hot)


def test_a_repetition_penalty_makes_tokens_rarer_that_were_written() -> None:
    def forced(ids: Tensor, scores: Tensor) -> Tensor:
        """Prefer id 10 a little over id 11, and both over the rest."""
        scores = torch.full_like(scores, -9.0)
        scores[:, 10], scores[:, 11] = 2.0, 1.5
        return scores

    assert set(babble(logits_processor=forced)) == {10}
    assert babble(logits_processor=forced, repetition_penalty=2.0)[:2] == (10, 11)


def test_a_logits_processor_is_called_as_in_transformers() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def processor(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append((ids, scores))
        chosen = torch.full_like(scores, float("-inf"))
        chosen[:, 70 + ids.shape[1]] = 0.0
        return chosen

    assert babble(logits_processor=processor, max_text_length=3) == (70, 71, 72)
    assert [ids.tolist() for ids, _ in seen] == [[[]], [[70]], [[70, 71]]]
    assert {tuple(scores.shape) for _, scores in seen} == {(1, 504)}


def test_a_processor_may_keep_the_model_from_drawing() -> None:
    start = toy_parts().new_token_ids["start_of_image"]

    def forced(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, start] = 99.0
        return scores

    def forbidden(ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, start] = float("-inf")
        return scores

    options: dict[str, Any] = {"max_interleaved_blocks": 2, "max_text_length": 4}
    eager = generate(toy_writer(), "Go.", logits_processor=forced, **options)
    assert layout(eager) == ["*", "*"]
    never = generate(toy_writer(), "Go.", logits_processor=forbidden, **options)
    assert never.finish_reason == "length"


# What the other test files show in full, here once by name.


def effect_of(**options: Any) -> tuple[Any, ...]:
    script = (says("plan") if options.get("think") else asks("One"), asks("Two"), asks("Three"))
    inferencer = ScriptedInferencer(*script, says("STOP it"))
    output = inferencer.auto_interleaved_generation(
        "Go <|vision_start|>.", **{"num_timesteps": 2, "image_shape": SHAPE, "seed": 1} | options
    )
    return layout(output), output.finish_reason, pixels(output), output.thoughts


def failing(*arguments: object) -> None:
    raise ValueError("mine")


@pytest.mark.parametrize(
    "options",
    [
        {"max_text_length": 1},
        {"max_interleaved_blocks": 1},
        {"think": True},
        {"think": True, "max_think_token_n": 1},
        {"protocol": "bagel"},
        {"protocol": Protocol(name="own", trigger=EveryText())},
        {"max_images": 1},
        {"stop_strings": ("STOP",)},
        {"stop_strings": "STOP"},
        {"seed": 2},
        {"seed": None, "generator": torch.Generator().manual_seed(1)},
        {"callback_on_step_end": failing},
        {"split_special_tokens": True},
        {"image_shape": (8, 12)},
    ],
    ids=told,
)
def test_an_option_makes_a_difference(options: dict[str, Any]) -> None:
    assert effect_of(**options) != plain_effect()


@cache
def plain_effect() -> tuple[Any, ...]:
    return effect_of()


def test_on_error_raises_where_it_is_asked_to() -> None:
    assert effect_of(callback_on_step_end=failing)[1] == "error"
    with pytest.raises(GenerationError, match="mine"):
        effect_of(callback_on_step_end=failing, on_error="raise")


def test_a_plan_of_one_token_is_shorter() -> None:
    long, short = (effect_of(think=True, max_think_token_n=n)[3] for n in (9, 1))
    assert long == ["plan"]
    assert len(short[0]) < 4


# Spellings.


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_inference_steps": 3}, {"num_timesteps": 3}),
        ({"height": 8, "width": 12}, {"image_shape": (8, 12)}),
    ],
)
def test_other_libraries_spellings_draw_the_same(theirs: Any, ours: Any) -> None:
    inferencer = ScriptedInferencer(says("x"), says("x"))
    prompt = "Go.<|vision_start|>"
    shared = {"seed": 1} | ({} if "height" in theirs else {"image_shape": SHAPE})
    shared |= {"num_timesteps": 2} if "height" in theirs else {}
    outputs = [
        inferencer.auto_interleaved_generation(prompt, **shared | given) for given in (theirs, ours)
    ]
    assert pixels(outputs[0]) == pixels(outputs[1]) != []


def test_other_libraries_spellings_write_the_same() -> None:
    def written(**options: Any) -> InterleavedOutput:
        shared = {"seed": 1, "do_sample": True, "num_timesteps": 2, "image_shape": SHAPE}
        return toy_writer().auto_interleaved_generation("Go.", **WRITING | shared | options)

    theirs = written(max_new_tokens=5, temperature=2.0)
    assert layout(theirs) == layout(written(max_text_length=5, text_temperature=2.0))
    assert layout(theirs) != layout(written(max_text_length=5, text_temperature=1e-3))


def test_the_signature_is_the_promised_one() -> None:
    parameters = inspect.signature(
        AutoInterleavedInferencer.auto_interleaved_generation
    ).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert names[1:] == [
        "prompt",
        "max_text_length",
        "max_interleaved_blocks",
        "think",
        "do_sample",
        "text_temperature",
        "cfg_text_scale",
        "cfg_img_scale",
        "cfg_interval",
        "timestep_shift",
        "num_timesteps",
        "cfg_renorm_min",
        "cfg_renorm_type",
        "image_shape",
        "max_think_token_n",
    ]
    assert {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} == {
        "protocol": None,
        "max_images": None,
        "stop_strings": (),
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "logits_processor": None,
        "enable_taylorseer": False,
        "image_feedback": "latent",
        "image_memory": "all",
        "max_context_memory": None,
        "seed": None,
        "generator": None,
        "callback_on_step_end": None,
        "on_error": "return",
    }


def test_options_may_be_given_by_position() -> None:
    output = toy_writer(protocol="every-block").auto_interleaved_generation(
        "Go.", 3, 1, False, True, 2.0, 1.0, 1.0, (0.0, 1.0), 1.0, 2, 0.5, "channel", (8, 8), 9
    )
    assert [output.config[name] for name in ("max_text_length", "text_temperature")] == [3, 2.0]
    assert output.config["cfg_renorm_type"] == "channel"
    assert len(output.images) == 1


def test_stream_takes_what_generation_takes() -> None:
    options = {"protocol": "every-block", "max_text_length": 3, "max_interleaved_blocks": 1}
    _, output = events_of(toy_writer(), "Go.", seed=1, **options)
    assert pixels(output) == pixels(generate(toy_writer(), "Go.", seed=1, **options))


def test_the_settings_of_a_run_are_on_record_in_plain_values() -> None:
    output = generate(
        ScriptedInferencer(says("x"), protocol="twiff"),
        "Go.",
        generator=torch.Generator(),
        callback_on_step_end=failing,
        logits_processor=failing,
        max_images=0,
        max_interleaved_blocks=1,
    )
    config = json.loads(json.dumps(output.config))
    assert config["protocol"] == "twiff"
    assert config["cfg_text_scale"] == 4.0
    assert config["image_shape"] == [8, 8]


def test_ids_of_a_prompt_are_on_record() -> None:
    output = generate(ScriptedInferencer(says("x")), "Go.", max_images=0)
    assert output.segments[0].token_ids == encoded("Go.")
