"""Tabs: what one browser tab has said, in one talk or several that were forked from one another."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from auto_interleaved.page.notes import Note, asked, notes_on
from auto_interleaved.page.shown_pictures import ShownPictures
from auto_interleaved.page.turns import Turns, as_generator
from auto_interleaved.sessions.session import Session
from auto_interleaved.sessions.turns import Turn
from data.output import InterleavedOutput
from data.output.views import Drawn, Part, View, Written, made
from data.prompts import Prompt, parse_prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Exchange:
    """A message, and its answer as far as there is one.

    Attributes:
        message: what it shows.
        answer: what it shows.
        notes: what is to be said about it.
        number: of the answer, among all of the tab; None while it is under way.
        output: the answer; None while it is under way.
    """

    message: tuple[Part, ...]
    answer: tuple[Part, ...] = ()
    notes: tuple[Note, ...] = ()
    number: int | None = None
    output: InterleavedOutput | None = None


@dataclass(eq=False)
class Tab:
    """A browser tab: its talks, and all answers that it was given.

    Attributes:
        inferencer: the model.
        turns: who may use it when.
        token: by which its answers are found; nobody guesses it.
        talks: sessions, by the name that they are shown by.
        current: the name of the one that is gone on with.
        options: of every talk.
        pictures: that it shows.
        answers: everything that was answered, also what was taken back since.
        is_running: whether an answer is under way.
    """

    inferencer: Any
    turns: Turns
    options: Mapping[str, Any] = field(default_factory=dict)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    talks: dict[str, Session] = field(default_factory=dict)
    current: str = ""
    pictures: ShownPictures = field(init=False)
    answers: list[InterleavedOutput] = field(default_factory=list)
    is_running: bool = False
    _stopping: bool = False
    _hidden: set[int] = field(default_factory=set)  # answers that failed and were taken back

    def __post_init__(self) -> None:
        self.pictures = ShownPictures(f"answers/{self.token}")
        self.begin()

    @property
    def session(self) -> Session:
        """The talk that is gone on with."""
        return self.talks[self.current]

    def exchanges(self) -> list[Exchange]:
        """Return what was said in the current talk."""
        return [self._exchange(turn) for turn in self._shown()]

    def begin(self) -> None:
        """Begin a new talk, beside those that there are."""
        self._require_rest()
        self._add(self.inferencer.start_session(**self.options), "talk")

    def fork(self) -> None:
        """Go on in a second talk that has said the same."""
        self._require_rest()
        self._add(self.session.fork(), f"fork of {self.current}")

    def turn_to(self, name: str) -> None:
        """Go on with another talk."""
        self._require_rest()
        if name in self.talks:
            self.current = name

    def rewind(self) -> tuple[str, list[Image.Image]]:
        """Take the last message back, also one whose answer failed.

        Returns:
            Its text and its pictures, for whoever wants to say it otherwise.

        Raises:
            ValueError: if there is none.
        """
        self._require_rest()
        shown = self._shown()
        if not shown:
            raise ValueError("there is no message to take back")
        last = shown[-1]
        if last.failed:  # the model knows nothing of it, so that there is nothing to rewind
            self._hidden.add(self._number(last.output))
        else:
            self.session.rewind()
        said = list(asked(last.prompt))
        texts = [part.text for part in said if isinstance(part, Written)]
        return "\n".join(texts), [part.image for part in said if isinstance(part, Drawn)]

    def stop(self) -> None:
        """End the answer that is under way; what exists is kept."""
        self._stopping = True

    async def say(self, message: Prompt, options: Mapping[str, Any]) -> AsyncIterator[Exchange]:
        """Send a message in the current talk.

        Yields:
            The exchange as it grows; the last one has the output.

        Raises:
            ValueError: on a bad message or option; nothing was computed.
            TypeError: the same.
            RuntimeError: if an answer is under way.
        """
        self._require_rest()
        self.is_running, self._stopping = True, False
        try:
            session, view = self.session, View()
            shown = tuple(asked(parse_prompt(message)))
            stream = as_generator(await self.turns.do(lambda: session.stream(message, **options)))
            yield Exchange(message=shown)
            async with aclosing(self.turns.events(stream)) as heard:
                async for events in heard:
                    for event in events:
                        view.hear(event)
                    if self._stopping or view.output is not None:
                        break
                    yield Exchange(message=shown, answer=view.parts)
            await self.turns.do(stream.close)  # from then on the turn is in the history
            yield self._exchange(session.history[-1])
        finally:
            self.is_running = False

    def _add(self, session: Session, name: str) -> None:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        names = itertools.chain((name,), numbered)
        self.current = next(free for free in names if free not in self.talks)
        self.talks[self.current] = session

    def _require_rest(self) -> None:
        if self.is_running:
            raise RuntimeError("an answer is under way; stop it, or wait for its end")

    def _shown(self) -> list[Turn]:
        return [
            turn for turn in self.session.history if self._number(turn.output) not in self._hidden
        ]

    def _exchange(self, turn: Turn) -> Exchange:
        return Exchange(
            message=tuple(asked(turn.prompt)),
            answer=tuple(made(turn.output)),
            notes=tuple(notes_on(turn.output)),
            number=self._number(turn.output),
            output=turn.output,
        )

    def _number(self, output: InterleavedOutput) -> int:
        """Return the number of an answer, which gets one where it has none yet."""
        for number, known in enumerate(self.answers):
            if known is output:
                return number
        self.answers.append(output)
        return len(self.answers) - 1
