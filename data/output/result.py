"""What a run gives back: a list of texts and images that also knows how they came about."""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import webbrowser
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from data.output import loading, pages, storage
from data.output.captions import seeds_of, thoughts_of
from data.output.errors import duplicate, portable
from data.output.records import Record
from data.output.segments import FinishReason, RecordedError, Segment, Usage
from data.output.strangers import plain

__all__ = ["FinishReason", "InterleavedOutput", "RecordedError", "Segment", "Usage"]

_logger = logging.getLogger("auto_interleaved")


class InterleavedOutput(list[str | Image.Image]):
    """The texts and images of a run, in order.

    It is a list: equal to one, and its slices and sums are plain lists, because what is known of
    a run (its cost, its reason to end) holds for the whole of it only. Copies and pickles keep
    everything; of an error that cannot be pickled its words, as a `RecordedError`.

    Attributes:
        segments: One record for each text and image that was read or made, in order: the prompt,
            the thoughts and the blocks that the list was merged from.
        finish_reason: Why the run ended.
        usage: Tokens, images and seconds.
        error: What went wrong, where `finish_reason` is "error" or "interrupted".
        config: The settings of the run, in plain values.
    """

    segments: tuple[Segment, ...]
    finish_reason: FinishReason
    usage: Usage
    error: BaseException | None
    config: dict[str, Any]

    def __init__(
        self,
        items: Iterable[str | Image.Image] = (),
        *,
        segments: Iterable[Segment] = (),
        finish_reason: FinishReason = "stop",
        usage: Usage | None = None,
        error: BaseException | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(items)
        self.segments = tuple(segments)
        self.finish_reason = finish_reason
        self.usage = usage or Usage()
        self.error = error
        self.config = plain(config or {})
        self._record()  # a record checks what it is made of

    @classmethod
    def from_segments(
        cls,
        segments: Iterable[Segment],
        *,
        finish_reason: FinishReason,
        usage: Usage | None = None,
        error: BaseException | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> InterleavedOutput:
        """Build the output of a run from its segments.

        What was generated makes the list: adjacent texts are joined, empty ones and images that
        failed are left out, and so are the prompt and the thoughts.

        Args:
            segments: Everything that was read or made, in order.
            finish_reason: Why the run ended.
            usage: What it cost.
            error: What went wrong, if something did.
            config: The settings of the run; reduced to plain values, see `records.plain`.

        Raises:
            ValueError: The finish reason is unknown.
        """
        kept = tuple(segments)
        return cls(
            _merged(kept),
            segments=kept,
            finish_reason=finish_reason,
            usage=usage,
            error=error,
            config=config,
        )

    @property
    def text(self) -> str:
        """All texts of the list, joined.

        Two that have an image and no space between them are set apart by a line break.
        """
        text, after_image = "", False
        for item in self:
            if isinstance(item, str):
                touching = not (text[-1:].isspace() or item[:1].isspace())
                text += f"\n{item}" if text and after_image and touching else item
            after_image = not isinstance(item, str)
        return text

    @property
    def images(self) -> list[Image.Image]:
        """All images of the list."""
        return [item for item in self if not isinstance(item, str)]

    @property
    def thoughts(self) -> list[str]:
        """What the model planned before it answered, one text for each time it did."""
        return thoughts_of(self.segments)

    @property
    def seed(self) -> int | str | None:
        """What repeats the run, given as its `seed`; None where that is not known.

        A number, or, for a run without one, how the generators stood that it drew from.
        """
        return self.config.get("seed")

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each image that was drawn; None where the run had none.

        Given as the `seed` of another run, it begins that run's first image with the same noise.
        """
        return seeds_of(self.segments)

    def copy(self) -> InterleavedOutput:
        """Return an output with the same items and the same knowledge of the run."""
        return copy.copy(self)

    def __copy__(self) -> InterleavedOutput:
        again = type(self).__new__(type(self))
        again.extend(self)
        again.__dict__.update(vars(self))
        return again

    def __deepcopy__(self, memo: dict[int, Any]) -> InterleavedOutput:
        again = type(self).__new__(type(self))
        memo[id(self)] = again  # the error may lead back to its output
        again.extend(copy.deepcopy(list(self), memo))
        known = {name: value for name, value in vars(self).items() if name != "error"}
        again.__dict__.update(copy.deepcopy(known, memo), error=duplicate(self.error, memo))
        return again

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "error": portable(self.error)}

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the run to disk, in the format that the path's suffix names.

        `.html`: one page with everything in it. `.md`: a page and a folder of images,
        `NAME_images`, beside it. `.json`: one file with everything in it. Any other name is that
        of a folder of `000_text.txt`, `001_image.png`, ... and `result.json`. An earlier save is
        replaced in one step: whatever ends this one, and whoever reads meanwhile, there is the old
        run or the new one.

        Returns:
            The path that was written.

        Raises:
            ValueError: The name ends like a file of another type, such as `.pdf`.
        """
        return storage.save(self._record(), path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> InterleavedOutput:
        """Read back what `save` wrote, in whichever format; an error as a `RecordedError`.

        Raises:
            FileNotFoundError: There is nothing at that path.
            ValueError: What is there is not a saved run, or is damaged.
        """
        record = loading.load(path)
        return cls(
            record.items,
            segments=record.segments,
            finish_reason=record.finish_reason,
            usage=record.usage,
            error=record.error,
            config=record.config,
        )

    def show(self) -> Path | None:
        """Display the run: in a notebook in place, elsewhere as a page in the browser.

        Returns:
            The page that was opened, in a temporary folder; None in a notebook.
        """
        if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
            from IPython.display import display

            display(self)
            return None
        path = self.save(Path(tempfile.mkdtemp(prefix="auto-interleaved-"), "output.html"))
        try:
            opened = webbrowser.open(path.as_uri())
        except Exception:  # of the browser's own kind; the page is there all the same
            opened = False
        _logger.info("%s %s", "opened" if opened else "no browser found; the page is", path)
        return path

    def _repr_html_(self) -> str:
        return pages.fragment(self._record())

    def _record(self) -> Record:
        return Record(
            items=tuple(self),
            segments=self.segments,
            finish_reason=self.finish_reason,
            usage=self.usage,
            error=self.error,
            config=self.config,
        )


def _merged(segments: Iterable[Segment]) -> list[str | Image.Image]:
    items: list[str | Image.Image] = []
    for segment in segments:
        if segment.role != "generated":
            continue
        if segment.image is not None:
            items.append(segment.image)
        elif segment.text and items and isinstance(items[-1], str):
            items[-1] += segment.text
        elif segment.text:
            items.append(segment.text)
    return items
