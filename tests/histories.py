"""Random histories of contexts, each step checked against lists that are simply concatenated."""

from __future__ import annotations

import copy
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from modeling.context import Context, draft
from modeling.kv_store import Tail

LAYERS = ((1, 2, torch.float32), (2, 1, torch.float64))  # key/value heads, head_dim, dtype


@dataclass(frozen=True)
class Advance:
    """Stands for a block: all that a context asks of it."""

    advance: int


@lru_cache(maxsize=256)
def rows_of(tokens: tuple[int, ...], layer: int) -> tuple[Tensor, Tensor]:
    """Return keys and values that no other token or layer has."""
    heads, head_dim, dtype = LAYERS[layer]
    keys = torch.tensor(tokens, dtype=dtype)[:, None, None].expand(-1, heads, head_dim)
    return keys + layer / 4, -keys - layer / 4


def write(tail: Tail, tokens: tuple[int, ...], offset: int = 0) -> None:
    """Write tokens into every layer of a tail."""
    for layer in range(len(LAYERS)):
        tail.write(layer, offset, *rows_of(tokens, layer))


def read(context: Context, tokens: tuple[int, ...]) -> Context:
    """Return the context with tokens of a text after it."""
    with context.room(len(tokens)) as tail:
        write(tail, tokens)
        return context.after(tail, Advance(len(tokens)))


def holds(context: Context, tokens: tuple[int, ...]) -> bool:
    """Whether a context holds exactly these tokens, in order, in every layer."""
    if not tokens:
        return context.length == 0 and context.rows(0) is None
    return context.length == len(tokens) and all(
        equal(context.rows(layer), rows_of(tokens, layer)) for layer in range(len(LAYERS))
    )


def sees(tail: Tail, tokens: tuple[int, ...], layer: int, *, ordered: bool) -> bool:
    """Whether a tail reads exactly these tokens in a layer."""
    keys, values = tail.read(layer)
    if not ordered:
        order = keys[:, 0, 0].argsort()
        keys, values, tokens = keys[order], values[order], tuple(sorted(tokens))
    return equal((keys, values), rows_of(tokens, layer))


def equal(found: tuple[Tensor, Tensor] | None, expected: tuple[Tensor, Tensor]) -> bool:
    """Whether keys and values agree in every bit."""
    return found is not None and all(map(torch.equal, found, expected))


@dataclass(frozen=True, eq=False)
class Known:
    """A context and what it should be."""

    context: Context
    tokens: tuple[int, ...]
    position: int


@dataclass(eq=False)
class OpenRoom:
    """A room that is open, what it follows, and what was written into it."""

    manager: AbstractContextManager[Tail]
    tail: Tail
    before: Known
    tokens: tuple[int, ...]


@dataclass(eq=False)
class OpenDraft:
    """A draft that is open, and what each of its contexts holds."""

    manager: AbstractContextManager[list[Tail]]
    tails: list[Tail]
    before: list[tuple[int, ...]]


class History:
    """Contexts that live, rooms and drafts that are open, and a next random deed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._written = 0
        self.living = [Known(Context.empty(len(LAYERS)), (), 0)]
        self.open: list[OpenRoom | OpenDraft] = []

    def act(self) -> None:
        """Do one thing that a program may do, under inference_mode or not."""
        deeds = [self._read, self._read, self._open_room, self._open_draft, self._fork]
        deeds += [self._forget, self._forget, self._forget, self._close]
        if self.open:
            deeds += [self._use, self._use, self._close]
        with torch.inference_mode(self._random.choice((False, True))):
            self._random.choice(deeds)()

    def check(self) -> None:
        """Compare everything that lives with what it should be."""
        for known in self.living:
            assert holds(known.context, known.tokens)
            assert known.context.position == known.position
        for room in self.open:
            if isinstance(room, OpenRoom):
                for layer in range(len(LAYERS)):
                    assert sees(room.tail, room.before.tokens + room.tokens, layer, ordered=True)

    def _new_tokens(self) -> tuple[int, ...]:
        count = self._random.choice((1, 2, 3, 5, 90))  # the last one outgrows any slack
        self._written += count
        return tuple(range(self._written - count + 1, self._written + 1))

    def _read(self) -> None:
        self._open_room()
        self._keep(self.open[-1])
        self._end(self.open.pop(), "close")

    def _open_room(self) -> None:
        known, tokens = self._random.choice(self.living), self._new_tokens()
        manager = known.context.room(len(tokens))
        tail = manager.__enter__()
        cut = self._random.randrange(len(tokens))
        write(tail, tokens[cut:], cut)
        write(tail, tokens[:cut])
        self.open.append(OpenRoom(manager, tail, known, tokens))

    def _keep(self, room: OpenRoom) -> None:
        """Keep a first part, and perhaps go on from it within the same room."""
        known, tail = room.before, room.tail
        for _ in range(self._random.choice((1, 1, 2))):
            offset = len(known.tokens) - len(room.before.tokens)
            if offset == len(room.tokens):
                break
            part = tail.part(offset, len(room.tokens) - offset, known.position)
            count = self._random.choice((None, self._random.randint(1, part.count)))
            new = room.tokens[offset:][:count]
            advance = self._random.choice((1, len(new)))
            context = known.context.after(part if offset else tail, Advance(advance), count)
            known = Known(context, known.tokens + new, known.position + advance)
            self.living.append(known)

    def _open_draft(self) -> None:
        chosen = self._random.choices(self.living, k=self._random.randint(1, 4))
        manager = draft([known.context for known in chosen], len(self._new_tokens()))
        tails = manager.__enter__()
        assert [tail.position for tail in tails] == [known.position for known in chosen]
        self.open.append(OpenDraft(manager, tails, [known.tokens for known in chosen]))

    def _use(self) -> None:
        opened = self._random.choice(self.open)
        if isinstance(opened, OpenRoom):
            self._keep(opened)
            return
        for layer in range(len(LAYERS)):
            for tail, before in zip(opened.tails, opened.before, strict=True):
                drawn = tuple(range(self._written + 1, self._written + 1 + tail.count))
                self._written += tail.count
                tail.write(layer, 0, *rows_of(drawn, layer))
                assert sees(tail, before + drawn, layer, ordered=False)

    def _close(self) -> None:
        """End any of the open blocks: not the last opened first, as abandoned iterators do."""
        if self.open:
            opened = self.open.pop(self._random.randrange(len(self.open)))
            self._end(opened, self._random.choice(("close", "raise", "abandon")))

    def _end(self, opened: OpenRoom | OpenDraft, how: str) -> None:
        if how == "close":
            opened.manager.__exit__(None, None, None)
        elif how == "raise":
            error = ValueError("inside the block")
            assert not opened.manager.__exit__(ValueError, error, None)
        # An abandoned one ends when its last reference goes, which is now.

    def _fork(self) -> None:
        known = self._random.choice(self.living)
        make = self._random.choice((copy.copy, copy.deepcopy, lambda context: context))
        self.living.append(Known(make(known.context), known.tokens, known.position))

    def _forget(self) -> None:
        if len(self.living) > 1:
            self.living.pop(self._random.randrange(len(self.living)))
