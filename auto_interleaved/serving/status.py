"""How a server is: the models it has, whether it lives and is ready, and what it has done."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)

from auto_interleaved.serving.errors import Refusal
from auto_interleaved.serving.orders import Over
from auto_interleaved.serving.pictures import Format, Shelf
from auto_interleaved.serving.served import TheServed
from auto_interleaved.serving.worker import Worker

router = APIRouter(tags=["status"])

_PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/models",
    "/pictures",
    "/health",
    "/ready",
    "/metrics",
)


class Metrics:
    """What is counted, in a registry of its own.

    Args:
        worker: whose state is told.
        shelf: whose size is told.
    """

    def __init__(self, worker: Worker, shelf: Shelf) -> None:
        self.registry = CollectorRegistry()
        prefix = "auto_interleaved"

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"{prefix}_{name}", told, labels, registry=self.registry)

        self._requests = counter("requests", "Answers by path and status", "path", "status")
        self._endings = counter("runs", "Runs by why they ended", "reason")
        self._tokens = counter("tokens", "Tokens read and made", "kind")
        self._images = counter("images", "Pictures drawn")
        self._seconds = counter("run_seconds", "Seconds of runs, waiting included")
        for name, told in (
            ("running", "Requests that are answered"),
            ("waiting", "Requests that wait"),
            ("context_bytes", "Bytes that running requests may come to take"),
            ("kept", "Responses that may be continued"),
            ("kept_bytes", "Bytes of those"),
            ("shared_bytes", "Bytes of what requests may begin with"),
            ("rounds", "Rounds of the batch"),
        ):
            gauge = Gauge(f"{prefix}_{name}", told, registry=self.registry)
            gauge.set_function(partial(_standing, worker, name))
        shelved = Gauge(
            f"{prefix}_picture_bytes", "Bytes of pictures served by URL", registry=self.registry
        )
        shelved.set_function(lambda: shelf.nbytes)

    def note_answer(self, path: str, status: int) -> None:
        """Count an answer; paths that there are not are one."""
        known = next((known for known in _PATHS if path.startswith(known)), "other")
        self._requests.labels(known, str(status)).inc()

    def note_run(self, over: Over) -> None:
        """Count a run that is over."""
        usage = over.output.usage
        self._endings.labels(over.reason).inc()
        for kind in ("prompt", "text", "thought", "image"):
            self._tokens.labels(kind).inc(getattr(usage, f"{kind}_tokens"))
        self._images.inc(usage.images)
        self._seconds.inc(usage.seconds)


def _standing(worker: Worker, name: str) -> float:
    value: float = getattr(worker.state, name)
    return value


@router.get("/v1/models")
async def models(served: TheServed) -> dict[str, Any]:
    """Tell which models there are: one."""
    return {"object": "list", "data": [_model(served.name, served.created)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, served: TheServed) -> dict[str, Any]:
    """Tell of a model."""
    served.require_model(name)
    return _model(served.name, served.created)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "auto-interleaved"}


@router.get("/health", response_model=None)
async def health(served: TheServed) -> Response:
    """Tell whether the server lives: whether its worker does."""
    alive = served.worker.is_alive
    return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)


@router.get("/ready")
async def ready(served: TheServed) -> dict[str, str]:
    """Tell whether a request would be taken now."""
    if not served.worker.is_free:
        raise Refusal(503, "it is stopping, or as many requests wait as may")
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Tell what was done, in the text format of Prometheus."""
    return Response(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )


@router.get(
    "/pictures/{name}",
    response_class=Response,
    responses={200: {"content": {f"image/{kind}": {} for kind in get_args(Format)}}},
)
async def picture(name: str, served: TheServed) -> Response:
    """Send a picture that was drawn; who has its URL may see it, for a while."""
    found = await asyncio.to_thread(served.shelf.find, f"/pictures/{name}")
    if found is None:
        raise Refusal(404, "there is no such picture, or its time is over")
    file, kind = found
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(file, media_type=f"image/{kind}", headers=headers)
