"""The options of a run: their defaults, their rules, and the names they also go by.

Everything that can be told without a model is checked when a `GenerationOptions` is made; the rest
by `check_against`, still before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

import torch

from auto_interleaved.options.option_checks import (
    choice,
    cpu_generator,
    function,
    seed,
    strings,
    word_or,
)
from auto_interleaved.options.seeds import Seed
from auto_interleaved.options.spellings import unknown_option
from data.protocols import Protocol, find_protocol
from data.wording import shown
from modeling.checks import (
    Check,
    flag,
    instance,
    integer,
    number,
    optional,
    out_of_range,
    pair,
)
from modeling.choice import PENALTIES, TEMPERATURES
from modeling.flow import ImageOptions, RenormType
from modeling.interleave import check_shape
from modeling.numbers import require_within

ImageFeedback = Literal["latent", "pixels"]
ImageMemory = Literal["all", "vision", "text"]
OnError = Literal["return", "raise"]
T = TypeVar("T")

ALIASES = {
    "num_inference_steps": "num_timesteps",
    "temperature": "text_temperature",
    "max_new_tokens": "max_text_length",
    "image_shapes": "image_shape",
}
SIDES = ("height", "width")
AS_INPUT = "input"  # as an image_shape
UNDERSTANDING: Literal["understanding"] = "understanding"  # as choose


def option(default: T, check: Check) -> T:
    """Declare an option: its default, and the check that each of its values must pass."""
    # Typed as dataclasses.field is: by what reading the field gives.
    declared: T = field(default=default, metadata={"check": check})
    return declared


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How a run writes and draws.

    Values are kept in their plain types: numbers as int and float, pairs and lists as tuples, a
    protocol's name as the protocol, a single stop string as a tuple of one.

    Attributes:
        max_text_length: tokens of a text block at most, at least 1.
        max_interleaved_blocks: rounds at most, a text and the image it led to; at least 1.
        think: write a plan first, which is not part of the result.
        do_sample: draw tokens; False takes the likeliest.
        text_temperature: above 0; below 1 sharpens. Plays no part without `do_sample`.
        cfg_text_scale: see `modeling.flow.ImageOptions`, as the other cfg options.
        cfg_img_scale: works only with text guidance.
        cfg_interval: (low, high) in [0, 1]: times at which guidance holds.
        timestep_shift: how far times lean towards noise; 1 is even.
        num_timesteps: points on the time line of an image, one more than steps; at least 2.
        cfg_renorm_min: in [0, 1].
        cfg_renorm_type: "global", "channel" or "text_channel".
        image_shape: (height, width) of images in pixels; None: the size at which the model reads
            the last input image, else the checkpoint's own; "input": the same, and then resized to
            the size that the input image has by itself.
        max_think_token_n: tokens of a plan at most, at least 1.
        protocol: when to draw and when to stop; a preset's name becomes the preset. None: the
            checkpoint's own.
        max_images: images at most, 0 for none; None: as the protocol says.
        stop_strings: a text that contains one of these is the last.
        top_p: draw among the likeliest tokens that together have this probability, in (0, 1].
        top_k: draw among so many likeliest tokens; 0 is all.
        repetition_penalty: above 1 makes tokens less likely that were written before; above 0.
        logits_processor: takes ids (1, written) and scores (1, vocabulary), returns scores: one
            function or transformers' LogitsProcessorList.
        enable_taylorseer: extrapolate two of three evaluations of an image. Faster and lossy.
        image_feedback: "latent": a drawn image enters the context as the latents it was sampled
            as; "pixels": as the picture they decode to.
        image_memory: what images older than the newest leave behind, the caller's included: "all"
            of themselves; "vision", what understanding goes by; "text", nothing but what was
            written since. Other than "all" is lossy: an image is cut out of what was read, and what
            came after it stays as it was computed.
        max_context_memory: bytes that keys and values of the run may take, over all its contexts
            and devices, free slots for growth included. A text or an image that might not fit ends
            the run before it starts. None: no limit.
        seed: 0 to 2**64 - 1: texts and images draw from generators derived from it. -1: a seed is
            drawn, and kept in its place. A string that an output has as its `seed`: everything is
            drawn as it was there. None: from `generator`, else from torch's global one.
        generator: a generator on the CPU to draw from; not together with `seed`.
        callback_on_step_end: called after each step of an image, by diffusers' convention.
        on_error: "return" what exists so far, or "raise".
        preview_every: steps between two previews of an image that is being drawn; 0 for none.
        num_candidates: pictures drawn for each image, of which one is kept; at least 1.
        choose: "understanding": by what the model itself answers to whether a picture shows the
            nearest text before it; or a function of the pictures and that text, which returns the
            number of the one to keep.
        independent_images: images that the prompt asks for are drawn together, each over what the
            prompt itself says before it, and see no other one.
        split_special_tokens: take special tokens in the prompt for plain characters.

    Raises:
        TypeError: if an option is of a wrong type.
        ValueError: if it is out of range, or two of them contradict each other.
    """

    max_text_length: int = option(500, integer(minimum=1))
    max_interleaved_blocks: int = option(10, integer(minimum=1))
    think: bool = option(False, flag)
    do_sample: bool = option(False, flag)
    text_temperature: float = option(0.3, number())
    cfg_text_scale: float = option(4.0, number())
    cfg_img_scale: float = option(1.5, number())
    cfg_interval: tuple[float, float] = option((0.4, 1.0), pair(("low", "high"), number()))
    timestep_shift: float = option(3.0, number())
    num_timesteps: int = option(50, integer())
    cfg_renorm_min: float = option(0.0, number())
    cfg_renorm_type: RenormType = option("global", instance(str, "a string"))
    image_shape: tuple[int, int] | Literal["input"] | None = option(
        None, optional(word_or(AS_INPUT, check_shape))
    )
    max_think_token_n: int = option(1000, integer(minimum=1))
    protocol: Protocol | None = option(None, optional(lambda _, value: find_protocol(value)))
    max_images: int | None = option(
        None, optional(integer(minimum=0, hint="None leaves it to the protocol"))
    )
    stop_strings: tuple[str, ...] = option((), strings)
    top_p: float = option(1.0, number(above=0, maximum=1, hint="1 is all tokens"))
    top_k: int = option(0, integer(minimum=0, hint="0 is all tokens"))
    repetition_penalty: float = option(1.0, number(above=0, hint="1 is no penalty"))
    logits_processor: Callable[..., Any] | None = option(
        None, optional(function(2, "wrap several in transformers.LogitsProcessorList"))
    )
    enable_taylorseer: bool = option(False, flag)
    image_feedback: ImageFeedback = option("latent", choice(*get_args(ImageFeedback)))
    image_memory: ImageMemory = option("all", choice(*get_args(ImageMemory)))
    max_context_memory: int | None = option(
        None, optional(integer(minimum=1, hint="it counts bytes; None is no limit"))
    )
    seed: Seed | None = option(None, optional(seed))
    generator: torch.Generator | None = option(None, optional(cpu_generator))
    callback_on_step_end: Callable[..., Any] | None = option(
        None, optional(function(4, "it takes (inferencer, step, time, callback_kwargs)"))
    )
    on_error: OnError = option("return", choice(*get_args(OnError)))
    preview_every: int = option(0, integer(minimum=0, hint="0 is no preview"))
    split_special_tokens: bool = option(False, flag)
    num_candidates: int = option(1, integer(minimum=1, hint="1 is the image alone"))
    choose: Callable[..., Any] | Literal["understanding"] = option(
        UNDERSTANDING,
        word_or(UNDERSTANDING, function(2, f'it takes (images, text); or give "{UNDERSTANDING}"')),
    )
    independent_images: bool = option(False, flag)

    def __post_init__(self) -> None:
        for entry in fields(self):
            checked = entry.metadata["check"](entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, checked)
        self.image_options()  # checks the ranges of what it is made of
        if self.do_sample and self.text_temperature <= 0:
            raise out_of_range(
                "text_temperature",
                "above 0 with do_sample=True",
                self.text_temperature,
                "for the likeliest token set do_sample=False",
            )
        if self.do_sample:
            require_within("text_temperature", self.text_temperature, *TEMPERATURES)
        require_within("repetition_penalty", self.repetition_penalty, *PENALTIES)
        if self.seed is not None and self.generator is not None:
            raise ValueError(
                f"seed and generator must not be given together, got seed={shown(self.seed)}; "
                "leave one of them out"
            )

        several = self.num_candidates > 1 or self.independent_images
        if several and self.callback_on_step_end is not None:
            given = "independent_images" if self.num_candidates == 1 else "num_candidates"
            raise ValueError(
                f"callback_on_step_end must not be given with {given}={getattr(self, given)}, as "
                "it is shown one image at a time; leave one of them out"
            )

    @property
    def drawn_shape(self) -> tuple[int, int] | None:
        """The (height, width) that images are to be drawn at; None where the prompt decides."""
        return None if isinstance(self.image_shape, str) else self.image_shape

    def image_options(self) -> ImageOptions:
        """Return what sampling one image takes."""
        shared = {entry.name: getattr(self, entry.name) for entry in fields(ImageOptions)}
        return ImageOptions(**shared)


