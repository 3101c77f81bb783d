"""The desk: what the page does when somebody sends, stops, takes back or forks."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image

from auto_interleaved.options.generation import make_options
from auto_interleaved.page.tabs import Exchange, Tab
from auto_interleaved.page.turns import Turns
from auto_interleaved.serving.errors import Refusal
from auto_interleaved.serving.inputs import Inputs, Picture, Text
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import Shelf
from data.output import InterleavedOutput
from data.output.pictures import encode_png
from data.output.segments import describe_error
from data.prompts import Prompt

logger = logging.getLogger("auto_interleaved")

ONLY_UPLOADS = "a picture must be dropped into the message; no other file is opened"
_PREVIEWS = 8  # of each picture
# What the library words for whoever asked; all else is a fault, and goes to the log as well.
_REFUSALS = (TypeError, ValueError, Refusal)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """How a talk stands.

    Attributes:
        exchanges: what was said.
        notice: why the last wish could not be met.
        unsent: text and pictures of a message that is still to be sent.
        is_running: whether an answer is under way.
    """

    exchanges: list[Exchange]
    notice: str | None = None
    unsent: tuple[str, list[Any]] | None = None
    is_running: bool = False


@dataclass(eq=False)
class Desk:
    """One model, and the browser tabs that chat with it.

    Attributes:
        inferencer: an `AutoInterleavedInferencer`; nobody else may use it meanwhile.
        limits: of what a message may be and ask for.
        uploads: the only folder of which files are opened.
    """

    inferencer: Any
    limits: Limits
    uploads: Path
    turns: Turns = field(default_factory=Turns)
    _tabs: WeakValueDictionary[str, Tab] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self._inputs = Inputs(self.limits, Shelf(1, 1.0))

    def enter(self) -> Tab:
        """Return a new tab."""
        options = {"max_context_memory": self.limits.max_context_memory}
        tab = Tab(self.inferencer, self.turns, options)
        self._tabs[tab.token] = tab
        return tab

    def answer(self, token: str, number: int) -> InterleavedOutput | None:
        """Return an answer that a tab was given; None if there is none."""
        tab = self._tabs.get(token)
        return tab.answers[number] if tab is not None and number < len(tab.answers) else None

    def picture(self, token: str, name: str) -> Image.Image | None:
        """Return a picture that a tab shows; None if there is none."""
        tab = self._tabs.get(token)
        return None if tab is None else tab.pictures.find(name)

    def written(self, picture: Image.Image) -> Path:
        """Return a file of a picture, as if it had been uploaded."""
        path = self.uploads / f"{secrets.token_urlsafe(16)}.png"
        path.write_bytes(encode_png(picture))
        return path

    async def send(
        self, tab: Tab, text: str, paths: list[str], options: Mapping[str, Any]
    ) -> AsyncIterator[Shown]:
        """Answer a message, and tell how the talk stands all the while."""
        before = tab.exchanges()
        try:
            message = await self._read(text, paths)
            async for exchange in tab.say(message, self._checked(options)):
                running = exchange.output is None
                yield Shown(exchanges=[*before, exchange], is_running=running)
        except _REFUSALS as error:
            yield Shown(exchanges=before, notice=_words(error), unsent=(text, list(paths)))
        except Exception as error:
            logger.exception("an answer failed")
            yield Shown(exchanges=tab.exchanges(), notice=describe_error(error))

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options as a session takes them, none above a limit."""
        given = self.limits.completed({"seed": -1, **options})
        checked = make_options(given)
        self.limits.check(checked)
        return {**given, "preview_every": max(1, checked.num_timesteps // _PREVIEWS)}

    async def _read(self, text: str, paths: list[str]) -> Prompt:
        """Return a message: its pictures first, as the command line reads them."""
        pictures = [
            Picture(source=self._uploaded(path), place=f"picture {number}")
            for number, path in enumerate(paths, 1)
        ]
        texts = [Text(text=text, place="the message")] if text.strip() else []
        return await self._inputs.read([*pictures, *texts])

    def _uploaded(self, path: str) -> bytes:
        """Return the content of a file that was uploaded here; no other one is opened."""
        place = Path(os.path.realpath(path))
        if not place.is_relative_to(os.path.realpath(self.uploads)):
            raise ValueError(ONLY_UPLOADS)
        return place.read_bytes()


def _words(error: Exception) -> str:
    return str(error.detail) if isinstance(error, Refusal) else str(error)
