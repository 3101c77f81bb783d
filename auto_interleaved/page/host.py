"""The host: the page behind its gate on a socket, from the first visitor to the last."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Response

from auto_interleaved.page import layout
from auto_interleaved.page.desk import ONLY_UPLOADS, Desk
from auto_interleaved.page.gate import Gate
from auto_interleaved.serving.door import Application, Door
from auto_interleaved.serving.keys import Keys
from auto_interleaved.serving.limits import Limits
from data.output import InterleavedOutput
from data.output.pictures import encode_png

_KINDS = {"html": "text/html; charset=utf-8", "zip": "application/zip"}


class Host(uvicorn.Server):
    """A server that ends when it is told to, whoever still listens: a page is never over."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to end."""
        # Each open page is a request that is cut off now, which would be told as a failure.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.should_exit = True


@contextmanager
def hosted(
    inferencer: Any,
    limits: Limits,
    *,
    name: str,
    keys: Sequence[str] = (),
    hosts: tuple[str, ...] = (),
) -> Iterator[Host]:
    """Make a server of a page; `run(sockets=[...])` runs it within the block.

    Whatever visitors send and are shown lies in one folder, which goes at the end.

    Args:
        inferencer: the model, an `AutoInterleavedInferencer`; nobody else may use it meanwhile.
        limits: of what a message may be and ask for.
        name: of the model.
        keys: of which a visitor must have one, as the password; with none it is open.
        hosts: names that the page goes by, beside those of this machine; only where it is open.
    """
    with tempfile.TemporaryDirectory(prefix="auto-interleaved-") as folder:
        settings = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        with _environment(settings):
            desk = Desk(inferencer, limits, Path(folder))
            try:
                app = _app(desk, name)
                gate = Gate(Door(app, Keys(keys), limits.max_body, hosts))
                yield Host(_config(gate))
            finally:
                desk.turns.close()


def _config(gate: Application) -> uvicorn.Config:
    return uvicorn.Config(
        gate,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


def _app(desk: Desk, name: str) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/answers/{token}/{name}.png")
    def picture(token: str, name: str) -> Response:
        """Give a picture that is shown."""
        image = desk.picture(token, name)
        if image is None:
            raise HTTPException(404, "there is no such picture")
        kept = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(encode_png(image), media_type="image/png", headers=kept)

    @app.get("/answers/{token}/{number}.{kind}")
    def saved(token: str, number: int, kind: Literal["html", "zip"]) -> Response:
        """Give an answer as the library saves it."""
        output = desk.answer(token, number)
        if output is None:
            raise HTTPException(404, "there is no such answer")
        disposition = f'attachment; filename="answer-{number + 1}.{kind}"'
        headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
        return Response(_saved(output, kind), media_type=_KINDS[kind], headers=headers)

    blocks = layout.build(desk, name=name)
    every: list[Any] = list(blocks.blocks.values())
    for block in every:
        block.async_move_resource_to_block_cache = _own_file(desk.uploads)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=desk.limits.max_body,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=layout.theme(),
        css=layout.STYLE,
    )


def _own_file(folder: Path) -> Any:
    """Return what gradio is to do with the path of a file: take it if it lies here already.

    Its own way is to fetch a URL, and to copy in whatever file a request names.
    """

    async def own_file(path: str | Path | None) -> str | None:
        if path is None:
            return None
        place = os.path.realpath(path)
        if not Path(place).is_relative_to(os.path.realpath(folder)):
            raise gr.Error(ONLY_UPLOADS, print_exception=False)
        return place

    return own_file


def _saved(output: InterleavedOutput, kind: str) -> bytes:
    """Return the file that an answer is saved as; a folder is packed into one."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "html":
            return output.save(Path(folder, "answer.html")).read_bytes()
        buffer = BytesIO()
        with zipfile.ZipFile(buffer, "w") as packed:
            for path in sorted(output.save(Path(folder, "answer")).iterdir()):
                packed.write(path, f"answer/{path.name}")
        return buffer.getvalue()


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    earlier = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
