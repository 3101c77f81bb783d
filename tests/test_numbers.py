"""What is not made of numbers is an error that names its place, and never a picture or a text."""

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import InfNanRemoveLogitsProcessor, LogitsProcessorList

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved_inference import GenerationError
from data.output import InterleavedOutput
from inferencer import InterleaveInferencer
from modeling.choice import choice
from modeling.decoding import decode
from modeling.flow import ImageOptions
from modeling.numbers import NotANumberError
from tests.builders import BOS, noise_of, picture, toy_inferencer
from tests.scripted import SHORT, ScriptedInferencer, asks, layout, says, toy_parts, toy_writer

SHAPE = (8, 8)
NAN, INF = float("nan"), float("inf")


@torch.no_grad()
def spoil(parts: InterleaveInferencer, name: str, value: float) -> None:
    """Put one number that is none into a weight."""
    owner, _, rest = name.partition(".")
    module: nn.Module = parts.vae_model if owner == "vae_model" else parts.model
    weight = module.get_parameter(rest if owner == "vae_model" else name)
    weight.flatten()[-1] = value


@contextmanager
def spoiling(module: nn.Module, call: int, value: float = NAN) -> Iterator[None]:
    """Let a part of the model give something else at its call number `call` and ever after."""
    calls: list[int] = []

    def change(module: nn.Module, given: Any, made: Tensor) -> Tensor:
        calls.append(1)
        return torch.full_like(made, value) if len(calls) >= call else made

    hook = module.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


def run(parts: InterleaveInferencer | None = None, **options: Any) -> InterleavedOutput:
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("Three"), parts=parts)
    return inferencer.auto_interleaved_generation("Go.", seed=5, **SHORT | options)


# Pictures.


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("weight", "place", "named"),
    [
        ("llm2vae.bias", "latents of image 1", "llm2vae.bias"),
        ("time_embedder.mlp.2.weight", "latents of image 1", "time_embedder.mlp.2.weight"),
        (
            "vae_model.decoder.conv_out.bias",
            "the autoencoder's pixels of image 1",
            "decoder.conv_out.bias",
        ),
    ],
)
def test_a_picture_that_is_none_is_a_failed_segment(
    weight: str, place: str, named: str, value: float
) -> None:
    """It was black, and what was written after it was the vocabulary's first token for ever."""
    parts = toy_inferencer()
    spoil(parts, weight, value)
    output = run(parts)
    assert layout(output) == ["One"]
    assert output.finish_reason == "error"
    assert isinstance(output.error, NotANumberError)
    assert f"{place}; the weight {named} holds nan or inf itself" in str(output.error)
    assert output.segments[-1].image is None
    assert output.segments[-1].error == f"NotANumberError: {output.error}"


def test_the_number_of_the_picture_is_told() -> None:
    parts = toy_inferencer()
    with spoiling(parts.vae_model.decoder, call=2):
        output = run(parts)
    assert layout(output) == ["One", "*", "Two"]
    assert "the autoencoder's pixels of image 2" in str(output.error)
    assert "all weights are numbers: look at hooks" in str(output.error)


def test_it_may_be_raised_with_what_exists() -> None:
    parts = toy_inferencer()
    with spoiling(parts.model.llm2vae, call=2), pytest.raises(GenerationError) as raised:
        run(parts, on_error="raise")
    assert isinstance(raised.value.__cause__, NotANumberError)
    assert layout(raised.value.partial) == ["One"]


def test_a_preview_that_is_none_ends_the_picture() -> None:
    parts = toy_inferencer()
    with spoiling(parts.model.llm2vae, call=1):
        inferencer = ScriptedInferencer(asks("One"), parts=parts)
        *_, finished = inferencer.stream("Go.", preview_every=1, **SHORT)
    assert "latents of image 1" in str(finished.output.error)


