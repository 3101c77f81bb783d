"""The fields of requests: those of a format, beside them every option of the library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model, model_validator
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema
from pydantic_core import PydanticCustomError

from auto_interleaved.options.generation import ALIASES, SIDES, GenerationOptions, make_options
from auto_interleaved.options.spellings import unknown_option
from auto_interleaved.serving.errors import bad_request
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import DeliveryKind, Format
from auto_interleaved.terminal.help_texts import OPTIONS
from data.protocols import PROTOCOLS
from data.wording import shown
from modeling.bagel import Bagel

# Functions cannot be sent, and what a failure does is the format's to say.
_NOT_SENT = ("logits_processor", "generator", "callback_on_step_end", "choose", "on_error")
_SCHEMAS: Mapping[str, Any] = {
    "protocol": {"type": "string", "enum": list(PROTOCOLS)},
    "seed": {"type": "integer", "minimum": -1, "maximum": 2**64 - 1},
}
_LONGEST_NAME = 100  # of an unknown field that is told; to look for its like takes time
Model = TypeVar("Model", bound="Strict")

Entry = TypeVar("Entry")
# A list of a request. At the first entry that is wrong it is: nobody reads of a million.
Several = Annotated[list[Entry], Field(max_length=10_000, fail_fast=True)]


class Strict(BaseModel):
    """Fields of which none may be unknown and each has the type that it says."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown(cls, given: Any) -> Any:
        """Refuse a field that there is not, and name the nearest; null says nothing."""
        if not isinstance(given, Mapping):
            return given
        given = {name: value for name, value in given.items() if value is not None}
        known = list(cls.model_fields)
        for name in given:
            if name not in known:
                message = unknown_option(str(name)[:_LONGEST_NAME], known)
                raise PydanticCustomError(
                    "unknown_option", "{message}", {"message": message, "name": shown(name)[1:-1]}
                )
        return given


class Told(Strict):
    """What every request may say beside its format's own."""

    model: str | None = None
    extra_body: SkipJsonSchema[dict[str, Any] | None] = None
    image_delivery: DeliveryKind = Field(
        "data", description="pictures within the answer, or by a URL that holds for a while"
    )
    image_format: Format = Field("png", description="of the pictures' files")
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def take_out_extra_body(cls, given: Any) -> Any:
        """Take what stands under `extra_body` as if it stood beside it."""
        if not isinstance(given, Mapping) or not isinstance(given.get("extra_body"), Mapping):
            return given
        outer = {name: value for name, value in given.items() if name != "extra_body"}
        for name in given["extra_body"]:
            if name in outer:
                message = f"{shown(name)} is given twice, beside extra_body and in it"
                raise PydanticCustomError("value_error", "{message}", {"message": message})
        return {**outer, **given["extra_body"]}


def _option_fields() -> dict[str, Any]:
    """Return a field for each option: any value, which the library checks, and how it looks."""
    hints = get_type_hints(GenerationOptions)
    texts = {name: text for group in OPTIONS.values() for name, text in group.items()}
    texts["preview_every"] = "steps between two previews of a picture; 0 is none"
    made: dict[str, Any] = {}
    for entry in fields(GenerationOptions):
        if entry.name in _NOT_SENT:
            continue
        schema = _SCHEMAS.get(entry.name) or TypeAdapter(hints[entry.name]).json_schema()
        described = {**schema, "description": texts.get(entry.name, "")}
        made[entry.name] = (_shaped(described), None)
    for alias, name in ALIASES.items():
        made[alias] = (_shaped({"description": f"the same as {name}"}), None)
    for side in SIDES:
        made[side] = (_shaped({"type": "integer", "description": "of pictures, in pixels"}), None)
    return made


def _shaped(schema: dict[str, Any]) -> Any:
    return Annotated[Any, WithJsonSchema(schema)]


OPTION_FIELDS: Mapping[str, Any] = _option_fields()


def with_options(model: type[Model]) -> type[Model]:
    """Return a format's fields together with the library's options; its own come first."""
    own = {name: field for name, field in OPTION_FIELDS.items() if name not in model.model_fields}
    made: type[Model] = create_model(
        model.__name__.removesuffix("Fields"), __base__=model, __doc__=model.__doc__, **own
    )
    return made


