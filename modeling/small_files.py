"""Small files beside the weights: read whole, and refused by name where they are not what they say.

Whatever is wrong, the message names the file, says what it is instead, and what to do.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20
"""More than any tokenizer takes; a larger file is not one of these."""

DOWNLOAD_AGAIN = "download or copy it again"

_LFS_POINTER = b"version https://git-lfs"
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def exists(path: Path) -> bool:
    """Say whether there is anything under a name, a link that leads nowhere included."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):  # longer than a name can be, or with a character that none has
        return False


def is_file(path: Path) -> bool:
    """Say whether there is a regular file; pipes, devices and impossible names are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_directory(path: Path) -> bool:
    """Say whether there is a directory; impossible names are none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_file(path: Path, remedy: str) -> None:
    """Check that there is a regular file, without opening it: opening a pipe may wait for ever.

    Args:
        path: where it should be.
        remedy: what to do where it is not there.

    Raises:
        FileNotFoundError: nothing is there, or a link that leads nowhere.
        ValueError: something else is there.
    """
    if is_file(path):
        return
    if not exists(path):
        raise FileNotFoundError(f"{path.parent} has no {path.name}; {remedy}")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path} is a link to {os.readlink(path)}, which is not there; {DOWNLOAD_AGAIN}"
        )
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no regular file")
    raise ValueError(f"{path} is {kind}, not a file; {remedy}")


def read_text(path: Path, remedy: str = DOWNLOAD_AGAIN) -> str:
    """Read a small text file in UTF-8.

    Args:
        path: the file.
        remedy: what to do where it is not there.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, too large, or not UTF-8.
        PermissionError: it may not be read.
    """
    require_file(path, remedy)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes, far more than such a file can need; {DOWNLOAD_AGAIN}"
        )
    try:
        content = path.read_bytes()
    except PermissionError as error:
        raise PermissionError(
            f"{path} may not be read by this user; change its permissions"
        ) from error
    what = _instead_of_text(content)
    if what is not None:
        raise ValueError(f"{path} {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); "
            f"save it in that encoding, or {DOWNLOAD_AGAIN}"
        ) from error


def read_object(path: Path, remedy: str = DOWNLOAD_AGAIN) -> dict[str, Any]:
    """Read a JSON object from a small file.

    Args:
        path: the file; a byte order mark before the object is passed over.
        remedy: what to do where it is not there.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, not JSON, or no object.
        PermissionError: it may not be read.
    """
    text = read_text(path, remedy).removeprefix("\N{BYTE ORDER MARK}")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"{path} is not valid JSON for this use: it is nested thousands of levels deep; "
            f"{DOWNLOAD_AGAIN}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {DOWNLOAD_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {type(content).__name__}; {DOWNLOAD_AGAIN}"
        )
    return content


def _instead_of_text(content: bytes) -> str | None:
    beginning = content[:64].lstrip().lower()
    if not content.strip():
        return f"is empty; {DOWNLOAD_AGAIN}"
    if beginning.startswith(_LFS_POINTER):
        return "is a Git LFS pointer; `git lfs pull` replaces it, or download the file again"
    if beginning.startswith((b"<!doctype html", b"<html")):
        return "is a web page instead of the file; download the file itself"
    return None
