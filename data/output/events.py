"""The events of a stream: what a consumer learns while a run is under way.

A run tells of its blocks in their order. A text block is some `TextDelta` and one `TextDone`, an
image one `ImageStarted`, its `ImageStep` and `ImagePreview`, and one `ImageDone`; an image that
fails has no `ImageDone`. `Finished` is always last, and its output holds everything before it:
the texts of all `TextDelta` joined are `output.text`, line breaks between texts included that have
an image between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from data.output import InterleavedOutput
from data.output.segments import FinishReason, Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    """More text of a block: whole characters, and nothing that could still become a marker.

    Attributes:
        block: Number of the text block in this run, from 0; thoughts are not counted.
        text: What is new since the block's last delta; never empty. A block's first begins with a
            line break where that is all that sets it off from a text before an image.
        token_ids: The ids that are new since then; characters and ids need not line up.
        apart: What of the text, at its beginning, is shown between this block and an image before
            it, and is no part of the block.
    """

    block: int
    text: str
    token_ids: tuple[int, ...] = ()
    apart: str = ""

    @property
    def own(self) -> str:
        """The text without what sets it apart."""
        return self.text.removeprefix(self.apart)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDone:
    """A text block is complete.

    Attributes:
        block: Number of the text block in this run, from 0.
        segment: The whole block, as it will stand in the output's segments.
        requested_image: Whether the block ended in a request for an image.
    """

    block: int
    segment: Segment
    requested_image: bool = False

    @property
    def text(self) -> str:
        """The whole text of the block, without the marker that asked for an image."""
        return self.segment.text or ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All ids of the block as they were sampled."""
        return self.segment.token_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class ThoughtDelta:
    """More of what the model plans before it answers; not part of the output's list.

    Attributes:
        text: What is new since the last thought.
        token_ids: The ids that are new since then.
    """

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStarted:
    """An image is about to be drawn.

    Attributes:
        index: Number of the image in this run, from 0.
        height: Its height in pixels.
        width: Its width in pixels.
        seed: The seed of its noise; absent where the global generator is used.
    """

    index: int
    height: int
    width: int
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStep:
    """One step of drawing an image is done.

    Attributes:
        index: Number of the image in this run, from 0.
        step: Steps done so far, 1 to `num_steps`.
        num_steps: Steps that the image takes.
    """

    index: int
    step: int
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePreview:
    """What the image would become, judged after some of its steps.

    Attributes:
        index: Number of the image in this run, from 0.
        step: Steps done so far.
        image: The estimate, RGB; small, at most 256 pixels a side.
    """

    index: int
    step: int
    image: Image.Image


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDone:
    """An image is complete.

    Attributes:
        index: Number of the image in this run, from 0.
        segment: The image, as it will stand in the output's segments.
    """

    index: int
    segment: Segment

    @property
    def image(self) -> Image.Image:
        """The picture itself, RGB."""
        assert self.segment.image is not None
        return self.segment.image


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The run is over; nothing follows.

    Attributes:
        output: Everything that came out of the run.
    """

    output: InterleavedOutput

    @property
    def reason(self) -> FinishReason:
        """Why the run ended."""
        return self.output.finish_reason


Event = (
    TextDelta
    | TextDone
    | ThoughtDelta
    | ImageStarted
    | ImageStep
    | ImagePreview
    | ImageDone
    | Finished
)
