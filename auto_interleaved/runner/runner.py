"""Many prompts: each is run, saved and noted, whatever becomes of the others."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from auto_interleaved.run.record import GenerationError
from auto_interleaved.runner.prompt_files import Job
from auto_interleaved.runner.talks import talk_events
from data.output import InterleavedOutput
from data.output.events import Event, Finished
from data.output.result_folders import ResultFolder, Row

# No further result can be saved either.
_OVER = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_jobs(
    inferencer: Any,
    jobs: Iterable[Job],
    results: ResultFolder,
    *,
    batch_size: int = 1,
    watch: Callable[[Event], None] = lambda _: None,
    report: Callable[[Row, BaseException | None], None] = lambda *_: None,
) -> None:
    """Run prompts and keep their results.

    Args:
        inferencer: an `AutoInterleavedInferencer`.
        jobs: what to run.
        results: where outputs go.
        batch_size: how many are under way at a time.
        watch: is shown every event.
        report: is told of each outcome: its row, and what went wrong in the run.

    Raises:
        KeyboardInterrupt: after what existed by then was kept.
        OSError: nothing can be saved there any more.
    """
    with _Saving(results, report) as saving:
        for job, event in _generated(inferencer, jobs, batch_size):
            watch(event)
            if isinstance(event, Finished):
                saving.take(job, event.output)


class _Saving:
    """Keeps results in a thread of its own, one after another, while the next ones are made.

    Outcomes are told in the thread that hands results in. Leaving the block waits for all: so
    Ctrl-C, which only that thread hears, comes between no result and its record.

    Args:
        results: where outputs go.
        report: is told of each outcome.
    """

    def __init__(
        self, results: ResultFolder, report: Callable[[Row, BaseException | None], None]
    ) -> None:
        self._results = results
        self._report = report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._under_way: tuple[Future[Row | None], BaseException | None] | None = None

    def __enter__(self) -> _Saving:
        return self

    def take(self, job: Job, output: InterleavedOutput) -> None:
        """Keep a result, once the one before is kept.

        Raises:
            OSError: nothing can be saved there any more.
        """
        before, self._under_way = (
            self._under_way,
            (self._thread.submit(_kept, job, output, self._results), output.error),
        )
        self._tell(before)

    def _tell(self, under_way: tuple[Future[Row | None], BaseException | None] | None) -> None:
        """Wait for a result that is being kept, and tell what became of it."""
        if under_way is None:
            return
        kept, error = under_way
        row = kept.result()
        if row is not None:
            self._report(row, error)

    def __exit__(self, *_: object) -> None:
        with self._thread:
            self._tell(self._under_way)


def _generated(
    inferencer: Any, jobs: Iterable[Job], batch_size: int
) -> Iterator[tuple[Job, Event]]:
    """Yield the events of every job, `Finished` being each one's last whatever happened to it."""
    alone = list(jobs)
    if batch_size > 1:
        yield from _together(inferencer, [job for job in alone if not job.later], batch_size)
        alone = [job for job in alone if job.later]
    for job in alone:
        for event in _events(inferencer, job):
            yield job, event


def _together(inferencer: Any, jobs: list[Job], batch_size: int) -> Iterator[tuple[Job, Event]]:
    waiting = set(range(len(jobs)))
    prompts, each = [job.prompt for job in jobs], [vars(job.options) for job in jobs]
    try:
        for index, event in inferencer.stream_batch(prompts, each=each, max_batch_size=batch_size):
            if isinstance(event, Finished):
                waiting.discard(index)
            yield jobs[index], event
    except KeyboardInterrupt:
        for index, output in enumerate(inferencer.last_outputs):
            if output is not None and index in waiting:
                yield jobs[index], Finished(output=output)
        raise


def _events(inferencer: Any, job: Job) -> Iterator[Event]:
    if job.later:
        yield from talk_events(inferencer, job)
        return
    before = inferencer.last_output
    try:
        yield from inferencer.stream(job.prompt, **vars(job.options))
    except GenerationError as error:
        yield Finished(output=error.partial)
    except Exception as error:  # what only the model could tell, or a picture that has gone since
        config = vars(job.options)
        yield Finished(output=InterleavedOutput(finish_reason="error", error=error, config=config))
    except KeyboardInterrupt:
        partial = inferencer.last_output
        if partial is not None and partial is not before:
            yield Finished(output=partial)
        raise


def _kept(job: Job, output: InterleavedOutput, results: ResultFolder) -> Row | None:
    """Save an output and return its row; None for one that was interrupted and is worth nothing."""
    if output.finish_reason == "interrupted":
        earlier = results.row(job.id)
        if not output or (earlier is not None and earlier["status"] == "done"):
            return None
    try:
        return results.keep(job.id, job.request, output)
    except Exception as error:  # such as no memory for the pictures' files
        if isinstance(error, OSError) and error.errno in _OVER:
            raise
        return results.fail(job.id, error)
