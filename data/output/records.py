"""A run as a value, and that value as JSON: what every format writes and reads back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from operator import index
from typing import Any, get_args

from PIL import Image

from data.output.pictures import Pictures
from data.output.segments import (
    FinishReason,
    RecordedError,
    Segment,
    Usage,
    error_parts,
    require_one_of,
)

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


def plain(value: Any) -> Any:
    """Reduce a setting to what JSON holds: dicts with str keys, tuples, str, numbers, None.

    Options in dataclasses become dicts, functions their names, and what has no other form its
    `repr`, so that the settings of a run can always be saved and come back equal.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, AbstractSet):
        return tuple(sorted((plain(entry) for entry in value), key=repr))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return tuple(plain(entry) for entry in value)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)


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


def from_document(document: Any, find: Callable[[str], Image.Image]) -> Record:
    """Return the record that a JSON document describes.

    Args:
        document: What `json.loads` made of the file.
        find: Returns the picture that a reference names; asked once for each reference.

    Raises:
        ValueError: The document is of another kind, too new, or damaged.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(
            f"its version is {document.get('version')!r}, this library reads {VERSION}; "
            "a newer release of the library may read it"
        )
    try:
        return _parse(document, find)
    except KeyError as error:
        raise ValueError(f"the field {error} is missing") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"a field has a wrong type ({error})") from error


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
    # Numbers of other libraries (a NumPy seed, say) must not cost a user the whole save.
    return json.dumps(value, ensure_ascii=False, default=index)


def _parse(document: Mapping[str, Any], find: Callable[[str], Image.Image]) -> Record:
    found: dict[str, Image.Image] = {}

    def image(reference: Any) -> Image.Image | None:
        if reference is None:
            return None
        if reference not in found:
            found[reference] = find(reference)
        return found[reference]

    error = document["error"]
    return Record(
        items=tuple(_item(entry, image) for entry in document["items"]),
        segments=tuple(_segment(entry, image) for entry in document["segments"]),
        finish_reason=document["finish_reason"],
        usage=Usage(**document["usage"]),
        error=None if error is None else RecordedError(error["type"], error["message"]),
        config=dict(plain(document["config"])),
    )


def _item(entry: Mapping[str, Any], image: Callable[[Any], Image.Image | None]) -> Any:
    return image(entry["image"]) if "image" in entry else entry["text"]


def _segment(entry: Mapping[str, Any], image: Callable[[Any], Image.Image | None]) -> Segment:
    fields = dict(entry, image=image(entry["image"]), token_ids=tuple(entry["token_ids"]))
    return Segment(**fields | {"size": entry["size"] and tuple(entry["size"])})
