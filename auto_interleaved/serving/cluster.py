"""The cluster: replicas of the server under Ray Serve, and one store of what all of them need.

`serve run auto_interleaved.serving.cluster:app replicas=2 gpus=1 model=BAGEL-7B-MoT`
"""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse
from ray import serve
from ray.serve.handle import DeploymentHandle

from auto_interleaved.serving.app import build
from auto_interleaved.serving.archive import Archive, SharedShelf
from auto_interleaved.serving.door import Application, Receive, Scope, Send
from auto_interleaved.serving.errors import Refusal
from auto_interleaved.serving.kept import OutOfReachError
from auto_interleaved.serving.keys import Keys
from auto_interleaved.serving.sockets import is_loopback
from auto_interleaved.serving.store import Store
from auto_interleaved.serving.worker import Worker
from auto_interleaved.terminal.arguments import ArgumentError, real_number, whole_number
from auto_interleaved.terminal.serve import ServeRequest
from auto_interleaved_inference import AutoInterleavedInferencer

_STORE_SECONDS = 10.0  # until the store is taken to be out of reach
_MORE_REQUESTS = 64  # that a replica takes beside those of its limits: pictures, health, 429s
_HEALTH_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a cluster is made of.

    Attributes:
        replicas: models that run.
        cpus, gpus: of each; parts of a GPU count.
        words: the rest, as `auto-interleaved serve` takes it; keys are not among them.
        keys: of which a request must bring one.
        request: what all that comes to.
    """

    replicas: int
    cpus: float
    gpus: float
    words: tuple[str, ...]
    keys: Keys
    request: ServeRequest

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Read arguments by name, those of `auto-interleaved serve` with _ where it has -.

        Raises:
            ArgumentError: if something in them cannot be.
        """
        left = {name.replace("-", "_"): value for name, value in given.items()}
        for name in ("host", "port"):
            if name in left:
                raise ArgumentError(f"{name} is Ray's: serve start --http-{name} ..., before this")
        replicas = _number(left, "replicas", 1, whole_number)
        cpus = _number(left, "cpus", 1, real_number)
        gpus = _number(left, "gpus", 0, real_number)
        if not (replicas >= 1 and 0 <= cpus < math.inf and 0 <= gpus < math.inf):
            raise ArgumentError("replicas must be at least 1, and cpus and gpus not negative")
        keys = _words({"api_key": left.pop("api_key")}) if "api_key" in left else ()
        # A device is looked for where replicas are, which may not be here.
        request = ServeRequest.read(
            [*keys, *_words({name: left[name] for name in left if name != "device"})]
        )
        return cls(
            replicas=int(replicas),
            cpus=cpus,
            gpus=gpus,
            words=_words(left),
            keys=Keys(request.keys),
            request=request,
        )


def _number(given: dict[str, Any], name: str, default: float, reads: Any) -> float:
    try:
        number: float = reads(str(given.pop(name, default)))
    except argparse.ArgumentTypeError as error:
        raise ArgumentError(f"{name}: {error}") from error
    return number


def _words(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return arguments as a command line has them; what is true is a flag."""
    words: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            words += [flag] if each is True or each == "true" else [f"{flag}={each}"]
    return tuple(words)


class Near:
    """Lets in who is on the machine of Ray's proxy, and nobody else.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        client = scope.get("client")
        if scope["type"] == "http" and not (client and is_loopback(client[0])):
            refusal = Refusal(403, "without a key this server answers to its own machine only")
            await JSONResponse(refusal.body(), refusal.status_code)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Replica:
    """One server: a model, its worker, and an app.

    Args:
        words: arguments of `auto-interleaved serve`.
        keys: of which a request must bring one.
        store: what replicas share.
    """

    def __init__(self, words: tuple[str, ...], keys: Keys, store: DeploymentHandle) -> None:
        request = ServeRequest.read(words)
        inferencer = AutoInterleavedInferencer.from_pretrained(request.model, **request.loading)
        inferencer.set_progress_bar_config(disable=True)
        self._store = store
        self._worker = Worker(inferencer, request.limits).start()
        app = build(
            inferencer,
            self._worker,
            request.limits,
            name=request.name,
            keys=keys,
            public_url=request.public_url,
            archive=Archive(self._ask),
            shelf=SharedShelf(request.limits, self._ask_now),
        )
        self._door = app if keys.are_asked_for else Near(app)

    def __serve_build_asgi_app__(self) -> Application:  # Ray asks for it, by this name
        return self._door

    def check_health(self) -> None:
        """Tell Ray that another replica is to be made, by failing.

        Raises:
            RuntimeError: if nobody answers here any more.
        """
        if not self._worker.is_alive:
            raise RuntimeError("the model's thread has ended")

    async def _ask(self, method: str, *given: Any) -> Any:
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                return await getattr(self._store, method).remote(*given)
        except Exception as error:  # of Ray, of which there are many kinds
            raise OutOfReachError(f"{type(error).__name__} of {method}") from error

    def _ask_now(self, method: str, *given: Any) -> Any:
        try:
            return getattr(self._store, method).remote(*given).result(timeout_s=_STORE_SECONDS)
        except Exception as error:  # as above
            raise OutOfReachError(f"{type(error).__name__} of {method}") from error


def app(given: dict[str, str]) -> serve.Application:
    """Return what `serve run` runs.

    Args:
        given: `replicas`, `cpus` and `gpus` of each, and the arguments of `auto-interleaved serve`.

    Raises:
        ArgumentError: if something in them cannot be.
    """
    arguments = Arguments.read(given)
    limits = arguments.request.limits
    store = serve.deployment(
        Store,
        name="Store",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
        health_check_period_s=_HEALTH_SECONDS,
    )
    replica = serve.deployment(
        serve.ingress()(Replica),
        name="Replica",
        num_replicas=arguments.replicas,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        max_ongoing_requests=limits.max_running + limits.max_waiting + _MORE_REQUESTS,
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=limits.drain_seconds,
    )
    return replica.bind(arguments.words, arguments.keys, store.bind(limits))
