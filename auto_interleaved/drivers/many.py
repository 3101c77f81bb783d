"""Many prompts: which of them are under way, and what became of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from auto_interleaved.drivers.admission import Admission
from auto_interleaved.drivers.batch import Batch
from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.options.generation import GenerationOptions, make_options
from auto_interleaved.options.option_checks import seed as check_seed
from auto_interleaved.options.seeds import Seed
from auto_interleaved.run.prepared import Prepared, Refused
from auto_interleaved.run.record import GenerationError, RunRecord
from data.output import InterleavedOutput
from data.output.events import Event, Finished
from data.prompts import Prompt
from modeling.checks import integer, out_of_range, wrong_type
from modeling.progress import Bar, in_notebook
from modeling.verbs import Verbs

MAX_BATCH_SIZE = 16
SHARED_BYTES = 2**28  # of keys and values that prompts to come may begin with as well

_batch_size = integer(minimum=1)


class Many:
    """A list of prompts on its way through the batch driver.

    Args:
        verbs: what computes.
        prepare: reads and checks a prompt with its options.
        prompts: in any form.
        seed: one for each, one for all, or None.
        each: options of single prompts.
        options: options of all.
        progress: keyword arguments for tqdm.

    Raises:
        ValueError: on an argument for all that is bad, or lists of different lengths.
        TypeError: the same.
    """

    def __init__(  # noqa: PLR0913 - what a batch is made of
        self,
        verbs: Verbs,
        prepare: Callable[[Prompt, GenerationOptions], Prepared],
        prompts: Sequence[Prompt],
        seed: Any,
        each: Sequence[Mapping[str, Any]] | None,
        options: Mapping[str, Any],
        progress: Mapping[str, Any],
    ) -> None:
        self._verbs = verbs
        self._prepare = prepare
        self._prompts = _listed(prompts)
        given = make_options(dict(options))  # what is wrong for all is said at once
        self._admission = Admission(given.max_context_memory)
        self._options = dict(options)
        count = len(self._prompts)
        self._each = _options_each(each, count) if each is not None else [{}] * count
        self._seeds = self._seeds_of(seed, count, given)
        self._progress = dict(progress)
        self._records: list[RunRecord | None] = [None] * count
        self._beginnings = Beginnings(SHARED_BYTES)
        self._waiting = deque(range(count))
        self._ready: Prepared | Refused | None = None  # the first of those that wait

    def outputs(self) -> list[InterleavedOutput | None]:
        """Return what was made for each prompt so far; None where it has not begun."""
        return [None if record is None else record.so_far() for record in self._records]

    def events(
        self, max_batch_size: int, remember: Callable[[Many], None]
    ) -> Iterator[tuple[int, Event]]:
        """Run all prompts, so many at a time at most; see `stream_batch`.

        Args:
            max_batch_size: runs under way at a time.
            remember: takes the batch at once, and once more when it is over, for a callback may
                have had a batch of its own meanwhile. Not where it is merely closed.
        """
        events = self._events(_batch_size("max_batch_size", max_batch_size), remember)
        remember(self)
        return events

    def _events(self, size: int, remember: Callable[[Many], None]) -> Iterator[tuple[int, Event]]:
        batch = Batch(self._verbs, self._beginnings)
        own = {"desc": "prompts", "unit": "prompt", **in_notebook(self._progress)}
        with Bar(**{**own, **self._progress}) as bar:
            bar.count_to(len(self._prompts))
            try:
                while self._waiting or batch.size:
                    for index, event in self._next(batch, size):
                        if isinstance(event, Finished):
                            self._admission.release(index)
                            bar.update()
                        yield index, event
                    bar.tell(batch.doing)
            except BaseException as error:
                batch.close(error)
                if not isinstance(error, GeneratorExit):
                    remember(self)
                raise
            finally:
                self._beginnings.allow(0)
        remember(self)
        self._raise_first()

    def _next(self, batch: Batch, size: int) -> Iterator[tuple[int, Event]]:
        """Let the first of those waiting join if there is room for it, or all others go on."""
        if self._waiting and batch.size < size:
            index = self._waiting[0]
            begun = self._ready = self._ready or self._prepared(index)
            if self._makes_room(index, begun):
                self._ready = None
                self._waiting.popleft()
                return batch.join(index, begun.work())
        return batch.round()

    def _makes_room(self, index: int, begun: Prepared | Refused) -> bool:
        """Reserve what a run can come to take, if there is so much beside the others."""
        if not self._admission.admits(index, begun):
            return False
        self._beginnings.allow(min(self._admission.left, SHARED_BYTES))
        return True

    def _prepared(self, index: int) -> Prepared | Refused:
        """Return a run that is ready to begin, or one that was refused."""
        given = {**self._options, "seed": self._seeds[index], **self._each[index]}
        try:
            # A failure is raised when all are done.
            options = make_options({**given, "on_error": "return"})
            made: Prepared | Refused = self._prepare(self._prompts[index], options)
        except (TypeError, ValueError) as error:
            made = Refused(record=RunRecord(given), error=error)
        self._records[index] = made.record
        return made

    def _seeds_of(self, seed: Any, count: int, given: GenerationOptions) -> list[Seed | None]:
        """Return a seed for each prompt."""
        _refuse_generator("generator", given.generator)
        if seed is None:
            return [int(torch.randint(2**32, (), device="cpu")) for _ in range(count)]
        if isinstance(seed, list | tuple):
            return [
                check_seed(f"seed[{i}]", one) for i, one in enumerate(_as_many("seed", seed, count))
            ]
        return [check_seed("seed", seed)] * count

    def _raise_first(self) -> None:
        """Raise the first failure that was to be raised."""
        for record, own in zip(self._records, self._each, strict=True):
            output = None if record is None else record.so_far()
            raises = {**self._options, **own}.get("on_error") == "raise"
            if raises and output is not None and output.error is not None:
                raise GenerationError(output) from output.error


def _listed(prompts: Any) -> list[Prompt]:
    if not isinstance(prompts, list | tuple):
        hint = "for one prompt call auto_interleaved_generation"
        raise wrong_type("prompts", "a list of prompts", prompts, hint)
    return list(prompts)


def _options_each(each: Any, count: int) -> list[Mapping[str, Any]]:
    """Check the options of single prompts, as far as it concerns all."""
    options = _as_many("each", each, count)
    for place, own in enumerate(options):
        name = f"each[{place}]"
        if not isinstance(own, Mapping):
            raise wrong_type(name, "a dictionary of options", own, "{} is none")
        _refuse_generator(f'{name}["generator"]', own.get("generator"))
    return options


def _refuse_generator(name: str, generator: Any) -> None:
    if generator is not None:
        raise ValueError(
            f"{name} must not be given for a batch, whose runs take turns; "
            "give seed, one for all or a list"
        )


def _as_many(name: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise wrong_type(name, "a list, an entry a prompt", values)
    if len(values) != count:
        raise out_of_range(name, f"as long as prompts, which are {count}", len(values))
    return list(values)
