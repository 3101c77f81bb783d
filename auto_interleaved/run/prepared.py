"""A run that is ready to begin: its prompt is read, everything that can be refused was checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.options.sizes import check_sizes
from auto_interleaved.run.asks import Work
from auto_interleaved.run.engine import Run
from auto_interleaved.run.record import GenerationError, RunRecord
from auto_interleaved.run.setting import Setting
from auto_interleaved.run.standing import Standing
from data.output.events import Finished
from data.prompts import Prompt, PromptPart, parse_prompt
from data.protocols import Protocol, find_protocol
from data.understanding import Understanding
from inferencer import InterleaveInferencer


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A run, and what it begins with.

    Attributes:
        run: the engine.
        parts: the prompt.
        record: what is made, at any time.
        raises: whether a failure is raised once it is recorded.
    """

    run: Run
    parts: tuple[PromptPart, ...]
    record: RunRecord
    raises: bool

    def most_memory(self) -> int:
        """Return the most bytes of keys and values that the run can come to take."""
        return self.run.most_memory(self.parts)

    def work(self, remember: Callable[[RunRecord], None] = lambda _: None) -> Work[None]:
        """Do the run; the last event is `Finished`.

        Args:
            remember: takes the record when the run begins, and once more when it is over, for a
                callback may have had a run of its own meanwhile. Not where it is merely closed:
                then a run that has begun since remains the last one.

        Raises:
            GenerationError: if the run fails and is to raise.
        """
        record, record.begun = self.record, True
        remember(record)
        try:
            reason = yield from self.run.work(self.parts)
            output = record.finish(reason)
        except Exception as error:
            output = record.finish("error", error)
        except GeneratorExit as error:
            record.finish("interrupted", error)
            raise
        except BaseException as error:
            record.finish("interrupted", error)
            remember(record)
            raise
        remember(record)
        if output.error is not None and self.raises:
            raise GenerationError(output) from output.error
        yield Finished(output=output)


@dataclass(frozen=True, eq=False, kw_only=True)
class Refused:
    """A run that cannot begin, among others that can.

    Attributes:
        record: of which there is nothing.
        error: why it was refused.
    """

    record: RunRecord
    error: Exception

    def most_memory(self) -> int:
        """Return 0: it takes nothing."""
        return 0

    def work(self) -> Work[None]:
        """Fail at once."""
        self.record.begun = True
        yield Finished(output=self.record.finish("error", self.error))


def prepare(
    inferencer: InterleaveInferencer,
    prompt: Prompt,
    options: GenerationOptions,
    *,
    protocol: Protocol,
    understanding: Understanding,
    progress: Mapping[str, Any],
    start: Standing | None = None,
) -> Prepared:
    """Read a prompt, and check it with the options against the model.

    Args:
        inferencer: what computes, and its settings.
        prompt: in any form.
        options: of the run.
        protocol: the checkpoint's own, where the options name none.
        understanding: how the model is asked whether a picture shows a text.
        progress: keyword arguments for tqdm.
        start: where the run begins, if not with nothing.

    Raises:
        ValueError: if the run would turn out to be impossible half-way.
        TypeError: if something in the prompt is of a wrong type.
    """
    if options.protocol is not None:
        protocol = find_protocol(options.protocol)
    setting = Setting(
        options=options,
        protocol=protocol,
        image_shape=inferencer.image_shape,
        progress=progress,
        understanding=understanding,
    )
    parts = parse_prompt(prompt, split_special_tokens=options.split_special_tokens)
    earlier = None if start is None else start.input_size
    check_sizes(inferencer, parts, options, inferencer.image_shape, earlier)
    record = RunRecord({**vars(options), "protocol": protocol.name})
    run = Run(inferencer, setting, record, start)
    run.check_positions(parts)
    run.check_memory(parts)
    return Prepared(run=run, parts=parts, record=record, raises=options.on_error == "raise")
