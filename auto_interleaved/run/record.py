"""What a run has made so far: grows piece by piece, so that nothing is lost when it ends early."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from auto_interleaved.options.seeds import Seed
from data.output import FinishReason, InterleavedOutput, Segment, Usage
from data.output.segments import SegmentKind, SegmentRole, describe_error
from data.output.strangers import plain

logger = logging.getLogger("auto_interleaved")

# Fields that every error has, read past whatever its own class does when it is asked.
_TRACEBACK, _CAUSE, _CONTEXT = (
    vars(BaseException)[name] for name in ("__traceback__", "__cause__", "__context__")
)


class GenerationError(RuntimeError):
    """A run failed half-way.

    Attributes:
        partial: everything that was made before; its `error` is the cause.
    """

    def __init__(self, partial: InterleavedOutput) -> None:
        super().__init__(partial)
        self.partial = partial

    def __str__(self) -> str:
        error = self.partial.error
        cause = "its error is gone" if error is None else describe_error(error)
        return f"generation failed: {cause}; what was made is in .partial"


@dataclass(eq=False)
class RunRecord:
    """Segments and counts of one run.

    Attributes:
        config: the settings of the run, in plain values: nothing of the caller's is kept.
        segments: what was read and made, in order.
        pending: returns what there is of the segment that is being made; None between two.
        waiting: images that are made, or being made, and not yet in their places: each returns
            what there is of it and of its candidates.
        seed: what, given as a seed, repeats the run; None before it has begun.
        begun: whether the run's first event was asked for.
        result: what the run returned; None until it is over.
    """

    config: Mapping[str, Any]
    segments: list[Segment] = field(default_factory=list)
    pending: Callable[[], Segment] | None = None
    waiting: list[Callable[[], list[Segment]]] = field(default_factory=list)
    prompt_tokens: int = 0
    image_tokens: int = 0
    seed: Seed | None = None
    begun: bool = False
    result: InterleavedOutput | None = None
    _started: float = field(default_factory=time.perf_counter)
    # What the caller is handling meanwhile leads to every error here, and is none of ours.
    _handled: BaseException | None = field(default_factory=lambda: sys.exc_info()[1])

    @property
    def num_images(self) -> int:
        """Images drawn so far."""
        return len(self._made("image", "generated"))

    @property
    def num_texts(self) -> int:
        """Texts written so far, thoughts aside."""
        return len(self._made("text", "generated"))

    def __post_init__(self) -> None:
        self.config = plain(self.config)

    def so_far(self) -> InterleavedOutput | None:
        """Return what the run made, at any time; None before it has begun."""
        if self.result is not None or not self.begun:
            return self.result
        return self.output("interrupted")

    def finish(
        self, finish_reason: FinishReason, error: BaseException | None = None
    ) -> InterleavedOutput:
        """Close the record, and return the run's output."""
        self.result = self.output(finish_reason, _unhidden(error))
        return self.result

    def output(
        self, finish_reason: FinishReason, error: BaseException | None = None
    ) -> InterleavedOutput:
        """Return everything so far as the run's output.

        The error is relieved of what its traceback keeps alive, see `forget_frames`.
        """
        forget_frames(error, self._handled)
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            text_tokens=sum(len(s.token_ids) for s in self._made("text", "generated")),
            thought_tokens=sum(len(s.token_ids) for s in self._made("text", "thought")),
            image_tokens=self.image_tokens,
            images=self.num_images,
            seconds=time.perf_counter() - self._started,
        )
        return InterleavedOutput.from_segments(
            self._so_far(),
            finish_reason=finish_reason,
            usage=usage,
            error=error,
            config=self.config if self.seed is None else {**self.config, "seed": self.seed},
        )

    def place_image(self) -> None:
        """Put the first of the images that wait in its place, which is after everything so far."""
        self.segments += self.waiting.pop(0)()

    def place_images(self) -> None:
        """Put all that wait there: nothing comes between them any more."""
        while self.waiting:
            self.place_image()

    @property
    def last_text(self) -> str:
        """The last text that was read or written and says anything; "" if there is none."""
        said = (s.text for s in reversed(self.segments) if s.kind == "text" and s.role != "thought")
        return next((text.strip() for text in said if text and text.strip()), "")

    def _so_far(self) -> list[Segment]:
        """Return all segments, with what there is of the one that is being made."""
        pending = [] if self.pending is None else [self.pending()]
        waiting = (segment for told in self.waiting for segment in told())
        return [*self.segments, *waiting, *pending]

    def _made(self, kind: SegmentKind, role: SegmentRole) -> list[Segment]:
        return [
            segment
            for segment in self._so_far()
            if (segment.kind, segment.role, segment.error) == (kind, role, None)
        ]


def _unhidden(error: BaseException | None) -> BaseException | None:
    """Return what was raised in the first place.

    Context managers made of generators write an error's traceback on its way; where the error's
    class is frozen, what comes out is its refusal.
    """
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(_TRACEBACK.__get__(error))]
        callers = [(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame in frames[-2:]]
        if [caller[0] for caller in callers[:1]] != ["contextlib"]:
            break
        if callers[-1][1] != "__setattr__" or _CONTEXT.__get__(error) is None:
            break
        error = _CONTEXT.__get__(error)
    return error


def forget_frames(error: BaseException | None, before: BaseException | None = None) -> None:
    """Turn the traceback of an error, and of what led to it since `before`, into words.

    Frames hold local variables and closures, and these hold contexts: whoever kept the error would
    keep all keys and values of the run, and after running out of memory there would never be any
    again. The words go to the error's notes (from Python 3.11 on) and, for debugging, to the log.
    An error of the caller's own kind may refuse notes and fields; it never knows of the rest.
    """
    if error is not None and _TRACEBACK.__get__(error) is not None:
        with suppress(Exception):
            _tell(error)
    seen, waiting = [before], [error]
    while waiting:
        current = waiting.pop()
        if current is not None and not any(current is other for other in seen):
            seen.append(current)
            traceback.clear_frames(_TRACEBACK.__get__(current))
            _TRACEBACK.__set__(current, None)
            waiting += [_CAUSE.__get__(current), _CONTEXT.__get__(current)]


def _tell(error: BaseException) -> None:
    if not issubclass(type(error), Exception):
        return
    logger.debug("generation failed", exc_info=error)
    if hasattr(error, "add_note"):
        error.add_note("".join(traceback.format_exception(error)))
