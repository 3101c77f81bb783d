"""Files that appear together or not at all: for readers, for Ctrl-C, and for a kill.

Everything is written beside its place and moved there by renames, of which one decides: until it
is done whoever reads finds the old, and from then on the new.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data.output.locks import CONTENT, MOVES, staging, turn
from data.output.names import document_name, is_own

# Another saver was faster: what was to be made is there, or what was there has gone.
_RACES = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
# No folders are exchanged on this file system, at this place, or with these rights.
_REFUSALS = (
    *(errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBUSY, errno.EXDEV),
    *(errno.EPERM, errno.EACCES, errno.EROFS),
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Files that are moved to their places in one go, by path from a root.

    Attributes:
        files: What nobody reads who has not read one of the others: moved first.
        heads: What is read first, and leads to the files: moved last, in this order.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    heads: Mapping[str, bytes]


def put_file(target: Path, content: bytes) -> None:
    """Write a file, or replace it: a reader finds the old one or the new one.

    A file that is replaced keeps its mode, and a link still leads to it.
    """
    place = Path(os.path.realpath(target))
    with staging(place.parent) as folder:
        _write(folder / CONTENT, content, like=place)
        os.replace(folder / CONTENT, place)


def swap_folder(target: Path, files: Mapping[str, bytes]) -> bool:
    """Make a folder of files, or exchange one for it: a reader finds the old one or the new one.

    Args:
        target: The folder, absent or an earlier save.
        files: Content by name.

    Returns:
        Whether that was done: not where the folder has something in it that is not ours, is the
        current one, or lies where no folders can be exchanged.
    """
    place = Path(os.path.realpath(target))
    if not _exchangeable(place):
        return False
    try:
        with staging(place.parent) as folder:
            new = folder / CONTENT
            new.mkdir()
            for name, content in files.items():
                _write(new / name, content, like=place / name)
            _copy_mode(place, new)
            return _put_folder(new, place)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise


def put_stages(
    root: Path, final: Stage, apart: Callable[[], Stage], stale: Callable[[], Iterable[str]]
) -> None:
    """Write files one by one, so that every head that can be read leads to files of its own save.

    Where the final files would replace others that older heads lead to, the same files come first
    under names that nobody has, with heads that lead to them; then the final ones.

    Args:
        root: The folder that all paths begin at; made if need be.
        final: The files as they are to be.
        apart: Returns them under names of their own.
        stale: Returns the paths of what an earlier save left, to be removed in the end.
    """
    root.mkdir(parents=True, exist_ok=True)
    with turn(root), staging(root) as folder:
        stages = [final]
        if any(_differs(root / name, content) for name, content in final.files.items()):
            stages.insert(0, apart())
        moves = []
        for number, stage in enumerate(stages):
            within = folder / MOVES / str(number)
            for name, content in {**stage.files, **stage.heads}.items():
                _write(within / name, content, like=root / name)
                moves.append((within / name, root / name))
        fresh = [root / name for name in stages[0].files if not (root / name).exists()]
        first_head = moves[len(stages[0].files)][0]
        try:
            _carry_out([*(partial(_move, *move) for move in moves), partial(_clear, root, stale)])
        except OSError:
            if first_head.exists():  # nothing leads to what came new
                for path in fresh:
                    path.unlink(missing_ok=True)
            raise


def _carry_out(actions: Sequence[Callable[[], None]]) -> None:
    """Do everything, in order; an interruption waits until it is done."""
    interruption: BaseException | None = None
    for action in actions:
        try:
            action()
        except Exception:
            raise
        except BaseException as caught:
            interruption = caught
            action()  # each may be done twice
    if interruption is not None:
        raise interruption


def _move(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def _clear(root: Path, stale: Callable[[], Iterable[str]]) -> None:
    for name in stale():
        with suppress(OSError):  # it is in nobody's way
            (root / name).unlink()


def _write(path: Path, content: bytes, *, like: Path) -> None:
    """Write a file, with the mode of another one if that exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    _copy_mode(like, path)


def _copy_mode(source: Path, target: Path) -> None:
    with suppress(OSError):
        os.chmod(target, stat.S_IMODE(os.stat(source).st_mode))


def _differs(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size != len(content) or path.read_bytes() != content
    except FileNotFoundError:
        return False


def _exchangeable(place: Path) -> bool:
    """Tell whether a folder is absent, or an earlier save that nobody misses if it is another."""
    if not os.path.lexists(place):
        return True
    if not place.is_dir() or os.path.ismount(place) or os.path.samefile(place, os.curdir):
        return False
    with os.scandir(place) as entries:
        found = [(entry.name, entry.is_file(follow_symlinks=False)) for entry in entries]
    ours = all(is_file and is_own(name) for name, is_file in found)
    return not found or (ours and (document_name(), True) in found)


def _put_folder(new: Path, place: Path) -> bool:
    for _ in range(1000):
        try:
            if not os.path.lexists(place):
                os.rename(new, place)
                return True
            if not _exchangeable(place):
                return False
            _exchange(new, place)
        except OSError as error:
            if error.errno not in _RACES:
                raise
        else:
            _give_back(new, place)
            return True
    return False


def _give_back(old: Path, place: Path) -> None:
    """Move what somebody laid into a folder just before it was exchanged."""
    for name in os.listdir(old):
        if not is_own(name) and not os.path.lexists(place / name):
            os.rename(old / name, place / name)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step.

    Raises:
        OSError: With ENOSYS or EINVAL where the system or the file system does not do that.
    """
    paths = os.fsencode(one), os.fsencode(other)
    library: Any = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):  # Linux
        here, exchange = -100, 2
        failed = library.renameat2(here, paths[0], here, paths[1], exchange)
    elif hasattr(library, "renamex_np"):  # macOS
        swap = 2
        failed = library.renamex_np(*paths, swap)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
