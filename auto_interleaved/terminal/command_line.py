"""The command line: one run, told on the terminal while it goes on, and saved.

The story goes to standard output, everything about it to standard error.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from auto_interleaved.run.record import GenerationError
from auto_interleaved.runner.prompt_runs import run_many
from auto_interleaved.terminal.arguments import PROGRAM, ArgumentError, in_flags
from auto_interleaved.terminal.page import PageRequest, run_page
from auto_interleaved.terminal.plan import PlanRequest, run_plan
from auto_interleaved.terminal.request import ManyRequest, Request, read_request
from auto_interleaved.terminal.screen import Screen
from auto_interleaved.terminal.serve import ServeRequest, run_server
from auto_interleaved.terminal.stopping import Stopping
from data.output import FinishReason, InterleavedOutput
from data.output.events import Event
from data.output.segments import describe_error

_DONE, _FAILED, _BAD_ARGUMENTS = 0, 1, 2

_WithModel = Request | ManyRequest | ServeRequest | PageRequest
_AnyRequest = _WithModel | PlanRequest

# What the first word is where it is no prompt.
_COMMANDS: dict[str, Callable[[Sequence[str]], _AnyRequest]] = {
    "serve": ServeRequest.read,
    "page": PageRequest.read,
    "plan": PlanRequest.read,
}

_ENDINGS: dict[FinishReason, str] = {
    "stop": "the story was over",
    "length": "a text reached --max-text-length",
    "max_blocks": "it reached --max-interleaved-blocks",
    "max_images": "no more pictures were allowed",
    "stop_string": "one of --stop-strings came",
    "context_full": "the model can read no further, or --max-context-memory is used up",
    "no_image": "the text was over, and no picture had been asked for",
    "interrupted": "it was interrupted",
    "error": "it failed",
}


def run(arguments: Sequence[str] | None, load: Callable[..., Any]) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None takes the process's own.
        load: `AutoInterleavedInferencer.from_pretrained`.

    Returns:
        0; 1 where the run failed or was told to stop, after what existed was saved; 2 for bad
        arguments, before anything was computed.
    """
    _reserve_descriptors()
    screen = Screen(sys.stdout, sys.stderr)
    try:
        with Stopping(for_good=arguments is None) as stopping:
            with _logged_to(screen):
                request = _request(sys.argv[1:] if arguments is None else arguments)
            if isinstance(request, Request) and not request.is_main:
                screen = Screen(None, None)  # of processes that make one run, one shows it
            with _logged_to(screen):
                return _run(request, screen, stopping, load)
    except ArgumentError as error:
        screen.note(f"{PROGRAM}: {error}")
        return _BAD_ARGUMENTS
    except KeyboardInterrupt:
        screen.note(f"{PROGRAM}: interrupted")
        return _FAILED
    except SystemExit:  # argparse's way to end after it showed the help
        return _DONE
    finally:
        screen.end()


def _request(words: Sequence[str]) -> _AnyRequest:
    read = _COMMANDS.get(words[0]) if words else None
    return read_request(words) if read is None else read(words[1:])


def _reserve_descriptors() -> None:
    """Fill the places of closed standard streams, so that no file of ours is taken for one."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


class _Notes(logging.Handler):
    """Shows the library's messages as notes."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.note(f"{PROGRAM}: {in_flags(record.getMessage())}")


@contextmanager
def _logged_to(screen: Screen) -> Iterator[None]:
    logger, notes = logging.getLogger("auto_interleaved"), _Notes(screen)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)


