"""Responses: the typed and ordered format, in which one request may continue another."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from auto_interleaved.serving.answers import Piece, failure, pieces
from auto_interleaved.serving.calls import Call, EventStream, unless_gone
from auto_interleaved.serving.errors import Refusal, refusal_of
from auto_interleaved.serving.fields import (
    refuse_unless,
    sampled,
    shape_of_size,
)
from auto_interleaved.serving.inputs import Input, Text
from auto_interleaved.serving.kept import NotKeptError
from auto_interleaved.serving.orders import Order, Over
from auto_interleaved.serving.pictures import Delivery
from auto_interleaved.serving.response_events import ResponseEvents
from auto_interleaved.serving.response_requests import (
    NEUTRAL,
    TOOL_NEUTRAL,
    ImageTool,
    ResponseFields,
    ResponseRequest,
)
from auto_interleaved.serving.served import (
    KEEP_ALIVE,
    STREAMED,
    Served,
    TheOwner,
    TheServed,
    event,
    nobody,
)

router = APIRouter(tags=["responses"])

Heard = AsyncIterator[tuple[int, Piece] | None]


@router.post("/v1/responses", response_model=None, responses=STREAMED)
async def respond(
    body: ResponseRequest,  # type: ignore[valid-type]
    request: Request,
    served: TheServed,
    owner: TheOwner,
) -> Response:
    """Answer with texts and pictures in order."""
    return await answered(body, request, served, owner)


@router.delete("/v1/responses/{name}")
async def forget(name: str, served: TheServed, owner: TheOwner) -> dict[str, Any]:
    """Keep a response no longer."""
    was_kept = await _forgotten(name, served, owner)
    if served.archive is not None:
        was_kept = await served.archive.forget(name, owner)
    if not was_kept:
        raise refusal_of(NotKeptError(name))
    return {"id": name, "object": "response", "deleted": True}


async def _forgotten(name: str, served: Served, owner: str) -> bool:
    """Let the worker forget a response; return whether it had it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bool] = loop.create_future()

    def tell(was_kept: bool) -> None:
        loop.call_soon_threadsafe(found.set_result, was_kept)

    served.worker.forget(name, owner, tell)
    return await found


async def answered(body: ResponseFields, request: Request, served: Served, owner: str) -> Response:
    """Answer a request, at once or as a stream."""
    served.require_model(body.model)
    refuse_unless(body, NEUTRAL)
    tool = body.tools[0] if body.tools else None
    if tool is not None:
        refuse_unless(tool, TOOL_NEUTRAL)
    prompt, options = await served.asked(body, _inputs(body), _meant(body, tool, served))
    most = min(body.max_output_tokens or served.limits.max_tokens, served.limits.max_tokens)
    name = f"resp_{secrets.token_urlsafe(32)}"
    order = Order(
        prompt=prompt,
        options=options,
        tell=nobody,
        max_tokens=most,
        owner=owner,
        after=body.previous_response_id,
        keep_as=None if body.store is False else name,
    )
    about = _about(body, served.name, options.seed)
    most_previews = tool.partial_images if tool and tool.partial_images else options.num_timesteps
    events = ResponseEvents(name, about, most_previews)
    await served.bring(order.after, owner)
    call = await served.begun([order])
    if tool is not None and tool.output_format is not None:
        body = body.model_copy(update={"image_format": tool.output_format})
    delivery = served.delivery(request, body)
    told = _shared(call, delivery, partial(served.share, name, owner))
    if body.stream:
        return EventStream(_stream(events, told), call, _broken)
    try:
        return JSONResponse(await unless_gone(request, _whole(events, told)))
    finally:
        call.close()


def _inputs(body: ResponseFields) -> Iterator[Input]:
    if body.instructions:
        yield Text(text=body.instructions, place="instructions")
    if isinstance(body.input, str):
        yield Text(text=body.input, place="input")
        return
    for number, item in enumerate(body.input):
        yield from item.inputs(f"input[{number}]")


def _meant(body: ResponseFields, tool: ImageTool | None, served: Served) -> dict[str, Any]:
    """Return what the format's fields come to, by the library's names."""
    meant = sampled(body.temperature, body.top_p, body)
    if body.max_output_tokens is not None and getattr(body, "max_text_length", None) is None:
        meant["max_text_length"] = min(body.max_output_tokens, served.limits.max_tokens)
    if body.tool_choice == "none":
        meant["max_images"] = 0
    elif body.max_tool_calls is not None:
        meant["max_images"] = body.max_tool_calls
    if tool is None:
        return meant
    shape = shape_of_size(tool.size, "tools[0].size")
    if shape is not None:
        meant["image_shape"] = shape
    if tool.partial_images:
        points = getattr(body, "num_timesteps", None) or getattr(body, "num_inference_steps", None)
        steps = (points if isinstance(points, int) else 50) - 1
        meant["preview_every"] = max(1, math.ceil(steps / (tool.partial_images + 1)))
    return meant


def _about(body: ResponseFields, model: str, seed: Any) -> dict[str, Any]:
    """Return what a response says of its request; nothing of what may be long."""
    return {
        "model": model,
        "seed": seed,
        "previous_response_id": body.previous_response_id,
        "store": body.store is not False,
        "instructions": None,
        "metadata": {},
        "max_output_tokens": body.max_output_tokens,
        "parallel_tool_calls": False,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tool_choice": body.tool_choice or "auto",
        "tools": [
            tool.model_dump(exclude_none=True, exclude={"model"}) for tool in body.tools or []
        ],
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None, "summary": None},
    }


async def _shared(
    call: Call, delivery: Delivery, share: Callable[[Over], Awaitable[None]]
) -> Heard:
    """Yield what the client is told; the end only once others know where that is."""
    async for told in pieces(call, delivery):
        if told is not None and isinstance(told[1], Over):
            await share(told[1])
        yield told


async def _whole(events: ResponseEvents, heard: Heard) -> dict[str, Any]:
    """Return a response once it is over.

    Raises:
        Refusal: if it failed and nothing was made.
    """
    async for told in heard:
        if told is None:
            continue
        for _ in events.take(told[1]):
            pass
        if isinstance(told[1], Over) and events.response["status"] == "failed":
            raise failure(told[1]) or Refusal(500, "generation failed")
    return events.response


async def _stream(events: ResponseEvents, heard: Heard) -> AsyncIterator[str]:
    for made in events.begin():
        yield event(made, made["type"])
    async for told in heard:
        if told is None:
            yield KEEP_ALIVE
            continue
        for made in events.take(told[1]):
            yield event(made, made["type"])
    if events.response["error"] is not None:
        yield "data: [DONE]\n\n"


def _broken(refusal: Refusal) -> str:
    told = refusal.body()["error"]
    named = {name: told[name] for name in ("code", "message", "param")}
    return event({"type": "error", "sequence_number": 0, **named}, "error") + "data: [DONE]\n\n"
