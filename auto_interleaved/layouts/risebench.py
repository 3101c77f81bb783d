"""RISEBench: one picture a case, in a folder of its category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from auto_interleaved.layouts.cases import Case, Question
from auto_interleaved.layouts.layout import Faults, Files, Layout, base_name, of, picture_faults


def _path(question: Question, model: str) -> str:
    category = question.named["category"]
    return f"outputs/{model}/images/{category}/{question.file_name}.png"


def _files(cases: Sequence[Case], model: str) -> Files:
    for case in cases:
        if case.pictures:  # the last one is the result, what came before led to it
            yield _path(case.question, model), case.pictures[-1].read_bytes()


def _faults(questions: Sequence[Question], root: Path, model: str) -> Faults:
    for question in questions:
        yield from of(question, picture_faults(root / _path(question, model), root))


def _claims(question: Question) -> Iterator[str]:
    category = question.named["category"]
    if base_name(category) != category:
        raise ValueError(f"the category {category!r} is no name of a folder")
    yield f"{category}/{question.file_name}".casefold()


RISEBENCH = Layout(
    name="risebench",
    fields={
        "id": ("index", "id"),
        "prompt": ("instruction", "prompt"),
        "messages": ("messages",),
        "images": ("image", "images"),
        "category": ("category",),
    },
    required=("category",),
    files=_files,
    faults=_faults,
    claims=_claims,
)
