"""What a run has made so far: grows piece by piece, so that nothing is lost when it ends early."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.output import FinishReason, InterleavedOutput, Segment, Usage
from data.segments import SegmentKind, SegmentRole


class GenerationError(RuntimeError):
    """A run failed half-way.

    Attributes:
        partial: everything that was made before; its `error` is the cause.
    """

    def __init__(self, partial: InterleavedOutput) -> None:
        super().__init__(f"generation failed: {partial.error!r}; what was made is in .partial")
        self.partial = partial


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
        """Return everything so far as the run's output."""
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
