"""A folder of results: one folder for each id, a part for each process, and a table at the end.

Only what a folder holds counts: a table can be made from the folders at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from data.output.atomic import put_file
from data.output.errors import error_parts
from data.output.names import document_name
from data.output.result import InterleavedOutput
from data.wording import shown

TABLE = "results.jsonl"
_PARTS = "parts"
_RUNNER = "runner"  # in the settings of an output: whose it is
_TIMING = ("id", "process", "seconds", "segments")

_LONGEST_NAME = 200  # bytes; file systems end at 255
# Names of our own files, and of the devices that Windows sees in every folder.
_TAKEN = {TABLE, _PARTS, "con", "prn", "aux", "nul"}
_TAKEN |= {f"{device}{number}" for device in ("com", "lpt") for number in range(10)}
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Id = str | int
Row = dict[str, Any]


def folder_name(identity: Id) -> str:
    """Return the name of an id's folder: letters, digits, `_`, `-`, `.`, and the rest as `%2F`.

    Raises:
        ValueError: if it is empty, holds half a character, or is too long.
    """
    try:
        name = quote(str(identity), safe="").replace("~", "%7E")
    except UnicodeEncodeError:
        raise ValueError(f"id must be whole characters, got {shown(identity)}") from None
    if not name:
        raise ValueError("id must not be empty")
    if name[0] == "." or name.casefold() in _TAKEN or name.casefold().split(".")[0] in _TAKEN:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1] == ".":
        name = f"{name[:-1]}%2E"
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"id must be the name of a folder, and {shown(identity)} makes one of {len(name)} "
            f"bytes; at most {_LONGEST_NAME} are safe"
        )
    return name


def id_of(folder: str) -> str:
    """Return the id that a folder's name stands for."""
    return unquote(folder)


class ResultFolder:
    """Results of many prompts, as one process of a run keeps them.

    Args:
        path: the folder; made if need be.
        run: what tells this run's parts from those that a run left that was killed.
        process: the number of this process.
    """

    def __init__(self, path: Path, run: str, process: int = 0) -> None:
        self.path = path
        self._run = run
        self._process = process
        self._counted: dict[Path, tuple[int, int]] = {}  # bytes and lines of each part so far

    def keep(self, identity: Id, request: str, output: InterleavedOutput) -> Row:
        """Save an output into its folder, and note it once it is there.

        How long it took is in the part alone, so that equal runs leave equal folders.

        Returns:
            Its row of the table.

        Raises:
            OSError: it cannot be saved.
        """
        mark = {_RUNNER: {"id": identity, "request": request}}
        _untimed(output, mark).save(f"{self.path / folder_name(identity)}/")
        row = self.row(identity)
        if row is None:
            raise OSError("what was saved cannot be read")
        seconds = [segment.seconds for segment in output.segments if segment.role != "prompt"]
        with suppress(OSError):  # it is saved, and its folder counts
            self._note({**row, "seconds": output.usage.seconds, "segments": seconds})
        return row

    def fail(self, identity: Id, error: BaseException) -> Row:
        """Note a prompt of which nothing could be saved."""
        row = failed_row(identity, error)
        with suppress(OSError):
            self._note(row)
        return row

    def row(self, identity: Id) -> Row | None:
        """Return an id's row, from what its folder holds; None unless all of that is there."""
        name = folder_name(identity)
        document = _document(self.path / name)
        mark = {} if document is None else _mark(document)
        if document is None or mark.get("id") != identity:
            return None
        try:
            return _row(mark, name, document)
        except (KeyError, TypeError, AttributeError):
            return None

    def noted(self) -> list[Row]:
        """Return what all processes of this run have noted so far."""
        return [row for path in self._parts(self._run) for row in _rows(path)]

    def num_noted(self) -> int:
        """Return how many outcomes all processes of this run have noted so far."""
        for path in self._parts(self._run):
            size, lines = self._counted.get(path, (0, 0))
            with suppress(OSError), path.open("rb") as file:
                file.seek(size)
                new = file.read()
                self._counted[path] = size + len(new), lines + new.count(b"\n")
        return sum(lines for _, lines in self._counted.values())

    def conclude(self, prompts: Mapping[int, Id | Row], timings: Path | None = None) -> list[Row]:
        """Write the table, and how long each took.

        Args:
            prompts: the id of each prompt, or the row of one that could not be run, by its line.
            timings: a file that gets a line for each prompt that was run.

        Returns:
            The rows of the table, in the order of the lines.
        """
        noted = [row for path in self._parts("") for row in _rows(path)]
        failed = {str(row["id"]): row for row in noted if row.get("folder") is None}
        rows = []
        for line, prompt in sorted(prompts.items()):
            row = (
                prompt if isinstance(prompt, dict) else self.row(prompt) or failed.get(str(prompt))
            )
            if row is not None:
                rows.append(_in_table(row, line))
        self.path.mkdir(parents=True, exist_ok=True)
        put_file(self.path / TABLE, _lines(map(_json, rows)))
        if timings is not None:
            times = [{name: row[name] for name in _TIMING} for row in noted if "seconds" in row]
            put_file(timings, _lines(dict.fromkeys(map(_json, [*_rows(timings), *times]))))
        return rows

    def forget_parts(self) -> None:
        """Remove the parts, whose rows are in the table."""
        for path in self._parts(""):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            (self.path / _PARTS).rmdir()

    def _note(self, row: Row) -> None:
        part = self.path / _PARTS / f"{self._run}-{self._process:04d}.jsonl"
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            file.write(_lines([_json({**row, "process": self._process})]))

    def _parts(self, run: str) -> list[Path]:
        return sorted((self.path / _PARTS).glob(f"{run}*.jsonl"))


