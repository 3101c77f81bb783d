"""Lines of JSONL files: what their bytes say, and what is wrong where they say nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FILES = {  # by their first bytes
    b"\xff\xfe": "in UTF-16; save it as UTF-8",
    b"\xfe\xff": "in UTF-16; save it as UTF-8",
    b"\x1f\x8b": "compressed; unpack it first",
    b"PK\x03\x04": "compressed; unpack it first",
    b"BZh": "compressed; unpack it first",
    b"\xfd7zXZ": "compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed; unpack it first",
    b"PAR1": "a Parquet table; write its rows as lines of JSON",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that is not blank.

    Attributes:
        file: where it is.
        number: counted from 1, blank lines included.
        raw: its bytes, without the line break.
    """

    file: Path
    number: int
    raw: bytes

    @property
    def name(self) -> str:
        """What messages call it within the file."""
        return f"line {self.number}"

    @property
    def place(self) -> str:
        """File and line, as errors begin."""
        return f"{self.file}, line {self.number}"

    def value(self) -> Any:
        """Return what the line says.

        Raises:
            ValueError: it is not JSON in UTF-8, or JSON that says a thing twice.
        """
        return _parsed(self.raw)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a list that is a whole file.

    Attributes:
        file: where it is.
        number: counted from 1.
        content: what it says.
    """

    file: Path
    number: int
    content: Any

    @property
    def name(self) -> str:
        """What messages call it within the file."""
        return f"entry {self.number}"

    def value(self) -> Any:
        """Return what the entry says."""
        return self.content


def require_file(file: Path) -> None:
    """Check that there is a file that can hold lines.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: there is something else.
        IsADirectoryError: there is a directory.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory, not a file of lines; rename or move it")
    if file.is_file():
        return
    if os.path.lexists(file) and not file.is_symlink():
        raise ValueError(f"{file} is no ordinary file; write the lines to one")
    raise FileNotFoundError(f"there is no file or directory {file}")


def read_lines(file: Path) -> Iterator[Line]:
    """Yield a file's lines that are not blank.

    Lines end at a line feed and nowhere else: U+2028, U+2029 and U+0085 may stand in a string.

    Raises:
        ValueError: the file is in another encoding, compressed, or not one of lines.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        for number, raw in enumerate(opened, start=1):
            if number == 1:
                _require_lines(file, raw)
            raw = raw.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n")
            if raw.strip():
                yield Line(file=file, number=number, raw=raw)


def read_records(file: Path) -> Iterator[Line | Entry]:
    """Yield a file's lines that are not blank, or, where it is one JSON list, the list's entries.

    Raises:
        ValueError: it is neither.
        OSError: it cannot be read.
    """
    if not _begins_a_list(file):
        yield from read_lines(file)
        return
    try:
        entries = _parsed(file.read_bytes().removeprefix(_BYTE_ORDER_MARK))
    except ValueError as error:
        raise ValueError(f"{file} begins as a JSON list and is none: {error}") from error
    for number, content in enumerate(entries, start=1):
        yield Entry(file=file, number=number, content=content)


def _begins_a_list(file: Path) -> bool:
    with file.open("rb") as opened:
        for line in opened:
            if start := line.removeprefix(_BYTE_ORDER_MARK).strip():
                return start.startswith(b"[")
    return False


def _require_lines(file: Path, first: bytes) -> None:
    for start, what in _OTHER_FILES.items():
        if first.startswith(start):
            raise ValueError(f"{file} is {what}")
    start = first.removeprefix(_BYTE_ORDER_MARK).strip()
    if start in (b"[", b"{", b"[{") and first.endswith(b"\n"):
        raise ValueError(
            f"{file} is JSON over several lines; write one object and a line break after the "
            "other, with no brackets or commas around"
        )
    if b"\0" in first:
        raise ValueError(f"{file} is no text in UTF-8: it holds zero bytes")


def _parsed(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1}); "
            "save the file in this encoding"
        ) from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({_explained(error)})") from error
    except RecursionError as error:
        raise ValueError("not readable JSON (it is nested too deeply)") from error
    except ValueError as error:  # a number of thousands of digits, or ours
        raise ValueError(f"not readable JSON ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} stands twice in one object; leave one of them")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; leave it out or write null")


def _explained(error: json.JSONDecodeError) -> str:
    place = f"column {error.pos + 1}"
    found = error.doc[error.pos : error.pos + 1]
    if error.msg.startswith("Invalid control character"):
        return (
            f"a string holds the raw control character U+{ord(found):04X} at {place}; "
            f'write it as "\\u{ord(found):04x}"'
        )
    if error.msg.startswith("Extra data"):
        return f"something follows the object, at {place}; write one object a line"
    if found == "'":
        return f"a single quote at {place}; JSON has double quotes"
    return f"{error.msg}, {place}"


def _shown(name: str) -> str:
    return json.dumps(name if len(name) <= 40 else f"{name[:37]}...")
