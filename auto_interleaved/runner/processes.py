"""The processes that share a work, as accelerate sees them: one, or those of a launcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # processes wait for each other as long as the slowest one works
_GLANCE = 0.1  # seconds


class Processes:
    """This process among those that `accelerate launch` or `torchrun` started; else alone.

    Attributes:
        index: the number of this process, over all hosts.
        count: how many there are.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        self._state: Any = PartialState(cpu=not torch.cuda.is_available())
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes
        # Nothing but words is exchanged, for which gloo does on every device.
        self._group: Any = None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.index == 0

    def device(self, name: str) -> str:
        """Return the device of this process, where all were told the same: "cuda" is its own."""
        if name != "cuda" or self.count == 1:
            return name
        return f"cuda:{self._state.local_process_index % torch.cuda.device_count()}"

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's share of a list that all of them have."""
        with self._state.split_between_processes(list(items)) as share:
            return list(share)

    def agreed(self, compute: Callable[[], T]) -> T:
        """Return what the main process computes, in all of them; its errors are raised in all.

        Raises:
            ConnectionError: a process is gone.
        """
        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome = [(compute(), None)]
            except Exception as error:
                outcome = [(None, error)]
        if self._group is not None:
            try:
                torch.distributed.broadcast_object_list(outcome, src=0, group=self._group)
            except RuntimeError as error:  # a connection that was closed
                raise ConnectionError("another process has ended") from error
        value, failure = outcome[0]
        if failure is not None:
            raise failure
        return value

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Wait until all have come to this place; a signal to stop is heard meanwhile.

        Raises:
            ConnectionError: a process is gone.
        """
        if self._group is None:
            return
        try:
            work = torch.distributed.barrier(self._group, async_op=True)
            while not work.is_completed():
                meanwhile()
                time.sleep(_GLANCE)
            work.wait()
        except RuntimeError as error:
            raise ConnectionError("another process has ended") from error

    def part(self) -> None:
        """Say good-bye, so that nobody is waited for."""
        self._state.destroy_process_group()
