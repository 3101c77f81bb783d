"""The command line: one run, told on the terminal while it goes on, and saved.

The story goes to standard output, everything about it to standard error.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TextIO

import torch
from tqdm import tqdm

from auto_interleaved.arguments import PROGRAM, ArgumentError, in_flags
from auto_interleaved.record import GenerationError
from auto_interleaved.request import Request, read_request
from data.output import FinishReason, InterleavedOutput
from data.output.events import Event, ImageDone, ImageStarted, ImageStep, TextDelta, ThoughtDelta
from data.output.segments import describe_error

_DONE, _FAILED, _BAD_ARGUMENTS = 0, 1, 2

# Escape sequences and their like: on a terminal they are commands, and a model may write anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

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
        0; 1 where the run failed or was interrupted, after what existed was saved; 2 for bad
        arguments, before anything was computed.
    """
    screen = Screen(sys.stdout, sys.stderr)
    try:
        with _logged_to(screen):
            return _run(read_request(arguments), screen, load)
    except ArgumentError as error:
        screen.note(f"{PROGRAM}: {error}")
        return _BAD_ARGUMENTS
    except KeyboardInterrupt:
        screen.note(f"{PROGRAM}: interrupted")
        return _FAILED
    except SystemExit:  # argparse's way to end after it showed the help
        return _DONE


class Screen:
    """Shows a run: its text on one stream, all else on another, never both on one line.

    Args:
        out: where the story goes.
        err: where progress, plans and notes go.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._unfinished: TextIO | None = None  # the stream whose last line is not ended
        self._bar: tqdm | None = None
        self._planning = False

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, TextDelta):
            self._write(self._out, event.text)
        elif isinstance(event, ThoughtDelta):
            self._write(self._err, event.text if self._planning else f"plan: {event.text}")
            self._planning = True
        elif isinstance(event, ImageStarted):
            self._open_bar(f"picture {event.index + 1}")
        elif isinstance(event, ImageStep) and self._bar is not None:
            self._bar.total, self._bar.bar_format = event.num_steps, None
            self._bar.update()
        elif isinstance(event, ImageDone):
            self.close()
            self.note(_told(event))

    def note(self, message: str) -> None:
        """Write a line about the run."""
        if self._bar is not None:
            self._bar.clear()
        self._end_line()
        self._write(self._err, f"{message}\n")
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar away and end the line that is being written."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._end_line()

    def mute(self) -> None:
        """Give up the story's stream, whose reader is gone."""
        self._unfinished = None
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            # Python flushes standard output once more when it exits.
            os.dup2(nowhere.fileno(), self._out.fileno())

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Say what is waited for, as long as it is."""
        self._open_bar(reason)
        try:
            yield
        finally:
            self.close()

    def _open_bar(self, title: str) -> None:
        self.close()
        # It is gone once closed, and not shown at all where standard error is no terminal.
        self._bar = tqdm(
            desc=title,
            unit="step",
            bar_format="{desc} ...",  # until a first step tells how many there are
            leave=False,
            disable=None,
            dynamic_ncols=True,
            file=self._err,
        )

    def _end_line(self) -> None:
        if self._unfinished is not None:
            self._write(self._unfinished, "\n")

    def _write(self, stream: TextIO, text: str) -> None:
        if self._unfinished not in (None, stream):
            self._end_line()
        stream.write(_showable(text, stream))
        stream.flush()
        self._unfinished = None if text.endswith("\n") else stream


def _showable(text: str, stream: TextIO) -> str:
    """Replace what a stream cannot show, or what would command it."""
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "replace").decode(encoding)
    return _CONTROL.sub("?", text) if stream.isatty() else text


def _told(event: ImageDone) -> str:
    width, height = event.image.size
    return f"[picture {event.index + 1}: {width} x {height}, {event.segment.seconds:.1f} s]"


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


def _run(request: Request, screen: Screen, load: Callable[..., Any]) -> int:
    inferencer = _loaded(request, screen, load)
    try:
        events = inferencer.stream(request.prompt, **vars(request.options))
    except (TypeError, ValueError) as error:  # what only the model could tell
        raise ArgumentError(in_flags(str(error))) from error
    _watch(events, screen)
    return _finish(inferencer.last_output, request, screen)


def _loaded(request: Request, screen: Screen, load: Callable[..., Any]) -> Any:
    """Return the `AutoInterleavedInferencer` of the request's model."""
    try:
        with screen.waiting(f"loading {request.model}"):
            inferencer = load(request.model, **request.loading)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--model: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ArgumentError(f"--device: the model does not fit there ({error})") from error
    inferencer.set_progress_bar_config(disable=True)  # the screen has its own
    return inferencer


def _watch(events: Generator[Event, None, None], screen: Screen) -> None:
    """Show a run until it ends, in whatever way; what was made is in `last_output`."""
    try:
        with closing(events):  # also where it is the screen that fails or is interrupted
            for event in events:
                screen.show(event)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # nobody reads the story any more
        screen.mute()
    except GenerationError as error:
        screen.note("".join(traceback.format_exception(error)).rstrip())
    finally:
        screen.close()


def _finish(output: InterleavedOutput | None, request: Request, screen: Screen) -> int:
    """Save what was made, and tell."""
    if output is None:  # interrupted before its first step
        output = InterleavedOutput(finish_reason="interrupted")
    code = _FAILED if output.finish_reason in ("interrupted", "error") else _DONE
    if code == _FAILED and not output:
        screen.note(f"{PROGRAM}: {_cause(output)}; nothing was made, so nothing is saved")
        return code
    try:
        path = output.save(request.output)
    except OSError as error:
        screen.note(f"{PROGRAM}: {request.output} could not be written ({error})")
        return _FAILED
    screen.note(f"{_counted(output)}, --seed {request.options.seed}; {_cause(output)}")
    screen.note(f"saved {path.absolute()}")
    return code


def _cause(output: InterleavedOutput) -> str:
    why = _ENDINGS[output.finish_reason]
    error = output.error if output.finish_reason == "error" else None
    return why if error is None else f"{why}: {describe_error(error)}"


def _counted(output: InterleavedOutput) -> str:
    def several(number: int, noun: str) -> str:
        return f"{number} {noun}" + ("" if number == 1 else "s")

    texts = several(len(output) - len(output.images), "text")
    return f"{texts}, {several(len(output.images), 'picture')} in {output.usage.seconds:.1f} s"
