"""JSON documents back into runs: every field is what it should be, or the file is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from data.output.errors import RecordedError
from data.output.records import FORMAT, VERSION, Record
from data.output.segments import Segment, Usage
from data.output.strangers import plain

Find = Callable[[str], Image.Image]


def references_of(document: Any) -> dict[str, None]:
    """Return the pictures that a document names, each once, in order."""
    if not isinstance(document, dict):
        return {}
    named = (entry.get("image") for entry in _entries(document))
    return dict.fromkeys(reference for reference in named if isinstance(reference, str))


def from_document(document: Any, find: Find) -> Record:
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


def _entries(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("items", "segments"):
        entries = document.get(name)
        if isinstance(entries, list):
            yield from (entry for entry in entries if isinstance(entry, dict))


def _parse(document: Mapping[str, Any], find: Find) -> Record:
    found: dict[str, Image.Image] = {}

    def image(reference: Any) -> Image.Image | None:
        if reference is None:
            return None
        if reference not in found:
            found[reference] = find(_typed(str, "image", reference))
        return found[reference]

    error = document["error"]
    return Record(
        items=tuple(_item(entry, image) for entry in _typed(list, "items", document["items"])),
        segments=tuple(
            _segment(entry, image) for entry in _typed(list, "segments", document["segments"])
        ),
        finish_reason=document["finish_reason"],
        usage=_usage(_typed(dict, "usage", document["usage"])),
        error=None if error is None else _error(_typed(dict, "error", error)),
        config=plain(_typed(dict, "config", document["config"])),
    )


def _item(entry: Mapping[str, Any], image: Callable[[Any], Any]) -> Any:
    return image(entry["image"]) if "image" in entry else _typed(str, "text", entry["text"])


def _segment(entry: Mapping[str, Any], image: Callable[[Any], Any]) -> Segment:
    size = _optional(list, "size", entry["size"])
    ids = _typed(list, "token_ids", entry["token_ids"])
    known = {
        "text": _optional(str, "text", entry["text"]),
        "image": image(entry["image"]),
        "token_ids": tuple(_typed(int, "token_ids", id_) for id_ in ids),
        "seed": _optional(int, "seed", entry["seed"]),
        "size": None if size is None else _size(*size),
        "seconds": _typed(float, "seconds", entry["seconds"]),
        "error": _optional(str, "error", entry["error"]),
    }
    return Segment(**{**entry, **known})


def _size(height: Any, width: Any) -> tuple[int, int]:
    return _typed(int, "size", height), _typed(int, "size", width)


def _usage(entry: Mapping[str, Any]) -> Usage:
    kinds = {known.name: int for known in dataclasses.fields(Usage)} | {"seconds": float}
    return Usage(**{name: _typed(kinds[name], name, value) for name, value in entry.items()})


def _error(entry: Mapping[str, Any]) -> RecordedError:
    return RecordedError(*(_typed(str, name, entry[name]) for name in ("type", "message")))


def _typed(kind: type, name: str, value: Any) -> Any:
    """Return a value of a JSON type; a whole number is a float's too, and true is none."""
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind in (int, float)):
        raise TypeError(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")
    return value


def _optional(kind: type, name: str, value: Any) -> Any:
    return None if value is None else _typed(kind, name, value)
