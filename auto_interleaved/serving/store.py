"""The store: responses and pictures of all replicas, as bytes, so that none dies with one."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.pictures import Format, Shelf


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A response.

    Attributes:
        owner: whose key asked for it.
        parts: digests of what was read, in order.
        length: tokens of the context.
        position: of the next token.
        input_size: (width, height) of the last image of the caller's.
    """

    owner: str
    parts: tuple[str, ...]
    length: int
    position: int
    input_size: tuple[int, int] | None


class Store:
    """Responses by their ids, least recently used first, and pictures by their URLs.

    What several responses have read is here once. Any thread may call.

    Args:
        limits: how many responses, and how many bytes of what they have read and of pictures.
    """

    def __init__(self, limits: Limits) -> None:
        self._count = limits.kept_responses
        self._memory = limits.kept_memory
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._parts: dict[str, bytes] = {}
        self._uses: Counter[str] = Counter()
        self._nbytes = 0
        self._shelf = Shelf(limits.picture_memory, limits.picture_seconds)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of what responses have read."""
        return self._nbytes

    def keep(self, name: str, entry: Entry, parts: Mapping[str, bytes]) -> list[str]:
        """Keep a response.

        Args:
            name: its id.
            entry: the response.
            parts: what it has read, by digests; what is here already can be left out.

        Returns:
            The digests of what is neither here nor given: with any, the response is not kept.
        """
        with self._lock:
            known = parts.keys() | self._parts.keys()
            missing = [digest for digest in entry.parts if digest not in known]
            if not missing and name not in self._entries:
                self._entries[name] = entry
                for digest in entry.parts:
                    self._hold(digest, parts)
                self._make_room()
            return missing

    def find(self, name: str, owner: str) -> Entry | None:
        """Return a response; None if it is not kept, or for another owner."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.owner != owner:
                return None
            self._entries.move_to_end(name)
            return entry

    def read(self, digests: Iterable[str]) -> list[bytes | None]:
        """Return what responses have read; None for what has left meanwhile."""
        with self._lock:
            return [self._parts.get(digest) for digest in digests]

    def forget(self, name: str, owner: str) -> bool:
        """Keep a response no longer; return whether it was kept for this owner."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.owner != owner:
                return False
            self._drop(name)
            return True

    def put_picture(self, path: str, file: bytes, kind: Format) -> None:
        """Keep a picture's file for a while."""
        self._shelf.hold(path, file, kind)

    def find_picture(self, path: str) -> tuple[bytes, Format] | None:
        """Return a picture's file; None where there is none."""
        return self._shelf.find(path)

    def _hold(self, digest: str, parts: Mapping[str, bytes]) -> None:
        self._uses[digest] += 1
        if digest not in self._parts:
            self._parts[digest] = parts[digest]
            self._nbytes += len(parts[digest])

    def _drop(self, name: str) -> None:
        for digest in self._entries.pop(name).parts:
            self._uses[digest] -= 1
            if not self._uses[digest]:
                del self._uses[digest]
                self._nbytes -= len(self._parts.pop(digest))

    def _make_room(self) -> None:
        while self._entries and (len(self._entries) > self._count or self._nbytes > self._memory):
            self._drop(next(iter(self._entries)))
