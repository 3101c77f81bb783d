"""The app: one model's formats put together, behind one door."""

from __future__ import annotations

from typing import Any

from fastapi_offline import FastAPIOffline

from auto_interleaved.serving import chat, errors, images, responses, status
from auto_interleaved.serving.archive import Archive
from auto_interleaved.serving.door import Application, Door
from auto_interleaved.serving.inputs import Inputs
from auto_interleaved.serving.keys import Keys
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import Shelf
from auto_interleaved.serving.served import Served
from auto_interleaved.serving.status import Metrics
from auto_interleaved.serving.worker import Worker

_DESCRIPTION = """Texts and pictures in order, from one model.

Every option of the library may stand beside a format's own fields, or under `extra_body`."""


def build(  # noqa: PLR0913 - what a server is made of
    inferencer: Any,
    worker: Worker,
    limits: Limits,
    *,
    name: str,
    keys: Keys,
    hosts: tuple[str, ...] = (),
    public_url: str | None = None,
    archive: Archive | None = None,
    shelf: Shelf | None = None,
) -> Application:
    """Return an ASGI app that serves a model.

    Args:
        inferencer: the model; for sizes alone, as the worker owns it.
        worker: who answers; it was started.
        limits: of requests.
        name: of the model, as requests name it.
        keys: of which each request must bring one, if there are any.
        hosts: names that the server goes by, beside those of this machine; only where it is open.
        public_url: what URLs of pictures begin with, where a proxy stands before the server.
        archive: responses that replicas share; None: there is one server.
        shelf: pictures that replicas share; None: its own.
    """
    # Offline: the page of FastAPI itself loads its scripts from elsewhere.
    app = FastAPIOffline(title="auto-interleaved", description=_DESCRIPTION, redoc_url=None)
    if shelf is None:
        shelf = Shelf(limits.picture_memory, limits.picture_seconds)
    app.state.metrics = metrics = Metrics(worker, shelf)
    worker.note = metrics.note_run
    app.state.served = Served(
        name=name,
        model=inferencer.model,
        image_shape=inferencer.image_shape,
        worker=worker,
        limits=limits,
        shelf=shelf,
        inputs=Inputs(limits, shelf),
        public_url=public_url,
        archive=archive,
    )
    errors.install(app)
    for part in (chat, responses, images, status):
        app.include_router(part.router)
    return Door(app, keys, limits.max_body, hosts, metrics.note_answer)
