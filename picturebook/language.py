"""The words of the picture book: how scenes are said, and how what was written is read back.

"a red circle ... at the top left" brings a thing to its place; "the red circle" names one that is
there already; "to its right" and its like tie a thing to another. A background is known by one
noun. Whatever else stands in a sentence is decoration and is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from picturebook.world import (
    COLOURS,
    KINDS,
    Scene,
    Thing,
    overlap,
    related_place,
    relation_between,
)

BACKGROUND_PHRASES = {
    "meadow": "on a green meadow",
    "snow": "on a snowy field",
    "sea": "by the blue sea",
    "space": "in dark space",
    "table": "on a wooden table",
    "sunset": "in a warm sunset",
    "street": "on a grey street",
    "forest": "in a quiet forest",
}
BACKGROUND_NOUNS = {
    "meadow": "meadow",
    "field": "snow",
    "sea": "sea",
    "space": "space",
    "table": "table",
    "sunset": "sunset",
    "street": "street",
    "forest": "forest",
}
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
RELATION_PHRASES = {
    "left": "to {possessive} left{of}",
    "right": "to {possessive} right{of}",
    "above": "above {pronoun}",
    "below": "below {pronoun}",
}

_COLOUR, _KIND = "|".join(COLOURS), "|".join(KINDS)
_ANCHOR = rf"(?:the (?P<{{0}}_colour>{_COLOUR}) (?P<{{0}}_kind>{_KIND}))"
_EVENT = re.compile(
    r"\bto (?:its|the) (?P<side>left|right)\b(?: of " + _ANCHOR.format("side") + r"\b)?"
    r"|\b(?P<level>above|below) (?:it\b|" + _ANCHOR.format("level") + r"\b)"
    r"|\bat the (?P<place>(?:top|bottom) (?:left|middle|right))\b"
    rf"|\b(?P<article>an?|the) (?P<colour>{_COLOUR}) (?P<kind>{_KIND})\b"
    rf"|\b(?P<noun>{'|'.join(BACKGROUND_NOUNS)})\b"
)
_NEW_SCENE = re.compile(r"\bscene (?:\d|one|two|three|four)\b")


def with_article(words: str) -> str:
    """The words after "a", or "an" where they begin with a vowel."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def thing_phrase(thing: Thing) -> str:
    """A thing that is new: "a red circle"."""
    return with_article(f"{thing.colour} {thing.kind}")


def known_phrase(thing: Thing) -> str:
    """A thing that was named before: "the red circle"."""
    return f"the {thing.colour} {thing.kind}"


def place_phrase(place: str) -> str:
    """Where a thing is: "at the top left"."""
    return f"at the {place}"


def relation_phrase(relation: str, anchor: Thing | None = None) -> str:
    """How a thing lies to another: "to its right", or "above the red circle" of a named anchor."""
    name = None if anchor is None else known_phrase(anchor)
    return RELATION_PHRASES[relation].format(
        possessive="its" if name is None else "the",
        of="" if name is None else f" of {name}",
        pronoun="it" if name is None else name,
    )


def list_phrase(items: list[str]) -> str:
    """The items after one another, the last two with "and" between them."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capitalised(sentence: str) -> str:
    """The sentence with a capital first letter, the rest untouched."""
    return sentence[:1].upper() + sentence[1:]


def caption(scene: Scene) -> str:
    """One sentence that says everything but the traits."""
    items = [f"{thing_phrase(thing)} {place_phrase(thing.place)}" for thing in scene.things]
    where = BACKGROUND_PHRASES[scene.background]
    return capitalised(f"{list_phrase(items)}, {where}." if items else f"Nothing {where}.")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a text says.

    Attributes:
        scene: everything shown after the text, with plain traits; None if no background is known.
        added: the things that are new in this text, in order.
        problems: why the text cannot be drawn, in words; empty where all is well.
    """

    scene: Scene | None
    added: tuple[Thing, ...]
    problems: tuple[str, ...]


