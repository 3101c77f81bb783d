"""Interleaved conversations in JSONL, the form in which users bring their own data.

A line is `{"messages": [...]}`, messages as in prompts: what "user" and "system" say is read, what
"assistant" says is learnt, its texts to be written and its images to be drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prompts import TextInput, parse_prompt
from training.samples import Outline, Picture, Text

_IMAGE_KEYS = ("image", "path", "url")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One line of a JSONL file, its images not yet opened.

    Attributes:
        messages: as in prompts; image paths are relative to `directory`.
        directory: where the file lies.
        place: file and line, for errors.
    """

    messages: list[Mapping[str, Any]]
    directory: Path
    place: str

    def outline(self) -> Outline:
        """Open the images and return the conversation as the loop would live through it.

        Raises:
            ValueError: if a message or an image cannot be read.
        """
        items: list[Text | Picture] = []
        for message in self.messages:
            read = self._read(message)
            items += _answer(read) if message.get("role") == "assistant" else read
        return tuple(items)

    def image_files(self) -> Iterator[Path]:
        """Yield the files that the images are in."""
        for message in self.messages:
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                found = self._file(part)
                if found is not None:
                    yield found[1]

    def _read(self, message: Mapping[str, Any]) -> list[Text | Picture]:
        """Return a message's texts and images as things to be read."""
        content = message.get("content")
        if isinstance(content, list):
            message = {**message, "content": [self._located(part) for part in content]}
        try:
            # What a message quotes is characters: images are given as images here.
            parts = parse_prompt([message], split_special_tokens=True)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.place}: {error}") from error
        return [
            Text(text=part.text, learnt=False)
            if isinstance(part, TextInput)
            else Picture(image=part.image, drawn=False)  # type: ignore[union-attr]
            for part in parts
        ]

    def _located(self, part: Any) -> Any:
        found = self._file(part)
        return part if found is None else {**part, found[0]: str(found[1])}

    def _file(self, part: Any) -> tuple[str, Path] | None:
        """Return the key under which an image part names a file, and the file."""
        if not isinstance(part, Mapping) or part.get("type") != "image":
            return None
        for key in _IMAGE_KEYS:
            value = part.get(key)
            if isinstance(value, str) and not value.startswith("data:"):
                return key, self.directory / value
        return None


def read_conversations(directory: Path) -> list[Conversation]:
    """Read every `*.jsonl` of a directory, in the order of their names.

    Raises:
        FileNotFoundError: if there is none, or an image's file is not there.
        ValueError: if a line is not a conversation with something to learn.
    """
    files = sorted(directory.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"there is no *.jsonl file in {directory}")
    conversations = [
        _conversation(line, file, number)
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip()
    ]
    if not conversations:
        raise ValueError(f"the *.jsonl files in {directory} are empty")
    return conversations


def _conversation(line: str, file: Path, number: int) -> Conversation:
    place = f"{file}, line {number}"
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error})") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError(
            f'{place}: must be {{"messages": [{{"role": ..., "content": ...}}, ...]}}, '
            f"got {line[:80]}"
        )
    if not any(message.get("role") == "assistant" for message in messages):
        raise ValueError(f'{place}: nothing is learnt, as no message has the role "assistant"')
    conversation = Conversation(messages=messages, directory=file.parent, place=place)
    for image in conversation.image_files():
        if not image.is_file():
            raise FileNotFoundError(f"{place}: there is no image file {image}")
    return conversation


def _answer(read: list[Text | Picture]) -> list[Text | Picture]:
    """Return an assistant's texts and images as things to be learnt, as the loop makes them.

    The loop writes a text, if only an empty one, before every image and after the last.
    """
    items: list[Text | Picture] = []
    words = ""
    for item in read:
        if isinstance(item, Text):
            words = f"{words}\n{item.text}" if words else item.text
            continue
        items += [Text(text=words, following="image"), Picture(image=item.image, drawn=True)]
        words = ""
    return [*items, Text(text=words, following="end")]
