"""Pictures alone: generations and edits, as OpenAI's images API has them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile

from auto_interleaved.serving.answers import Answer, Cost, Drawn, failure, whole
from auto_interleaved.serving.calls import unless_gone
from auto_interleaved.serving.errors import Refusal, bad_request
from auto_interleaved.serving.fields import (
    Told,
    refuse_unless,
    shape_of_size,
    with_options,
)
from auto_interleaved.serving.inputs import Input, Picture, Text
from auto_interleaved.serving.orders import Order
from auto_interleaved.serving.served import Served, TheOwner, TheServed, nobody
from data.data_utils import MARKERS

router = APIRouter(tags=["images"])


class ImagesFields(Told):
    """A request for pictures. Options of the library may stand beside these fields."""

    prompt: str = Field(min_length=1)
    n: int | None = Field(None, ge=1)
    size: str | None = Field(None, description='"auto", or WIDTHxHEIGHT in pixels')
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    stream: bool | None = None
    partial_images: int | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_compression: int | None = None
    input_fidelity: str | None = None


ImagesRequest = with_options(ImagesFields)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "partial_images": (0,),
    "quality": ("auto",),
    "style": (),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_compression": (100,),
    "input_fidelity": (),
}
_WORDS = {"prompt", "model", "size", "user", "protocol"}
_IMAGE_FIELDS = ("image", "image[]")
_MOST_FIELDS = 128


@router.post("/v1/images/generations", response_model=None)
async def generate(
    body: ImagesRequest,  # type: ignore[valid-type]
    request: Request,
    served: TheServed,
    owner: TheOwner,
) -> Response:
    """Draw pictures of a text."""
    return await _drawn(body, [], request, served, owner)


_EDIT_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "prompt": {"type": "string"},
                        "n": {"type": "integer"},
                        "size": {"type": "string"},
                        "response_format": {"type": "string", "enum": ["b64_json", "url"]},
                    },
                }
            }
        },
    }
}


@router.post("/v1/images/edits", response_model=None, openapi_extra=_EDIT_SCHEMA)
async def edit(request: Request, served: TheServed, owner: TheOwner) -> Response:
    """Draw pictures from others that come with the request, as a text says."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise bad_request("an edit must be sent as multipart/form-data")
    most = served.limits.max_pictures
    async with request.form(max_files=most, max_fields=_MOST_FIELDS) as form:
        given: dict[str, Any] = {}
        inputs: list[Input] = []
        for name, value in form.multi_items():
            if name in _IMAGE_FIELDS:
                if not isinstance(value, UploadFile):
                    raise bad_request("image must be a file", "image")
                inputs.append(Picture(source=await value.read(), place="image"))
            elif not isinstance(value, str):
                raise bad_request(f"{name} must not be a file; pictures are sent as image", name)
            elif name in given:
                raise bad_request(f"{name} is given twice", name)
            else:
                given[name] = _value(name, value)
    if not inputs:
        raise Refusal(400, "image is missing", param="image", code="missing_parameter")
    try:
        body = ImagesRequest.model_validate(given)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(found) from error
    return await _drawn(body, inputs, request, served, owner)


def _value(name: str, text: str) -> Any:
    """Return the value of a form's field: words where only words are meant, else as JSON."""
    if name in _WORDS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


async def _drawn(
    body: ImagesFields, pictures: list[Input], request: Request, served: Served, owner: str
) -> Response:
    served.require_model(body.model)
    refuse_unless(body, _NEUTRAL)
    meant: dict[str, Any] = {}
    shape = shape_of_size(body.size)
    if shape is not None:
        meant["image_shape"] = shape
    inputs = [*pictures, Text(text=body.prompt + MARKERS["start_of_image"], place="prompt")]
    prompt, options = await served.asked(body, inputs, meant)
    order = Order(prompt=prompt, options=options, tell=nobody, wanted_images=1, owner=owner)
    orders = served.orders(order, body.n or 1)
    update = {
        "image_delivery": "url" if body.response_format == "url" else body.image_delivery,
        "image_format": body.output_format or body.image_format,
    }
    delivery = served.delivery(request, body.model_copy(update=update))
    call = await served.begun(orders)
    try:
        answers = await unless_gone(request, whole(call, delivery, len(orders)))
    finally:
        call.close()
    stride = served.model.latent_downsample
    return JSONResponse(_told(answers, orders, delivery.format, stride))


def _told(answers: list[Answer], orders: list[Order], kind: str, stride: int) -> dict[str, Any]:
    overs = [answer.over for answer in answers if answer.over is not None]
    drawn = [(order, image) for order, a in zip(orders, answers, strict=True) for image in a.images]
    if not drawn:
        raise Refusal(500, "no picture came of it", code="generation_failed")
    told: dict[str, Any] = {
        "created": int(time.time()),
        "data": [
            {
                **(
                    {"url": image.picture.url}
                    if image.picture.base64 is None
                    else {"b64_json": image.picture.base64}
                ),
                "size": image.picture.told_size,
                "seed": order.options.seed,
            }
            for order, image in drawn
        ],
        "size": drawn[0][1].picture.told_size,
        "output_format": kind,
        "usage": replace(Cost.of(overs), image=_tokens(drawn, stride)).told("input", "output"),
    }
    for over in overs:
        refusal = failure(over)
        if refusal is not None:
            told |= refusal.body()
    return told


def _tokens(drawn: list[tuple[Order, Drawn]], stride: int) -> int:
    """Return the latent tokens of pictures, which nobody has read since, with their markers."""
    sizes = [image.picture.size for _, image in drawn]
    return sum((width // stride) * (height // stride) + 2 for width, height in sizes)