def options_of(body: Told, meant: Mapping[str, Any], limits: Limits) -> GenerationOptions:
    """Return the options of a request.

    Args:
        body: the request; what it says under the library's names counts as it stands.
        meant: what the format's own fields come to, by the library's names.
        limits: of this server.

    Raises:
        Refusal: if an option is wrong, above a limit, or given twice.
    """
    [formats, *_] = type(body).__bases__
    assert issubclass(formats, Told)
    given = {
        name: getattr(body, name)
        for name in OPTION_FIELDS
        if name in body.model_fields_set and name not in formats.model_fields
    }
    for name in meant:
        if name in given:
            raise bad_request(f"{name} is given under two names; leave one of them out", param=name)
    try:
        options = make_options(limits.completed({**meant, **given}))
        limits.check(options)
    except (TypeError, ValueError) as error:
        raise bad_request(str(error), param=_named_in(str(error), given)) from error
    return options


def _named_in(message: str, given: Mapping[str, Any]) -> str | None:
    """Return the field that a message of the library's begins with."""
    first = message.split(" ", 1)[0]
    return first if first in given else None


def shape_of_size(size: str | None, place: str = "size") -> tuple[int, int] | None:
    """Return (height, width) of a size such as "1024x768", width first; None for "auto".

    Raises:
        Refusal: if it is none.
    """
    if size is None or size == "auto":
        return None
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(size) <= 12):
        raise bad_request(
            f'{place} must be "auto" or WIDTHxHEIGHT in pixels, such as "1024x768", '
            f"got {shown(size)}",
            param=place,
        )
    return int(height), int(width)


def shape_of_aspect(ratio: str, model: Bagel, shape: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of an aspect ratio such as "16:9", in about the pixels of a shape.

    Raises:
        Refusal: if it is none, or the model draws nothing so narrow.
    """
    width, _, height = ratio.partition(":")
    if not (width.isdecimal() and height.isdecimal() and len(ratio) <= 9):
        raise bad_request(
            f'aspect_ratio must be two numbers such as "16:9", got {shown(ratio)}',
            param="image_config.aspect_ratio",
        )
    if not (int(width) and int(height) and 1 / 8 <= int(width) / int(height) <= 8):
        raise bad_request(
            f"aspect_ratio must be from 1:8 to 8:1, got {shown(ratio)}",
            param="image_config.aspect_ratio",
        )
    stride = model.latent_downsample
    side = math.sqrt(shape[0] * shape[1] * int(width) / int(height))
    most = math.inf if model.config.interpolate_pos else stride * model.max_latent_size
    scale = min(1.0, most / side, most / (side * int(height) / int(width)))
    sides = (side * int(height) / int(width) * scale, side * scale)
    rows, columns = (max(stride, round(length / stride) * stride) for length in sides)
    return rows, columns


def sampled(temperature: float | None, top_p: float | None, body: Told) -> dict[str, Any]:
    """Return what a format's temperature and top_p come to.

    A temperature above 0 draws tokens, 0 takes the likeliest; with neither it is as the library
    does it by default.
    """
    meant: dict[str, Any] = {}
    if temperature is not None:
        meant["text_temperature"] = temperature
    if top_p is not None:
        meant["top_p"] = top_p
    if meant and getattr(body, "do_sample", None) is None:
        draws = temperature > 0 if temperature is not None else top_p not in (None, 1.0)
        meant["do_sample"] = draws
        if draws and temperature is None and getattr(body, "text_temperature", None) is None:
            meant["text_temperature"] = 1.0
        if not draws:
            meant = {"do_sample": False}
    return meant


def refuse_unless(body: Strict, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what a format knows and this server does not do, unless it asks for nothing.

    Args:
        body: the request.
        allowed: values of fields that change nothing.

    Raises:
        Refusal: if one has another value.
    """
    for name, values in allowed.items():
        value = getattr(body, name)
        if value is not None and value not in values:
            told = " or ".join(shown(entry) for entry in values) or "left out"
            raise bad_request(
                f"{name} is not supported: it must be {told}, got {shown(value)}", param=name
            )
