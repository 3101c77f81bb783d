"""What the command line's help says about options and protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data.protocols import PROTOCOLS, EveryText, Marker, Protocol, Sampled

# Functions and generators cannot be typed in, and a terminal has no room for previews.
FOR_PROGRAMS_ONLY = (
    "logits_processor",
    "generator",
    "callback_on_step_end",
    "preview_every",
    "choose",
)

# Every other field of GenerationOptions, by the group of the help text that it stands in.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "input": {
        "protocol": "when to draw and when to stop, by a preset's name, see --list-protocols "
        "(default: what the checkpoint names)",
        "seed": "the same seed gives the same result (default: a new one each time, "
        "told at the end)",
        "split_special_tokens": "read <|vision_start|> in the prompt as plain characters; "
        "otherwise it asks for a picture at that place",
    },
    "writing": {
        "do_sample": "draw words at random instead of taking the likeliest",
        "text_temperature": "with --do-sample: below 1 plays it safe, above 1 dares",
        "top_p": "with --do-sample: only the likeliest tokens that together have this probability",
        "top_k": "with --do-sample: only so many of the likeliest tokens; 0 is all",
        "repetition_penalty": "above 1 avoids tokens that the text already has",
        "think": "write a plan first; it is shown, and is no part of the story",
    },
    "drawing": {
        "image_shape": "size of the pictures in pixels (default: that of the last input picture, "
        "else the checkpoint's own)",
        "num_timesteps": "points on a picture's time line, one more than steps: fewer are faster "
        "and coarser",
        "timestep_shift": "above 1, more of the steps go to the rough shape; 1 is even",
        "cfg_text_scale": "how closely pictures follow the text; 1 is off",
        "cfg_img_scale": "how closely they follow earlier pictures; 1 is off",
        "cfg_interval": "when the two scales hold, on a time line from 1, noise, to 0, the picture",
        "cfg_renorm_type": "what the strength of a guided picture is evened out over",
        "cfg_renorm_min": "how far that may weaken it, from 0, at will, to 1, not at all",
        "image_feedback": "how the model sees what it drew: as it was sampled (latent), or decoded "
        "and read again (pixels)",
        "image_memory": "what pictures older than the newest leave in the model's memory: all of "
        "themselves, what it saw of them (vision), or the text alone; less is faster, and it "
        "forgets what they looked like",
        "num_candidates": "draw so many pictures in each place, and keep the one of which the "
        "model itself says most surely that it shows the text",
        "independent_images": "draw the pictures that the prompt asks for together; they do not "
        "see one another",
        "enable_taylorseer": "guess two of three steps: faster, and pictures come out a bit "
        "different",
    },
    "limits": {
        "max_interleaved_blocks": "rounds at most, a text and its picture being one",
        "max_images": "pictures at most (default: as the protocol says)",
        "max_text_length": "tokens of a text at most",
        "max_think_token_n": "tokens of a plan at most",
        "max_context_memory": "memory for what the model has read, such as 8GB or 512MiB; the "
        "story ends before a text or a picture that might not fit (default: no limit)",
        "stop_strings": "end the story before any of these",
    },
    "output": {
        "on_error": "if a run fails, what exists is saved and the reason told; raise shows "
        "Python's traceback besides",
    },
}


def describe_protocols() -> str:
    """Return a line for each preset: its name, when it draws, when it ends."""
    width = max(map(len, PROTOCOLS))
    return "\n".join(
        f"{name:{width}}  {'; '.join(_facts(protocol))}" for name, protocol in PROTOCOLS.items()
    )


def _facts(protocol: Protocol) -> Iterator[str]:
    trigger = protocol.trigger
    if isinstance(trigger, Sampled):
        place = "in a text or after it" if trigger.in_text else "after a text"
        yield f"draws where the model chooses <|vision_start|> {place}"
    elif isinstance(trigger, Marker):
        yield f"draws where the text says {trigger.pattern}"
    else:
        yield "draws after every text" if isinstance(trigger, EveryText) else "draws as it decides"
    if protocol.max_images is not None:
        yield f"at most {protocol.max_images} pictures"
    if protocol.final_marks:
        yield f"ends with {' or '.join(map(str, protocol.final_marks))}"
    if protocol.system_prompt is not None:
        yield "has a system prompt"
