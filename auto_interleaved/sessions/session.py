"""Sessions: messages one after another, each run beginning where the last one ended."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from auto_interleaved.options.generation import AS_INPUT, GenerationOptions, changed_options
from auto_interleaved.options.idle_options import without_previews
from auto_interleaved.options.seeds import turn_seed
from auto_interleaved.options.sizes import check_sizes
from auto_interleaved.run.standing import Standing
from auto_interleaved.sessions.session_files import write_session
from auto_interleaved.sessions.turns import Begun, Entry, Turn, beside
from data.output import InterleavedOutput
from data.output.events import Event, Finished
from data.prompts import Prompt
from inferencer import InterleaveInferencer
from modeling.checks import integer

# Checks a prompt and options, and returns a run that begins at a standing.
Begin = Callable[[Prompt, GenerationOptions, Standing], Begun]


class Session:
    """A talk with one model, which keeps in mind what was said and drawn.

    Contexts are values, so a session keeps them: a fork and a step back are assignments, and a turn
    that fails leaves them where they were. Made by `AutoInterleavedInferencer.start_session`.

    Args:
        inferencer: the model.
        begin: checks a turn and returns its run.
        options: for every turn.
        entries: the turns so far.
    """

    def __init__(
        self,
        inferencer: InterleaveInferencer,
        begin: Begin,
        options: GenerationOptions,
        entries: Iterable[Entry] = (),
    ) -> None:
        self._inferencer = inferencer
        self._begin = begin
        self._options = options
        self._beginning = Standing()
        self._entries = tuple(entries)
        self._under_way: list[weakref.ref[Generator[Event, None, None]]] = []

    def __repr__(self) -> str:
        return f"<Session of {len(self._entries)} turns>"

    @property
    def history(self) -> tuple[Turn, ...]:
        """All turns in order. Those that failed are here and not in the model's context."""
        return tuple(entry.turn for entry in self._entries)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model has in its context, those of images included."""
        return self.standing.length

    @property
    def standing(self) -> Standing:
        """Where the next turn begins."""
        ends = [entry.end for entry in self._entries if entry.end is not None]
        return ends[-1] if ends else self._beginning

    def send(self, message: Prompt, **options: Any) -> InterleavedOutput:
        """Answer a message.

        Args:
            message: as a prompt, see `AutoInterleavedInferencer.auto_interleaved_generation`.
            **options: that are to be otherwise for this turn; a `seed` is this turn's own.

        Returns:
            Texts and images in order, as a single run gives them.

        Raises:
            ValueError: on a bad message or option, or one that the model has no positions or no
                memory for after what was said, before anything is computed.
            TypeError: the same.
            RuntimeError: if it is called within a turn of this session.
            GenerationError: if `on_error="raise"` and the turn failed.
        """
        given = self._for_turn({"preview_every": 0, **options})
        return output_of(self._turn(message, without_previews(given)))

    def stream(self, message: Prompt, **options: Any) -> Iterator[Event]:
        """Answer a message, and tell of everything as it happens; see `send`.

        Message and options are checked at once; the turn begins with the first event that is asked
        for. Closing the iterator, or going on with the session before its end, ends the turn as one
        that failed.

        Yields:
            Events; the last one is `Finished`.
        """
        return self._turn(message, self._for_turn(options))

    def fork(self) -> Session:
        """Return another session that has said the same; from now on each goes its own way.

        It takes no memory until the two differ. A generator that was given is copied as it stands.
        """
        options = self._options
        if options.generator is not None:
            generator = torch.Generator("cpu")
            generator.set_state(options.generator.get_state())
            options = replace(options, generator=generator)
        return Session(self._inferencer, self._begin, options, self._entries)

    def rewind(self, turns: int = 1) -> Session:
        """Take turns back, as if they had never been; those that failed since then as well.

        Args:
            turns: how many of those that did not fail.

        Returns:
            This session.

        Raises:
            ValueError: if there are not so many.
            TypeError: if it is no whole number.
        """
        turns = integer(minimum=1, hint="it counts turns that did not fail")("turns", turns)
        self._end_turn_under_way()
        places = [place for place, entry in enumerate(self._entries) if entry.end is not None]
        if turns > len(places):
            raise ValueError(
                f"turns must be at most {len(places)}, the turns of this session that did not "
                f"fail, got {turns}"
            )
        self._entries = self._entries[: places[-turns]]
        return self

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the session to disk: a folder, or one file if the path ends in `.json`.

        An earlier save there is replaced in one step. Functions among the options, and a
        generator, are in no file: `load_session` takes them anew.

        Returns:
            The path that was written.

        Raises:
            ValueError: if the path ends like a file of another type.
        """
        return write_session(path, self._inferencer.model, self._options, self._entries)

    def _for_turn(self, given: Mapping[str, Any]) -> GenerationOptions:
        """Return the options of the next turn."""
        options = self._options
        if isinstance(options.seed, int):
            index = sum(entry.end is not None for entry in self._entries)
            options = replace(options, seed=turn_seed(options.seed, index))
        return changed_options(options, given)

    def _turn(self, message: Prompt, options: GenerationOptions) -> Generator[Event, None, None]:
        start = self.standing
        own: list[weakref.ref[Generator[Event, None, None]]] = []
        events = self._events(self._begin(message, options, start), start, own)
        own.append(weakref.ref(events))
        return events

    def _events(
        self, begun: Begun, start: Standing, own: list[weakref.ref[Generator[Event, None, None]]]
    ) -> Generator[Event, None, None]:
        self._end_turn_under_way()
        if self.standing is not start:
            raise RuntimeError(
                "the session has gone on since this turn was asked for; ask for it anew"
            )
        self._under_way = own
        try:
            for event in begun.events:
                if isinstance(event, Finished):
                    self._note(begun)
                yield event
        finally:
            begun.events.close()
            self._note(begun)
            del begun, start  # a traceback may keep this frame

    def _note(self, begun: Begun) -> None:
        """Add a turn that is over, once."""
        output = begun.record.result
        if output is None or any(entry.turn.output is output for entry in self._entries):
            return
        turn = Turn(prompt=begun.parts, output=output)
        end = None if turn.failed else begun.run.end
        self._entries = (*beside(self._entries, end), Entry(turn=turn, end=end))

    def _end_turn_under_way(self) -> None:
        events = self._under_way[0]() if self._under_way else None
        self._under_way = []
        if events is None:
            return
        try:
            events.close()
        except ValueError as error:  # it is what calls us
            self._under_way = [weakref.ref(events)]
            raise RuntimeError(
                "a turn of this session is under way; take its events to the end, or fork() the "
                "session and ask there"
            ) from error


def new_session(
    inferencer: InterleaveInferencer,
    begin: Begin,
    options: GenerationOptions,
    entries: Iterable[Entry] = (),
) -> Session:
    """Return a session, its options checked against the model.

    Raises:
        ValueError: if the seed is no number, or the model draws no images of the wanted size.
    """
    if isinstance(options.seed, str):
        raise ValueError(
            "the seed of a session must be a number, from which each turn's follows, got the state "
            "of a generator; give that to a message: session.send(..., seed=...)"
        )
    sized = replace(options, image_shape=None) if options.image_shape == AS_INPUT else options
    check_sizes(inferencer, (), sized, inferencer.image_shape)
    return Session(inferencer, begin, options, entries)


def output_of(events: Iterator[Event]) -> InterleavedOutput:
    """Return what a stream ends in."""
    for event in events:
        if isinstance(event, Finished):
            return event.output
    raise AssertionError("a stream ends in Finished")
