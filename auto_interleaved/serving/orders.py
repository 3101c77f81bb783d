"""Orders: what a worker is asked for, what it tells of each, and how it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.run.standing import Standing
from data.output import FinishReason, InterleavedOutput
from data.output.events import Event
from data.prompts import Prompt

Reason = FinishReason | Literal["max_tokens", "time_limit", "stopping"]


class BusyError(RuntimeError):
    """As many requests wait as may."""


class StoppingError(RuntimeError):
    """The worker takes no more requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A request was checked; it will begin when there is room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A request was checked and cannot be; nothing was computed, nothing follows."""

    error: Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """A request is over; nothing follows.

    Attributes:
        output: all that was made.
        reason: why it ended.
        begun: whether it had its turn at all.
        end: where it ended, without contexts, if it is kept.
    """

    output: InterleavedOutput
    reason: Reason
    begun: bool = True
    end: Standing | None = None


Told = Accepted | Refused | Event | Over


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A request.

    Attributes:
        prompt: in any form that `parse_prompt` knows.
        options: of the run.
        tell: takes all that happens; called in the worker's thread.
        max_tokens: tokens of all texts and thoughts; what would be more ends the run.
        wanted_images: pictures after which nothing is wanted: the last one ends the run.
        seconds: from now on; None: as the limits say.
        owner: whose request it is.
        after: id of a kept response that it continues.
        keep_as: id by which it may be continued; None: it is not kept.
    """

    prompt: Prompt
    options: GenerationOptions
    tell: Callable[[Told], None]
    max_tokens: int | None = None
    wanted_images: int | None = None
    seconds: float | None = None
    owner: str = ""
    after: str | None = None
    keep_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """How the worker stands.

    Attributes:
        running, waiting: requests.
        context_bytes: that running requests may come to take, where that is limited.
        kept: responses.
        kept_bytes, shared_bytes: of kept responses, of shared beginnings.
        rounds: that the batch has made.
    """

    running: int = 0
    waiting: int = 0
    context_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    shared_bytes: int = 0
    rounds: int = 0
