"""What a run has made so far: grows piece by piece, so that nothing is lost when it ends early."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.output import FinishReason, InterleavedOutput, Segment, Usage
from data.output.segments import SegmentKind, SegmentRole

logger = logging.getLogger("auto_interleaved")


class GenerationError(RuntimeError):
    """A run failed half-way.

    Attributes:
        partial: everything that was made before; its `error` is the cause.
    """

    def __init__(self, partial: InterleavedOutput) -> None:
        super().__init__(partial)
        self.partial = partial

    def __str__(self) -> str:
        return f"generation failed: {self.partial.error!r}; what was made is in .partial"


@dataclass(eq=False)
class RunRecord:
    """Segments and counts of one run.

    Attributes:
        config: the settings of the run.
        segments: what was read and made, in order.
    """

    config: Mapping[str, Any]
    segments: list[Segment] = field(default_factory=list)
    prompt_tokens: int = 0
    image_tokens: int = 0
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
            self.segments,
            finish_reason=finish_reason,
            usage=usage,
            error=error,
            config=self.config,
        )

    def _made(self, kind: SegmentKind, role: SegmentRole) -> list[Segment]:
        return [
            segment
            for segment in self.segments
            if (segment.kind, segment.role, segment.error) == (kind, role, None)
        ]


def forget_frames(error: BaseException | None, before: BaseException | None = None) -> None:
    """Turn the traceback of an error, and of what led to it since `before`, into words.

    Frames hold local variables and closures, and these hold contexts: whoever kept the error would
    keep all keys and values of the run, and after running out of memory there would never be any
    again. The words go to the error's notes (from Python 3.11 on) and, for debugging, to the log.
    """
    if isinstance(error, Exception) and error.__traceback__ is not None:
        logger.debug("generation failed", exc_info=error)
        if hasattr(error, "add_note"):
            error.add_note("".join(traceback.format_exception(error)))
    seen, waiting = [before], [error]
    while waiting:
        current = waiting.pop()
        if current is not None and not any(current is other for other in seen):
            seen.append(current)
            traceback.clear_frames(current.__traceback__)
            current.__traceback__ = None
            waiting += [current.__cause__, current.__context__]
