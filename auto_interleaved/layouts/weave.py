"""WEAVE: talks; a picture under the name of the one it is compared with, a text for each turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from auto_interleaved.layouts.cases import Case, Question, pictures_of, text_of
from auto_interleaved.layouts.layout import (
    Faults,
    Files,
    Layout,
    base_name,
    of,
    picture_bytes,
    picture_faults,
)


def _stem(question: Question) -> str:
    """Return the stem of the case's first image; its id where it has none."""
    first = question.named.get("first_image")
    return question.file_name if first is None else PurePosixPath(base_name(first)).stem


def _picture(question: Question, turn: int) -> str:
    """Return where a turn's picture lies; turns are counted from 1 in names."""
    gold = question.golds[turn]
    return f"imgs/{f'{_stem(question)}_{turn + 1}.png' if gold is None else base_name(gold)}"


def _text(question: Question, turn: int) -> str:
    return f"{_stem(question)}_{turn + 1}.txt"


def _files(cases: Sequence[Case], model: str) -> Files:  # noqa: ARG001 - a layout's arguments
    for case in cases:
        for turn, answer in enumerate(case.answers):
            yield _text(case.question, turn), text_of(answer).encode("utf-8", "backslashreplace")
            if pictures := pictures_of(answer):
                name = _picture(case.question, turn)
                yield name, picture_bytes(pictures[-1], name)


def _faults(questions: Sequence[Question], root: Path, model: str) -> Faults:  # noqa: ARG001
    for question in questions:
        yield from of(question, _wrong(question, root))


def _wrong(question: Question, root: Path) -> Faults:
    for turn, gold in enumerate(question.golds):
        text, picture = root / _text(question, turn), root / _picture(question, turn)
        if not text.is_file():
            yield f"{text.name} is missing, what was said in turn {turn + 1}"
        elif not text.read_bytes().strip() and not picture.is_file():
            yield f"turn {turn + 1} has neither text nor picture"
        if gold is not None or picture.is_file():
            yield from picture_faults(picture, root)


def _claims(question: Question) -> Iterator[str]:
    yield _stem(question).casefold()
    pictures = [_picture(question, turn).casefold() for turn in range(len(question.golds))]
    if len(set(pictures)) < len(pictures):
        raise ValueError("two turns are compared with a picture of one name")
    yield from pictures


WEAVE = Layout(
    name="weave",
    fields={
        "id": ("id", "images.0", "image"),
        "turns": ("turns", "chats", "messages"),
        "prompt": ("prompt", "instruction", "content", "text"),
        "images": ("images", "image"),
        "gold": ("gold", "gold_image"),
    },
    files=_files,
    faults=_faults,
    claims=_claims,
)
