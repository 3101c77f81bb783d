import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TopKLogitsWarper

from auto_interleaved.options import spellings
from auto_interleaved.options.generation import (
    ALIASES,
    GenerationOptions,
    check_against,
    make_options,
)
from data.protocols import PROTOCOLS, EveryText, Protocol
from modeling.flow import ImageOptions

# The public interface promises these; a change of one is a change for every user.
PROMISED = {
    "max_text_length": 500,
    "max_interleaved_blocks": 10,
    "think": False,
    "do_sample": False,
    "text_temperature": 0.3,
    "cfg_text_scale": 4.0,
    "cfg_img_scale": 1.5,
    "cfg_interval": (0.4, 1.0),
    "timestep_shift": 3.0,
    "num_timesteps": 50,
    "cfg_renorm_min": 0.0,
    "cfg_renorm_type": "global",
    "image_shape": None,
    "max_think_token_n": 1000,
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
    "preview_every": 0,
    "split_special_tokens": False,
    "num_candidates": 1,
    "choose": "understanding",
    "independent_images": False,
}
INTEGERS = (
    "max_text_length",
    "max_interleaved_blocks",
    "num_timesteps",
    "max_think_token_n",
    "max_images",
    "max_context_memory",
    "top_k",
    "seed",
    "preview_every",
    "num_candidates",
)
NUMBERS = (
    "text_temperature",
    "cfg_text_scale",
    "cfg_img_scale",
    "timestep_shift",
    "cfg_renorm_min",
    "top_p",
    "repetition_penalty",
)
FLAGS = ("think", "do_sample", "enable_taylorseer", "split_special_tokens", "independent_images")
OPTIONAL = (
    "image_shape",
    "protocol",
    "max_images",
    "max_context_memory",
    "logits_processor",
    "seed",
    "generator",
)

law = settings(deadline=None, database=None)  # neither a timed assertion nor a file left behind
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.integers() | st.floats() | st.text()),
    st.dictionaries(st.text(), st.integers()),
    st.sampled_from([np.float32("nan"), np.int64(3), np.zeros(2), torch.zeros(2), 10**400, int]),
)


class CudaGenerator(torch.Generator):
    """A generator that says where it would be on a machine with such a device."""

    device = torch.device("cuda")


async def coroutine(*arguments):
    """Answer when it is awaited, which nobody does."""


def generating(*arguments):
    """Answer when it is asked for the next value, which nobody does."""
    yield


def test_the_defaults_are_the_promised_ones():
    assert dataclasses.asdict(GenerationOptions()) == PROMISED
    assert list(dataclasses.asdict(GenerationOptions())) == list(PROMISED)


def test_every_option_can_be_given_its_default():
    assert make_options(PROMISED) == GenerationOptions() == make_options({})


def test_options_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="think"):
        GenerationOptions().think = True


