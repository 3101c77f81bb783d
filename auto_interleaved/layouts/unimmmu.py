"""Uni-MMMU: a folder a case, with the text, the pictures by number, and what is known of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auto_interleaved.layouts.cases import Case, Question, text_of
from auto_interleaved.layouts.layout import (
    Faults,
    Files,
    Layout,
    of,
    picture_faults,
    read_json,
    to_json,
)


def _files(cases: Sequence[Case], model: str) -> Files:
    for case in cases:
        folder, output, pictures = case.question.file_name, [], 0
        for item in case.items:
            if isinstance(item, str):
                output.append({"type": "text", "content": item})
                continue
            pictures += 1
            name = f"model_image_{pictures:02d}.png"
            output.append({"type": "image", "content": name})
            yield f"{folder}/{name}", item.read_bytes()
        yield f"{folder}/model_text.txt", text_of(case.items).encode("utf-8", "backslashreplace")
        document = {**case.question.record, "model": model, "output": output}
        yield f"{folder}/result.json", to_json(document)


def _faults(questions: Sequence[Question], root: Path, model: str) -> Faults:  # noqa: ARG001
    for question in questions:
        yield from of(question, _wrong(root / question.file_name, root))


def _wrong(folder: Path, root: Path) -> Faults:
    document, wrong = read_json(folder / "result.json", root)
    yield from wrong
    text = folder / "model_text.txt"
    if not text.is_file():
        yield f"{text.relative_to(root).as_posix()} is missing"
    there = sorted(path.name for path in folder.glob("model_image_*.png"))
    named = [f"model_image_{number + 1:02d}.png" for number in range(len(there))]
    if there != named:
        yield f"its pictures are not numbered without a gap from 01: {', '.join(there)}"
    for name in there:
        yield from picture_faults(folder / name, root)
    if isinstance(document, dict) and isinstance(document.get("output"), list):
        told = [part.get("content") for part in document["output"] if part.get("type") == "image"]
        if told != there:
            yield "result.json tells of other pictures than there are, or in another order"
    elif not wrong:
        yield "result.json has no output"
    if not there and text.is_file() and not text.read_bytes().strip():
        yield "nothing was answered"


UNIMMMU = Layout(
    name="unimmmu",
    fields={
        "id": ("id", "index"),
        "prompt": ("prompt", "question", "instruction"),
        "messages": ("messages",),
        "images": ("images", "image"),
    },
    files=_files,
    faults=_faults,
)
