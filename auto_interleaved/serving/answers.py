"""Answers: what a run tells of, folded into texts and pictures in order, in no format yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from auto_interleaved.serving.calls import Call, stopping
from auto_interleaved.serving.errors import Refusal, failure_of
from auto_interleaved.serving.orders import Over, Reason
from auto_interleaved.serving.pictures import Delivered, Delivery
from auto_interleaved.serving.plans import TaglessPlan
from data.output import Usage
from data.output.events import ImageDone, ImagePreview, ImageStarted, TextDelta, ThoughtDelta

_ENDED: dict[Reason, Literal["stop", "length", "error"]] = {
    "stop": "stop",
    "stop_string": "stop",
    "no_image": "stop",
    "length": "length",
    "max_blocks": "length",
    "max_images": "length",
    "context_full": "length",
    "max_tokens": "length",
    "time_limit": "length",
    "stopping": "error",
    "interrupted": "error",
    "error": "error",
}


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a picture would become.

    Attributes:
        index: of the picture in its run.
        step: steps done so far.
        picture: a small one.
    """

    index: int
    step: int
    picture: Delivered


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture of an answer.

    Attributes:
        index: of the picture in its run.
        seed: of its noise.
        picture: as the client gets it.
    """

    index: int
    seed: int | None
    picture: Delivered


Piece = TextDelta | ThoughtDelta | ImageStarted | Preview | Drawn | Over


async def pieces(call: Call, delivery: Delivery) -> AsyncIterator[tuple[int, Piece] | None]:
    """Yield what clients are told of, with the place of its run; None to keep a stream alive."""
    plans: dict[int, TaglessPlan] = {}
    async for heard in call:
        if heard is None:
            yield None
            continue
        place, told = heard
        if isinstance(told, ThoughtDelta):
            more = plans.setdefault(place, TaglessPlan()).more(told.text)
        else:
            more = plans.pop(place).rest() if place in plans else ""
        if more:
            yield place, ThoughtDelta(text=more)
        if isinstance(told, ImagePreview):
            shown = await asyncio.to_thread(delivery.preview, told.image)
            yield place, Preview(index=told.index, step=told.step, picture=shown)
        elif isinstance(told, ImageDone):
            picture = await asyncio.to_thread(delivery.of, told.image)
            yield place, Drawn(index=told.index, seed=told.segment.seed, picture=picture)
        elif isinstance(told, TextDelta | ImageStarted | Over):
            yield place, told


@dataclass(kw_only=True)
class Answer:
    """What a run has made so far.

    Attributes:
        items: texts and pictures in order; a text that goes on is one.
        text: all texts, with line breaks where pictures stand between them.
        thought: what was planned.
        over: how it ended.
    """

    items: list[str | Drawn] = field(default_factory=list)
    text: str = ""
    thought: str = ""
    over: Over | None = None

    def take(self, piece: Piece) -> None:
        """Take what is told next."""
        if isinstance(piece, ThoughtDelta):
            self.thought += piece.text
        elif isinstance(piece, Drawn):
            self.items.append(piece)
        elif isinstance(piece, Over):
            self.over = piece
        elif isinstance(piece, TextDelta):
            self.text += piece.text
            if self.items and isinstance(self.items[-1], str):
                self.items[-1] += piece.own
            else:
                self.items.append(piece.own)

    @property
    def images(self) -> list[Drawn]:
        """The pictures."""
        return [item for item in self.items if not isinstance(item, str)]


async def whole(call: Call, delivery: Delivery, count: int) -> list[Answer]:
    """Return the answers of all runs of a call, once they are over.

    Raises:
        Refusal: if one failed and none has made anything.
    """
    answers = [Answer() for _ in range(count)]
    async for told in pieces(call, delivery):
        if told is not None:
            answers[told[0]].take(told[1])
    failures = [failure(answer.over) for answer in answers if answer.over is not None]
    made = any(answer.items or answer.thought for answer in answers)
    for refusal in failures:
        if refusal is not None and not made:
            raise refusal
    return answers


def ended(over: Over) -> Literal["stop", "length", "error"]:
    """Return in one word why a run ended."""
    return "error" if failure(over) is not None else _ENDED[over.reason]


def failure(over: Over) -> Refusal | None:
    """Return how a client is told that a run failed; None if it did not."""
    if over.reason == "stopping":
        return stopping()
    if over.reason == "time_limit" and not over.begun:
        return Refusal(
            503, "the request did not have its turn in time; come again later", code="time_limit"
        )
    if _ENDED[over.reason] == "error":
        return Refusal(500, failure_of(over.output.error), code="generation_failed")
    return None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Tokens of all answers to a request; what they all read is counted once.

    Attributes:
        prompt: read.
        text, thought, image: made.
        images: pictures.
    """

    prompt: int
    text: int
    thought: int
    image: int
    images: int

    @classmethod
    def of(cls, overs: Iterable[Over]) -> Cost:
        """Return what runs cost together."""
        used: list[Usage] = [over.output.usage for over in overs]
        return cls(
            prompt=max((usage.prompt_tokens for usage in used), default=0),
            text=sum(usage.text_tokens for usage in used),
            thought=sum(usage.thought_tokens for usage in used),
            image=sum(usage.image_tokens for usage in used),
            images=sum(usage.images for usage in used),
        )

    @property
    def made(self) -> int:
        """Tokens made, of every kind."""
        return self.text + self.thought + self.image

    def told(self, read: str, made: str) -> dict[str, Any]:
        """Return the usage of a format, which calls tokens that were read and made so."""
        details = {"text_tokens": self.text, "image_tokens": self.image}
        return {
            f"{read}_tokens": self.prompt,
            f"{made}_tokens": self.made,
            "total_tokens": self.prompt + self.made,
            f"{read}_tokens_details": {"cached_tokens": 0},
            f"{made}_tokens_details": {**details, "reasoning_tokens": self.thought},
        }
