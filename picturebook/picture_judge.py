"""Judges one picture: against what it must show, what was there before, and its traits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image

from picturebook.language import thing_phrase
from picturebook.reading import Seen, read_picture
from picturebook.tasks import Edit
from picturebook.world import Scene, Thing, Traits

CRITERIA = ("thing", "colour", "place", "background", "kept", "traits")


@dataclass(frozen=True, kw_only=True)
class PictureJudgement:
    """What is right about one picture.

    Attributes:
        thing, colour, place: of the things that are new; `thing` also fails over an extra one.
        background: the right one, and nothing unclear on it.
        kept: whether the things of earlier pictures are as they were.
        traits: whether they are those of the first picture; True where none were given.
        seen: what the picture shows.
        problems: what is wrong, in words.
    """

    thing: bool
    colour: bool
    place: bool
    background: bool
    kept: bool
    traits: bool
    seen: Seen
    problems: tuple[str, ...]

    @property
    def matches_text(self) -> bool:
        """Whether thing, colour, place and background are right."""
        return self.thing and self.colour and self.place and self.background

    @property
    def correct(self) -> bool:
        """Whether nothing is wrong."""
        return self.matches_text and self.kept and self.traits


def judge_picture(
    picture: Image.Image,
    expected: Scene | None,
    *,
    earlier: Collection[Thing] = (),
    traits: Traits | None = None,
) -> PictureJudgement:
    """Compare a picture with what it must show.

    Args:
        picture: 64 x 64 pixels.
        expected: background and things, its traits are not looked at; None if nobody can say, which
            fails everything.
        earlier: those of its things that earlier pictures showed already.
        traits: what the picture must keep, or None for any.

    Raises:
        ValueError: if the picture has another size.
    """
    seen = read_picture(picture)
    faults = _Faults(seen)
    if expected is None:
        for criterion in CRITERIA:
            faults.add(criterion, "nothing says what it must show")
        return faults.judgement()
    unexplained = [thing for thing in seen.scene.things if thing not in expected.things]
    for thing in expected.things:
        faults.check(thing, unexplained, is_new=thing not in earlier)
    for thing in unexplained:
        faults.add("thing", f"{thing_phrase(thing)} at the {thing.place} should not be there")
    if seen.scene.background != expected.background:
        faults.add("background", f"{seen.scene.background} instead of {expected.background}")
    if any(_outside(patch, expected) for patch in seen.unclear):
        faults.add("background", "there is something unclear on the background")
    if traits is not None and seen.scene.traits != traits:
        faults.add("traits", f"{seen.scene.traits} instead of {traits}")
    return faults.judgement()


def _outside(patch: tuple[int, int], expected: Scene) -> bool:
    seen = Seen(scene=expected, unclear=(patch,), error=0.0)
    return all(seen.is_clear(thing.place) for thing in expected.things)


class _Faults:
    """Collects what is wrong with a picture, by criterion."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.criteria: set[str] = set()
        self.problems: list[str] = []

    def add(self, criterion: str, problem: str) -> None:
        self.criteria.add(criterion)
        self.problems.append(problem)

    def check(self, thing: Thing, unexplained: list[Thing], *, is_new: bool) -> None:
        """Compare one expected thing with its nearest in the picture, which is then explained."""
        name = f"{thing_phrase(thing)} at the {thing.place}"
        if thing in self.seen.scene.things:
            if not self.seen.is_clear(thing.place):
                self.add("thing" if is_new else "kept", f"{name} is unclear")
            return
        found = max(unexplained, key=lambda other: _likeness(thing, other), default=None)
        if found is None or not _likeness(thing, found):
            self.add("thing" if is_new else "kept", f"{name} is missing")
            return
        unexplained.remove(found)
        problem = f"{thing_phrase(found)} at the {found.place} instead of {name}"
        if not is_new:
            self.add("kept", problem)
            return
        criteria = {"thing": "kind", "colour": "colour", "place": "place"}
        for criterion, attribute in criteria.items():
            if getattr(thing, attribute) != getattr(found, attribute):
                self.add(criterion, problem)

    def judgement(self) -> PictureJudgement:
        thing, colour, place, background, kept, traits = (
            criterion not in self.criteria for criterion in CRITERIA
        )
        return PictureJudgement(
            thing=thing,
            colour=colour,
            place=place,
            background=background,
            kept=kept,
            traits=traits,
            seen=self.seen,
            problems=tuple(dict.fromkeys(self.problems)),
        )


def _likeness(thing: Thing, other: Thing) -> int:
    """How much speaks for two things being meant as one; 0 for two that are not."""
    same_place, same_kind = thing.place == other.place, thing.kind == other.kind
    return 4 * same_place + 2 * same_kind + (same_kind and thing.colour == other.colour)


def judge_edit(edit: Edit, picture: Image.Image) -> PictureJudgement:
    """Compare a picture with what an instruction must make of the one before; traits must stay.

    Raises:
        ValueError: if the picture has another size.
    """
    earlier = [thing for thing in edit.after.things if thing in edit.before.things]
    return judge_picture(picture, edit.after, earlier=earlier, traits=edit.before.traits)
