"""The archive: a replica's way to what all replicas keep, responses and pictures by URL."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pickle
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from auto_interleaved.run.standing import Item, Standing
from auto_interleaved.serving.kept import NotKeptError, OutOfReachError
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import Format, Shelf, path_in
from auto_interleaved.serving.store import Entry

logger = logging.getLogger("auto_interleaved")

Ask = Callable[..., Awaitable[Any]]
AskNow = Callable[..., Any]


class Archive:
    """Responses that any replica may continue.

    What a response has read goes to the store once, however many continue it, and comes from there
    only to a replica that does not hold it.

    Args:
        ask: calls a method of a `Store` by its name; raises `OutOfReachError` where that cannot be.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._digests: WeakKeyDictionary[Item, str] = WeakKeyDictionary()
        self._items: WeakValueDictionary[str, Item] = WeakValueDictionary()

    async def keep(self, name: str, owner: str, standing: Standing) -> None:
        """Keep where a response ended; where the store is out of reach, that is only logged.

        Args:
            name: its id.
            owner: whose key asked for it.
            standing: where it ended.
        """
        new = await asyncio.to_thread(self._packed, standing.items)
        entry = Entry(
            owner=owner,
            parts=tuple(self._digests[item] for item in standing.items),
            length=standing.length,
            position=standing.position,
            input_size=standing.input_size,
        )
        try:
            missing = await self._ask("keep", name, entry, new)
            if missing:  # they have left the store since they were sent
                gone = [item for item in standing.items if self._digests[item] in missing]
                again = dict(zip(missing, map(_bytes_of, gone), strict=True))
                await self._ask("keep", name, entry, {**new, **again})
        except OutOfReachError as error:
            logger.warning("a response cannot be continued by other replicas: %s", error)

    async def find(self, name: str, owner: str) -> Standing:
        """Return where a response ended, without contexts.

        Args:
            name: its id.
            owner: whose key asks; what another one made is as if it were not there.

        Raises:
            NotKeptError: if it is not kept.
            OutOfReachError: if the store does not answer.
        """
        entry: Entry | None = await self._ask("find", name, owner)
        if entry is None:
            raise NotKeptError(name)
        held = {digest: self._items.get(digest) for digest in entry.parts}
        items = {digest: item for digest, item in held.items() if item is not None}
        missing = [digest for digest in held if digest not in items]
        if missing:
            files = await self._ask("read", missing)
            if None in files:
                raise NotKeptError(name)
            read = await asyncio.to_thread(lambda: [pickle.loads(file) for file in files])
            for digest, item in zip(missing, read, strict=True):
                items[digest] = item
                self._know(item, digest)
        return Standing(
            items=tuple(items[digest] for digest in entry.parts),
            length=entry.length,
            position=entry.position,
            input_size=entry.input_size,
        )

    async def forget(self, name: str, owner: str) -> bool:
        """Keep a response no longer; return whether it was kept.

        Raises:
            OutOfReachError: if the store does not answer.
        """
        was_kept: bool = await self._ask("forget", name, owner)
        return was_kept

    def _packed(self, items: Sequence[Item]) -> dict[str, bytes]:
        """Return the bytes of items that the store was never seen to have, by their digests."""
        packed = {}
        for item in items:
            if item not in self._digests:
                digest = _digest_of(item)
                if digest not in self._items:  # where contexts were read again, items are new
                    packed[digest] = _bytes_of(item)
                self._know(item, digest)
        return packed

    def _know(self, item: Item, digest: str) -> None:
        self._digests[item] = digest
        self._items[digest] = item


def _digest_of(item: Item) -> str:
    """Return what is equal for equal items alone; their pickles may differ."""
    digest = hashlib.blake2b(repr((item.kind, item.rules, item.ids)).encode(), digest_size=16)
    if item.image is not None:
        picture, latent = item.image.picture, item.image.latent.detach().cpu().contiguous()
        about = picture.mode, picture.size, latent.dtype, item.image.grid, item.image.drawn
        digest.update(repr(about).encode())
        digest.update(picture.tobytes())
        digest.update(latent.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _bytes_of(item: Item) -> bytes:
    """Return an item as bytes that every replica reads, whatever device it computes on."""
    if item.image is not None:
        image = replace(item.image, latent=item.image.latent.detach().cpu().clone())
        item = replace(item, image=image)
    return pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)


class SharedShelf(Shelf):
    """Pictures that every replica serves by URL; a replica's own are here as well.

    Args:
        limits: bytes and seconds.
        ask: calls a method of a `Store`, and waits; raises `OutOfReachError` where that cannot be.
    """

    def __init__(self, limits: Limits, ask: AskNow) -> None:
        super().__init__(limits.picture_memory, limits.picture_seconds)
        self._ask = ask

    def put(self, file: bytes, kind: Format) -> str:
        """Keep a picture's file; return the path of its URL."""
        path = super().put(file, kind)
        try:
            self._ask("put_picture", path, file, kind)
        except OutOfReachError as error:
            logger.warning("a picture is served by one replica alone: %s", error)
        return path

    def find(self, url: str) -> tuple[bytes, Format] | None:
        """Return the file that a URL of ours, or its path, names; None where there is none.

        Raises:
            OutOfReachError: if it is none of this replica's and the store does not answer.
        """
        found = super().find(url)
        path = path_in(url)
        if found is None and path is not None:
            found = self._ask("find_picture", path)
        return found
