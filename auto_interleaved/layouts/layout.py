"""What a layout is, and what several of them need: files by path, and looks at files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from auto_interleaved.layouts.cases import Case, Question
from data.data_utils import pil_img2rgb
from data.wording import one_line

Files = Iterator[tuple[str, bytes]]
Faults = Iterator[str]

_JPEG_QUALITY = 95
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the results of a benchmark lie on disk for its judge.

    Attributes:
        name: by which it is asked for.
        fields: where a line of the benchmark has what is needed, by names of ours: the first that
            a line has is taken. Dots lead into lists and objects, as `conversations.0.input` does.
        required: names of ours, beside the id, that a line must have.
        files: makes the files of cases, by path from the layout's folder, given the model's name.
        faults: tells what a judge would miss of questions in such a folder.
        claims: names that no other question may lead to; raises ValueError where one is no name.
    """

    name: str
    fields: Mapping[str, tuple[str, ...]]
    files: Callable[[Sequence[Case], str], Files]
    faults: Callable[[Sequence[Question], Path, str], Faults]
    required: tuple[str, ...] = ()
    claims: Callable[[Question], Iterable[str]] = lambda question: (question.file_name.casefold(),)


def to_json(value: Any) -> bytes:
    """Return a value as a file of JSON."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode(
        "utf-8", errors="backslashreplace"
    )


def to_line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")


def picture_bytes(picture: Path, name: str) -> bytes:
    """Return a picture's file in the format that a name's suffix says: JPEG, else PNG."""
    if PurePosixPath(name).suffix.lower() not in (".jpg", ".jpeg"):
        return picture.read_bytes()
    buffer = io.BytesIO()
    with Image.open(picture) as opened:
        pil_img2rgb(opened).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def base_name(name: str) -> str:
    """Return the last part of a path, of whichever system, as the name of a file.

    Raises:
        ValueError: if it is none.
    """
    found = re.split(r"[/\\]", name)[-1]
    if found in ("", ".", "..") or found.startswith("."):
        raise ValueError(f"{one_line(name)!r} is no name of a file")
    return found


def picture_faults(path: Path, root: Path) -> Faults:
    """Tell what is wrong with a picture: it is missing, empty or broken."""
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    if not path.is_file():
        yield f"{name} is missing"
        return
    try:
        with Image.open(path) as opened:
            opened.load()
    except Exception as error:  # of whatever kind a codec raises
        yield f"{name} is no readable picture ({one_line(str(error))})"


def order_faults(names: Sequence[str]) -> Faults:
    """Tell whether the numbers that names end in do not rise."""
    numbers = [int(match[1]) for name in names if (match := _LAST_NUMBER.search(Path(name).stem))]
    if len(numbers) == len(names) and any(
        after <= before for before, after in zip(numbers, numbers[1:], strict=False)
    ):
        yield f"its pictures are out of order: {', '.join(map(one_line, names))}"


def read_json(path: Path, root: Path) -> tuple[Any, list[str]]:
    """Return what a file of JSON says, or None and what is wrong with it."""
    name = path.relative_to(root).as_posix()
    try:
        return json.loads(path.read_bytes()), []
    except FileNotFoundError:
        return None, [f"{name} is missing"]
    except (OSError, ValueError) as error:
        return None, [f"{name} cannot be read ({one_line(str(error))})"]


def of(question: Question, faults: Iterable[str]) -> Faults:
    """Put a question's id before what is wrong with it."""
    yield from (f"{one_line(str(question.id))}: {fault}" for fault in faults)
