"""Cases: what a benchmark asks, and what was answered, as layouts take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.output.result_folders import Id, folder_name

Item = str | Path  # a text, or the file of a picture
Answer = tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A line of a benchmark's file.

    Attributes:
        id: a string or a whole number; no other line has it.
        id_place: where the line has it.
        record: the whole line, untouched.
        turns: what is asked, one after another: "prompt" or "messages", and "images".
        golds: for each turn, the name of the picture that it is compared with, if it has one.
        named: what else the layout's files are named after.
    """

    id: Id
    id_place: str
    record: Mapping[str, Any]
    turns: tuple[Mapping[str, Any], ...]
    golds: tuple[str | None, ...]
    named: Mapping[str, str]

    @property
    def file_name(self) -> str:
        """The id as the name of a file or folder: itself, if it is made of harmless letters."""
        return folder_name(self.id)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question and what was answered.

    Attributes:
        question: what was asked.
        answers: what came of each turn, in order.
    """

    question: Question
    answers: tuple[Answer, ...]

    @property
    def items(self) -> Answer:
        """All that was answered."""
        return tuple(item for answer in self.answers for item in answer)

    @property
    def pictures(self) -> list[Path]:
        """The pictures among it."""
        return pictures_of(self.items)


def value_at(record: Any, place: str) -> Any:
    """Return what a line has at a place; None where there is nothing.

    Args:
        record: the line.
        place: a field, or a way into lists and objects with dots between: `conversations.0.input`.
    """
    if isinstance(record, Mapping) and place in record:
        return record[place]
    first, dot, rest = place.partition(".")
    found = None
    if isinstance(record, Mapping):
        found = record.get(first)
    elif isinstance(record, list) and first.isdecimal() and int(first) < len(record):
        found = record[int(first)]
    return value_at(found, rest) if dot else found


def pictures_of(answer: Answer) -> list[Path]:
    """Return the pictures of an answer, in order."""
    return [item for item in answer if isinstance(item, Path)]


def text_of(answer: Answer) -> str:
    """Return the texts of an answer, a line break where a picture stood between two."""
    return "\n".join(item.strip("\n") for item in answer if isinstance(item, str))


def steps_of(answer: Answer) -> list[tuple[str, Path | None]]:
    """Return an answer as steps: each a text, or none, with the picture after it, if there is."""
    steps: list[tuple[str, Path | None]] = []
    text: str | None = None
    for item in answer:
        if isinstance(item, str):
            text = item if text is None else f"{text}\n{item}"
        else:
            steps.append((text or "", item))
            text = None
    return steps if text is None else [*steps, (text, None)]
