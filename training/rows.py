"""Rows of a table, one after another, as conversations in JSONL with their pictures beside them.

python -m training.rows data/*.parquet --ask Question --answer "Text Reasoning Trace" -o stories/

Rows are streamed by `datasets` (extra `train`) and never held all at once. What is said is made of
columns in order: texts, and pictures. In a text, `[name]` or `<image_start>[name]<image_end>` is
the picture of the column of that name.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from data.data_utils import pil_img2rgb

_MARK = re.compile(r"(?:<image_start>)?\[(\w+)\](?:<image_end>)?")
_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
_MISSING = "rows are read by datasets: pip install datasets (extra `train`)"

Row = Mapping[str, Any]


def parts_of(row: Row, columns: Sequence[str]) -> Iterator[str | Image.Image]:
    """Yield what columns of a row say: texts that are not blank, and pictures.

    Raises:
        ValueError: a column is not there, or holds what is neither.
    """
    for column in columns:
        if column not in row:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(row)}")
        value = row[column]
        if isinstance(value, str):
            yield from _text(value, row)
        elif value is not None:  # a picture that this row has not
            yield _picture(value, column)


def _text(text: str, row: Row) -> Iterator[str | Image.Image]:
    start = 0
    for mark in _MARK.finditer(text):
        if mark[1] not in row or isinstance(row[mark[1]], str):
            continue  # brackets of the text's own
        yield from _words(text[start : mark.start()])
        if row[mark[1]] is not None:
            yield _picture(row[mark[1]], mark[1])
        start = mark.end()
    yield from _words(text[start:])


def _words(text: str) -> Iterator[str]:
    if text.strip():
        yield text.strip()


def _picture(value: Any, column: str) -> Image.Image:
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, Image.Image):
        return pil_img2rgb(content)
    if not isinstance(content, bytes):
        raise ValueError(f"column {column!r} holds neither text nor a picture: {type(value)}")
    try:
        return pil_img2rgb(Image.open(io.BytesIO(content)))
    except Exception as error:  # which one depends on the format and on Pillow's version
        raise ValueError(f"column {column!r} holds no picture that can be read: {error}") from error


def write(rows: Iterable[Row], ask: Sequence[str], answer: Sequence[str], folder: Path) -> int:
    """Write rows as conversations.

    Args:
        rows: one after another.
        ask: columns of what is asked, in order.
        answer: columns of the answer.
        folder: where to; it is made.

    Returns:
        How many there were.

    Raises:
        ValueError: a row is not what it must be; the rows before it are written.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    number = 0
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            try:
                said = {role: list(parts_of(row, c)) for role, c in _roles(ask, answer)}
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from error
            messages = [
                {"role": role, "content": _saved(parts, pictures, f"{number:07d}_{role}")}
                for role, parts in said.items()
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return number


def _roles(ask: Sequence[str], answer: Sequence[str]) -> tuple[tuple[str, Sequence[str]], ...]:
    return (("user", ask), ("assistant", answer))


def _saved(parts: Sequence[str | Image.Image], folder: Path, name: str) -> list[dict[str, str]]:
    content = []
    for number, part in enumerate(parts):
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        path = folder / f"{name}_{number}.png"
        part.save(path)
        content.append({"type": "image", "path": f"{folder.name}/{path.name}"})
    return content


def stream(sources: Sequence[str], split: str) -> Iterator[Row]:
    """Yield rows of files, or of a set on the hub, without holding them.

    Raises:
        ImportError: datasets is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the files are of several kinds.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(_MISSING) from error
    kinds = {_READERS.get(Path(source).suffix) for source in sources}
    if len(kinds) > 1:
        raise ValueError("files must be of one kind: Parquet, Arrow, JSON or JSONL")
    [kind] = kinds
    if kind is None:
        if len(sources) > 1:
            raise ValueError(f"one set on the hub at a time, got {', '.join(sources)}")
        yield from load_dataset(sources[0], split=split, streaming=True)
        return
    yield from load_dataset(kind, data_files=list(sources), split="train", streaming=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write conversations; return 0, or 1 if a row or a source is not what it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m training.rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="+", help="files, or the hub id of a set")
    parser.add_argument("--ask", nargs="+", required=True, metavar="COLUMN")
    parser.add_argument("--answer", nargs="+", required=True, metavar="COLUMN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--split", default="train", help="of a set on the hub; default %(default)s")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="default: all")
    given = parser.parse_args(arguments)
    try:
        rows = islice(stream(given.source, given.split), given.limit)
        number = write(rows, given.ask, given.answer, given.output)
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"training.rows: error: {error}\n")
        return 1
    sys.stdout.write(f"{number:,} conversations in {given.output / 'rows.jsonl'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
