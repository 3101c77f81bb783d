"""The batch driver: many runs at once, whose asks of one kind are answered together.

Reading goes first, so that whoever joins takes part in all that follows. Then writing: a token is
short and somebody may be watching it. Then drawing: what waits for it meanwhile becomes more, which
costs less each. Small images are drawn together; large ones keep the device busy by themselves and
come one after another.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.drivers.together import Together
from auto_interleaved.run.asks import (
    Ask,
    DecodeImage,
    NextStep,
    NextSteps,
    NextToken,
    ReadIds,
    ReadLatent,
    ReadVision,
    Work,
)
from data.output.events import Event
from modeling.together import MOST_TOKENS
from modeling.verbs import Verbs

# Rounds of writing after which what waits to be drawn gets a step all the same.
_PATIENCE = 16

_MOST_PIXELS = 2**18  # of images that are decoded at a time: beyond, nothing is gained


@dataclass(eq=False)
class _Member:
    """One run among others.

    Attributes:
        index: by which its events are told apart.
        work: the run.
        question: what it waits for, an `Ask`.
    """

    index: int
    work: Work[Any]
    question: Any


class Batch:
    """Drives many runs; they may join at any time, and one's failure is its own.

    Args:
        verbs: the model and everything around it.
        beginnings: what prompts to come may begin with as well.
    """

    def __init__(self, verbs: Verbs, beginnings: Beginnings) -> None:
        self._together = Together(verbs)
        self._beginnings = beginnings
        self._members: list[_Member] = []
        self._waited = 0  # rounds that drawings have waited for texts
        self._large_next = False

    @property
    def size(self) -> int:
        """Runs under way."""
        return len(self._members)

    @property
    def doing(self) -> str:
        """What the runs under way are at, such as "3 writing, 2 drawing"."""
        counts = Counter(_kind(member.question) for member in self._members)
        told = {
            "write": "writing",
            "draw": "drawing",
            "read": "reading",
            "decode": "decoding",
            "alone": "encoding",
        }
        return ", ".join(f"{counts[kind]} {word}" for kind, word in told.items() if counts[kind])

    def join(self, index: int, work: Work[Any]) -> Iterator[tuple[int, Event]]:
        """Begin a run, up to where it first asks; yield what it tells until then."""
        yield from self._go_on(index, work, partial(next, work))

    def round(self) -> Iterator[tuple[int, Event]]:
        """Answer what the runs ask, each run once at most; yield what they then tell.

        Raises:
            BaseException: what a run does not catch, Ctrl-C above all.
        """
        group, answer = self._next_group()
        questions = [member.question for member in group]
        for member, reply in zip(group, self._answered(questions, answer), strict=True):
            self._members.remove(member)
            failed = isinstance(reply, Exception)
            resume = member.work.throw if failed else member.work.send
            yield from self._go_on(member.index, member.work, partial(resume, reply))

    def leave(self, index: int) -> None:
        """End one run as a closed stream ends, between two rounds; it keeps what it has made."""
        leaving = [member for member in self._members if member.index == index]
        for member in leaving:
            self._members.remove(member)
            member.work.close()

    def close(self, error: BaseException | None = None) -> None:
        """End all runs, by an error or as a closed stream ends; each keeps what it has made."""
        members, self._members = self._members, []
        for member in members:
            if error is not None:
                _end(member.work, error)
            member.work.close()

    def _go_on(
        self, index: int, work: Work[Any], resume: Callable[[], Event | Ask[Any]]
    ) -> Iterator[tuple[int, Event]]:
        """Let a run go on until it asks; it stays a member only then."""
        try:
            item = resume()
            while not isinstance(item, Ask):
                yield index, item
                item = next(work)
        except StopIteration:
            return
        except BaseException:
            work.close()
            raise
        self._members.append(_Member(index, work, item))

    def _next_group(self) -> tuple[list[_Member], Callable[[Sequence[Any]], list[Any]]]:
        """Return the members whose turn it is, and what answers their asks."""
        kinds = defaultdict[str, list[_Member]](list)
        for member in self._members:
            kinds[_kind(member.question)].append(member)
        if kinds["alone"]:
            return kinds["alone"][:1], partial(self._once, self._together.alone)
        if kinds["decode"]:
            shape = kinds["decode"][0].question.shape
            alike = [member for member in kinds["decode"] if member.question.shape == shape]
            return alike[: max(1, _MOST_PIXELS // math.prod(shape))], self._together.decode
        if kinds["read"]:
            together = _fitting(kinds["read"], self._together.tokens_read)
            return together, partial(self._once, self._together.read)
        self._waited = self._waited + 1 if kinds["draw"] else 0
        if kinds["draw"] and not (kinds["write"] and self._waited < _PATIENCE):
            self._waited = 0
            return self._next_to_draw(kinds["draw"])
        return kinds["write"], self._together.write

    def _next_to_draw(
        self, members: list[_Member]
    ) -> tuple[list[_Member], Callable[[Sequence[Any]], list[Any]]]:
        """Return small images, or one large one; each sort in its turn where there are both."""
        small = [member for member in members if self._together.is_small(member.question)]
        large = [member for member in members if member not in small]
        self._large_next = bool(large) and not (small and self._large_next)
        if self._large_next or not small:
            begun = [m for m in large if m.question.drawing.state is not None]
            return (begun or large)[:1], self._together.alone
        return _fitting(small, self._together.tokens_drawn), self._together.draw

    def _answered(
        self, questions: Sequence[Any], answer: Callable[[Sequence[Any]], list[Any]]
    ) -> list[Any]:
        """Answer together; where that fails, one by one, so that each failure finds its run."""
        try:
            return answer(questions)
        except Exception as error:
            if len(questions) == 1:
                return [error]
            del error  # its frames keep what may be needed now, such as memory
        return [self._answered([question], answer)[0] for question in questions]

    def _once(
        self, answer: Callable[[Sequence[Any]], list[Any]], questions: Sequence[Ask[Any]]
    ) -> list[Any]:
        """Answer equal questions about equal beginnings once, and none that was answered before."""
        names = [self._beginnings.name(question) for question in questions]
        replies = [self._beginnings.find(name) for name in names]
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        asked = [
            place
            for place, (name, reply) in enumerate(zip(names, replies, strict=True))
            if reply is None and (name is None or first[name] == place)
        ]
        answers = answer([questions[place] for place in asked]) if asked else []
        for place, reply in zip(asked, answers, strict=True):
            replies[place] = reply
            self._beginnings.keep(names[place], reply)
        return [
            replies[first[name]] if reply is None and name is not None else reply
            for name, reply in zip(names, replies, strict=True)
        ]


def _kind(question: Ask[Any]) -> str:
    match question:
        case NextToken():
            return "write"
        case NextStep() | NextSteps():
            return "draw"
        case ReadIds() | ReadLatent() | ReadVision():
            return "read"
        case DecodeImage():
            return "decode"
    return "alone"  # encoding, previews, forgetting: nothing to share


def _fitting(members: list[_Member], count: Callable[[Any], int]) -> list[_Member]:
    """Return as many of the first members as one forward is to hold; one at least."""
    taken, total = list[_Member](), 0
    for member in members:
        total += count(member.question)
        if taken and total > MOST_TOKENS:
            break
        taken.append(member)
    return taken


def _end(work: Work[Any], error: BaseException) -> None:
    """Throw an error into a run, which records what it has made."""
    with suppress(BaseException):  # it comes back from each of them; the caller raises it once
        work.throw(error)
