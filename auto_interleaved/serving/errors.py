"""Errors as clients read them: a status, and `{"error": {...}}` in OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from auto_interleaved.serving.kept import NotKeptError, OutOfReachError
from data.wording import shown, shown_error

logger = logging.getLogger("auto_interleaved")

_KINDS = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    429: "queue_full",
    499: "client_gone",
    503: "not_ready",
}
_TAGS = {"text", "image_url", "input_text", "output_text", "input_image"}
_TAGS |= {"message", "image_generation_call", "reasoning"}


class Refusal(HTTPException):
    """A request that is not answered, and why.

    Args:
        status: of HTTP.
        message: what was given, what is allowed, what to do.
        param: the field that it is about.
        code: a word for programs; None: that of the status.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return what the client is sent."""
        return error_body(self.status_code, self.detail, param=self.param, code=self.code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = code or _CODES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None = None) -> Refusal:
    """Return the refusal of a value."""
    return Refusal(400, message, param=param, code="invalid_value")


def refusal_of(error: Exception) -> Refusal:
    """Return how a client is told of what the worker could not begin with."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NotKeptError):
        return Refusal(
            404,
            f"no response {shown(str(error))} is kept: there was none, it was made without store "
            "or by another key, did not come to its end, or has made room for newer ones; "
            "send its items in input again",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if isinstance(error, TypeError | ValueError):
        return bad_request(str(error))
    return Refusal(500, failure_of(error))


def failure_of(error: BaseException | None) -> str:
    """Return what a client is told of a failure: a line, and no traceback."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the model ran out of memory; ask for less, or again later"
    if error is None:
        return "generation ended before its time"
    return f"generation failed ({shown_error(error)})"


def install(app: FastAPI) -> None:
    """Let an app answer every error in this shape."""

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Refusal):
            body = error.body()
        else:
            body = error_body(error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(_: Request, error: RequestValidationError) -> JSONResponse:
        message, param, code = _told(error.errors())
        return JSONResponse(error_body(400, message, param=param, code=code), 400)

    @app.exception_handler(OutOfReachError)
    async def call_back(_: Request, error: OutOfReachError) -> JSONResponse:
        logger.warning("a request was refused: %s", error)
        message = "what replicas share does not answer; come again later"
        return JSONResponse(error_body(503, message), 503, {"Retry-After": "5"})

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(error_body(500, "the server failed; its log says more"), 500)


def _told(errors: Sequence[Any]) -> tuple[str, str | None, str]:
    """Return message, field and code of the first of pydantic's errors, the deepest there."""
    first = errors[0]["loc"][:2]
    error = max(
        (error for error in errors if error["loc"][:2] == first), key=lambda e: len(e["loc"])
    )
    if error["type"] == "unknown_option":
        place = _place(error["loc"][1:])
        name = error["ctx"]["name"]
        message = error["ctx"]["message"] + (f" (in {place})" if place else "")
        return message, f"{place}.{name}" if place else name, "unknown_parameter"
    if error["type"] == "json_invalid":
        return "the body is no JSON: " + str(error["ctx"]["error"]), None, "invalid_json"
    place = _place(error["loc"][1:])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{place or 'the body'} is missing", place or None, "missing_parameter"
    given = shown(error.get("input"))
    return f"{place or 'the body'}: {message}, got {given}", place or None, "invalid_value"


def _place(loc: Sequence[Any]) -> str:
    """Return a place in a body as a path; pydantic's names of types within it are left out."""
    place = ""
    for step in loc:
        if isinstance(step, int):
            place += f"[{step}]"
        elif place.endswith("]") and step in _TAGS:
            continue  # which of several types an entry of a list is
        elif isinstance(step, str) and step.isidentifier() and step not in ("str", "dict"):
            place += f".{step}" if place else step
    return place
