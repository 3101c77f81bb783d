"""The state that a stopped training goes on from: one folder, whole whenever somebody looks.

`state.partial` is being written. Renamed to `state.next` it is whole, and newer than `state`,
whose place it then takes. A process may be killed between or in any of these steps: what has the
name `state.next` goes first, else `state`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator

logger = logging.getLogger("auto_interleaved.training")


class States:
    """Where a training's state is kept.

    Args:
        place: the folder; its neighbours `place.partial` and `place.next` are used as well.
        runner: saves and loads.
    """

    def __init__(self, place: Path, runner: Accelerator) -> None:
        self.place = place
        self._next = place.with_name(f"{place.name}.next")
        self._partial = place.with_name(f"{place.name}.partial")
        # As it was called until there was a name for a whole one: it may be or not.
        self._older = place.with_name(f"{place.name}.new")
        self._runner = runner

    def exists(self) -> bool:
        """Return whether there is something to go on from."""
        return any(folder.is_dir() for folder in (self._next, self.place))

    def save(self) -> None:
        """Save, all processes together."""
        if self._runner.is_main_process:
            self._settle()
            shutil.rmtree(self._partial, ignore_errors=True)
        self._runner.wait_for_everyone()
        self._runner.save_state(str(self._partial))
        self._runner.wait_for_everyone()
        if self._runner.is_main_process:
            flush(self._partial)
            self._partial.rename(self._next)
            self._settle()
        self._runner.wait_for_everyone()

    def load(self) -> bool:
        """Load the newest state that is whole; return whether there was one.

        Raises:
            ValueError: there are states, and none fits the model or is whole.
        """
        if self.place.exists() and not self.place.is_dir():
            raise ValueError(f"{self.place} must be the directory of a state; move that file")
        if self._runner.is_main_process:
            self._settle()
        self._runner.wait_for_everyone()
        found = [folder for folder in (self.place, self._older) if folder.is_dir()]
        for folder in found:
            try:
                self._runner.load_state(str(folder))
            except Exception as error:  # which one depends on the file, and on what is wrong
                logger.warning("the state in %s cannot be loaded: %s", folder, error)
                failure = error
            else:
                return True
        if found:
            raise ValueError(
                f"{self.place} holds a state of another training, or a damaged one: give another "
                "--output, the checkpoint and options that it began with, or delete it to begin "
                f"anew ({type(failure).__name__}: {str(failure)[:300]})"
            ) from failure
        return False

    def _settle(self) -> None:
        """Give the newest state that is whole the name that it should have."""
        if self._next.is_dir():
            if self.place.exists():
                shutil.rmtree(self.place)
            self._next.rename(self.place)
            shutil.rmtree(self._older, ignore_errors=True)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then put it there at once.

    Args:
        path: the file.
        write: writes to a path that it is given.
    """
    beside = path.with_name(f"{path.name}.partial")
    beside.unlink(missing_ok=True)
    beside.touch()
    usual = beside.stat().st_mode
    write(beside)
    beside.chmod(usual)  # safetensors' own files nobody but their owner can read
    _flush(beside)
    os.replace(beside, path)


def flush(folder: Path) -> None:
    """Wait until the files of a folder are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
