"""Benchmarks that read one file: their own lines, with the answers in order added to each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from auto_interleaved.layouts.cases import Case, Item, Question, steps_of, value_at
from auto_interleaved.layouts.layout import (
    Faults,
    Files,
    Layout,
    of,
    order_faults,
    picture_faults,
    to_json,
    to_line,
)
from data.wording import one_line


def picture_name(question: Question, number: int) -> str:
    """Return where a case's picture lies, by its place among them, counted from 0."""
    return f"images/{question.file_name}_{number}.png"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A text, or the name of a picture, in the order of an answer."""

    text: str | None = None
    image: str | None = None


def _parts(case: Case) -> tuple[list[_Part], dict[str, Path]]:
    """Return an answer's texts and pictures by name, and the pictures' files."""
    files: dict[str, Path] = {}

    def part(item: Item) -> _Part:
        if isinstance(item, str):
            return _Part(text=item)
        name = picture_name(case.question, len(files))
        files[name] = item
        return _Part(image=name)

    return [part(item) for item in case.items], files


# One line of JSON a case: ISG-Bench, CoMM, and whatever has no layout of its own.


def _line_files(cases: Sequence[Case], model: str) -> Files:
    lines = []
    for case in cases:
        parts, pictures = _parts(case)
        output = [
            {"type": "text", "content": part.text}
            if part.image is None
            else {"type": "image", "content": part.image}
            for part in parts
        ]
        lines.append(to_line({**case.question.record, "output": output}))
        yield from ((name, path.read_bytes()) for name, path in pictures.items())
    yield f"{model}.jsonl", b"".join(lines)


def _line_faults(questions: Sequence[Question], root: Path, model: str) -> Faults:
    found, wrong = _records(root / f"{model}.jsonl", root)
    yield from wrong
    yield from _matched(questions, found, _line_items, root) if not wrong else ()


def _line_items(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    output = record["output"]
    kinds = {
        kind: [p["content"] for p in output if p["type"] == kind] for kind in ("text", "image")
    }
    if len(kinds["text"]) + len(kinds["image"]) != len(output):
        raise KeyError("type")
    return kinds["text"], kinds["image"]


# One list of JSON: MMIE.


def _list_files(cases: Sequence[Case], model: str) -> Files:
    entries = []
    for case in cases:
        _, pictures = _parts(case)
        names = {path: name for name, path in pictures.items()}
        answer = [
            {"text": text or None, "image": None if picture is None else names[picture]}
            for text, picture in steps_of(case.items)
        ]
        own = case.question.record
        gold = {"gt_answer": own.get("gt_answer", own.get("answer"))}
        entries.append({**own, "answer": answer, "model": model, **gold})
        yield from ((name, path.read_bytes()) for name, path in pictures.items())
    yield "data.json", to_json(entries)


def _list_faults(questions: Sequence[Question], root: Path, model: str) -> Faults:  # noqa: ARG001
    found, wrong = _records(root / "data.json", root)
    yield from wrong
    yield from _matched(questions, found, _list_items, root) if not wrong else ()


def _list_items(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    steps = record["answer"]
    texts = [step["text"] for step in steps if step["text"] is not None]
    return texts, [step["image"] for step in steps if step["image"] is not None]


# Both.


def _records(path: Path, root: Path) -> tuple[list[Any], list[str]]:
    name = path.relative_to(root).as_posix()
    try:
        raw = path.read_bytes()
        if path.suffix == ".json":
            return list(json.loads(raw)), []
        return [json.loads(line) for line in raw.split(b"\n") if line.strip()], []
    except FileNotFoundError:
        return [], [f"{name} is missing"]
    except (OSError, ValueError, TypeError) as error:
        return [], [f"{name} cannot be read ({one_line(str(error))})"]


def _matched(
    questions: Sequence[Question], found: Sequence[Any], items_of: Any, root: Path
) -> Iterator[str]:
    """Tell what is wrong with the records of questions."""
    places = {question.id_place for question in questions}
    by_id = {(place, value_at(record, place)): record for place in places for record in found}
    for question in questions:
        record = by_id.get((question.id_place, question.id))
        yield from of(question, _wrong(record, items_of, root))


def _wrong(record: Any, items_of: Any, root: Path) -> Faults:
    if record is None:
        yield "there is no answer to it"
        return
    try:
        texts, images = items_of(record)
    except (KeyError, TypeError):
        yield "its answer is no list of texts and images"
        return
    if not images and not any(texts):
        yield "nothing was answered"
    for image in images:
        yield from picture_faults(root / str(image), root)
    yield from order_faults(images)


ISG = Layout(
    name="isg",
    fields={
        "id": ("id",),
        "prompt": ("Query", "query", "prompt"),
        "messages": ("messages",),
        "images": ("images",),
    },
    files=_line_files,
    faults=_line_faults,
)
PLAIN = Layout(
    name="plain",
    fields={
        "id": ("id",),
        "prompt": ("prompt",),
        "messages": ("messages",),
        "images": ("images",),
    },
    files=_line_files,
    faults=_line_faults,
)
COMM = replace(PLAIN, name="comm")
MMIE = Layout(
    name="mmie",
    fields={"id": ("id",), "prompt": ("question", "prompt"), "images": ("images",)},
    files=_list_files,
    faults=_list_faults,
)
