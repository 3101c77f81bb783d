"""What one run is made of: its segments, its token counts, its reason to end, its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from PIL import Image

from data.output.errors import RecordedError, describe_error, error_parts
from data.output.pictures import bare
from data.wording import shown

__all__ = [
    "FinishReason",
    "RecordedError",
    "Segment",
    "SegmentKind",
    "SegmentRole",
    "Usage",
    "describe_error",
    "error_parts",
    "require_one_of",
]

SegmentKind = Literal["text", "image"]
SegmentRole = Literal["prompt", "generated", "thought", "candidate"]
FinishReason = Literal[
    "stop",
    "length",
    "max_blocks",
    "max_images",
    "stop_string",
    "context_full",
    "no_image",
    "interrupted",
    "error",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One text or one image of a run, with how it came about.

    Attributes:
        kind: "text" or "image".
        role: "prompt" for what the caller gave (a protocol's own system prompt belongs to the
            configuration), "generated" for what the model made, "thought" for its planning,
            "candidate" for pictures that were not chosen: they follow the one that was.
        text: The text of a text segment, without control tokens; may be empty.
        image: The picture of an image segment, kept without the metadata of its file (a photo
            tells where it was taken); absent only where `error` says why.
        token_ids: The ids of a text segment as they were read or sampled.
        seed: The seed that the segment was drawn from, where there was one.
        size: (height, width) in pixels of an image segment; taken from `image` if not given.
        seconds: Time spent on it.
        error: What went wrong with it, in words.
    """

    kind: SegmentKind
    role: SegmentRole
    text: str | None = None
    image: Image.Image | None = None
    token_ids: tuple[int, ...] = ()
    seed: int | None = None
    size: tuple[int, int] | None = None
    seconds: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, get_args(SegmentKind))
        require_one_of("role", self.role, get_args(SegmentRole))
        if self.kind == "text" and (not isinstance(self.text, str) or self.image is not None):
            raise ValueError(
                "a text segment takes text (a str) and no image, got "
                f"text={shown(self.text)}, image={shown(self.image)}"
            )
        if self.kind == "image" and (self.text is not None or not self._has_image_or_error()):
            raise ValueError(
                "an image segment takes an image (a PIL image, or an error that says why there "
                f"is none) and no text, got text={shown(self.text)}, image={shown(self.image)}"
            )
        if self.text is not None:
            # A caller's own kind of text must not be asked again once it has been read.
            object.__setattr__(self, "text", str.__str__(self.text))
        if self.image is not None:
            object.__setattr__(self, "image", bare(self.image))
            object.__setattr__(self, "size", self.size or (self.image.height, self.image.width))

    def _has_image_or_error(self) -> bool:
        if self.image is None:
            return self.error is not None
        return isinstance(self.image, Image.Image)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a run cost.

    Attributes:
        prompt_tokens: Tokens read before the first one was written, images included.
        text_tokens: Tokens written as text.
        thought_tokens: Tokens written while planning.
        image_tokens: Tokens that the drawn images take in the context.
        images: Images drawn.
        seconds: Time from the first token read to the last event.
    """

    prompt_tokens: int = 0
    text_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    images: int = 0
    seconds: float = 0.0


def require_one_of(name: str, value: object, allowed: tuple[Any, ...]) -> None:
    """Raise a ValueError that names what is allowed, unless `value` is one of it."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")
