"""Notebooks: a run that shows itself in the cell's output while it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from data.output import InterleavedOutput
from data.output.events import Event, TextDelta, ThoughtDelta
from data.output.pages import alarm, figure, folded, paragraphs
from data.output.pictures import jpeg_uri, thumbnail
from data.output.views import Drawing, Drawn, Part, Thought, View, Written
from modeling.progress import in_kernel

# Seconds between two updates of a text: smooth enough to read, and far from what notebook servers
# take for a flood and cut off.
_PACE = 0.1


def watch(events: Iterable[Event]) -> InterleavedOutput:
    """Show a run in place while it goes on.

    `story = watch(inferencer.stream(prompt, preview_every=10))`: texts grow as they are written,
    thoughts fold away, and pictures become clear where they will stand, if the stream was asked
    for previews. What a notebook keeps is the end of it. Outside of notebooks the output shows
    itself when it is there, see `InterleavedOutput.show`.

    Args:
        events: of `stream`, an inferencer's or a session's.

    Returns:
        What the run made. A cell that ends in it shows it once more: give it a name.

    Raises:
        GenerationError: if the run was to raise, and failed.
        ValueError: if the stream ended without an output: it was begun before.
    """
    view, cell = View(), _Cell() if in_kernel() else None
    close = getattr(events, "close", None)
    try:
        for event in events:
            view.hear(event)
            if cell is not None:
                cell.show(view.parts, waits=isinstance(event, TextDelta | ThoughtDelta))
    finally:
        if close is not None:
            close()
        if cell is not None:
            cell.end(view)
    if view.output is None:
        raise ValueError("the stream was at its end already; watch one that nobody has iterated")
    if cell is None:
        view.output.show()
    return view.output


class _Cell:
    """The output of a cell: a display for each part, of which those that change are sent."""

    def __init__(self) -> None:
        self._shown: list[Part | str | None] = []
        self._handles: list[Any] = []
        self._next = 0.0

    def show(self, parts: tuple[Part, ...], *, waits: bool = False) -> None:
        """Show parts that are under way.

        Args:
            parts: all that there are.
            waits: whether it can be put off for a moment.
        """
        if waits and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PACE
        for place, part in enumerate(parts):
            self._put(place, part)

    def end(self, view: View) -> None:
        """Show what there is in the end; a picture that was not finished goes."""
        finished = [part for part in view.parts if not isinstance(part, Drawing)]
        error = None if view.output is None else view.output.error
        last: list[Part | str | None] = [*finished, *alarm(error)]
        last += [None] * (len(self._shown) - len(last))
        for place, part in enumerate(last):
            self._put(place, part)

    def _put(self, place: int, part: Part | str | None) -> None:
        if place < len(self._shown) and _alike(self._shown[place], part):
            return
        bundle = {"text/html": _html(part), "text/plain": _plain(part)}
        if place < len(self._shown):
            self._shown[place] = part
            self._handles[place].update(bundle, raw=True)
        else:
            from IPython.display import display

            self._shown.append(part)
            self._handles.append(display(bundle, raw=True, display_id=True))


def _alike(one: Part | str | None, other: Part | str | None) -> bool:
    """Tell whether two parts look the same here, where steps are counted by the library's bar."""
    if isinstance(one, Drawing) and isinstance(other, Drawing):
        return one.preview is other.preview
    if isinstance(one, Drawn) and isinstance(other, Drawn):
        return one.image is other.image
    return one == other


def _html(part: Part | str | None) -> str:
    match part:
        case Written(text=text):
            html = paragraphs(text)
        case Thought(plan=plan, open=is_open):
            html = folded("Thoughts", [paragraphs(plan)], unfolded=is_open)
        case Drawn(image=image):
            small = thumbnail(image)
            html = figure(small, f'src="{jpeg_uri(small)}"', "")
        case Drawing(preview=None, size=(width, height)):
            html = f"<p><small>drawing a picture of {width} x {height} ...</small></p>"
        case Drawing(preview=preview, size=(width, height)):
            assert preview is not None
            scale = min(1.0, 512 / max(width, height))
            size = round(width * scale), round(height * scale)
            html = figure(preview, f'src="{jpeg_uri(preview)}"', part.told, size)
        case _:
            html = part or ""
    return f'<div style="max-width:42rem">{html}</div>'


def _plain(part: Part | str | None) -> str:
    match part:
        case Written(text=text) | Thought(plan=text):
            return text
        case Drawn(image=image):
            return f"<picture of {image.width} x {image.height}>"
    return ""