def test_the_published_verbs_give_no_black_pictures() -> None:
    parts = toy_inferencer()
    context = parts.update_context_text("a red circle", parts.init_gen_context())
    with pytest.raises(NotANumberError, match="nan or inf in the latents"):
        parts.decode_image(noise_of((2, 2)) * NAN, SHAPE)
    with pytest.raises(NotANumberError, match="nan or inf in the latents"):
        parts.preview_image(noise_of((2, 2)) + INF, SHAPE)
    spoil(parts, "llm2vae.bias", NAN)
    with pytest.raises(NotANumberError, match=r"in the latents; the weight llm2vae\.bias"):
        parts.gen_image(SHAPE, context, cfg_text_scale=1.0, num_timesteps=3)
    with pytest.raises(NotANumberError, match="in the latents"):
        parts.interleave_inference(["Go."], image_shapes=SHAPE, num_timesteps=3)


def test_float16_that_overflows_is_told_what_helps() -> None:
    """Weights are numbers; within one MLP of the drawing half they become none."""
    parts = toy_inferencer()
    parts.model.half()
    parts.vae_model.half()
    with torch.no_grad():
        parts.model.language_model.model.layers[1].mlp_moe_gen.down_proj.weight.mul_(60000)
    output = run(parts)
    assert "latents of image 1; float16 ends at 65504" in str(output.error)
    assert "dtype=torch.bfloat16 or torch.float32" in str(output.error)


def test_steps_of_a_picture_make_nobody_wait() -> None:
    """A look at a number is where the host waits for a device; a callback changes nothing in it."""

    class Looks(TorchFunctionMode):
        count = 0

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            # tolist aside, which times and bounds of options use, on the CPU by name.
            self.count += function.__name__ in ("__bool__", "__int__", "__float__", "item")
            return function(*args, **kwargs or {})

    def looks(num_timesteps: int) -> int:
        options = {"num_timesteps": num_timesteps, "callback_on_step_end": lambda *_: _[-1]}
        with Looks() as counted:
            assert run(**SHORT | options).error is None
        return counted.count

    assert looks(9) == looks(3) > 0


# The caller's callback.


def returned(latent: Tensor, value: float) -> dict[str, Tensor]:
    changed = latent.clone()
    changed[0, 0] = value
    return {"latents": changed}


def written_into(latent: Tensor, value: float) -> None:
    latent[0, 0] = value


@pytest.mark.parametrize("answer", [returned, written_into])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("at", [0, 1])
def test_a_callback_is_told_what_it_returned(
    answer: Callable[..., Any], value: float, at: int
) -> None:
    def callback(inferencer: object, step: int, time: float, given: dict[str, Any]) -> Any:
        return answer(given["latents"], value) if step == at else given

    output = run(callback_on_step_end=callback)
    place = f"what callback_on_step_end returned at step {at} of image 1"
    assert place in str(output.error)
    assert output.segments[-1].error == f"NotANumberError: {output.error}"


def test_a_callback_is_not_blamed_for_what_it_was_shown() -> None:
    parts = toy_inferencer()
    spoil(parts, "llm2vae.bias", NAN)
    output = run(parts, callback_on_step_end=lambda *arguments: arguments[-1])
    assert "latents of image 1" in str(output.error)


def test_a_callback_may_mend_what_it_was_shown() -> None:
    def callback(inferencer: object, step: int, time: float, given: dict[str, Any]) -> Any:
        return {"latents": given["latents"] * (0 if step else NAN) if not step else noise}

    noise = noise_of((2, 2))
    assert run(callback_on_step_end=callback, max_images=1).error is None


# Texts.

HOW = {"greedy": {"do_sample": False}, "sampled": {"do_sample": True}}
ways = pytest.mark.parametrize("way", HOW.values(), ids=list(HOW))


@ways
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("length", [1, 16])
def test_logits_that_are_none_fail_at_their_token(
    way: dict[str, bool], value: float, length: int
) -> None:
    model = toy_inferencer().model
    with spoiling(model.language_model.lm_head, call=4, value=value):
        steps = decode(model, model.new_context(), BOS, choice(**way), run_length=length)
        for _ in range(3):
            next(steps)
        with pytest.raises(NotANumberError, match="logits after 3 tokens, so that no id has a"):
            next(steps)


