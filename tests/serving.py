"""Servers for the tests: the bundled model behind a real port of this machine."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from openai import OpenAI
from PIL import Image

from auto_interleaved.options.generation import make_options
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import Accepted, Order, Over, Refused, Told
from auto_interleaved.serving.server import Server, bound, make_server
from auto_interleaved.serving.worker import Worker
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from data.output.events import TextDelta
from tests.bundled import bundled

DRAW = "Draw a red circle, then add a blue square to its right."
STORY = "Write a short story about a robot's adventure in space with illustrations."
FEW: dict[str, Any] = {"num_timesteps": 4}


@dataclass
class Running:
    """A server that runs in a thread."""

    url: str
    server: Server
    worker: Worker

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)


@contextmanager
def running(inferencer: Any = None, **given: Any) -> Iterator[Running]:
    """Run a server with limits and keys of its own."""
    names = Limits.__dataclass_fields__
    limits = Limits(**{name: value for name, value in given.items() if name in names})
    others = {name: value for name, value in given.items() if name not in names}
    inferencer = inferencer or AutoInterleavedInferencer.from_pretrained(dtype=torch.float32)
    listening = bound("127.0.0.1", 0)
    server = make_server(inferencer, limits, **{"name": "picturebook", **others})
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Running(url, server, server.worker)
    finally:
        server.should_exit = True
        thread.join(30)
        server.close()


def wait_until(holds: Any, seconds: float = 60.0) -> None:
    """Wait for something that is about to happen."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.005)


@dataclass
class Ordered:
    """A request that was handed to a worker, and what it was told."""

    worker: Worker
    number: int = -1
    heard: SimpleQueue[Told] = field(default_factory=SimpleQueue)
    told: list[Told] = field(default_factory=list)

    def next(self) -> Told:
        self.told.append(self.heard.get(timeout=60))
        return self.told[-1]

    def until(self, kind: Any) -> Told:
        while not isinstance(self.next(), kind):
            pass
        return self.told[-1]

    @property
    def over(self) -> Over:
        told = self.until(Over | Refused)
        assert isinstance(told, Over), told
        return told

    def wait(self) -> None:
        assert self.over.reason != "error"

    @property
    def refused(self) -> Exception:
        told = self.until(Accepted | Refused)
        assert isinstance(told, Refused), told
        return told.error

    @property
    def text(self) -> str:
        return "".join(told.text for told in self.told if isinstance(told, TextDelta))


ORDER_FIELDS = set(Order.__dataclass_fields__) - {"options", "prompt", "tell"}


def order(worker: Worker, prompt: Any = DRAW, **given: Any) -> Ordered:
    """Hand a request in: fields of an order, and options."""
    ordered = Ordered(worker)
    own = {name: value for name, value in given.items() if name in ORDER_FIELDS}
    options = {name: value for name, value in given.items() if name not in ORDER_FIELDS}
    [ordered.number] = worker.submit(
        Order(
            prompt=prompt,
            options=make_options({**FEW, "seed": 3, **options}),
            tell=ordered.heard.put,
            **own,
        )
    )
    return ordered


def alone(prompt: Any, **options: Any) -> InterleavedOutput:
    """Return what the library gives for a prompt by itself."""
    given = {**FEW, **options}
    return bundled(torch.float32).auto_interleaved_generation(prompt, **given)


def decoded(text: str) -> Image.Image:
    """Open a picture from base64, or a data: URL."""
    image = Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))
    image.load()
    return image


def alike(one: Image.Image, other: Image.Image) -> bool:
    """Say whether pictures are equal but for how products of other sizes round."""
    difference = np.asarray(one.convert("RGB"), dtype=int) - np.asarray(other, dtype=int)
    return one.size == other.size and abs(difference).max() <= 1


def same(items: list[Any], output: InterleavedOutput) -> bool:
    """Say whether texts and pictures are those of an output, in its order."""
    if [isinstance(item, str) for item in items] != [isinstance(item, str) for item in output]:
        return False
    return all(
        ours == theirs if isinstance(theirs, str) else alike(ours, theirs)
        for ours, theirs in zip(items, output, strict=True)
    )


def as_url(image: Image.Image, kind: str = "PNG") -> str:
    """Return a picture as a data: URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}"