class _Reader:
    """Reads one text, event by event."""

    def __init__(self, previous: Scene | None) -> None:
        self.background = previous.background if previous else None
        self.known = list(previous.things) if previous else []
        self.fresh = previous is None
        self.added: list[Thing] = []
        self.problems: list[str] = []
        self.pending: tuple[str, str] | None = None
        self.spoken_of: Thing | None = None
        self.expected: list[tuple[str, Thing]] = []

    def read(self, text: str) -> Reading:
        for event in _EVENT.finditer(text.lower()):
            found = {name: value for name, value in event.groupdict().items() if value}
            if "noun" in found:
                self.read_background(BACKGROUND_NOUNS[found["noun"]])
            elif "article" in found:
                self.read_thing(found)
            elif "place" in found:
                self.read_place(found["place"])
            else:
                self.read_relation(found)
        self.finish_thing()
        if self.background is None:
            self.problems.append("no background is named")
            return Reading(scene=None, added=tuple(self.added), problems=tuple(self.problems))
        scene = Scene(self.background, tuple(self.known))
        return Reading(scene=scene, added=tuple(self.added), problems=tuple(self.problems))

    def read_background(self, background: str) -> None:
        if not self.fresh and background != self.background:
            self.problems.append(f"the background turns from {self.background} to {background}")
            return
        self.background = background
        self.fresh = False

    def read_thing(self, found: dict[str, str]) -> None:
        if found["article"] == "the":
            self.spoken_of = self.find_known(found["colour"], found["kind"])
            return
        self.finish_thing()
        self.pending = (found["kind"], found["colour"])

    def find_known(self, colour: str, kind: str) -> Thing | None:
        for thing in reversed(self.known):
            if (thing.colour, thing.kind) == (colour, kind):
                return thing
        if self.pending != (kind, colour):
            self.problems.append(f"there is no {colour} {kind} to speak of")
        return None

    def read_relation(self, found: dict[str, str]) -> None:
        relation = found.get("side") or found["level"]
        group = "side" if "side" in found else "level"
        if f"{group}_kind" in found:
            anchor = self.find_known(found[f"{group}_colour"], found[f"{group}_kind"])
        else:
            anchor = self.known[-1] if self.known else None
        if anchor is None:
            self.problems.append(f"{relation!r} of nothing")
        elif self.pending is not None:
            self.expected.append((relation, anchor))

    def read_place(self, place: str) -> None:
        if self.pending is None:
            if self.spoken_of is not None and self.spoken_of.place != place:
                self.problems.append(f"{known_phrase(self.spoken_of)} is not at the {place}")
            return
        thing = Thing(*self.pending, place)
        for relation, anchor in self.expected:
            if relation_between(place, anchor.place) != relation:
                self.problems.append(f"{place} is not {relation} of the {anchor.place}")
        self.place_thing(thing)

    def finish_thing(self) -> None:
        """Give a thing without a place of its own the one that its relation implies."""
        if self.pending is None:
            return
        places = [related_place(anchor.place, relation) for relation, anchor in self.expected]
        if places and places[0] is not None:
            self.place_thing(Thing(*self.pending, places[0]))
            return
        kind, colour = self.pending
        self.problems.append(f"the {colour} {kind} has no place")
        self.pending, self.expected = None, []

    def place_thing(self, thing: Thing) -> None:
        self.pending, self.expected = None, []
        blocking = [other for other in self.known if overlap(other.place, thing.place)]
        if blocking:
            self.problems.append(f"{thing_phrase(thing)} stands on {known_phrase(blocking[0])}")
            return
        self.known.append(thing)
        self.added.append(thing)


def parse_text(text: str, previous: Scene | None = None) -> Reading:
    """Read what a text says, given the scene that the texts before it made.

    Args:
        text: one step, a caption, or a line of a plan; "Scene 2" in it begins anew.
        previous: the scene so far, or None at the start.
    """
    if _NEW_SCENE.search(text.lower()):
        previous = None
    return _Reader(previous).read(text)


def backgrounds_in(text: str) -> list[str]:
    """The backgrounds that a text names, in order."""
    nouns = re.findall(rf"\b(?:{'|'.join(BACKGROUND_NOUNS)})\b", text.lower())
    return [BACKGROUND_NOUNS[noun] for noun in nouns]
