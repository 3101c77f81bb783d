"""Shared beginnings: what several prompts begin with is read once, and kept for those to come."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, ref

from PIL import Image
from torch import Tensor

from auto_interleaved.run.asks import Ask, EncodeImage, ReadIds, ReadLatent, ReadVision
from modeling.context import Context

_MOST = 512  # answers; to look through them costs little

_NOTHING = b"nothing read"


class Beginnings:
    """Answers to what was asked before over equal beginnings: contexts by their items, and latents.

    A beginning has a name: what was read since nothing, each text by its ids, each picture by its
    pixels. A context that the model has written into, or that holds a drawn picture, has none and
    is never kept. Those least recently used leave first. A kept context is a value like any other:
    who goes on from it does so in a copy, or in place where nobody else holds more.

    Args:
        limit: bytes that what is kept may take, keys and values and latents.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[bytes, Any] = OrderedDict()
        self._names: WeakKeyDictionary[Context, bytes] = WeakKeyDictionary()
        self._latents: dict[int, tuple[ref[Tensor], bytes]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and latents that are kept."""
        stores = {context.store for answer in self._kept.values() for context in _contexts(answer)}
        latents = [latent for answer in self._kept.values() for latent in _latents(answer)]
        return sum(s.nbytes for s in stores) + sum(latent.nbytes for latent in latents)

    def name(self, question: Ask[Any]) -> bytes | None:
        """Return the name of what a question is answered with; None where it has none."""
        match question:
            case EncodeImage(picture=picture):
                return _digest(b"encoded", *_of_picture(picture))
            case ReadIds(ids=ids, context=context):
                item = [",".join(map(str, ids)).encode()]
            case ReadVision(picture=picture, context=context, passing=False):
                item = [b"seen", *_of_picture(picture)]
            case ReadLatent(latent=latent, context=context):
                known, encoded = self._latents.get(id(latent), (None, b""))
                if known is None or known() is not latent:
                    return None
                item = [b"latent", encoded]
            case _:
                return None
        before = self._names.get(context) if context.length else _NOTHING
        return None if before is None else _digest(before, *item)

    def find(self, name: bytes | None) -> Any:
        """Return an answer that is kept, or None."""
        if name is None or name not in self._kept:
            return None
        self._kept.move_to_end(name)
        return self._kept[name]

    def keep(self, name: bytes | None, answer: Any) -> None:
        """Keep an answer under its name, and let others go where there is no room for all."""
        if name is None:
            return
        for context in _contexts(answer):
            self._names[context] = name
        for latent in _latents(answer):
            self._latents = {k: v for k, v in self._latents.items() if v[0]() is not None}
            self._latents[id(latent)] = ref(latent), name
        self._kept[name] = answer
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        self.allow(self._limit)

    def allow(self, limit: int) -> None:
        """Keep no more than so many bytes from now on."""
        self._limit = limit
        while self._kept and self.nbytes > limit:
            self._kept.popitem(last=False)


def _contexts(answer: Any) -> Iterable[Context]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [part for part in parts if isinstance(part, Context)]


def _latents(answer: Any) -> Iterable[Tensor]:
    parts = answer if isinstance(answer, tuple) else ()
    return [part for part in parts if isinstance(part, Tensor)]


def _of_picture(picture: Image.Image) -> tuple[bytes, ...]:
    return f"{picture.mode} {picture.size}".encode(), picture.tobytes()


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
