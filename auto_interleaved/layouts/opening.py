"""OpenING: a file of JSON for each case, its steps' pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auto_interleaved.layouts.cases import Case, Question, steps_of
from auto_interleaved.layouts.layout import (
    Faults,
    Files,
    Layout,
    of,
    order_faults,
    picture_bytes,
    picture_faults,
    read_json,
    to_json,
)


def _folder(model: str) -> str:
    return f"gen_outputs/{model}_output"


def _files(cases: Sequence[Case], model: str) -> Files:
    for case in cases:
        uid, steps = case.question.file_name, []
        for number, (text, picture) in enumerate(steps_of(case.items)):
            image = None if picture is None else f"{uid}-o-{number}.jpg"
            steps.append({"text": text, "image": image})
            if picture is not None and image is not None:
                yield f"{_folder(model)}/{image}", picture_bytes(picture, image)
        yield f"{_folder(model)}/{uid}.json", to_json(_document(case.question, steps))


def _document(question: Question, steps: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return the benchmark's own line with our steps in the place of its own."""
    own = question.record.get("conversations")
    asked = own[0] if isinstance(own, list) and own else {"input": [question.turns[0]]}
    conversations = [asked, {"output": steps}]
    return {"total_uid": question.id, **question.record, "conversations": conversations}


def _faults(questions: Sequence[Question], root: Path, model: str) -> Faults:
    folder = root / _folder(model)
    for question in questions:
        document, wrong = read_json(folder / f"{question.file_name}.json", root)
        yield from of(question, wrong or _wrong(document, folder, root))


def _wrong(document: Any, folder: Path, root: Path) -> Faults:
    try:
        steps = document["conversations"][1]["output"]
        images = [step["image"] for step in steps if step["image"] is not None]
        texts = [step["text"] for step in steps]
    except (KeyError, IndexError, TypeError):
        yield "it has no list of steps, each with a text and an image, in conversations[1].output"
        return
    if not images and not any(texts):
        yield "nothing was answered"
    for image in images:
        yield from picture_faults(folder / str(image), root)
    yield from order_faults(images)


OPENING = Layout(
    name="opening",
    fields={
        "id": ("total_uid", "id"),
        "prompt": ("conversations.0.input", "prompt"),
        "images": ("images",),
    },
    files=_files,
    faults=_faults,
)
