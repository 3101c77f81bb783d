"""Files that appear together or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def put_files(root: Path, files: Mapping[str, bytes], *, remove: Iterable[str] = ()) -> None:
    """Write files and remove others in one go.

    Everything is written beside its place first and then moved there, which takes no time to
    speak of; what fails or is interrupted at any point leaves all files as they were.

    Args:
        root: The folder that the files are in; made if need be. Its other files stay.
        files: Content by path from the root; files that exist are replaced.
        remove: Paths from the root of existing files that are to go.
    """
    root.mkdir(parents=True, exist_ok=True)
    gone = {name for name in files if (root / name).is_file()}.union(remove)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=root) as staging:
        new, old = Path(staging, "new"), Path(staging, "old")
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        moves = [(root / name, old / name) for name in sorted(gone)]
        moves += [(new / name, root / name) for name in files]
        _move_all(moves)


def _move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
