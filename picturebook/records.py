"""What a sample is made of: what a prompt asks for, and the story that answers it."""

from __future__ import annotations

from dataclasses import dataclass

from picturebook.split import novelties
from picturebook.world import Scene, Traits

IMAGE_REQUEST = "<|vision_start|>"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One thing that a prompt asks for.

    Attributes:
        kind: what it is.
        colour, place: None where the writer may choose.
        relation, anchor: how it lies to the wish at index `anchor`, or None.
    """

    kind: str
    colour: str | None = None
    place: str | None = None
    relation: str | None = None
    anchor: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a prompt asks for, as far as a story can be held to it.

    Attributes:
        wishes: the things, in the order in which they must come.
        exact: whether nothing but the wishes may come.
        background: None where the writer may choose.
        num_steps: the number of pictures, or None for any from two to four.
        scenes: for a prompt that lists whole scenes, what each picture must show; else empty.
        in_place: whether the prompt marks where pictures go, which then need no other text.
    """

    wishes: tuple[Wish, ...] = ()
    exact: bool = False
    background: str | None = None
    num_steps: int | None = None
    scenes: tuple[Scene, ...] = ()
    in_place: bool = False


@dataclass(frozen=True)
class Step:
    """A text and everything that the picture after it shows."""

    text: str
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class Story:
    """A prompt and its illustrated answer.

    Attributes:
        kind: the family it comes from, a key of `stories.STORY_KINDS`.
        prompt: what the user writes. It contains `IMAGE_REQUEST` marks where `request.in_place`;
            the texts of the steps are then the pieces of the prompt before each mark.
        request: what the prompt asks for.
        steps: texts and scenes; all share the same traits, which no text says.
        closing: the text after the last picture.
        thought: a plan of the steps, without its tags; None where none is called for.
    """

    kind: str
    prompt: str
    request: Request
    steps: tuple[Step, ...]
    closing: str
    thought: str | None = None

    @property
    def hidden_traits(self) -> Traits:
        """What the first picture fixes and every later one must keep."""
        return self.steps[0].scene.traits

    @property
    def novelties(self) -> frozenset[str]:
        """Which kinds of held-out combination its pictures contain."""
        return frozenset().union(*(novelties(step.scene) for step in self.steps))

    @property
    def held_out(self) -> bool:
        """Whether the story contains a combination that training never sees."""
        return bool(self.novelties)
