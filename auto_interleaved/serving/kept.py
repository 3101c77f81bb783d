"""Kept responses: where each ended, so that another request may go on from there."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from auto_interleaved.run.standing import Item, Standing


class NotKeptError(LookupError):
    """A request is to go on from a response that is not here, or not for who asks."""


class OutOfReachError(RuntimeError):
    """What replicas share does not answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    owner: str
    standing: Standing


class KeptResponses:
    """Responses by their ids, least recently used first.

    Where memory is short, contexts leave first: what was read and drawn is then read again, once.
    Then whole responses do. It belongs to the thread of the model.

    Args:
        count: responses at most.
        memory: bytes at most: keys and values, pictures and their latents.
    """

    def __init__(self, count: int, memory: int) -> None:
        self._count = count
        self._memory = memory
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept; what several share is counted once."""
        standings = [kept.standing for kept in self._kept.values()]
        stores = {context.store for standing in standings for context in standing.each}
        items = {id(item): item for standing in standings for item in standing.items}
        return sum(store.nbytes for store in stores) + sum(map(_bytes_of, items.values()))

    def find(self, name: str, owner: str) -> Standing:
        """Return where a response ended.

        Args:
            name: its id.
            owner: whose key asks; what another one made is as if it were not there.

        Raises:
            NotKeptError: if it is not kept.
        """
        kept = self._kept.get(name)
        if kept is None or kept.owner != owner:
            raise NotKeptError(name)
        self._kept.move_to_end(name)
        return kept.standing

    def keep(self, name: str, owner: str, standing: Standing, before: str | None = None) -> None:
        """Keep where a response ended.

        Args:
            name: its id.
            owner: whose key asked for it.
            standing: where it ended.
            before: the one that it continues; from now on the two share what they can.
        """
        earlier = None if before is None else self._kept.get(before)
        if before is not None and earlier is not None:
            shared = earlier.standing.beside(standing)
            if shared.contexts is not None:
                self._kept[before] = replace(earlier, standing=shared)
        self._kept[name] = _Kept(owner=owner, standing=standing)
        while len(self._kept) > self._count:
            self._kept.popitem(last=False)
        self.allow(self._memory)

    def adopt(self, name: str, owner: str, standing: Standing) -> None:
        """Keep where a response ended that was made elsewhere, unless it is kept."""
        if name not in self._kept:
            self.keep(name, owner, standing)

    def forget(self, name: str, owner: str) -> None:
        """Keep a response no longer.

        Raises:
            NotKeptError: if it was not kept for this owner.
        """
        self.find(name, owner)
        del self._kept[name]

    def allow(self, memory: int) -> None:
        """Keep no more than so many bytes, and never more than at first."""
        memory = min(memory, self._memory)
        while self._kept and self.nbytes > memory:
            with_contexts = (n for n, kept in self._kept.items() if kept.standing.contexts)
            name = next(with_contexts, None)
            if name is None:
                self._kept.popitem(last=False)
            else:
                kept = self._kept[name]
                self._kept[name] = replace(kept, standing=replace(kept.standing, contexts=None))


def _bytes_of(item: Item) -> int:
    if item.image is None:
        return 8 * len(item.ids)
    width, height = item.image.picture.size
    return 3 * width * height + item.image.latent.nbytes
