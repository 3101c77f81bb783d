"""Chat completions: the format that most clients know, with pictures beside the text or in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from auto_interleaved.serving.answers import (
    Answer,
    Cost,
    Drawn,
    Piece,
    Preview,
    ended,
    failure,
    pieces,
    whole,
)
from auto_interleaved.serving.calls import Call, EventStream, unless_gone
from auto_interleaved.serving.errors import Refusal, bad_request
from auto_interleaved.serving.fields import (
    Strict,
    Told,
    refuse_unless,
    sampled,
    shape_of_aspect,
    with_options,
)
from auto_interleaved.serving.inputs import Input, Picture, Text
from auto_interleaved.serving.orders import Order, Over
from auto_interleaved.serving.pictures import Delivery
from auto_interleaved.serving.served import (
    KEEP_ALIVE,
    Served,
    TheOwner,
    TheServed,
    event,
    nobody,
)
from data.output.events import TextDelta, ThoughtDelta

router = APIRouter(tags=["chat"])


class TextPart(Strict):
    """A text."""

    type: Literal["text"]
    text: str
    cache_control: Any = None


class ImageUrl(Strict):
    """Where a picture is: in a `data:` URL."""

    url: str
    detail: str | None = None


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl | str
    index: int | None = None
    size: str | None = None
    seed: int | None = None


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Strict):
    """A message: of the client's, or an earlier answer as it came.

    What else an answer has is no part of what is read: plans, and notes of other servers.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    images: list[ImagePart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)

    def inputs(self, place: str) -> Iterator[Input]:
        """Yield what is read of it, in order."""
        if isinstance(self.content, str):
            yield Text(text=self.content, place=f"{place}.content")
        parts = self.content if isinstance(self.content, list) else []
        for name, several in (("content", parts), ("images", self.images or [])):
            for number, part in enumerate(several):
                where = f"{place}.{name}[{number}]"
                if isinstance(part, TextPart):
                    yield Text(text=part.text, place=where)
                else:
                    url = part.image_url
                    yield Picture(source=url if isinstance(url, str) else url.url, place=where)


class ImageConfig(Strict):
    """What pictures are to be like."""

    aspect_ratio: str | None = None


class StreamOptions(Strict):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatFields(Told):
    """A request for a chat completion. Options of the library may stand beside these fields."""

    messages: list[Message] = Field(min_length=1)
    modalities: list[Literal["text", "image"]] | None = None
    content_format: Literal["text", "parts"] = Field(
        "text", description='"parts": content is a list of texts and pictures in order'
    )
    image_config: ImageConfig | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    store: bool | None = None
    reasoning_effort: str | None = None


ChatRequest = with_options(ChatFields)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "store": (False,),
    "reasoning_effort": ("none",),
}


@router.post("/v1/chat/completions", response_model=None)
async def complete(
    body: ChatRequest,  # type: ignore[valid-type]
    request: Request,
    served: TheServed,
    owner: TheOwner,
) -> Response:
    """Answer messages with texts and pictures."""
    return await answered(body, request, served, owner)


async def answered(body: ChatFields, request: Request, served: Served, owner: str) -> Response:
    """Answer a request, at once or as a stream."""
    served.require_model(body.model)
    refuse_unless(body, _NEUTRAL)
    meant = _meant(body, served)
    inputs = [
        part
        for number, message in enumerate(body.messages)
        for part in message.inputs(f"messages[{number}]")
    ]
    prompt, options = await served.asked(body, inputs, meant)
    limit = body.max_completion_tokens or body.max_tokens
    most = min(limit or served.limits.max_tokens, served.limits.max_tokens)
    order = Order(prompt=prompt, options=options, tell=nobody, max_tokens=most, owner=owner)
    orders = served.orders(order, body.n or 1)
    seeds = [order.options.seed for order in orders]
    telling = _Telling(body, served.name, seeds)
    call = await served.begun(orders)
    delivery = served.delivery(request, body)
    if body.stream:
        return EventStream(telling.stream(call, delivery), call, _broken)
    try:
        answers = await unless_gone(request, whole(call, delivery, len(orders)))
    finally:
        call.close()
    return JSONResponse(telling.completion(answers))


