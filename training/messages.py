"""The messages of one conversation: what each says, with every part of it checked.

A message is what prompts take as well, as far as JSON can write it: `{"role", "content"}`, the
content a string or a list of `{"type": "text", "text"}` and `{"type": "image", "path"}`, or what
OpenAI's formats call them.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.pictures import PictureSource, find_picture

_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {  # what other formats call them, which is not quite the same
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_IMAGE_KEYS = ("image", "path", "url", "image_url")
# What other programs write beside, and what changes nothing about what is read.
_IGNORED = {"type", "name", "id", "status", "detail", "cache_control", "annotations", "alt"}
_IMAGE_NAME = re.compile(r"\S+\.(png|jpe?g|gif|webp|bmp|tiff?|avif|heic|svg)", re.IGNORECASE)
_LINE = '{"messages": [{"role": ..., "content": ...}, ...]}'
_PARTS = '{"type": "text", "text": "..."} or {"type": "image", "path": "..."}'


@dataclass(frozen=True, kw_only=True)
class Message:
    """What somebody said.

    Attributes:
        role: "system", "user" or "assistant".
        parts: texts, none of them blank, and pictures, in order.
    """

    role: str
    parts: tuple[str | PictureSource, ...]


def read_messages(record: Any, directory: Path) -> tuple[Message, ...]:
    """Check what a line says, the headers of its pictures included.

    Args:
        record: the line's value.
        directory: what relative paths begin at.

    Raises:
        FileNotFoundError: a picture's file is not there.
        ValueError: anything else; every message begins with the part that it is about.
    """
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list):
        raise ValueError(f"must be {_LINE}, got {_shown(record)}{_known_form(record)}")
    read = tuple(
        _message(message, f"messages[{number}]", directory)
        for number, message in enumerate(messages)
    )
    if not any(message.role == "assistant" for message in read):
        raise ValueError('nothing is learnt, as no message has the role "assistant"')
    return read


def _known_form(record: Any) -> str:
    if isinstance(record, list):
        return '; wrap the list: {"messages": [...]}'
    if isinstance(record, dict) and "conversations" in record:
        return '; rename "conversations", "from" and "value" to "messages", "role" and "content"'
    if isinstance(record, dict) and "messages" in record:
        return f"; messages must be a list, got {_shown(record['messages'])}"
    return ""


def _message(message: Any, place: str, directory: Path) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f'{place}: must be {{"role": ..., "content": ...}}, got {_shown(message)}')
    _require_keys(message, ("role", "content"), place)
    parts = tuple(_parts(message["content"], f'{place}["content"]', directory))
    if not parts:
        raise ValueError(
            f'{place}["content"]: must say something, got {_shown(message["content"])}; '
            "leave the message out, or write a text that is not blank or an image"
        )
    return Message(role=_role(message["role"], f'{place}["role"]'), parts=parts)


def _role(role: Any, place: str) -> str:
    if role in _ROLES:
        return role
    if role == "developer":  # a newer name
        return "system"
    said = role.strip().lower() if isinstance(role, str) else ""
    meant = said if said in _ROLES else _OTHER_ROLES.get(said)
    advice = "" if meant is None else f'; write "{meant}"'
    raise ValueError(
        f"{place}: must be a role, one of {_listed(_ROLES)}; got {_shown(role)}{advice}"
    )


def _parts(content: Any, place: str, directory: Path) -> Iterator[str | PictureSource]:
    if isinstance(content, str):
        if _IMAGE_NAME.fullmatch(content.strip()) or content.startswith("data:image/"):
            raise ValueError(
                f"{place}: names a picture and would be read as words, got {_shown(content)}; "
                'write [{"type": "image", "path": ...}], or for words [{"type": "text", ...}]'
            )
        yield from _text(content, place)
        return
    if not isinstance(content, list):
        wrapped = "; put it into a list" if isinstance(content, dict) else ""
        raise ValueError(
            f"{place}: must be a string or a list of parts, got {_shown(content)}{wrapped}"
        )
    for number, part in enumerate(content):
        yield from _part(part, f"{place}[{number}]", directory)


def _part(part: Any, place: str, directory: Path) -> Iterator[str | PictureSource]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_TYPES:
        _require_keys(part, ("text",), place)
        if not isinstance(part["text"], str):
            raise ValueError(f'{place}["text"]: must be a string, got {_shown(part["text"])}')
        yield from _text(part["text"], f'{place}["text"]')
    elif kind in _IMAGE_TYPES:
        yield _picture(part, place, directory)
    else:
        raise ValueError(f"{place}: must be {_PARTS}, got {_shown(part)}")


def _text(text: str, place: str) -> Iterator[str]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: holds half a character, \\u{ord(text[error.start]):04x} at {error.start}; "
            "write both halves, or the character itself"
        ) from error
    if text.strip():
        yield text


def _picture(part: dict[str, Any], place: str, directory: Path) -> PictureSource:
    named = [key for key in _IMAGE_KEYS if part.get(key) is not None]
    if len(named) > 1:
        raise ValueError(f"{place}: must name one picture, got {_listed(named)}; leave one of them")
    key = named[0] if named else next((key for key in _IMAGE_KEYS if key in part), "path")
    _require_keys(part, (key,), place)
    name, place = part[key], f'{place}["{key}"]'
    if isinstance(name, dict) and "url" in name:  # as OpenAI wraps it
        _require_keys(name, ("url",), place)
        name, place = name["url"], f'{place}["url"]'
    if not isinstance(name, str):
        raise ValueError(f"{place}: must be a path or a data: URL, got {_shown(name)}")
    try:
        return find_picture(name, directory)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error


def _require_keys(given: Mapping[str, Any], keys: tuple[str, ...], place: str) -> None:
    """Raise unless keys are there, and no other that says something nobody here understands."""
    missing = [key for key in keys if key not in given]
    more = [
        key
        for key, value in given.items()
        if key not in keys and key not in _IGNORED and value not in (None, "", [], {})
    ]
    if missing or more:
        wrong = [f"{_listed(missing)} is missing"] if missing else []
        wrong += [f"{_listed(more)} is not known"] if more else []
        raise ValueError(f"{place}: must have {_listed(keys)}; {', '.join(wrong)}")


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f'"{reprlib.repr(name)[1:-1]}"' for name in names)


def _shown(value: Any) -> str:
    """Return a value as JSON, in a line."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
