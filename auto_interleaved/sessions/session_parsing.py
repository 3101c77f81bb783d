"""JSON documents back into sessions: every field is what it should be, or it is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from PIL import Image
from torch import Tensor

from auto_interleaved.run.contexts import ReadImage
from auto_interleaved.run.standing import Item, ItemKind, Rules, Standing
from auto_interleaved.sessions.session_document import FORMAT, VERSION, sizes_of
from auto_interleaved.sessions.turns import Entry, Turn
from data.output import InterleavedOutput
from data.output.parsing import from_document
from data.output.records import Record
from data.output.segments import require_one_of
from data.prompts import ImageInput, ImageRequest, PromptPart, TextInput
from data.protocols import EveryText, Marker, Protocol, Sampled, find_protocol
from data.wording import shown
from modeling.bagel import Bagel
from modeling.numbers import all_numbers


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A session as its files tell it.

    Attributes:
        options: keyword arguments.
        needed: names of options that no file holds.
        protocol: the name of the one it went by.
        entries: its turns; contexts are still to be read.
    """

    options: Mapping[str, Any]
    needed: Sequence[str]
    protocol: str
    entries: tuple[Entry, ...]


class Parsing:
    """Reads a document.

    Args:
        model: that is to go on with it.
        find: returns the picture that a reference names; asked once for each.
        latents: by their names.
    """

    def __init__(
        self, model: Bagel, find: Callable[[str], Image.Image], latents: Mapping[str, Tensor]
    ) -> None:
        self._model = model
        self._find = find
        self._latents = latents
        self._found: dict[str, Image.Image] = {}
        self._items: tuple[Item, ...] = ()

    def saved(self, document: Any) -> Saved:
        """Return what a document says.

        Raises:
            ValueError: it is of another kind or model, too new, or damaged.
        """
        check_format(document)
        own, given = sizes_of(self._model), document.get("model")
        if given != own:
            raise ValueError(f"it is of another model: {shown(given)}, and this one is {own}")
        try:
            options = dict(document["options"])
            protocol = options.pop("protocol")
            if "protocol" not in document["needed"]:
                options["protocol"] = _protocol_of(protocol)
            return Saved(
                options=options,
                needed=[str(name) for name in document["needed"]],
                protocol=str(protocol.get("preset") or protocol["name"]),
                entries=tuple(map(self._entry, document["turns"])),
            )
        except KeyError as error:
            raise ValueError(f"the field {error} is missing") from error
        except (AttributeError, IndexError, TypeError, re.error) as error:
            raise ValueError(f"a field has a wrong type ({error})") from error

    def _entry(self, written: Mapping[str, Any]) -> Entry:
        record = from_document(written["output"], self._picture)
        known = {name.name: getattr(record, name.name) for name in fields(Record)}
        output = InterleavedOutput(known.pop("items"), **known)
        turn = Turn(prompt=tuple(map(self._part, written["prompt"])), output=output)
        read = written["read"]
        if (read is None) != turn.failed:
            raise ValueError("a turn that failed was read, or one that did not fail was not")
        return Entry(turn=turn, end=None if read is None else self._standing(read))

    def _part(self, written: Mapping[str, Any]) -> PromptPart:
        if "text" in written:
            return TextInput(str(written["text"]))
        reference = written["image"]
        return ImageRequest() if reference is None else ImageInput(self._picture(reference))

    def _standing(self, read: Mapping[str, Any]) -> Standing:
        rules = None if read["rules"] is None else Rules(**read["rules"])
        self._items += tuple(self._item(written, rules) for written in read["items"])
        size = read["input_size"]
        position = sum(len(i.ids) + 2 * (i.image is not None) for i in self._items)
        if position > self._model.language_model.config.max_position_embeddings:
            raise ValueError("it is longer than the model was made to read")
        return Standing(
            items=self._items,
            position=_whole(read["position"]),
            input_size=None if size is None else (_whole(size[0]), _whole(size[1])),
        )

    def _item(self, written: Mapping[str, Any], rules: Rules | None) -> Item:
        kind = written["kind"]
        require_one_of("kind", kind, get_args(ItemKind))
        if rules is None:
            raise ValueError("there are no rules by which it was read")
        rules.protocol()  # checks them
        if kind in ("image", "blank"):
            return Item(kind=kind, rules=rules, image=self._image(written))
        ids, limit = (
            tuple(map(_whole, written["ids"])),
            self._model.language_model.config.vocab_size,
        )
        if not ids or max(ids) >= limit:
            raise ValueError(f"ids must be below {limit}, got {shown(ids)}")
        return Item(kind=kind, rules=rules, ids=ids)

    def _image(self, written: Mapping[str, Any]) -> ReadImage:
        latent, (rows, columns) = self._latents[written["latent"]], map(_whole, written["grid"])
        size = (rows * columns, self._model.patch_latent_dim) if rows * columns else (0,)
        whole = tuple(latent.shape) == size and latent.is_floating_point()
        if not whole or (latent.numel() and not all_numbers(latent)):
            raise ValueError(f"latents {shown(written['latent'])} are not {size} finite numbers")
        picture = self._picture(written["picture"])
        if picture.mode != "RGB" or not isinstance(written["drawn"], bool):
            raise ValueError(f"{written['picture']} is no picture that was read")
        return ReadImage(
            picture=picture, latent=latent, grid=(rows, columns), drawn=written["drawn"]
        )

    def _picture(self, reference: Any) -> Image.Image:
        if reference not in self._found:
            self._found[reference] = self._find(reference)
        return self._found[reference]


def check_format(document: Any) -> None:
    """Check that a document is a session's, and of a version that is known.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'it has no "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(
            f"its version is {shown(document.get('version'))}, this library reads {VERSION}; "
            "a newer release of the library may read it"
        )


def _protocol_of(written: Mapping[str, Any]) -> Protocol:
    if "preset" in written:
        return find_protocol(written["preset"])
    given, trigger = dict(written), written["trigger"]
    given["final_marks"] = tuple(map(_pattern_of, written["final_marks"]))
    if not trigger:
        given["trigger"] = EveryText()
    elif "pattern" in trigger:
        given["trigger"] = Marker(_pattern_of(trigger["pattern"]))
    else:
        given["trigger"] = Sampled(**trigger)
    return Protocol(**given)


def _pattern_of(written: Any) -> str | re.Pattern[str]:
    return written if isinstance(written, str) else re.compile(str(written[0]), int(written[1]))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a number must be whole and not negative, got {shown(value)}")
    return value
