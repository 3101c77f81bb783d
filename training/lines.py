"""Files of training data: which are meant, and what is wrong with one, in a line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from data.jsonl import require_file
from data.output.segments import describe_error

Data = str | os.PathLike[str]


def find_files(data: Data | Iterable[Data]) -> list[Path]:
    """Return the files that are meant, each once.

    Args:
        data: one or several of: a file; a directory, for every `*.jsonl` in it in the order of
            their names; a pattern such as `stories/**/*.jsonl`.

    Raises:
        FileNotFoundError: there is no such file, or no `*.jsonl` in a directory.
        ValueError: what has the name is neither a file nor a directory.
    """
    entries = [data] if isinstance(data, str | os.PathLike) else list(data)
    if not entries:
        raise ValueError("data must name a file, a directory or a pattern, got none")
    found = [file for entry in entries for file in _files(os.fspath(entry))]
    return list({file.resolve(): file for file in found}.values())


def _files(entry: str) -> list[Path]:
    if not entry.strip() or "\0" in entry:
        raise ValueError(f"data must name a file, a directory or a pattern, got {entry!r}")
    path = Path(entry)
    if path.is_dir():
        files = _matching(os.path.join(glob.escape(entry), "*.jsonl"))
        if not files:
            raise FileNotFoundError(f"there is no *.jsonl file in {path}{_deeper(path)}")
    elif os.path.lexists(path) or not glob.has_magic(entry):
        files = [path]
    else:
        files = _matching(entry)
        if not files:
            raise FileNotFoundError(f"no file matches {entry}")
    for file in files:
        require_file(file)
    return files


def _matching(pattern: str) -> list[Path]:
    return sorted(Path(name) for name in glob.glob(pattern, recursive=True))


def _deeper(directory: Path) -> str:
    """Say where the files are, if they are further down or have another suffix."""
    if next(directory.glob("*/**/*.jsonl"), None) is not None:
        return f'; for those further down write "{directory}/**/*.jsonl"'
    other = next((f for f in sorted(directory.iterdir()) if f.suffix in (".json", ".txt")), None)
    return "" if other is None else f"; if {other.name} is one, name the file itself"


def one_line(error: BaseException, limit: int = 400) -> str:
    """Return an error's message in a line that is not too long and can be shown anywhere."""
    ours = isinstance(error, ValueError | TypeError) or getattr(error, "errno", 0) is None
    words = " ".join((str(error) if ours else describe_error(error)).split())
    words = words if len(words) <= limit else f"{words[: limit - 3]}..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