def _meant(body: ChatFields, served: Served) -> dict[str, Any]:
    """Return what the format's fields come to, by the library's names."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise bad_request("max_tokens and max_completion_tokens are one; leave one out")
    meant = sampled(body.temperature, body.top_p, body)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is not None and getattr(body, "max_text_length", None) is None:
        meant["max_text_length"] = min(limit, served.limits.max_tokens)
    if body.stop:
        meant["stop_strings"] = body.stop
    modalities = set(body.modalities or ("text", "image"))
    if modalities == {"text"}:
        meant["max_images"] = 0
    elif modalities == {"image"}:
        raise bad_request(
            'modalities must have "text" in it; pictures alone come from /v1/images/generations',
            "modalities",
        )
    if body.image_config is not None and body.image_config.aspect_ratio is not None:
        ratio = body.image_config.aspect_ratio
        meant["image_shape"] = shape_of_aspect(ratio, served.model, served.image_shape)
    return meant


class _Telling:
    """Puts answers into the format's words.

    Args:
        body: the request.
        model: its name.
        seeds: of the answers.
    """

    def __init__(self, body: ChatFields, model: str, seeds: list[Any]) -> None:
        self._in_parts = body.content_format == "parts"
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._seeds = seeds
        self._head = {
            "id": f"chatcmpl-{secrets.token_urlsafe(18)}",
            "created": int(time.time()),
            "model": model,
        }

    def completion(self, answers: list[Answer]) -> dict[str, Any]:
        """Return the whole of it."""
        overs = [answer.over for answer in answers if answer.over is not None]
        told = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(place, answer) for place, answer in enumerate(answers)],
            "usage": Cost.of(overs).told("prompt", "completion"),
        }
        for over in overs:
            refusal = failure(over)
            if refusal is not None:
                told |= refusal.body()
        return told

    def _choice(self, place: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if self._in_parts:
            message["content"] = [
                {"type": "text", "text": item} if isinstance(item, str) else _part(item)
                for item in answer.items
            ]
        elif answer.images:
            message["images"] = [_part(drawn, with_index=True) for drawn in answer.images]
        if answer.thought:
            message["reasoning_content"] = answer.thought
        assert answer.over is not None
        return {
            "index": place,
            "message": message,
            "logprobs": None,
            **self._ending(place, answer.over),
        }

    def _ending(self, place: int, over: Over) -> dict[str, Any]:
        return {
            "finish_reason": ended(over),
            "native_finish_reason": over.reason,
            "seed": self._seeds[place],
        }

    async def stream(self, call: Call, delivery: Delivery) -> AsyncIterator[str]:
        """Yield the events of a stream; whatever happens, the last one says that it is over."""
        overs: list[Over] = []
        for place in range(len(self._seeds)):
            yield event(self._chunk(place, {"role": "assistant", "content": ""}))
        async for told in pieces(call, delivery):
            if told is None:
                yield KEEP_ALIVE
                continue
            place, piece = told
            if isinstance(piece, Over):
                overs.append(piece)
                yield event(self._chunk(place, {}, self._ending(place, piece)))
            elif (delta := _delta(piece)) is not None:
                yield event(self._chunk(place, delta))
        for over in overs:
            refusal = failure(over)
            if refusal is not None:
                yield event(refusal.body())
        if self._with_usage:
            usage = Cost.of(overs).told("prompt", "completion")
            yield event({**self._head, "object": _CHUNK, "choices": [], "usage": usage})
        yield _DONE

    def _chunk(
        self, place: int, delta: dict[str, Any], ending: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": place, "delta": delta, **(ending or {"finish_reason": None})}
        return {**self._head, "object": _CHUNK, "choices": [choice]}


_CHUNK = "chat.completion.chunk"
_DONE = "data: [DONE]\n\n"


def _broken(refusal: Refusal) -> str:
    return event(refusal.body()) + _DONE


def _delta(piece: Piece) -> dict[str, Any] | None:
    if isinstance(piece, TextDelta):
        return {"content": piece.text}
    if isinstance(piece, ThoughtDelta):
        return {"reasoning_content": piece.text}
    if isinstance(piece, Drawn):
        return {"images": [_part(piece, with_index=True)]}
    if isinstance(piece, Preview):
        preview = {"index": piece.index, "step": piece.step, "url": piece.picture.url}
        return {"image_previews": [preview]}
    return None


def _part(drawn: Drawn, *, with_index: bool = False) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": drawn.picture.url},
        **({"index": drawn.index} if with_index else {}),
        "size": drawn.picture.told_size,
        "seed": drawn.seed,
    }