def make_options(given: Mapping[str, Any]) -> GenerationOptions:
    """Make options from keyword arguments, spelled in our way or in another library's.

    `ALIASES` names the other spellings. `height` and `width` together are `image_shape`; both None
    leave it at None, which is diffusers' way of not giving them. `num_inference_steps` counts the
    points of the time line, as `num_timesteps` does.

    Args:
        given: keyword arguments; what is absent has its default.

    Raises:
        TypeError: if a keyword is unknown, an option is given under two names or is of a wrong
            type, or one of `height` and `width` is missing.
        ValueError: if an option is out of range.
    """
    return GenerationOptions(**_chosen(given))


def changed_options(options: GenerationOptions, given: Mapping[str, Any]) -> GenerationOptions:
    """Return options with keyword arguments, as `make_options` takes them, in their place.

    A seed takes the place of a generator too, and the other way round; None of neither.

    Raises:
        TypeError: as `make_options` does.
        ValueError: the same.
    """
    chosen = _chosen(given)
    drawn = {name: chosen.pop(name, None) for name in ("seed", "generator")}
    if any(source is not None for source in drawn.values()):
        chosen.update(drawn)
    return replace(options, **chosen)


def _chosen(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments by the names of their options, which are known and named once."""
    known = [entry.name for entry in fields(GenerationOptions)]
    chosen: dict[str, Any] = {}
    spelled: dict[str, str] = {}  # each option's name as the caller wrote it
    for keyword, name, value in _named(given):
        if name not in known:
            raise TypeError(unknown_option(keyword, [*known, *ALIASES, *SIDES]))
        if name in chosen:
            raise TypeError(
                f"{spelled[name]} and {keyword} must not be given together, they are one option; "
                f"leave {keyword if keyword != name else spelled[name]} out"
            )
        chosen[name], spelled[name] = value, keyword
    return chosen


def check_against(options: GenerationOptions, *, latent_grid: Callable[[int, int], object]) -> None:
    """Check what only a model can tell: whether it draws images of the wanted size.

    Args:
        options: the options of a run.
        latent_grid: takes (height, width) in pixels and raises a ValueError where the size is no
            multiple of the model's stride or beyond its position table; `Bagel.latent_grid`.

    Raises:
        ValueError: if the model draws no images of that size.
    """
    if options.drawn_shape is not None:
        latent_grid(*options.drawn_shape)


def _named(given: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield each keyword as it was written, the name of its option, and its value."""
    for keyword, value in given.items():
        if keyword not in SIDES:
            yield keyword, ALIASES.get(keyword, keyword), value
    if any(side in given for side in SIDES):
        yield "height and width", "image_shape", _shape(*(given.get(side) for side in SIDES))


def _shape(height: Any, width: Any) -> tuple[Any, Any] | None:
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise TypeError(
            "height and width must be given together, "
            f"got height={shown(height)}, width={shown(width)}; "
            "give both, or image_shape=(height, width)"
        )
    return height, width
