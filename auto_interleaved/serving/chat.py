"""Chat completions: the format that most clients know, with pictures beside the text or in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

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
from auto_interleaved.serving.chat_requests import NEUTRAL, ChatFields, ChatRequest
from auto_interleaved.serving.errors import Refusal, bad_request
from auto_interleaved.serving.fields import (
    refuse_unless,
    sampled,
    shape_of_aspect,
)
from auto_interleaved.serving.orders import Order, Over
from auto_interleaved.serving.pictures import Delivery
from auto_interleaved.serving.served import (
    KEEP_ALIVE,
    STREAMED,
    Served,
    TheOwner,
    TheServed,
    event,
    nobody,
)
from data.output.events import TextDelta, ThoughtDelta

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=None, responses=STREAMED)
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
    refuse_unless(body, NEUTRAL)
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
