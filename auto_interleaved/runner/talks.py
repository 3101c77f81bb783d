"""Prompts of several turns: a session each, whose outputs are kept as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from auto_interleaved.run.record import GenerationError
from auto_interleaved.runner.prompt_files import Job
from data.output import InterleavedOutput, Usage
from data.output.events import Event, Finished

_FAILED = ("error", "interrupted")


def talk_events(inferencer: Any, job: Job) -> Iterator[Event]:
    """Yield the events of a talk; the last one is `Finished`, with the output of all its turns.

    Each turn sees what came before. One that fails is the last.

    Args:
        inferencer: an `AutoInterleavedInferencer`.
        job: with `later` prompts.

    Raises:
        KeyboardInterrupt: after what existed by then was yielded.
    """
    outputs: list[InterleavedOutput] = []
    try:
        yield from _turns(inferencer, job, outputs)
    except GenerationError as error:
        outputs.append(error.partial)
    except Exception as error:  # such as a message that the model has no positions for
        config = vars(job.options)
        outputs.append(InterleavedOutput(finish_reason="error", error=error, config=config))
    except KeyboardInterrupt:
        partial = inferencer.last_output
        if partial is not None and all(partial is not output for output in outputs):
            outputs.append(partial)
        if outputs and outputs[-1].finish_reason == "interrupted":
            yield Finished(output=joined(outputs))
        raise
    yield Finished(output=joined(outputs))


def _turns(inferencer: Any, job: Job, outputs: list[InterleavedOutput]) -> Iterator[Event]:
    session = inferencer.start_session(**vars(job.options))
    for prompt in (job.prompt, *job.later):
        for event in session.stream(prompt):
            if isinstance(event, Finished):
                outputs.append(event.output)
            else:
                yield event
        if outputs[-1].finish_reason in _FAILED:
            return


def joined(outputs: Sequence[InterleavedOutput]) -> InterleavedOutput:
    """Return turns as one output; its `config["turns"]` tells how many items came in each."""
    first, last = outputs[0], outputs[-1]
    usage = {
        entry.name: sum(getattr(output.usage, entry.name) for output in outputs)
        for entry in fields(Usage)
    }
    return InterleavedOutput(
        [item for output in outputs for item in output],
        segments=[segment for output in outputs for segment in output.segments],
        finish_reason=last.finish_reason,
        usage=Usage(**usage),
        error=last.error,
        config={**first.config, "turns": [len(output) for output in outputs]},
    )