def refusal(**options) -> str | None:
    try:
        GenerationOptions(**options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@law
@given(st.sampled_from(list(PROMISED)), anything)
def test_whatever_is_refused_is_a_type_error_or_a_value_error_that_names_the_option(name, value):
    message = refusal(**{name: value})
    assert message is None or name in message


# --- types ---


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [True, 2.0, "2", [2], np.float64(2)])
def test_an_integer_is_no_bool_float_or_string(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, got .*\(\w+\)"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_may_be_numpys_and_is_kept_as_pythons(name):
    value = getattr(GenerationOptions(**{name: np.int64(3)}), name)
    assert value == 3
    assert type(value) is int


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", None, 1j, torch.ones(1)])
def test_a_number_is_no_bool_or_string(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be a number, got "):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [1, np.float32(1), np.int16(1)])
def test_a_number_may_be_whole_or_numpys_and_is_kept_as_a_float(name, value):
    kept = getattr(GenerationOptions(**{name: value}), name)
    assert kept == 1
    assert type(kept) is float


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_is_finite(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a finite number, got"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [1, 0, "yes", None, np.zeros(1, dtype=bool)])
def test_a_flag_is_true_or_false_alone(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got .*\(\w+\)"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_may_be_numpys_and_is_kept_as_pythons(name):
    assert getattr(GenerationOptions(**{name: np.True_}), name) is True


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_has_no_default_may_be_none(name):
    assert getattr(GenerationOptions(**{name: None}), name) is None


# --- ranges ---


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_text_length", 0, "at least 1, got 0"),
        ("max_interleaved_blocks", 0, "at least 1, got 0"),
        ("max_think_token_n", -1, "at least 1, got -1"),
        ("max_images", -1, "at least 0, got -1; None leaves it to the protocol"),
        ("top_k", -1, "at least 0, got -1; 0 is all tokens"),
        ("top_p", 0, "above 0 and at most 1, got 0; 1 is all tokens"),
        ("top_p", 1.01, "above 0 and at most 1, got 1.01"),
        ("repetition_penalty", 0, "above 0, got 0; 1 is no penalty"),
        ("preview_every", -1, "at least 0, got -1; 0 is no preview"),
        ("seed", -2, r"from 0 to 2\*\*64 - 1, got -2; -1 is any seed"),
        ("seed", 2**64, r"from 0 to 2\*\*64 - 1, got 18446744073709551616"),
        ("seed", "state:", "the whole of what output.seed gave, got 'state:'"),
        ("seed", "state:AAAA", "the whole of what output.seed gave, got 'state:AAAA'"),
        ("cfg_text_scale", -1, "at least 0, got -1"),
        ("cfg_img_scale", -0.5, "at least 0, got -0.5"),
        ("cfg_interval", (0.9, 0.1), r"0 <= low <= high <= 1, got \(0.9, 0.1\)"),
        ("cfg_renorm_min", 1.5, r"lie in \[0, 1\], got 1.5"),
        ("cfg_renorm_type", "layer", "one of global, channel, text_channel; got 'layer'"),
        ("num_timesteps", 1, "at least 2 .*got 1"),
        ("timestep_shift", 0, "above 0, got 0"),
        ("image_feedback", "both", "one of latent, pixels, got 'both'"),
        ("image_memory", "none", "one of all, vision, text, got 'none'"),
        ("max_context_memory", 0, "at least 1, got 0; it counts bytes; None is no limit"),
        ("on_error", "ignore", "one of return, raise, got 'ignore'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(name, value, words):
    with pytest.raises(ValueError, match=f"^{name} must .*{words}"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_text_length", 1),
        ("max_interleaved_blocks", 1),
        ("max_think_token_n", 1),
        ("max_images", 0),
        ("top_p", 1),
        ("seed", 0),
        ("seed", 2**64 - 1),
        ("seed", np.uint64(2**64 - 1)),
        ("seed", np.int8(7)),
        ("image_shape", "input"),
        ("num_timesteps", 2),
        ("cfg_interval", (0, 0)),
        ("image_feedback", "pixels"),
        ("image_memory", "text"),
        ("max_context_memory", 1),
        ("on_error", "raise"),
    ],
)
def test_the_bounds_themselves_are_allowed(name, value):
    assert getattr(GenerationOptions(**{name: value}), name) == value


def test_any_seed_is_one_that_is_drawn_and_known():
    torch.manual_seed(0)
    seeds = [make_options({"seed": value}).seed for value in (-1, np.int64(-1), -1)]
    assert len(set(seeds)) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)
    assert torch.initial_seed() == 0


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_sampling_needs_a_temperature_above_zero(temperature):
    with pytest.raises(ValueError, match="text_temperature must be above 0 with do_sample=True.*"):
        GenerationOptions(do_sample=True, text_temperature=temperature)


def test_without_sampling_the_temperature_plays_no_part():
    assert GenerationOptions(text_temperature=0).text_temperature == 0


# --- pairs, words, strings and objects ---


@pytest.mark.parametrize("name", ["cfg_interval", "image_shape"])
@pytest.mark.parametrize("value", [1, "ab", {1: 2}, np.ones(2)])
def test_a_pair_is_a_tuple_or_a_list(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be a pair \(\w+, \w+\), got"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", ["cfg_interval", "image_shape"])
@pytest.mark.parametrize("value", [(), (1,), (1, 1, 1)])
def test_a_pair_has_two_parts(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a pair \(\w+, \w+\), got \("):
        GenerationOptions(**{name: value})


def test_a_bad_part_of_a_pair_is_named():
    with pytest.raises(ValueError, match="^height of image_shape must be at least 1, got 0"):
        GenerationOptions(image_shape=(0, 512))
    with pytest.raises(TypeError, match="^width of image_shape must be an integer, got 512.0"):
        GenerationOptions(image_shape=(512, 512.0))
    with pytest.raises(ValueError, match="^high of cfg_interval must be a finite number, got nan"):
        GenerationOptions(cfg_interval=(0, math.nan))
    with pytest.raises(TypeError, match="^low of cfg_interval must be a number, got '0'"):
        GenerationOptions(cfg_interval=("0", 1))


def test_a_pair_is_kept_as_a_tuple_of_plain_numbers():
    options = GenerationOptions(cfg_interval=[0, 1], image_shape=[np.int64(32), 16])
    assert options.cfg_interval == (0.0, 1.0)
    assert options.image_shape == (32, 16)
    assert [type(part) for part in (*options.cfg_interval, *options.image_shape)] == [
        float,
        float,
        int,
        int,
    ]


@pytest.mark.parametrize("name", ["cfg_renorm_type", "image_feedback", "image_memory", "on_error"])
def test_a_word_is_a_string(name):
    with pytest.raises(TypeError, match=rf"^{name} must be .*, got \['global'\] \(list\)"):
        GenerationOptions(**{name: ["global"]})


def test_one_stop_string_may_stand_alone():
    assert GenerationOptions(stop_strings="END").stop_strings == ("END",)
    assert GenerationOptions(stop_strings=["END", "\n"]).stop_strings == ("END", "\n")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (7, TypeError, "stop_strings must be a string or a tuple of strings, got 7"),
        ({"a"}, TypeError, "stop_strings must be a string or a tuple of strings, got {'a'}"),
        (None, TypeError, "stop_strings must be a string or a tuple of strings, got None"),
        (("a", 7), TypeError, r"stop_strings\[1\] must be a string, got 7"),
        ("", ValueError, r"stop_strings\[0\] must not be empty"),
        (("a", ""), ValueError, r"stop_strings\[1\] must not be empty"),
    ],
)
def test_stop_strings_are_strings_that_are_not_empty(value, error, words):
    with pytest.raises(error, match=words):
        GenerationOptions(stop_strings=value)


def test_a_protocol_goes_by_its_name_or_as_it_is():
    own = Protocol(name="own", trigger=EveryText())
    assert GenerationOptions(protocol="zebra-cot").protocol is PROTOCOLS["zebra-cot"]
    assert GenerationOptions(protocol=own).protocol is own


def test_an_unknown_protocol_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="unknown protocol 'zebra'; did you mean 'zebra-cot'"):
        GenerationOptions(protocol="zebra")
    with pytest.raises(TypeError, match="protocol must be a preset's name or a Protocol, got int"):
        GenerationOptions(protocol=7)


@pytest.mark.parametrize("name", ["logits_processor", "callback_on_step_end"])
@pytest.mark.parametrize("value", [7, [print]])
def test_a_function_must_be_callable(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be callable, got .*; (wrap|it takes)"):
        GenerationOptions(**{name: value})


@pytest.mark.parametrize("name", ["logits_processor", "callback_on_step_end"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "cannot be called with"),
        (lambda a, b, c, d, e: None, "cannot be called with"),
        (lambda *all_of_them, needed: None, "cannot be called with"),
        (TopKLogitsWarper, "it is a class"),
        (coroutine, "it is a coroutine"),
        (generating, "it is a generator"),
    ],
)
def test_a_function_that_could_not_answer_is_refused(name, function, words):
    """It ended a run at the first step, or the first token, at which it was called."""
    with pytest.raises(TypeError, match=f"^{name} must be callable with . arguments, .*{words}"):
        GenerationOptions(**{name: function})


def test_a_member_of_a_list_of_processors_that_could_not_answer_is_named():
    processors = LogitsProcessorList([TopKLogitsWarper(2), 7])
    with pytest.raises(TypeError, match=r"^logits_processor\[1\] must be callable with 2 .*got 7"):
        GenerationOptions(logits_processor=processors)


def test_functions_and_processor_lists_are_kept_as_they_are():
    processors = LogitsProcessorList([TopKLogitsWarper(2)])
    options = GenerationOptions(logits_processor=processors, callback_on_step_end=max)
    assert options.logits_processor is processors
    assert options.callback_on_step_end is max


def test_a_generator_is_torchs():
    generator = torch.Generator("cpu")
    assert GenerationOptions(generator=generator).generator is generator
    with pytest.raises(TypeError, match="generator must be a torch.Generator, got 7 .*use seed"):
        GenerationOptions(generator=7)


def test_a_generator_is_on_the_cpu():
    with pytest.raises(
        ValueError, match=r"on the CPU.*got one on cuda.*torch.Generator\(\"cpu\"\)"
    ):
        GenerationOptions(generator=CudaGenerator())


def test_seed_and_generator_exclude_each_other():
    with pytest.raises(ValueError, match="seed and generator must not be given together"):
        GenerationOptions(seed=0, generator=torch.Generator())


# --- what is derived ---


def test_image_options_take_over_every_value_they_share():
    given_values = {
        "cfg_text_scale": 2.0,
        "cfg_img_scale": 3.0,
        "cfg_interval": (0.1, 0.9),
        "cfg_renorm_min": 0.5,
        "cfg_renorm_type": "channel",
        "num_timesteps": 7,
        "timestep_shift": 1.0,
        "enable_taylorseer": True,
    }
    derived = GenerationOptions(**given_values).image_options()
    assert isinstance(derived, ImageOptions)
    assert dataclasses.asdict(derived) == given_values


# --- keywords ---


@pytest.mark.parametrize(
    ("keyword", "name", "value"),
    [
        ("num_inference_steps", "num_timesteps", 20),
        ("temperature", "text_temperature", 0.5),
        ("max_new_tokens", "max_text_length", 20),
        ("image_shapes", "image_shape", (32, 16)),
    ],
)
def test_an_alias_is_its_option(keyword, name, value):
    assert make_options({keyword: value}) == GenerationOptions(**{name: value})


def test_height_and_width_are_the_image_shape():
    assert make_options({"width": 16, "height": 32}).image_shape == (32, 16)


def test_height_and_width_of_none_leave_the_shape_open():
    assert make_options({"height": None, "width": None}).image_shape is None


@pytest.mark.parametrize(
    "given_sides", [{"height": 32}, {"width": 32}, {"height": 8, "width": None}]
)
def test_height_and_width_need_each_other(given_sides):
    with pytest.raises(TypeError, match=r"height and width must be given together, got height="):
        make_options(given_sides)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
@pytest.mark.parametrize("alias_first", [True, False])
def test_an_alias_excludes_its_own_name(alias, name, alias_first):
    order = (alias, name) if alias_first else (name, alias)
    words = rf"^{order[0]} and {order[1]} must not be given together.*; leave {alias} out"
    with pytest.raises(TypeError, match=words):
        make_options(dict.fromkeys(order, 8))


@pytest.mark.parametrize("name", ["image_shape", "image_shapes"])
def test_height_and_width_exclude_the_image_shape(name):
    with pytest.raises(TypeError, match=f"^{name} and height and width must not be given together"):
        make_options({"height": 32, "width": 32, name: (32, 32)})


@pytest.mark.parametrize(
    ("keyword", "nearest"),
    [
        ("max_image", "max_images"),
        ("tempreature", "temperature"),
        ("num_steps", "num_timesteps"),
        ("guidance_scale", "cfg_text_scale"),
        ("hieght", "height"),
        ("stop", "stop_strings"),
        ("stop_sequences", "stop_strings"),
        ("stop_sequnces", "stop_strings"),
        ("eos_token_id", "stop_strings"),
        ("max_tokens", "max_text_length"),
        ("max_length", "max_text_length"),
        ("maxTokens", "max_text_length"),
        ("max-text-length", "max_text_length"),
        ("frequency_penalty", "repetition_penalty"),
        ("steps", "num_timesteps"),
        ("image_guidance_scale", "cfg_img_scale"),
        ("shift", "timestep_shift"),
        ("size", "image_shape"),
        ("num_images", "max_images"),
        ("max_rounds", "max_interleaved_blocks"),
        ("callback", "callback_on_step_end"),
        ("enable_thinking", "think"),
        ("rng", "generator"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_known_one(keyword, nearest):
    words = f"^unknown option '{keyword}'; did you mean '{nearest}'"
    with pytest.raises(TypeError, match=words):
        make_options({"seed": 1, keyword: 1})


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("system_prompt", "as a message of the role system"),
        ("messages", "belongs into the prompt"),
        ("images", "belongs into the prompt"),
        ("n", "call again with another seed"),
        ("device", "argument of from_pretrained"),
        ("verbose", "set_progress_bar_config"),
        ("negative_prompt", "cfg_text_scale"),
        ("vae_tile", "inferencer.vae_tile = 64"),
    ],
)
def test_what_is_no_option_anywhere_is_explained(keyword, words):
    with pytest.raises(TypeError, match=f"^unknown option '{keyword}'; .*{words}") as raised:
        make_options({keyword: 1})
    assert "did you mean" not in str(raised.value)


def test_what_a_name_is_said_to_mean_is_an_option():
    assert {*spellings._MEANT.values()} <= {*PROMISED}
    assert not {*spellings._MEANT, *spellings._ELSEWHERE} & {*PROMISED, *ALIASES}


def test_an_unknown_keyword_near_to_nothing_is_refused_with_all_of_them():
    with pytest.raises(TypeError, match="^unknown option 'xyz'; the options are max_text_length, "):
        make_options({"xyz": 1})


def test_a_value_given_by_an_alias_is_checked_as_its_option():
    with pytest.raises(ValueError, match="max_text_length must be at least 1, got 0"):
        make_options({"max_new_tokens": 0})


# --- what needs the model ---


@pytest.fixture(scope="module")
def latent_grid(golden_inferencer):
    return golden_inferencer.model.latent_grid


def test_a_size_the_model_draws_passes(latent_grid):
    check_against(make_options({"height": 32, "width": 48}), latent_grid=latent_grid)


def test_no_size_needs_no_grid(latent_grid):
    check_against(GenerationOptions(), latent_grid=latent_grid)


def test_a_size_between_strides_is_refused_with_the_nearest(latent_grid):
    with pytest.raises(ValueError, match="height must be a positive multiple of .*, got 33; try"):
        check_against(make_options({"height": 33, "width": 32}), latent_grid=latent_grid)


def test_a_size_beyond_the_position_table_is_refused(latent_grid):
    with pytest.raises(ValueError, match="width must be at most .* for this model, got 160000"):
        check_against(make_options({"height": 32, "width": 160000}), latent_grid=latent_grid)
