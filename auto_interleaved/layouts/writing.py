"""A folder of results as a judge reads it: written anew from what is done, whenever that is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from auto_interleaved.layouts.cases import Answer, Case, Item, Question
from auto_interleaved.layouts.table import LAYOUTS
from data.output.atomic import put_file
from data.output.result_folders import ResultFolder

_LIST = ".auto-interleaved.json"  # what an earlier export wrote, so that no more than that goes


def layout_folder(results: Path, layout: str) -> Path:
    """Return where a layout lies: beside the folder of results."""
    return results.with_name(f"{results.name}_{layout}")


def model_name(model: str) -> str:
    """Return what a model is called in names of files: the last part of its path or hub id."""
    return Path(model).name or Path(model).absolute().name


def require_apart(layout: str, questions: Iterable[Question]) -> None:
    """Check that no two questions lead to one file.

    Raises:
        ValueError: if two do.
    """
    owners: dict[str, Question] = {}
    for question in questions:
        for claim in LAYOUTS[layout].claims(question):
            owner = owners.setdefault(claim, question)
            if owner is not question:
                raise ValueError(
                    f"the layout {layout} has one place, {claim}, for the ids {owner.id!r} and "
                    f"{question.id!r}; run them from separate files, into separate folders"
                )


def write_layout(
    layout: str, questions: Sequence[Question], results: ResultFolder, model: str
) -> None:
    """Write what a judge reads of everything that is done.

    What an earlier export wrote and this one does not is removed; other files stay.

    Args:
        layout: its name.
        questions: all that were asked, in order.
        results: where the answers are.
        model: what the model is called.

    Raises:
        OSError: a file cannot be written.
    """
    root = layout_folder(results.path, layout)
    cases = [case for question in questions if (case := _case(question, results)) is not None]
    before, written = _listed(root), []
    root.mkdir(parents=True, exist_ok=True)
    for name, content in LAYOUTS[layout].files(cases, model):
        written.append(name)
        if not _is_there(root / name, content):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            put_file(root / name, content)
    put_file(root / _LIST, (json.dumps(sorted(written), indent=0) + "\n").encode())
    for name in before.difference(written):
        _remove(root, name)


def faults_of(layout: str, questions: Sequence[Question], root: Path, model: str) -> list[str]:
    """Tell what a judge would miss of questions in a layout's folder."""
    return list(LAYOUTS[layout].faults(questions, root, model))


def _case(question: Question, results: ResultFolder) -> Case | None:
    """Return a question with its answers; None unless it is done."""
    row = results.row(question.id)
    if row is None or row["status"] != "done":
        return None
    items = [_item(entry, results.path) for entry in row["items"]]
    lengths = row["turns"] or [len(items)]
    if len(lengths) != len(question.turns) or sum(lengths) != len(items):
        return None  # it was answered when the line had other turns
    answers: list[Answer] = []
    for length in lengths:
        answers.append(tuple(items[:length]))
        del items[:length]
    return Case(question=question, answers=tuple(answers))


def _item(entry: Mapping[str, str], root: Path) -> Item:
    return root / entry["image"] if "image" in entry else entry["text"]


def _listed(root: Path) -> set[str]:
    try:
        names = json.loads((root / _LIST).read_bytes())
        return {name for name in names if isinstance(name, str)}
    except (OSError, ValueError, TypeError):
        return set()


def _is_there(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _remove(root: Path, name: str) -> None:
    path = Path(os.path.normpath(root / name))
    if path.is_relative_to(root):
        with suppress(OSError):  # somebody else removed it
            path.unlink()
            path.parent.rmdir()  # only if nothing is in it
