"""Protocols: when a checkpoint draws, when it stops, and what each of its contexts holds.

Every fine-tune of BAGEL was taught its own way of asking for a picture. A `Protocol` is a small
frozen value that tells one inferencer which; presets go by name, and `dataclasses.replace` makes a
new one from any of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from data.protocol_checks import (
    Pattern,
    check_flag,
    check_pattern,
    check_text,
    check_trigger,
    check_word,
    count_or_none,
    patterns,
    shown,
)

Decision = Literal["write", "draw", "stop"]
TextView = Literal["full", "vision"]
TextRule = Literal["before_last_text", "images_only", "inputs", "after_newest_image"]
ImageRule = Literal["all_texts", "inputs", "without_newest_image"]


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """An image starts where the model itself chooses vision_start.

    Attributes:
        in_text: as a token inside a text.
        after_text: as the model's own next token after a text's eos.
    """

    in_text: bool = True
    after_text: bool = True

    def __post_init__(self) -> None:
        check_flag("in_text", self.in_text)
        check_flag("after_text", self.after_text)
        if not (self.in_text or self.after_text):
            raise ValueError(
                "in_text and after_text are both False: no image would ever start; "
                "for texts alone set max_images=0"
            )


@dataclass(frozen=True)
class Marker:
    """An image starts where the text says so; the marker is cut from the output.

    Attributes:
        pattern: a literal string, or a compiled regular expression. It is matched on decoded text,
            across token borders.
    """

    pattern: Pattern


@dataclass(frozen=True)
class EveryText:
    """An image starts where a text ends."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a callable trigger is shown.

    Attributes:
        token_ids: the current text's ids so far.
        text: the same, decoded.
        ended: whether the text is complete.
        next_id: after a complete text, the model's own next token.
        num_images: images drawn so far.
    """

    token_ids: tuple[int, ...]
    text: str
    ended: bool
    next_id: int | None
    num_images: int


Trigger = Sampled | Marker | EveryText | Callable[[Written], Decision]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a checkpoint interleaves.

    Attributes:
        name: for messages and records.
        trigger: what starts an image. A callable is asked after every token and after every text;
            it answers "write" (go on; after a complete text: begin another), "draw" or "stop".
        system_prompt: read before the prompt; None for none.
        final_marks: a text that contains one of these is the last.
        more_text: after a text's eos, the model's own bos begins another text.
        max_images: images a run draws at most; None for no limit of the protocol's own.
        reads_latent: a drawn image enters the context through its latents.
        reads_vision: a drawn image enters the context through the vision encoder.
        text_view: what text is written over: the full context, or one in which images are there
            through the vision encoder only.
        without_text: what the context of text guidance holds: everything before the last text; the
            images alone; what the inputs left, never updated; everything up to the newest image
            (before there is one, everything before the last text).
        without_images: what the context of image guidance holds: all texts; what the inputs left,
            never updated; everything but the newest image.
    """

    name: str
    trigger: Trigger
    system_prompt: str | None = None
    final_marks: tuple[Pattern, ...] = ()
    more_text: bool = False
    max_images: int | None = None
    reads_latent: bool = True
    reads_vision: bool = True
    text_view: TextView = "full"
    without_text: TextRule = "before_last_text"
    without_images: ImageRule = "all_texts"

    def __post_init__(self) -> None:
        if isinstance(self.trigger, Marker):
            check_pattern(self.trigger.pattern)
        elif not isinstance(self.trigger, Sampled | EveryText):
            check_trigger(self.trigger)
        for name, allowed in (
            ("text_view", get_args(TextView)),
            ("without_text", get_args(TextRule)),
            ("without_images", get_args(ImageRule)),
        ):
            check_word(name, getattr(self, name), allowed)
        for name in ("more_text", "reads_latent", "reads_vision"):
            check_flag(name, getattr(self, name))
        if not (self.reads_latent or self.reads_vision):
            raise ValueError(
                "reads_latent and reads_vision are both False: "
                "a drawn image would never be seen again"
            )
        check_text("name", self.name)
        if not self.name.isprintable():
            raise ValueError(
                f"name must be printable, because it stands in messages; got {shown(self.name)}"
            )
        if self.system_prompt is not None:
            check_text("system_prompt", self.system_prompt)
        object.__setattr__(self, "max_images", count_or_none("max_images", self.max_images))
        object.__setattr__(self, "final_marks", patterns("final_marks", self.final_marks))


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="native", trigger=Sampled(), more_text=True),
        Protocol(
            name="bagel",
            trigger=Marker("<image>"),
            system_prompt=(
                "Answer in text, and where a picture helps the reader put the marker <image> on a "
                "line of its own, right after the words that describe it."
            ),
        ),
        Protocol(name="every-block", trigger=EveryText()),
        Protocol(
            name="zebra-cot",
            trigger=Sampled(in_text=False),
            system_prompt="Reason in an interleaved text and visual chain of thought.",
            final_marks=("Final Answer:", "<answer>"),
            text_view="vision",
        ),
        Protocol(
            name="mathcanvas",
            trigger=Sampled(in_text=False),
            more_text=True,
            without_text="images_only",
        ),
        Protocol(
            name="thinkmorph",
            trigger=Marker("<image_start>"),
            system_prompt=(
                "Think inside <think> </think>. Write <image_start> wherever a picture would carry "
                "the thought on. Give the result inside <answer> </answer>."
            ),
            max_images=3,
            without_text="inputs",
            without_images="inputs",
        ),
        Protocol(
            name="twiff",
            trigger=EveryText(),
            system_prompt=(
                "Use your visual imagination: describe each state, look at its picture, go on from "
                "there, and give the result after <ans>."
            ),
            final_marks=("<ans>",),
            without_text="after_newest_image",
            without_images="without_newest_image",
        ),
    )
}


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return a protocol, by its preset name or as it is.

    Raises:
        ValueError: if there is no preset of that name.
        TypeError: if it is neither a name nor a protocol.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if not isinstance(protocol, str):
        raise TypeError(
            f"protocol must be a preset's name or a Protocol, got {type(protocol).__name__}"
        )
    if protocol not in PROTOCOLS:
        spelled = protocol.strip().lower().replace("_", "-").replace(" ", "-")
        near = difflib.get_close_matches(spelled, PROTOCOLS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise ValueError(
            f"unknown protocol {shown(protocol)}{hint} the presets are {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[protocol]
