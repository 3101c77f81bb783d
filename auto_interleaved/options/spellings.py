"""Names that users bring from elsewhere, and which of our options, or what else, they mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from data.wording import shown

_ALIKE = 0.7  # how alike a misspelt name must be

# What other libraries and formats call our options. Where a name takes the very same values it is
# an alias (see `options.ALIASES`); these do not, or nearly.
_MEANT: Mapping[str, str] = {
    # writing
    "stop": "stop_strings",
    "stops": "stop_strings",
    "stop_string": "stop_strings",
    "stop_sequence": "stop_strings",
    "stop_sequences": "stop_strings",
    "stop_words": "stop_strings",
    "stop_tokens": "stop_strings",
    "stopping_criteria": "stop_strings",
    "eos_token": "stop_strings",
    "eos_token_id": "stop_strings",
    "max_tokens": "max_text_length",
    "max_completion_tokens": "max_text_length",
    "max_output_tokens": "max_text_length",
    "max_length": "max_text_length",
    "max_text_tokens": "max_text_length",
    "length": "max_text_length",
    "min_p": "top_p",
    "typical_p": "top_p",
    "nucleus": "top_p",
    "sample": "do_sample",
    "sampling": "do_sample",
    "greedy": "do_sample",
    "num_beams": "do_sample",
    "frequency_penalty": "repetition_penalty",
    "presence_penalty": "repetition_penalty",
    "penalty": "repetition_penalty",
    "logit_bias": "logits_processor",
    "bad_words_ids": "logits_processor",
    "suppress_tokens": "logits_processor",
    "prefix_allowed_tokens_fn": "logits_processor",
    # planning
    "thinking": "think",
    "enable_thinking": "think",
    "reasoning": "think",
    "cot": "think",
    "thinking_budget": "max_think_token_n",
    "thinking_tokens": "max_think_token_n",
    "max_thinking_tokens": "max_think_token_n",
    "max_reasoning_tokens": "max_think_token_n",
    # drawing
    "steps": "num_timesteps",
    "timesteps": "num_timesteps",
    "num_steps": "num_timesteps",
    "sampling_steps": "num_timesteps",
    "inference_steps": "num_timesteps",
    "guidance_scale": "cfg_text_scale",
    "guidance": "cfg_text_scale",
    "cfg": "cfg_text_scale",
    "cfg_scale": "cfg_text_scale",
    "true_cfg_scale": "cfg_text_scale",
    "text_guidance_scale": "cfg_text_scale",
    "text_scale": "cfg_text_scale",
    "image_guidance_scale": "cfg_img_scale",
    "img_guidance_scale": "cfg_img_scale",
    "cfg_image_scale": "cfg_img_scale",
    "image_scale": "cfg_img_scale",
    "img_scale": "cfg_img_scale",
    "guidance_interval": "cfg_interval",
    "guidance_start": "cfg_interval",
    "guidance_end": "cfg_interval",
    "guidance_rescale": "cfg_renorm_min",
    "renorm": "cfg_renorm_type",
    "shift": "timestep_shift",
    "flow_shift": "timestep_shift",
    "time_shift": "timestep_shift",
    "mu": "timestep_shift",
    "size": "image_shape",
    "sizes": "image_shape",
    "shape": "image_shape",
    "image_size": "image_shape",
    "output_size": "image_shape",
    "target_size": "image_shape",
    "resolution": "image_shape",
    "aspect_ratio": "image_shape",
    "taylorseer": "enable_taylorseer",
    "cache": "enable_taylorseer",
    "callback": "callback_on_step_end",
    "callback_steps": "preview_every",
    "partial_images": "preview_every",
    "previews": "preview_every",
    # limits and the rest
    "n_images": "max_images",
    "num_images": "max_images",
    "max_pictures": "max_images",
    "num_pictures": "max_images",
    "understanding_output": "max_images",
    "blocks": "max_interleaved_blocks",
    "max_blocks": "max_interleaved_blocks",
    "rounds": "max_interleaved_blocks",
    "max_rounds": "max_interleaved_blocks",
    "max_turns": "max_interleaved_blocks",
    "max_iterations": "max_interleaved_blocks",
    "max_memory": "max_context_memory",
    "random_seed": "seed",
    "manual_seed": "seed",
    "random_state": "seed",
    "rng": "generator",
    "preset": "protocol",
    "mode": "protocol",
    "trigger": "protocol",
    "errors": "on_error",
    "raise_on_error": "on_error",
}

_IN_THE_PROMPT = "it belongs into the prompt: a text, a picture, a list of both, or messages"
_SYSTEM = (
    "instructions belong into the prompt, as a message of the role system, or into a protocol: "
    "dataclasses.replace(PROTOCOLS['native'], system_prompt=...)"
)
_ONE_RUN = "a run gives one result: call again with another seed for another one"
_LOADING = "it is an argument of from_pretrained"
_BARS = "bars are set by set_progress_bar_config"

# Names that mean something which is no option.
_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("system_prompt", "system", "instructions", "developer_prompt"), _SYSTEM),
    **dict.fromkeys(
        ("image", "images", "text", "input", "inputs", "input_lists", "messages", "content"),
        _IN_THE_PROMPT,
    ),
    **dict.fromkeys(
        ("n", "num_return_sequences", "num_images_per_prompt", "num_samples", "batch_size"),
        _ONE_RUN,
    ),
    **dict.fromkeys(("device", "dtype", "torch_dtype", "device_map", "compile_layers"), _LOADING),
    **dict.fromkeys(("verbose", "progress", "show_progress", "disable_tqdm"), _BARS),
    "stream": "events come from the method stream",
    "streamer": "events come from the method stream",
    "negative_prompt": "guidance pushes away from what is drawn without the text; cfg_text_scale "
    "says how far",
    "vae_tile": "it is an attribute: inferencer.vae_tile = 64",
    "output_type": "pictures come as PIL images; numpy.asarray makes arrays of them",
    "response_format": "texts and pictures come as a list; its save(path) writes files",
    "output": "the result is saved by its save(path)",
}


def unknown_option(keyword: str, known: Sequence[str]) -> str:
    """Return what to say of an option that there is not.

    Args:
        keyword: as the caller wrote it.
        known: the options, and their aliases.
    """
    name = spelt_as_ours(keyword)
    if name in _ELSEWHERE:
        remedy = _ELSEWHERE[name]
    else:
        near = nearest_option(keyword, known)
        remedy = (
            f"the options are {', '.join(known)}" if near is None else f"did you mean {near!r}?"
        )
    return f"unknown option {shown(keyword)}; {remedy}"


def nearest_option(keyword: str, known: Sequence[str]) -> str | None:
    """Return the option that a name most likely means; None if it is like none of them."""
    name = spelt_as_ours(keyword)
    meant = {word: option for word, option in _MEANT.items() if option in known}
    meant |= {option: option for option in known}
    near = [name] if name in meant else difflib.get_close_matches(name, meant, 1, _ALIKE)
    return meant[near[0]] if near else None


def spelt_as_ours(keyword: str) -> str:
    """Return a name with words in small letters and underscores between them."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", keyword.strip("-")).replace("-", "_").lower()