@ways
def test_an_image_that_was_read_as_none_leads_to_no_text(way: dict[str, bool]) -> None:
    parts = toy_inferencer()
    with spoiling(parts.model.vit_model, call=1):
        context = parts.update_context_image(picture(), parts.init_gen_context())
    with pytest.raises(NotANumberError, match="logits after 0 tokens"):
        parts.gen_text(context, 5, **way)
    with pytest.raises(NotANumberError, match="logits after a text that was read"):
        parts.update_context_text("What is it?", context)


def test_the_autoencoder_is_named_where_it_encodes_an_image_as_none() -> None:
    """What surfaced was the logits of the next text, with the advice that all weights are well."""
    parts = toy_inferencer()
    with torch.no_grad():
        parts.vae_model.encoder.conv_in.weight.fill_(NAN)
    words = "latents of an image that is read; the weight encoder.conv_in.weight holds nan"
    with pytest.raises(NotANumberError, match=words):
        parts.update_context_image(picture(), parts.init_gen_context())
    inferencer = ScriptedInferencer(says("One"), parts=parts)
    output = inferencer.auto_interleaved_generation([picture(), "Go."], **SHORT)
    assert isinstance(output.error, NotANumberError)
    assert words in str(output.error)


@pytest.mark.parametrize("part", ["vit_model", "vae_model.encoder"])
@pytest.mark.parametrize("protocol", ["native", "bagel", "every-block"])
def test_a_run_over_an_image_that_was_read_as_none_fails(part: str, protocol: str) -> None:
    inferencer = toy_writer(protocol=protocol)
    module = inferencer.vae_model.encoder if "vae" in part else inferencer.model.vit_model
    with spoiling(module, call=1):
        output = inferencer.auto_interleaved_generation([picture(), "What?"], **SHORT)
    assert isinstance(output.error, NotANumberError)
    assert output == []


LAYER = "language_model.model.layers.1"


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        f"{LAYER}.self_attn.k_proj.weight",
        f"{LAYER}.mlp.down_proj.weight",
        f"{LAYER}.self_attn.k_norm_moe_gen.weight",
        f"{LAYER}.input_layernorm_moe_gen.weight",
        "vae2llm.bias",
        "connector.fc1.bias",
    ],
)
def test_a_weight_that_is_none_ends_a_run(name: str) -> None:
    parts = toy_inferencer()
    with torch.no_grad():
        parts.model.get_parameter(name).fill_(NAN)
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("Three"), parts=parts)
    output = inferencer.auto_interleaved_generation(["Go.", picture()], seed=5, **SHORT)
    assert isinstance(output.error, NotANumberError)
    assert f"the weight {name} holds nan" in str(output.error)


# Logits processors.


