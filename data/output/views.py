"""What there is to show of a run: its parts, while it goes on and when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from data.output import InterleavedOutput
from data.output.captions import without_tags
from data.output.events import (
    Event,
    Finished,
    ImageDone,
    ImagePreview,
    ImageStarted,
    ImageStep,
    TextDelta,
    ThoughtDelta,
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Thought:
    """What the model plans before it answers.

    Attributes:
        text: the plan, with the tags that the model wrote around it.
        open: whether it is still being written; one that is over folds away.
    """

    text: str
    open: bool = False

    @property
    def plan(self) -> str:
        """What there is to read."""
        return without_tags(self.text)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A picture."""

    image: Image.Image


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A picture that is under way.

    Attributes:
        index: its number in the run, from 0.
        size: (width, height) that it will have, in pixels.
        step, num_steps: done, and to be done; 0 before the first.
        preview: what it looks like so far, small; None before the first preview.
    """

    index: int
    size: tuple[int, int]
    step: int = 0
    num_steps: int = 0
    preview: Image.Image | None = None

    @property
    def told(self) -> str:
        """How far it has come, in words."""
        steps = f": step {self.step} of {self.num_steps}" if self.num_steps else ""
        return f"drawing picture {self.index + 1}{steps}"


Part = Written | Thought | Drawn | Drawing


class View:
    """A run as it comes about, told by its events.

    Attributes:
        output: what it made, once it is over.
    """

    def __init__(self) -> None:
        self.output: InterleavedOutput | None = None
        self._parts: list[Part] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is there to show."""
        return tuple(self._parts)

    def hear(self, event: Event) -> None:
        """Go on by an event."""
        match event:
            case TextDelta():
                self._write(event)
            case ThoughtDelta(text=text):
                self._think(text)
            case ImageStarted(index=index, height=height, width=width):
                self._fold_thought()
                self._parts.append(Drawing(index=index, size=(width, height)))
            case ImageStep(index=index, step=step, num_steps=num_steps):
                self._redraw(index, step=step, num_steps=num_steps)
            case ImagePreview(index=index, step=step, image=image):
                self._redraw(index, step=step, preview=image)
            case ImageDone(index=index, image=image):
                self._parts = [part for part in self._parts if not _is_drawing(part, index)]
                self._parts.append(Drawn(image=image))
            case Finished(output=output):
                self.output = output
                self._parts = list(made(output))

    def _write(self, event: TextDelta) -> None:
        self._fold_thought()
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Written):
            self._parts[-1] = Written(text=last.text + event.own)
        elif event.own:
            self._parts.append(Written(text=event.own))

    def _think(self, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Thought) and last.open:
            self._parts[-1] = replace(last, text=last.text + text)
        else:
            self._parts.append(Thought(text=text, open=True))

    def _fold_thought(self) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Thought):
            self._parts[-1] = replace(last, open=False)

    def _redraw(self, index: int, **changes: object) -> None:
        self._parts = [
            replace(part, **changes) if _is_drawing(part, index) else part  # type: ignore[arg-type]
            for part in self._parts
        ]


def _is_drawing(part: Part, index: int) -> bool:
    return isinstance(part, Drawing) and part.index == index


def made(output: InterleavedOutput) -> Iterator[Part]:
    """Yield what there is to show of a run that is over; texts that touch are one."""
    text = ""
    for segment in output.segments:
        if segment.role == "generated" and segment.kind == "text":
            text += segment.text or ""
            continue
        part: Part | None = None
        if segment.role == "thought" and segment.text:
            part = Thought(text=segment.text)
        elif segment.role == "generated" and segment.image is not None:
            part = Drawn(image=segment.image)
        if part is not None:
            if text:
                yield Written(text=text)
            text = ""
            yield part
    if text:
        yield Written(text=text)
