"""The processes that compute one run together, and how they talk."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from modeling.checks import wrong_type

_T = TypeVar("_T")

_GLANCE = 1e-4  # seconds between two looks at whether all have answered
_FAREWELL = 3.0  # seconds that a process that exits waits for its last words to be heard

_ADVICE = (
    "start this script as several processes, with torchrun --nproc-per-node 3 or accelerate "
    "launch, or call torch.distributed.init_process_group"
)


def launched_rank() -> int | None:
    """Return the number that a launcher gave this process; None without a launcher."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() and "WORLD_SIZE" in os.environ else None


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    rank = os.environ.get("LOCAL_RANK", "")
    return int(rank) if rank.isdigit() else 0


class Talk(Protocol):
    """How the processes of a run talk; see `Peers`."""

    rank: int
    size: int

    def submit(self, job: Callable[[], _T]) -> Future[_T]:
        """Do a job after all earlier ones, in one piece: no Ctrl-C reaches into it."""

    def exchange(self, message: bytes) -> list[bytes]:
        """Within a job: send a message to all; return everybody's, in the order of ranks."""


class Peers:
    """This process among those of a group.

    They talk by gloo on every device: what one step of a large image exchanges is a megabyte, and
    gloo's errors can be caught. The talk has a group of its own, so that it meets nobody else's,
    and a thread of its own: a Ctrl-C never leaves half a word behind.

    Args:
        group: all its processes must come here; None is torch's default group, which is made where
            a launcher started this process and there is none yet.
        timeout: seconds that a process waits for another one.

    Attributes:
        rank: the number of this process; 0 is the main one.
        size: how many there are.

    Raises:
        RuntimeError: if there is no group, and no launcher from which it could be made.
        TypeError: if this is no group, or this process is not in it.
    """

    def __init__(self, group: Any = None, timeout: float = 600.0) -> None:
        if not distributed.is_available():
            raise RuntimeError("guidance cannot be spread: this torch has no torch.distributed")
        patience = timedelta(seconds=timeout)
        if not distributed.is_initialized():
            if launched_rank() is None:
                raise RuntimeError(f"guidance is spread among several processes; {_ADVICE}")
            distributed.init_process_group("gloo")  # whose patience is for loading, too
        if not isinstance(group, distributed.ProcessGroup | None):
            # Where a process is not in a group, torch gives it something else in its place.
            allowed = "a process group of torch.distributed that this process is in"
            raise wrong_type("group", allowed, group)
        self.rank: int = distributed.get_rank(group)
        self.size: int = distributed.get_world_size(group)
        self._timeout = timeout
        self._group = distributed.new_group(
            distributed.get_process_group_ranks(group),
            timeout=patience,
            backend="gloo",
            use_local_synchronization=True,  # a group may be a part of all processes
        )
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._lost = ""  # why nobody answers any more
        threading.Thread(target=_work_off, args=(self._jobs,), daemon=True).start()
        atexit.register(self._say_farewell)

    def submit(self, job: Callable[[], _T]) -> Future[_T]:
        """Do a job after all earlier ones, in one piece: no Ctrl-C reaches into it."""
        future: Future[_T] = Future()
        self._jobs.put((job, future))
        return future

    def exchange(self, message: bytes) -> list[bytes]:
        """Within a job: send a message to all; return everybody's, in the order of ranks.

        Raises:
            ConnectionError: if a process is gone, or does not send one in time.
        """
        if self._lost:
            raise ConnectionError(self._lost)
        try:
            lengths = self._gathered(torch.tensor([len(message)], device="cpu"))
            row = torch.zeros(int(torch.cat(lengths).max()), dtype=torch.uint8, device="cpu")
            row[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
            rows = self._gathered(row)
        except RuntimeError as error:
            self._lost = (
                "another process of this run has ended, or did not come to the same step within "
                f"{self._timeout:g} s; start all of them anew, and let them make the same calls"
            )
            raise ConnectionError(self._lost) from error
        pairs = zip(rows, lengths, strict=True)
        return [row[: int(length)].numpy().tobytes() for row, length in pairs]

    def _gathered(self, own: Tensor) -> list[Tensor]:
        everybody = [torch.empty_like(own) for _ in range(self.size)]
        work = distributed.all_gather(everybody, own, group=self._group, async_op=True)
        # Not by `wait` alone: Python ends hard where a thread of its own is still in there.
        while not work.is_completed():
            time.sleep(_GLANCE)
        work.wait()  # which raises what went wrong
        return everybody

    def _say_farewell(self) -> None:
        """Give the last words a moment to arrive."""
        wait([self.submit(lambda: None)], timeout=_FAREWELL)


def _work_off(jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
    while True:
        job, future = jobs.get()
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)
        del job, future
