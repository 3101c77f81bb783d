"""MMMG: an answer is a text in which markers stand where pictures do, and the list of these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auto_interleaved.layouts.cases import Case, Question
from auto_interleaved.layouts.layout import (
    Faults,
    Files,
    Layout,
    of,
    picture_faults,
    read_json,
    to_json,
)
from auto_interleaved.layouts.lists import picture_name

_MARKER = "<image_begin><image_{}><image_end>"
_MARKERS = re.compile(r"<image_begin><image_(\d+)><image_end>")


def _files(cases: Sequence[Case], model: str) -> Files:
    entries = []
    for case in cases:
        response, images = "", list[str]()
        for item in case.items:
            if isinstance(item, str):
                response += item
                continue
            response += _MARKER.format(len(images))
            images.append(picture_name(case.question, len(images)))
            yield images[-1], item.read_bytes()
        entries.append({"id": case.question.id, "response": response, "image_list": images})
    yield f"{model}.json", to_json(entries)


def _faults(questions: Sequence[Question], root: Path, model: str) -> Faults:
    found, wrong = read_json(root / f"{model}.json", root)
    yield from wrong
    if wrong:
        return
    entries = (
        [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    )
    by_id = {entry.get("id"): entry for entry in entries}
    for question in questions:
        entry = by_id.get(question.id)
        yield from of(
            question, ["there is no answer to it"] if entry is None else _wrong(entry, root)
        )


def _wrong(entry: Mapping[str, Any], root: Path) -> Faults:
    response, images = entry.get("response"), entry.get("image_list")
    if not (isinstance(response, str) and isinstance(images, list)):
        yield 'it has no "response" with an "image_list"'
        return
    if not (response or images):
        yield "nothing was answered"
    numbers = [int(number) for number in _MARKERS.findall(response)]
    if numbers != list(range(len(images))):
        yield f"its markers name the pictures {numbers}, and its list has {len(images)}"
    for image in images:
        yield from picture_faults(root / str(image), root)


MMMG = Layout(
    name="mmmg",
    fields={
        "id": ("id", "uid", "index"),
        "prompt": ("query", "instruction", "prompt"),
        "messages": ("messages",),
        "images": ("image_list", "images", "image"),
    },
    files=_files,
    faults=_faults,
)
