"""A file of prompts to a folder of results, alone or among the processes of a launcher.

The main process reads and checks the file, shares the work out, and in the end writes the table;
each process runs its share and saves it. What is done is found in the folder alone, so that a run
that was stopped in whatever way goes on by the same command, with any number of processes.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from auto_interleaved.layouts.writing import (
    faults_of,
    layout_folder,
    model_name,
    write_layout,
)
from auto_interleaved.runner.plans import Plan, make_plan
from auto_interleaved.runner.processes import Processes
from auto_interleaved.runner.runner import run_jobs
from auto_interleaved.terminal.arguments import PROGRAM, ArgumentError
from auto_interleaved.terminal.request import ManyRequest
from auto_interleaved.terminal.screen import Screen
from auto_interleaved.terminal.stopping import Stopping
from data.output.result_folders import TABLE, ResultFolder, Row
from data.wording import listed, one_line

_DONE, _FAILED, _BAD_ARGUMENTS = 0, 1, 2
_SHOWN = 10  # bad lines
_GLANCE = 0.5  # seconds between two looks at what other processes have done
_FAREWELL = 1.0  # seconds; launchers kill what does not end within 30


def run_many(
    request: ManyRequest, screen: Screen, stopping: Stopping, load: Callable[[ManyRequest], Any]
) -> int:
    """Run a file of prompts.

    Returns:
        0; 1 where a prompt failed or is not done yet; 2 for bad arguments.
    """
    processes = Processes()
    try:
        with _heard(processes.is_main), _threads(request):
            return _Many(request, screen, stopping, processes).run(load)
    except KeyboardInterrupt:
        if processes.is_main:
            raise
        return _FAILED
    except ConnectionError:
        return _FAILED
    finally:
        processes.part()


class _Many:
    """One process's part in a run."""

    def __init__(
        self, request: ManyRequest, screen: Screen, stopping: Stopping, processes: Processes
    ) -> None:
        self._request = request
        self._screen = screen
        self._stopping = stopping
        self._processes = processes
        self._next_glance = 0.0

    def run(self, load: Callable[[ManyRequest], Any]) -> int:
        try:
            plan = self._processes.agreed(lambda: make_plan(self._request))
        except ArgumentError:
            if self._processes.is_main:
                raise
            return _BAD_ARGUMENTS  # one process tells
        results = ResultFolder(self._request.output, plan.run, self._processes.index)
        if self._processes.is_main:
            self._announce(plan)
        try:
            self._work(plan, results, load)
        except (KeyboardInterrupt, ConnectionError):
            self._stopping.shield()
            self._screen.close()
            if self._processes.is_main and self._processes.count > 1:
                time.sleep(_FAREWELL)  # the others are told to stop too, and save what they have
            return self._conclude(plan, results, ended_early=True)
        self._stopping.shield()
        return self._processes.agreed(lambda: self._conclude(plan, results))

    def _work(self, plan: Plan, results: ResultFolder, load: Callable[[ManyRequest], Any]) -> None:
        """Run this process's share, and wait for the others."""
        mine = self._processes.share(plan.todo)
        inferencer = load(self._own(self._request)) if mine else None
        with self._counting(len(plan.todo)) as count:

            def glance(*_: object) -> None:
                if time.monotonic() >= self._next_glance:
                    self._next_glance = time.monotonic() + _GLANCE
                    count(results.num_noted())

            try:
                run_jobs(
                    inferencer,
                    mine,
                    results,
                    batch_size=self._request.batch_size,
                    watch=glance,
                    report=self._report,
                )
            except OSError as error:
                reason = error.strerror or error
                self._say(f"{self._request.output} takes no more results ({reason})")
            self._processes.wait(glance)

    def _own(self, request: ManyRequest) -> ManyRequest:
        device = self._processes.device(request.loading["device"])
        return replace(request, loading={**request.loading, "device": device})

    @contextmanager
    def _counting(self, total: int) -> Iterator[Callable[[int], None]]:
        if not self._processes.is_main:
            yield lambda _: None
            return
        with self._screen.counting(total, "prompts", "prompt") as count:
            yield count

    def _report(self, row: Row, error: BaseException | None) -> None:
        if row["status"] == "failed":
            told = error is not None and self._request.options.on_error == "raise"
            self._say(
                f"{one_line(str(row['id']))} failed: {row['error']['type']}: "
                f"{one_line(row['error']['message'])}"
            )
            if told:
                self._screen.note("".join(traceback.format_exception(error)).rstrip())
        if self._stopping.asked and row["status"] != "interrupted":  # the exception was swallowed
            raise KeyboardInterrupt

    def _announce(self, plan: Plan) -> None:
        for bad in plan.bad[:_SHOWN]:
            self._say(f"{self._request.file}, {bad.error}")
        if len(plan.bad) > _SHOWN:
            self._say(f"and {len(plan.bad) - _SHOWN} more bad lines")
        if plan.changed:
            self._say(
                f"done before with another prompt, other options or another model, and kept as "
                f"they are: {listed(plan.changed)}; --overwrite does them again"
            )

    def _conclude(self, plan: Plan, results: ResultFolder, *, ended_early: bool = False) -> int:
        """Write the table, and tell."""
        if not self._processes.is_main:
            return _FAILED
        try:
            rows = results.conclude(plan.prompts, self._request.timings)
        except OSError as error:
            self._say(f"{results.path / TABLE} could not be written ({error.strerror or error})")
            return _FAILED
        unsaved = {row["id"] for row in results.noted() if row["folder"] is None}
        meant = [row for row in rows if row["line"] in plan.chosen]
        failed = [row for row in meant if row["status"] == "failed" or row["id"] in unsaved]
        done = [row for row in meant if row["status"] == "done" and row["id"] not in unsaved]
        left = len(plan.chosen) - len(done) - len(failed)
        if not (ended_early or left):
            results.forget_parts()
        self._tell(plan, len(done), len(failed), left)
        laid_out = ended_early or self._lay_out(plan, results)
        return _DONE if laid_out and not (failed or left) else _FAILED

    def _lay_out(self, plan: Plan, results: ResultFolder) -> bool:
        """Write what the judge reads; return whether it lacks nothing that was asked for."""
        layout = self._request.layout
        if layout is None or not plan.questions:  # of no line could it be said what it asks
            return True
        folder, model = layout_folder(results.path, layout.layout), model_name(self._request.model)
        try:
            write_layout(layout.layout, list(plan.questions.values()), results, model)
        except OSError as error:
            self._say(f"{folder} could not be written ({error.strerror or error})")
            return False
        meant = [question for line, question in plan.questions.items() if line in plan.chosen]
        faults = faults_of(layout.layout, meant, folder, model)
        for fault in faults[:_SHOWN]:
            self._say(f"{layout.layout} would miss: {fault}")
        if len(faults) > _SHOWN:
            self._say(f"and {len(faults) - _SHOWN} things more")
        self._screen.note(f"saved {folder}")
        return not faults

    def _tell(self, plan: Plan, done: int, failed: int, left: int) -> None:
        before = f" ({len(plan.done)} were before)" if plan.done else ""
        counted = f"{done} of {len(plan.chosen)} prompts are done{before}"
        counted += f", {failed} failed" if failed else ""
        counted += f", {left} are left" if left else ""
        self._screen.note(counted)
        if left:
            without = ", without --overwrite," if self._request.overwrite else ""
            self._say(f"ended early; the same command{without} goes on with what is left")
        self._screen.note(f"saved {self._request.output / TABLE}")

    def _say(self, message: str) -> None:
        self._screen.note(f"{PROGRAM}: {message}")


@contextmanager
def _threads(request: ManyRequest) -> Iterator[None]:
    """Compute on so many threads of a CPU, whatever the launcher set: sums depend on them."""
    before = torch.get_num_threads()
    if torch.device(request.loading["device"]).type == "cpu":
        torch.set_num_threads(request.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Once(logging.Filter):
    """Lets each message through once, and none in processes that do not speak for all."""

    def __init__(self, is_main: bool) -> None:
        super().__init__()
        self._is_main = is_main
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new and self._is_main


@contextmanager
def _heard(is_main: bool) -> Iterator[None]:
    logger, once = logging.getLogger("auto_interleaved"), _Once(is_main)
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
