"""What a server serves: one model, by one worker, and all that its formats share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Depends, Request
from PIL import Image

from auto_interleaved.options.generation import AS_INPUT, GenerationOptions
from auto_interleaved.options.seeds import MAX_SEED, any_seed
from auto_interleaved.serving.archive import Archive
from auto_interleaved.serving.calls import Call
from auto_interleaved.serving.errors import Refusal, bad_request, refusal_of
from auto_interleaved.serving.fields import Told, options_of
from auto_interleaved.serving.inputs import Input, Inputs
from auto_interleaved.serving.kept import NotKeptError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.orders import Order, Over
from auto_interleaved.serving.pictures import Delivery, Shelf
from auto_interleaved.serving.worker import Worker
from data.prompts import Prompt
from data.wording import shown
from modeling.bagel import Bagel


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A model and its server.

    Attributes:
        name: of the model, as requests name it.
        model: for sizes.
        image_shape: (height, width) of pictures where a request does not say.
        worker: who answers.
        limits: of requests.
        shelf: pictures that are served by URL.
        inputs: reads what clients send.
        public_url: what URLs of pictures begin with; None: as the request came.
        archive: what other replicas keep; None: there are no others.
        created: when, in seconds since 1970.
    """

    name: str
    model: Bagel
    image_shape: tuple[int, int]
    worker: Worker
    limits: Limits
    shelf: Shelf
    inputs: Inputs
    public_url: str | None = None
    archive: Archive | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def require_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            Refusal: with 404.
        """
        if name is not None and name != self.name:
            raise Refusal(
                404,
                f"there is no model {shown(name)}; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def delivery(self, request: Request, body: Told) -> Delivery:
        """Return how a request wants its pictures."""
        base = self.public_url or str(request.base_url)
        return Delivery(
            shelf=self.shelf,
            kind=body.image_delivery,
            format=body.image_format,
            base=base.rstrip("/"),
        )

    async def asked(
        self, body: Told, inputs: Iterable[Input], meant: Mapping[str, Any]
    ) -> tuple[Prompt, GenerationOptions]:
        """Return the prompt and the options of a request, with a seed.

        Raises:
            Refusal: if something in it cannot be.
        """
        options = options_of(body, meant, self.limits)
        if options.seed is None:
            options = replace(options, seed=any_seed())
        prompt = await self.inputs.read(inputs)
        if options.image_shape == AS_INPUT:
            assert isinstance(prompt, list)
            for part in prompt:
                if isinstance(part, Image.Image):
                    self._check_drawn(part)
        return prompt, options

    def _check_drawn(self, image: Image.Image) -> None:
        try:
            self.limits.check_drawn(image.height, image.width)
        except ValueError as error:
            raise bad_request(str(error), param="image_shape") from error

    def orders(self, order: Order, count: int) -> list[Order]:
        """Return an order for each of several answers, whose seeds follow one another.

        Raises:
            Refusal: if there are too many, or the seed is none that another one follows.
        """
        if count > self.limits.max_answers:
            raise bad_request(
                f"n must be at most {self.limits.max_answers} on this server, got {count}", "n"
            )
        seed = order.options.seed
        if count == 1:
            return [order]
        if not isinstance(seed, int):
            raise bad_request("n must be 1 where the seed is a state", "n")
        seeds = [(seed + place) % (MAX_SEED + 1) for place in range(count)]
        return [replace(order, options=replace(order.options, seed=each)) for each in seeds]

    async def bring(self, name: str | None, owner: str) -> None:
        """Let the worker have a response that another replica may have made.

        Raises:
            Refusal: if no replica keeps it.
            OutOfReachError: if that cannot be told.
        """
        if self.archive is None or name is None:
            return
        try:
            standing = await self.archive.find(name, owner)
        except NotKeptError as error:
            raise refusal_of(error) from error
        self.worker.adopt(name, owner, standing)

    async def share(self, name: str, owner: str, over: Over) -> None:
        """Let other replicas have a response that is over, if it is kept."""
        if self.archive is not None and over.end is not None:
            await self.archive.keep(name, owner, over.end)

    async def begun(self, orders: list[Order]) -> Call:
        """Hand orders in, and return the call once all were checked.

        Raises:
            Refusal: if one cannot be, or there is no room.
        """
        return await Call(self.worker, self.limits.keep_alive_seconds).begin(orders)


def served_by(request: Request) -> Served:
    """Return what the app of a request serves."""
    served: Served = request.app.state.served
    return served


def owner_of(request: Request) -> str:
    """Return whose request it is, as the door found."""
    owner: str = request.state.owner
    return owner


TheServed = Annotated[Served, Depends(served_by)]
TheOwner = Annotated[str, Depends(owner_of)]

# What is documented of an endpoint that answers at once or as a stream.
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/event-stream": {}}}
}
KEEP_ALIVE = ": still at it\n\n"


def event(data: Any, name: str | None = None) -> str:
    """Return a server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def nobody(_: object) -> None:
    """Hear of a run that a call has not taken over yet: nothing."""
