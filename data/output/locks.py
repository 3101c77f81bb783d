"""Folders and turns of savers: held while their process lives, and cleared away after its death."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from data.output.names import is_own

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a saver lives, so nothing is cleared away
    fcntl = None  # type: ignore[assignment]

CONTENT = "new"  # in a staging folder: a file or folder of one save, or the one that it replaced
MOVES = "moves"  # in a staging folder: files that are moved one by one
_PREFIX = ".saving-"
_LOCK = "lock"
_PATIENCE = 10.0  # seconds; savers take turns, and one that hangs must not hold up the others


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for other savers that work in a folder, and keep them waiting meanwhile."""
    path, lock = folder / f"{_PREFIX}{_LOCK}", None
    try:
        with suppress(OSError):  # where nothing can be locked, savers must not meet
            lock = _locked(path, "ab", time.monotonic() + _PATIENCE)
        yield
    finally:
        _surely(partial(_end_turn, path, lock))


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make a folder within another one to write in; it is gone afterwards.

    So are those of savers that were killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    place, lock = _new_place(folder), None
    try:
        while lock is None:
            place.mkdir(mode=0o700)  # what is in it may be for its owner alone
            try:
                lock = _locked(place / _LOCK, "ab", time.monotonic() + _PATIENCE)
            except FileNotFoundError:  # taken for a dead saver's before it was locked
                place = _new_place(folder)
            except OSError:  # nothing can be locked here
                break
        yield place
    finally:
        _surely(partial(_remove, place, lock))


def _surely(action: Callable[[], None]) -> None:
    """Do what must be done also if it is interrupted."""
    try:
        action()
    except BaseException:
        action()
        raise


def _end_turn(path: Path, lock: IO[bytes] | None) -> None:
    if lock is None:  # interrupted before we knew that it is ours, or somebody else's
        with suppress(OSError):
            lock = _locked(path, "r+b")
    if lock is not None and not lock.closed:
        with lock, suppress(OSError):
            path.unlink()


def _new_place(folder: Path) -> Path:
    return folder / f"{_PREFIX}{secrets.token_hex(6)}"


def _clear(folder: Path) -> None:
    """Remove the staging folders of savers that live no more."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_dead(Path(entry.path))


def _remove_if_dead(place: Path) -> None:
    try:
        lock = _locked(place / _LOCK, "r+b")
    except FileNotFoundError:
        with suppress(OSError):
            place.rmdir()  # if it is empty: a saver began, and came no further
    except OSError:
        pass
    else:
        if lock is not None:
            _remove(place, lock)


def _remove(place: Path, lock: IO[bytes] | None) -> None:
    """Remove a staging folder; what is in it and not ours stays where it is."""
    shutil.rmtree(place / MOVES, ignore_errors=True)
    content = place / CONTENT
    if content.is_dir():
        for name in filter(is_own, os.listdir(content)):
            (content / name).unlink(missing_ok=True)
        with suppress(OSError):
            content.rmdir()
    else:
        content.unlink(missing_ok=True)
    if lock is not None:
        lock.close()
    with suppress(OSError):
        (place / _LOCK).unlink()
    with suppress(OSError):
        place.rmdir()


def _locked(path: Path, mode: str, until: float = 0.0) -> IO[bytes] | None:
    """Open and lock a file that goes with its holder.

    Args:
        path: The file.
        mode: "ab" makes it if need be.
        until: How long to wait for another holder, on the monotonic clock.

    Returns:
        The file; None if another one still holds it.

    Raises:
        FileNotFoundError: The file, or the folder that it would be in, is gone.
        OSError: Nothing can be locked here.
    """
    if fcntl is None:
        raise OSError("there are no locks on this system")
    while True:
        file: IO[bytes] = open(path, mode)  # noqa: SIM115 - closed by whoever lets go of it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() >= until:
                return None
            time.sleep(random.uniform(0.001, 0.01))  # noqa: S311
            continue
        # Its last holder may have removed it between our opening and our locking.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
