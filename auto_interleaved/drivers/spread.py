"""The spread driver: one run in several processes, each of which computes its guidance branches.

Every process makes the same run: it reads and writes by itself, and takes every step of an image
along the velocities of all. What they exchange says besides whether they are still at the same
place, and whether one of them is over: nobody waits for one that is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from auto_interleaved.drivers.direct import Direct, drive
from auto_interleaved.drivers.peers import Talk
from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.options.seeds import RandomState
from auto_interleaved.run.asks import (
    Ask,
    DecodeImage,
    Drawing,
    NextStep,
    NextSteps,
    NextToken,
    ReadIds,
    ReadLatent,
    Result,
    Work,
)
from data.output.events import Event, Finished
from data.wording import shown_error
from modeling.bagel.bagel import execution_device
from modeling.bagel.drawing import Canvas
from modeling.branches import Share
from modeling.flow import FlowStep
from modeling.verbs import Verbs

logger = logging.getLogger("auto_interleaved")

_Kind = Literal["begin", "step", "end"]
_T = TypeVar("_T")


def warn_of_batch() -> None:
    """Say in the log that many prompts at once gain nothing from spread guidance."""
    logger.warning(
        "spread_guidance has no effect on many prompts at once, which each process computes by "
        "itself; give each process prompts of its own"
    )


@dataclass(frozen=True, kw_only=True)
class _Word:
    """What a process says.

    Attributes:
        kind: where it is: at the beginning of a run, at a step of an image, at the end.
        place: fixed by all that it has read, written and drawn.
        note: how it ended, or what it begins with.
        velocities: of its own branches.
    """

    kind: _Kind
    place: str = ""
    note: str = ""
    velocities: bytes = b""

    def meets(self, other: _Word) -> bool:
        """Say whether two processes are at the same place."""
        return (self.kind, self.place) == (other.kind, other.place)

    def packed(self) -> bytes:
        head = json.dumps([self.kind, self.place, self.note])
        return head.encode() + b"\n" + self.velocities

    @classmethod
    def unpacked(cls, message: bytes) -> _Word:
        head, _, velocities = message.partition(b"\n")
        kind, place, note = json.loads(head)
        return cls(kind=kind, place=place, note=note, velocities=velocities)


class Spread:
    """Drives one run together with other processes, which make the same run.

    Args:
        verbs: the model and everything around it.
        peers: the processes.
    """

    def __init__(self, verbs: Verbs, peers: Talk) -> None:
        self._verbs = verbs
        self._peers = peers
        self._direct = Direct(verbs)
        self._place = blake2b(digest_size=16)
        self._drawn: set[int] = set()
        self._over = False

    def begun(self, options: GenerationOptions, prepare: Callable[[GenerationOptions], _T]) -> _T:
        """Return what is prepared by options that let all processes draw alike.

        Raises:
            RuntimeError: if the others are elsewhere.
            BaseException: what preparing raises; the others hear of it.
        """
        agreed = self._agreed(options)
        try:
            return prepare(agreed)
        except BaseException as error:
            self._end(_ending(error), waits=False)
            raise

    def drive(self, work: Work[Result]) -> Generator[Event, None, Result]:
        """Drive a run to its end; see `auto_interleaved.drivers.direct.drive`."""
        # Events alone are watched: who would watch the work would keep contexts alive.
        return (yield from _Watched(drive(work, self._answer), self._end))

    def _agreed(self, options: GenerationOptions) -> GenerationOptions:
        """Return options by which random numbers are the main process's.

        Where that has no seed, the others' generators are set to where its own stand.
        """
        device = execution_device(self._verbs.model.language_model.lm_head)
        seed, state = options.seed, None
        if seed is None:
            state = str(RandomState.of(options.generator, device))
        words = self._met(_Word(kind="begin", note=json.dumps([seed, state])))
        if self._peers.rank == 0:
            return options
        seed, state = json.loads(words[0].note)
        if state is None:
            return replace(options, seed=seed, generator=None)
        RandomState.parse(state).set(options.generator, device)
        return replace(options, seed=None)

    def _answer(self, question: Ask[Any]) -> Any:
        if isinstance(question, NextStep):
            return self._next_step(question.drawing, question.changed)
        if isinstance(question, NextSteps):  # each process computes all of them
            self._met(_Word(kind="step"))
        answer = self._direct.answer(question)
        match question:
            case ReadIds(ids=ids):
                self._note("read", *ids, answer[1])
            case NextToken():
                self._note(answer[0])
            case DecodeImage(latent=latent):
                self._drawn.add(_checksum(latent))
                self._note("drawn", _checksum(latent))
            case ReadLatent(latent=latent) if _checksum(latent) in self._drawn:
                self._note("kept", _checksum(latent))  # of several candidates
        return answer

    def _next_step(self, drawing: Drawing, changed: Tensor | None) -> FlowStep:
        if drawing.state is None:
            drawing.state = self._begun(drawing)
            self._note("draw", drawing.shape, drawing.options)
        share: Share = drawing.state
        if changed is not None:
            share.latent = changed.to(share.latent)
        self._note(share.index, _checksum(share.latent))
        own = share.evaluate()
        velocities = b"" if own is None else own.float().cpu().numpy().tobytes()
        words = self._met(_Word(kind="step", velocities=velocities))
        return share.step(self._sorted(share, [word.velocities for word in words]))

    def _begun(self, drawing: Drawing) -> Share:
        verbs = self._verbs
        return Share(
            Canvas.of(verbs.model, verbs.model.latent_grid(*drawing.shape), verbs.markers),
            full=drawing.full,
            without_text=drawing.without_text,
            without_images=drawing.without_images,
            noise=verbs.initial_noise(drawing.shape, drawing.generator),
            options=drawing.options,
            place=self._peers.rank,
            num_places=self._peers.size,
        )

    def _sorted(self, share: Share, parts: list[bytes]) -> Tensor:
        """Return all velocities in order, of which each process has every size-th."""
        rows = [
            torch.frombuffer(bytearray(part), dtype=torch.float32).view(-1, *share.latent.shape)
            if part
            else torch.empty(0, *share.latent.shape, device="cpu")
            for part in parts
        ]
        size = len(parts)
        return torch.stack([rows[index % size][index // size] for index in range(share.needed)])

    def _note(self, *facts: Any) -> None:
        """Take what fixes the place of a run."""
        self._place.update(repr(facts).encode())

    def _met(self, word: _Word) -> list[_Word]:
        """Say a word and return everybody's, if all are at the same place.

        Raises:
            RuntimeError: if another process is over, or at another place.
            ConnectionError: if one does not answer.
        """
        own = replace(word, place=self._place.hexdigest())
        words = self._peers.submit(partial(self._exchanged, own)).result()
        if not words:
            raise RuntimeError("this run is over for the processes that share it")
        for rank, other in enumerate(words):
            if other.kind == "end":
                raise RuntimeError(f"{self._named(rank)} {other.note}, and this run with it")
        for rank, other in enumerate(words):
            if not other.meets(words[0]):
                raise RuntimeError(
                    f"{self._named(rank)} has come apart from process 0; give all of them the same "
                    "model, prompt, options and callback, on devices of one kind"
                )
        return words

    def _exchanged(self, word: _Word) -> list[_Word]:
        """Say a word, unless the run is over for all.

        All processes hear the same words in the same order, so it is over for all at the same one.
        """
        if self._over:
            return []
        self._over = True
        words = [_Word.unpacked(message) for message in self._peers.exchange(word.packed())]
        self._over = not all(other.kind != "end" and other.meets(words[0]) for other in words)
        return words

    def _end(self, how: str, *, waits: bool) -> None:
        """Tell the others how this run ended, if none of them has told so before."""
        answer = self._peers.submit(partial(self._exchanged, _Word(kind="end", note=how)))
        if not waits:
            return
        with suppress(ConnectionError):  # nobody is there any more who would have to be told
            for rank, other in enumerate(answer.result()):
                if other.kind == "end" and other.note != how:
                    logger.warning("%s %s", self._named(rank), other.note)

    def _named(self, rank: int) -> str:
        return f"process {rank} of {self._peers.size}, which computes guidance branches,"


class _Watched(Generator[Event, Any, Result]):
    """Events of a run, and who hears how it ends.

    Args:
        events: of a run.
        hear: takes how it ended, and whether to wait until the others know.
    """

    def __init__(self, events: Generator[Event, Any, Result], hear: Callable[..., None]) -> None:
        self._events = events
        self._hear = hear

    def send(self, value: Any) -> Event:
        """Go on."""
        return self._going_on(self._events.send, value)

    def throw(self, *error: Any) -> Event:
        """Go on with an error."""
        return self._going_on(self._events.throw, *error)

    def _going_on(self, resume: Callable[..., Event], *arguments: Any) -> Event:
        try:
            event = resume(*arguments)
        except StopIteration:
            self._hear(_ending(None), waits=True)
            raise
        except Exception as error:
            self._hear(_ending(error), waits=True)
            raise
        except BaseException as error:  # interrupted or closed: nobody is to be waited for
            self._hear(_ending(error), waits=False)
            raise
        if isinstance(event, Finished):  # who consumes events may look no further
            self._hear(_ending(event.output.error), waits=True)
        return event


def _ending(error: BaseException | None) -> str:
    if error is None:
        return "is done"
    if isinstance(error, Exception):
        return f"failed ({shown_error(error)})"
    return "was closed" if isinstance(error, GeneratorExit) else "was interrupted"


def _checksum(latent: Tensor) -> int:
    """Return a number that fixes latents, nan included, well enough to see that two differ."""
    bits = latent.detach().float().contiguous().view(torch.int32)
    return int(bits.sum(dtype=torch.int64))