def failed_row(identity: Id | None, error: BaseException) -> Row:
    """Return the row of a prompt that nothing was made of."""
    return {
        "id": identity,
        "status": "failed",
        "folder": None,
        "finish_reason": "error",
        "seed": None,
        "items": [],
        "usage": None,
        "error": dict(zip(("type", "message"), error_parts(error), strict=True)),
    }


def _untimed(output: InterleavedOutput, config: Mapping[str, Any]) -> InterleavedOutput:
    return InterleavedOutput(
        output,
        segments=[replace(segment, seconds=0.0) for segment in output.segments],
        finish_reason=output.finish_reason,
        usage=replace(output.usage, seconds=0.0),
        error=output.error,
        config={**output.config, **config},
    )


def _document(folder: Path) -> dict[str, Any] | None:
    """Return what describes a saved run; None where it, or a picture of it, is not whole."""
    try:
        document = json.loads((folder / document_name()).read_bytes())
        entries = [*document["items"], *document["segments"]]
        pictures = {entry["image"] for entry in entries if entry.get("image") is not None}
        whole = all(_is_whole(folder / picture) for picture in pictures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return document if whole else None


def _is_whole(picture: Path) -> bool:
    with picture.open("rb") as file:
        file.seek(-len(_PNG_END), os.SEEK_END)
        return file.read() == _PNG_END


def _mark(document: Mapping[str, Any]) -> Mapping[str, Any]:
    mark = document.get("config", {}).get(_RUNNER)
    return mark if isinstance(mark, dict) else {}


def _row(mark: Mapping[str, Any], folder: str, document: Mapping[str, Any]) -> Row:
    reason = document["finish_reason"]
    items = [
        {"image": f"{folder}/{entry['image']}"} if "image" in entry else entry
        for entry in document["items"]
    ]
    return {
        "id": mark["id"],
        "status": {"error": "failed", "interrupted": "interrupted"}.get(reason, "done"),
        "folder": folder,
        "finish_reason": reason,
        "seed": document["config"].get("seed"),
        "items": items,
        "usage": {key: value for key, value in document["usage"].items() if key != "seconds"},
        "error": document["error"],
        "request": mark.get("request"),
        "turns": document["config"].get("turns"),
    }


def _in_table(row: Row, line: int) -> Row:
    names = list(failed_row(None, ValueError()))
    return {"line": line, **{name: row.get(name) for name in names}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", errors="backslashreplace")


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file; a kill may have cut its last line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "id" in row:
                yield row
