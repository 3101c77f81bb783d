"""What comes out of a run: its events, its segments, the list it returns, and its files."""

from data.output.result import InterleavedOutput
from data.output.segments import FinishReason, RecordedError, Segment, Usage

__all__ = ["FinishReason", "InterleavedOutput", "RecordedError", "Segment", "Usage"]
