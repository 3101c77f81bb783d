"""Limits: what one request may ask for, and what all of them may take together."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from auto_interleaved.options.generation import GenerationOptions
from modeling.checks import integer, number

# The options that a request may give no more of than a limit, and which.
_CAPPED = {
    "max_text_length": "max_tokens",
    "max_think_token_n": "max_tokens",
    "max_images": "max_images",
    "max_interleaved_blocks": "max_blocks",
    "num_timesteps": "max_steps",
    "num_candidates": "max_candidates",
}
_DEFAULTS = {entry.name: entry.default for entry in fields(GenerationOptions)}


def _count(default: int, told: str) -> int:
    declared: int = field(default=default, metadata={"told": told, "check": integer(minimum=1)})
    return declared


def _seconds(default: float, told: str) -> float:
    check = number(above=0, maximum=10**7)
    declared: float = field(default=default, metadata={"told": told, "check": check})
    return declared


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may ask for and take; each field's `told` says what it is.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of range.
    """

    max_running: int = _count(16, "requests that are answered at a time")
    max_waiting: int = _count(64, "requests that wait beside those; more are told to come later")
    max_context_memory: int | None = field(
        default=None,
        metadata={
            "told": "bytes of keys and values of all requests and kept responses together",
            "check": lambda name, value: None if value is None else integer(minimum=1)(name, value),
        },
    )
    max_seconds: float = _seconds(600.0, "seconds of a request, those that it waits included")
    max_body: int = _count(32 * 2**20, "bytes of a request's body")
    max_parts: int = _count(1024, "messages and parts of a request")
    max_characters: int = _count(200_000, "characters of all texts of a request")
    max_pictures: int = _count(16, "pictures in a request")
    max_pixels: int = _count(2**25, "pixels of all pictures in a request")
    max_answers: int = _count(8, "answers to a request, its n")
    max_tokens: int = _count(8192, "tokens of an answer, thoughts included")
    max_images: int = _count(16, "pictures in an answer")
    max_blocks: int = _count(64, "rounds of an answer, a text and the picture it led to")
    max_drawn_pixels: int = _count(2**21, "pixels of a picture that is drawn")
    max_steps: int = _count(200, "points on the time line of a picture")
    max_candidates: int = _count(8, "candidates for a picture")
    kept_responses: int = _count(256, "responses that others may continue; the oldest leave first")
    kept_memory: int = _count(2**30, "bytes of those: keys and values, and pictures")
    shared_memory: int = _count(2**28, "bytes of keys and values that requests may begin with")
    picture_memory: int = _count(2**30, "bytes of pictures that are served by URL")
    picture_seconds: float = _seconds(3600.0, "seconds that a picture is served by URL")
    keep_alive_seconds: float = _seconds(10.0, "seconds of silence before a comment in a stream")
    drain_seconds: float = _seconds(30.0, "seconds for requests to end once the server is to stop")

    def __post_init__(self) -> None:
        for entry in fields(self):
            checked = entry.metadata["check"](entry.name, getattr(self, entry.name))
            object.__setattr__(self, entry.name, checked)

    def completed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return options of a request, with limits where their defaults are above those."""
        capped = {
            name: getattr(self, limit)
            for name, limit in _CAPPED.items()
            if _DEFAULTS[name] is not None and _DEFAULTS[name] > getattr(self, limit)
        }
        if not given.get("think"):
            capped.pop("max_think_token_n", None)  # it would be told of that it has no effect
        return {**capped, **given}

    def check(self, options: GenerationOptions) -> None:
        """Refuse options that ask for more than this server gives.

        Raises:
            ValueError: the message names the option and the limit.
        """
        for name, limit in _CAPPED.items():
            wanted, most = getattr(options, name), getattr(self, limit)
            if name == "max_think_token_n" and not options.think and wanted == _DEFAULTS[name]:
                continue
            if wanted is not None and wanted > most:
                raise ValueError(f"{name} must be at most {most} on this server, got {wanted}")
        if isinstance(options.image_shape, tuple):
            self.check_drawn(*options.image_shape)

    def check_drawn(self, height: int, width: int) -> None:
        """Refuse to make a picture of more pixels than this server draws.

        Raises:
            ValueError: if it has more.
        """
        if height * width > self.max_drawn_pixels:
            raise ValueError(
                f"pictures must have at most {self.max_drawn_pixels} pixels on this server, "
                f"got {width} x {height}"
            )
