"""Turns of a session: one that begins, and those that were."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from auto_interleaved.options.seeds import Seed
from auto_interleaved.run.engine import Run
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.standing import Standing
from data.output import InterleavedOutput
from data.output.events import Event
from data.prompts import PromptPart


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """A run that was checked and has not started.

    Attributes:
        run: the run.
        parts: its prompt.
        record: what it makes.
        events: what it will tell of; asking for them is what drives it.
    """

    run: Run
    parts: tuple[PromptPart, ...]
    record: RunRecord
    events: Generator[Event, None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A message and what came of it.

    Attributes:
        prompt: the message's texts and images.
        output: what the model made of it.
    """

    prompt: tuple[PromptPart, ...]
    output: InterleavedOutput

    @property
    def options(self) -> Mapping[str, Any]:
        """What the turn went by, in plain values."""
        return self.output.config

    @property
    def seed(self) -> Seed | None:
        """What it drew from: the seed by which the same message repeats it."""
        return self.output.seed

    @property
    def failed(self) -> bool:
        """Whether it failed or was interrupted: then the model knows nothing of it."""
        return self.output.finish_reason in ("error", "interrupted")


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A turn, and where the session stood after it; None after one that failed."""

    turn: Turn
    end: Standing | None


def beside(entries: Iterable[Entry], newest: Standing | None) -> Iterator[Entry]:
    """Yield entries without the contexts that take memory of their own beside the newest."""
    for entry in entries:
        if entry.end is None or newest is None:
            yield entry
        else:
            yield replace(entry, end=entry.end.beside(newest))