def _run(
    request: _AnyRequest,
    screen: Screen,
    stopping: Stopping,
    load: Callable[..., Any],
) -> int:
    if isinstance(request, ServeRequest):
        return run_server(request, screen, partial(_loaded, screen=screen, load=load))
    if isinstance(request, PageRequest):
        return run_page(request, screen, partial(_loaded, screen=screen, load=load))
    if isinstance(request, PlanRequest):
        return run_plan(request, screen)
    if isinstance(request, ManyRequest):
        return run_many(request, screen, stopping, partial(_loaded, screen=screen, load=load))
    inferencer = _loaded(request, screen, load)
    try:
        if request.spread:
            inferencer.spread_guidance()
        events = inferencer.stream(request.prompt, **vars(request.options))
    except (TypeError, ValueError) as error:  # what only the model could tell
        raise ArgumentError(in_flags(str(error))) from error
    except (ConnectionError, RuntimeError) as error:
        if not request.spread:
            raise
        raise ArgumentError(f"--spread-guidance: {error}") from error
    with suppress(KeyboardInterrupt):
        _watch(events, screen, stopping)
        stopping.shield()
    stopping.shield()  # also where the interruption was not of our hearing
    screen.close()
    return _finish(inferencer.last_output, request, screen)


def _loaded(request: _WithModel, screen: Screen, load: Callable[..., Any]) -> Any:
    """Return the `AutoInterleavedInferencer` of the request's model."""
    try:
        with screen.waiting(f"loading {request.model}"):
            inferencer = load(request.model, **request.loading)
    except (OSError, ValueError, ImportError) as error:
        raise ArgumentError(f"--model: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ArgumentError(f"--device: the model does not fit there ({error})") from error
    inferencer.set_progress_bar_config(disable=True)  # the screen has its own
    return inferencer


def _watch(events: Generator[Event, None, None], screen: Screen, stopping: Stopping) -> None:
    """Show a run until it ends, in whatever way; what was made is in `last_output`."""
    try:
        with closing(events):  # also where it is the screen that fails or is interrupted
            for event in events:
                screen.show(event)
                if stopping.asked or screen.unread:
                    break
    except GenerationError as error:
        screen.close()
        screen.note("".join(traceback.format_exception(error)).rstrip())


def _finish(output: InterleavedOutput | None, request: Request, screen: Screen) -> int:
    """Save what was made, and tell."""
    if output is None:  # interrupted before its first step
        output = InterleavedOutput(finish_reason="interrupted")
    code = _FAILED if output.finish_reason in ("interrupted", "error") else _DONE
    if not request.is_main:
        return code
    if code == _FAILED and not output:
        screen.note(f"{PROGRAM}: {_cause(output)}; nothing was made, so nothing is saved")
        return code
    for place in _places(request.output):
        try:
            path = output.save(place)
        except Exception as error:  # whatever it is, what took an hour is not lost for it
            screen.note(f"{PROGRAM}: {place} could not be written ({_reason(error)})")
            code = _FAILED
        else:
            screen.note(f"{_counted(output)}, --seed {request.options.seed}; {_cause(output)}")
            screen.note(f"saved {path.absolute()}")
            return code
    return _FAILED


def _places(output: str) -> Iterator[str | Path]:
    """Yield where a result may go: where it was asked for, else where there is still room."""
    yield output
    for folder in (tempfile.gettempdir, Path.home, Path.cwd):
        place = None
        with suppress(OSError, RuntimeError):
            place = tempfile.mkdtemp(prefix=f"{PROGRAM}-", dir=folder())
        if place is not None:
            yield f"{place}/{os.path.basename(output.rstrip('/'))}" + "/" * output.endswith("/")
            with suppress(OSError):
                os.rmdir(place)  # nothing could be written there either


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else describe_error(error)


def _cause(output: InterleavedOutput) -> str:
    why = _ENDINGS[output.finish_reason]
    error = output.error if output.finish_reason == "error" else None
    return why if error is None else f"{why}: {describe_error(error)}"


def _counted(output: InterleavedOutput) -> str:
    def several(number: int, noun: str) -> str:
        return f"{number} {noun}" + ("" if number == 1 else "s")

    texts = several(len(output) - len(output.images), "text")
    return f"{texts}, {several(len(output.images), 'picture')} in {output.usage.seconds:.1f} s"