def everything(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda ids, scores: torch.full_like(scores, value)


@ways
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_processor_is_told_that_it_returned_no_numbers(
    way: dict[str, bool], value: float
) -> None:
    options = {"logits_processor": everything(value), **way}
    output = toy_writer().auto_interleaved_generation("Go.", **SHORT, **options)
    assert "what the logits processor returned after 0 tokens" in str(output.error)
    assert output == []


@ways
def test_a_processor_is_not_blamed_for_the_model(way: dict[str, bool]) -> None:
    model = toy_inferencer().model
    kept = choice(logits_processor=lambda ids, scores: scores, **way)
    with (
        spoiling(model.language_model.lm_head, call=1),
        pytest.raises(NotANumberError, match="in the logits after 0 tokens"),
    ):
        next(decode(model, model.new_context(), BOS, kept))


@ways
def test_a_processor_may_mend_logits(way: dict[str, bool]) -> None:
    """transformers has one for that."""
    model = toy_inferencer().model
    mended = choice(logits_processor=InfNanRemoveLogitsProcessor(), **way)
    with spoiling(model.language_model.lm_head, call=1):
        assert next(decode(model, model.new_context(), BOS, mended))[0] >= 0


@ways
def test_a_processor_may_forbid_all_ids_but_one(way: dict[str, bool]) -> None:
    def only(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, :7] = scores[:, 8:] = -INF
        return scores

    model = toy_parts().model
    steps = decode(model, model.new_context(), BOS, choice(logits_processor=only, **way))
    assert [next(steps)[0] for _ in range(3)] == [7, 7, 7]


@ways
@pytest.mark.parametrize(
    ("change", "kind", "given"),
    [
        (lambda scores: scores.repeat(2, 1), ValueError, r"shape \(2, 504\)"),
        (lambda scores: scores[:, :-1], ValueError, r"shape \(1, 503\)"),
        (lambda scores: scores[0], ValueError, r"shape \(504,\)"),
        (lambda scores: scores[:0], ValueError, r"shape \(0, 504\)"),
        (lambda scores: scores.argsort(), TypeError, "torch.int64"),
        (lambda scores: None, TypeError, "NoneType"),
    ],
    ids=["two rows", "narrower", "no rows", "zero rows", "integers", "nothing"],
)
def test_a_processor_must_return_scores_as_it_is_given_them(
    change: Callable[[Tensor], Any], kind: type, given: str, way: dict[str, bool]
) -> None:
    def odd(ids: Tensor, scores: Tensor) -> Any:
        return change(scores)

    several = LogitsProcessorList([lambda ids, scores: scores, odd])
    for processor in (odd, several):
        options = {"logits_processor": processor, **way}
        output = toy_writer().auto_interleaved_generation("Go.", **SHORT, **options)
        words = rf"logits_processor must return .* \(1, 504\); .*odd returned .*{given}"
        with pytest.raises(kind, match=words):
            raise output.error or AssertionError


# Options near the ends of floats.

FAR: list[tuple[str, float]] = [
    ("timestep_shift", 1e-300),
    ("timestep_shift", 1e39),
    ("timestep_shift", 5e-324),
    ("cfg_text_scale", 1e38),
    ("cfg_img_scale", 1e300),
    ("repetition_penalty", 1e-300),
    ("repetition_penalty", 1e39),
    ("text_temperature", 1e-300),
    ("text_temperature", 1e300),
]
NEAR: list[tuple[str, float]] = [
    ("timestep_shift", 1e-3),
    ("timestep_shift", 1e3),
    ("cfg_text_scale", 1e6),
    ("cfg_text_scale", 5e-324),
    ("cfg_img_scale", 1e6),
    ("cfg_interval", (5e-324, 1 - 1e-16)),  # type: ignore[list-item]
    ("cfg_renorm_min", 5e-324),
    ("repetition_penalty", 1e-6),
    ("repetition_penalty", 1e6),
    ("text_temperature", 1e-10),
    ("text_temperature", 1e10),
    ("top_p", 5e-324),
]


@pytest.mark.parametrize(("name", "value"), FAR)
def test_an_option_beyond_what_float32_holds_is_refused(name: str, value: float) -> None:
    words = f"{name} must be from .* to .*, got {re.escape(f'{value:g}')}; beyond"
    with pytest.raises(ValueError, match=words):
        GenerationOptions(do_sample=True, **{name: value})
    if name in ImageOptions.__dataclass_fields__:
        parts = toy_parts()
        with pytest.raises(ValueError, match=words):
            parts.gen_image(SHAPE, parts.init_gen_context(), **{name: value})
    if name == "text_temperature":
        parts = toy_parts()
        with pytest.raises(ValueError, match="^temperature must be from"):
            parts.gen_text(parts.init_gen_context(), temperature=value)
        with pytest.raises(ValueError, match=words):
            parts.interleave_inference(["x"], think=True, do_sample=True, text_temperature=value)


@pytest.mark.parametrize(("name", "value"), NEAR)
def test_an_option_at_the_end_of_its_range_leads_to_numbers(name: str, value: Any) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 5, "cfg_text_scale": 4.0} | {name: value}
    options |= {"protocol": "every-block", "max_images": 2, "max_text_length": 4}
    prompt = ["Go.", picture()]
    output = toy_writer().auto_interleaved_generation(prompt, **SHORT | options)
    assert output.error is None
    assert output.images


def test_a_temperature_that_plays_no_part_is_not_looked_at() -> None:
    assert GenerationOptions(text_temperature=1e-300).text_temperature == 1e-300


def test_the_error_survives_a_pickle() -> None:
    error = NotANumberError("latents of image 1", "do this")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "nan or inf in latents of image 1; do this"
