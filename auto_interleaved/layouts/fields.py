"""Where a benchmark's lines have what a run needs, and what they ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auto_interleaved.layouts.cases import Question, value_at
from auto_interleaved.layouts.layout import Layout, base_name
from auto_interleaved.layouts.table import LAYOUTS
from data.output.result_folders import folder_name
from data.wording import did_you_mean, listed, shown

_CONTENT = ("prompt", "messages", "images")
_OF_TURNS = ("prompt", "images", "gold")  # where there are turns, each has its own
_ASKED, _ANSWERED = ("user", "human"), ("assistant", "gpt", "model")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """How a file of prompts is read for a layout.

    Attributes:
        layout: the layout's name.
        places: for each name of ours, where a line may have it; the first that it has is taken.
        said: the names that the user said a place for: a line must have them.
        append: what follows each prompt, such as a marker that asks for a picture.
    """

    layout: str
    places: Mapping[str, tuple[str, ...]]
    said: tuple[str, ...] = ()
    append: str | None = None

    def question(self, record: Mapping[str, Any]) -> Question:
        """Return what a line asks.

        Raises:
            TypeError: if something in it is of another type.
            ValueError: if it lacks what the layout needs, or that is no name of a file.
        """
        identity, id_place = self._identity(record)
        for name in (*self.said, *LAYOUTS[self.layout].required):
            if name != "id" and not self._in_turns(name) and self._value(record, name) is None:
                raise ValueError(self._lacks(record, name))
        turns, golds = zip(*self._turns(record), strict=True)
        question = Question(
            id=identity,
            id_place=id_place,
            record=record,
            turns=turns,
            golds=golds,
            named=dict(self._named(record, turns)),
        )
        list(LAYOUTS[self.layout].claims(question))  # raises where one is no name
        return question

    def _in_turns(self, name: str) -> bool:
        return "turns" in self.places and name in _OF_TURNS

    def _identity(self, record: Mapping[str, Any]) -> tuple[str | int, str]:
        found = [(value_at(record, place), place) for place in self.places["id"]]
        identity, place = next(((v, p) for v, p in found if v is not None), (None, ""))
        if identity is None:
            raise ValueError(self._lacks(record, "id"))
        if isinstance(identity, bool) or not isinstance(identity, str | int):
            raise TypeError(f"{place} must be a string or a whole number, got {shown(identity)}")
        folder_name(identity)  # raises where it can name none
        return identity, place

    def _value(self, record: Any, name: str) -> Any:
        values = (value_at(record, place) for place in self.places.get(name, ()))
        return next((value for value in values if value is not None), None)

    def _lacks(self, record: Mapping[str, Any], name: str) -> str:
        places = " or ".join(f'"{place}"' for place in self.places[name])
        return (
            f"has no {places}, where the layout {self.layout} looks for its {name}; say where it "
            f"is with --fields {name}=NAME; it has {listed(record)}"
        )

    def _turns(self, record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str | None]]:
        turns = self._value(record, "turns")
        if turns is None:
            content = self._content(record)
            if content.get("prompt") is None and content.get("messages") is None:
                raise ValueError(self._lacks(record, "prompt"))
            yield content, self._gold(record)
            return
        if not isinstance(turns, list) or not turns:
            raise TypeError(f"turns must be a list of them, got {shown(turns)}")
        yield from _answered(
            list(turns), self._of_turn, images=_as_list(self._value(record, "images"))
        )

    def _of_turn(self, turn: Any) -> tuple[Mapping[str, Any], str | None]:
        turn = {self.places["prompt"][0]: turn} if isinstance(turn, str) else turn
        if not isinstance(turn, Mapping):
            raise TypeError(f"a turn must be a text or an object, got {shown(turn)}")
        return self._content(turn), self._gold(turn)

    def _content(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        found = {name: self._value(record, name) for name in _CONTENT}
        if found["prompt"] is not None:  # it is what a benchmark means, whatever else is there
            found["messages"] = None
        found["prompt"] = self._followed(_as_parts(found["prompt"]))
        return found

    def _followed(self, prompt: Any) -> Any:
        if self.append is None or prompt is None:
            return prompt
        if isinstance(prompt, str):
            return prompt + self.append
        return [*prompt, {"type": "text", "text": self.append}]

    def _gold(self, record: Mapping[str, Any]) -> str | None:
        gold = self._value(record, "gold")
        if gold is None and _role(record) in _ANSWERED:
            content = self._content(record)
            gold = next(_pictures(content), None)
        if isinstance(gold, list) and gold:
            gold = gold[0]
        if gold is not None and not isinstance(gold, str):
            raise TypeError(f"gold must be the name of a picture, got {shown(gold)}")
        return None if gold is None else base_name(gold)

    def _named(
        self, record: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        for name in LAYOUTS[self.layout].required:
            yield name, str(self._value(record, name))
        images = [*_as_list(self._value(record, "images")), *_as_list(turns[0].get("images"))]
        if images and isinstance(images[0], str):
            yield "first_image", images[0]


def fields_of(layout: Layout, said: Sequence[str], append: str | None = None) -> Fields:
    """Return how lines are read for a layout.

    Args:
        layout: the layout.
        said: what the user says otherwise, each as `prompt=instruction`.
        append: what follows each prompt.

    Raises:
        ValueError: if one of them is of another form, or of a name that there is not.
    """
    places = dict(layout.fields)
    known = dict.fromkeys((*places, *_CONTENT, "turns", "gold"))
    named: list[str] = []
    for word in said:
        name, equals, place = word.partition("=")
        if not (name and equals and place):
            raise ValueError(f"must be NAME=FIELD, such as prompt=instruction, got {shown(word)}")
        if name not in known:
            raise ValueError(
                f"there is no {shown(name)} to be read{did_you_mean(name, known)}; "
                f"there are {listed(known)}"
            )
        places[name] = (place,)
        named.append(name)
    return Fields(layout=layout.name, places=places, said=tuple(named), append=append)


def _answered(
    turns: list[Any], read: Any, images: list[Any]
) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Yield turns; of a talk with roles those of the user, compared with the answer after each."""
    asked = [turn for turn in turns if not (isinstance(turn, Mapping) and _role(turn) in _ANSWERED)]
    if not asked or asked[0] is not turns[0]:
        raise ValueError("turns must begin with one that is asked")
    pending: tuple[Mapping[str, Any], str | None] | None = None
    for turn in turns:
        content, gold = read(turn)
        if isinstance(turn, Mapping) and _role(turn) in _ANSWERED:
            assert pending is not None
            pending = (pending[0], pending[1] or gold)
            continue
        if pending is not None:
            yield pending
        elif images:
            content = {**content, "images": [*images, *_as_list(content.get("images"))]}
        pending = (content, gold)
    assert pending is not None
    yield pending


def _role(turn: Mapping[str, Any]) -> str | None:
    role = turn.get("role", turn.get("from"))
    if role is None or role in (*_ASKED, *_ANSWERED):
        return None if role is None else str(role)
    raise ValueError(f'a turn must be of "user" or "assistant", got {shown(role)}')


def _pictures(content: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the pictures that a turn names."""
    yield from _as_list(content["images"])
    for part in _as_list(content["prompt"]):
        if isinstance(part, Mapping) and part.get("type") == "image":
            yield from (part[key] for key in ("path", "image", "url", "content") if key in part)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _as_parts(prompt: Any) -> Any:
    """Return a prompt whose steps are `{"text": ..., "image": ...}` as a flat list of parts."""
    if isinstance(prompt, Mapping):
        prompt = [prompt]
    if not isinstance(prompt, list):
        return prompt
    return [part for step in prompt for part in _parts_of(step)]


def _parts_of(step: Any) -> list[Any]:
    if not isinstance(step, Mapping) or "type" in step or "role" in step:
        return [step]
    if not {"text", "image"} & set(step):
        return [step]
    parts = [{"type": "text", "text": step["text"]}] if step.get("text") else []
    return [*parts, *({"type": "image", "path": name} for name in _as_list(step.get("image")))]
