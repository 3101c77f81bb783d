"""A run as a value, and that value as JSON: what every format writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import index
from typing import Any, get_args

from PIL import Image

from data.output.errors import error_parts
from data.output.pictures import Pictures
from data.output.segments import FinishReason, Segment, Usage, require_one_of
from data.output.strangers import plain

FORMAT = "auto-interleaved-output"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that is known of a run.

    Attributes:
        items: The texts and pictures of the output, in order.
        segments: How they came about, with the prompt and the thoughts.
        finish_reason: Why the run ended.
        usage: What it cost.
        error: What went wrong, if something did.
        config: The settings of the run, as `plain` leaves them.
    """

    items: tuple[str | Image.Image, ...]
    segments: tuple[Segment, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    error: BaseException | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_one_of("finish_reason", self.finish_reason, get_args(FinishReason))
        for item in self.items:
            if not isinstance(item, (str, Image.Image)):
                raise TypeError(f"an item must be a str or a PIL image, got {type(item).__name__}")

    def pictures(self) -> Pictures:
        """Return the pictures of the items and then those that only a segment holds."""
        images = [item for item in self.items if not isinstance(item, str)]
        images += [segment.image for segment in self.segments if segment.image is not None]
        return Pictures(images)


def to_document(record: Record, pictures: Pictures, references: Sequence[str]) -> dict[str, Any]:
    """Return a record as a JSON document.

    Args:
        record: What is to be written.
        pictures: The record's pictures.
        references: Where each of the pictures will be found, in the order of their numbers.
    """

    def reference(image: Image.Image | None) -> str | None:
        return None if image is None else references[pictures.number(image)]

    return {
        "format": FORMAT,
        "version": VERSION,
        "finish_reason": record.finish_reason,
        "error": None
        if record.error is None
        else dict(zip(("type", "message"), error_parts(record.error), strict=True)),
        "usage": dataclasses.asdict(record.usage),
        "config": plain(record.config),
        "items": [
            {"text": item} if isinstance(item, str) else {"image": reference(item)}
            for item in record.items
        ],
        "segments": [
            {
                entry.name: reference(segment.image)
                if entry.name == "image"
                else getattr(segment, entry.name)
                for entry in dataclasses.fields(segment)
            }
            for segment in record.segments
        ],
    }


def dumps(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with one line for each field, each item and each segment."""
    return "{\n" + ",\n".join(_lines(document)) + "\n}\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, list):
            entries = ",\n".join("  " + _json(entry) for entry in value)
            yield f"{_json(name)}: [\n{entries}\n]" if entries else f"{_json(name)}: []"
        else:
            yield f"{_json(name)}: {_json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_number)


def _number(value: Any) -> Any:
    """Return a plain form of what another library counts in: a NumPy seed must not cost a save."""
    for convert in (index, float):
        with suppress(Exception):
            return convert(value)
    return plain(value)
