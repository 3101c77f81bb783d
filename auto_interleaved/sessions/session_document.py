"""Sessions as JSON documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from torch import Tensor

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.run.standing import Item
from auto_interleaved.sessions.turns import Entry
from data.output import InterleavedOutput
from data.output.pictures import Pictures
from data.output.records import Record, to_document
from data.prompts import ImageInput, PromptPart, TextInput
from data.protocols import PROTOCOLS, EveryText, Marker, Protocol, Sampled
from modeling.bagel import Bagel

FORMAT = "auto-interleaved-session"
VERSION = 1
_OBJECTS = ("logits_processor", "callback_on_step_end", "choose", "generator")


def sizes_of(model: Bagel) -> dict[str, Any]:
    """Return what two models must have in common for one to go on with what the other read."""
    config = model.language_model.config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_key_value_heads")
    return {name: getattr(config, name) for name in names} | {"latent": model.patch_latent_dim}


def images_of(entries: Iterable[Entry]) -> list[Image.Image]:
    """Return every picture of a session, with repetition."""
    images: list[Image.Image] = []
    for entry in entries:
        turn = entry.turn
        images += [part.image for part in turn.prompt if isinstance(part, ImageInput)]
        images += turn.output.images
        images += [s.image for s in turn.output.segments if s.image is not None]
        images += [i.image.picture for i in _items(entry) if i.image is not None]
    return images


def latents_of(entries: Iterable[Entry]) -> list[Tensor]:
    """Return the latents of every image that was read, each once."""
    read = [item.image.latent for e in entries for item in _items(e) if item.image is not None]
    return list({id(latent): latent for latent in read}.values())


def _items(entry: Entry) -> tuple[Item, ...]:
    return () if entry.end is None else entry.end.items


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Writes a session down.

    Attributes:
        pictures: all of it.
        references: where each of them will be found, in order.
        latents: those of the images that were read; their places are their names.
    """

    pictures: Pictures
    references: Sequence[str]
    latents: Sequence[Tensor]

    def document(
        self, model: Bagel, options: GenerationOptions, entries: Sequence[Entry]
    ) -> dict[str, Any]:
        """Return a session as a document."""
        given, needed = _options(options)
        read = 0
        turns = []
        for entry in entries:
            turns.append(self._turn(entry, read))
            read = len(_items(entry)) or read
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": sizes_of(model),
            "options": given,
            "needed": needed,
            "turns": turns,
        }

    def _turn(self, entry: Entry, read: int) -> dict[str, Any]:
        turn, end = entry.turn, entry.end
        written = None
        if end is not None:
            new = end.items[read:]
            written = {
                "position": end.position,
                "input_size": end.input_size,
                "rules": vars(new[0].rules) if new else None,
                "items": [self._item(item) for item in new],
            }
        record = to_document(_record(turn.output), self.pictures, self.references)
        return {"prompt": [*map(self._part, turn.prompt)], "output": record, "read": written}

    def _part(self, part: PromptPart) -> dict[str, Any]:
        if isinstance(part, TextInput):
            return {"text": part.text}
        return {"image": self._reference(part.image) if isinstance(part, ImageInput) else None}

    def _item(self, item: Item) -> dict[str, Any]:
        if item.image is None:
            return {"kind": item.kind, "ids": item.ids}
        image = item.image
        [place] = [n for n, latent in enumerate(self.latents) if latent is image.latent]
        return {
            "kind": item.kind,
            "picture": self._reference(image.picture),
            "latent": str(place),
            "grid": image.grid,
            "drawn": image.drawn,
        }

    def _reference(self, image: Image.Image) -> str:
        return self.references[self.pictures.number(image)]


def _record(output: InterleavedOutput) -> Record:
    names = [entry.name for entry in fields(Record) if entry.name != "items"]
    return Record(items=tuple(output), **{name: getattr(output, name) for name in names})


def _options(options: GenerationOptions) -> tuple[dict[str, Any], list[str]]:
    """Return options that are not at their defaults, and the names of those that no file holds."""
    changed = {
        entry.name: getattr(options, entry.name)
        for entry in fields(options)
        if getattr(options, entry.name) != entry.default
    }
    needed = [name for name in _OBJECTS if changed.pop(name, None) is not None]
    protocol = options.protocol
    assert protocol is not None  # a session's is settled when it begins
    changed["protocol"] = _protocol(protocol)
    if "name" in changed["protocol"] and "trigger" not in changed["protocol"]:
        needed.append("protocol")
    return changed, needed


def _protocol(protocol: Protocol) -> dict[str, Any]:
    if PROTOCOLS.get(protocol.name) == protocol:
        return {"preset": protocol.name}
    known = {**vars(protocol), "final_marks": [*map(_pattern, protocol.final_marks)]}
    trigger = known.pop("trigger")
    if isinstance(trigger, Sampled):
        return {**known, "trigger": vars(trigger)}
    if isinstance(trigger, Marker):
        return {**known, "trigger": {"pattern": _pattern(trigger.pattern)}}
    return {**known, "trigger": {}} if isinstance(trigger, EveryText) else {"name": protocol.name}


def _pattern(pattern: str | re.Pattern[str]) -> str | list[Any]:
    return pattern if isinstance(pattern, str) else [pattern.pattern, pattern.flags]
