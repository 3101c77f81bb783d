"""The contexts of a run: what is known, and what each guidance branch is not to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from auto_interleaved.options.generation import ImageMemory
from auto_interleaved.run.asks import Forget, ReadIds, ReadLatent, ReadVision, Work, ask
from data.protocols import Protocol
from modeling.context import Context

_NOWHERE = range(0)


@dataclass(frozen=True, kw_only=True)
class ImageSlots:
    """Where an image lies in a context.

    Attributes:
        number: of the image, counted from 1 over all that the run has read.
        latent: slots of its latent block; none where that was not read, or is forgotten.
        vision: slots of its vision block, likewise.
    """

    number: int
    latent: range
    vision: range

    def after(self, lost: Sequence[range]) -> ImageSlots:
        """Return where the image lies once other slots, or slots of its own, are gone."""
        latent, vision = (_moved(run, lost) for run in (self.latent, self.vision))
        return ImageSlots(number=self.number, latent=latent, vision=vision)


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Four contexts that read the same run, each in its own way.

    They are values: keeping an old one undoes everything since, at no cost.

    Attributes:
        full: everything.
        view: what text is written over; mostly the full context itself.
        without_text: for text guidance.
        without_images: for image guidance.
        num_images: images read so far, the caller's included.
        images: where they lie in each of these contexts; what is said of others is dropped.
        items: what was read, in order, where it is noted down; see `standing.Noting`.
    """

    full: Context
    view: Context
    without_text: Context
    without_images: Context
    num_images: int = 0
    images: Mapping[Context, tuple[ImageSlots, ...]] = field(default_factory=dict, repr=False)
    items: tuple[Any, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        known = {c: self.images[c] for c in self.each if c in self.images}
        object.__setattr__(self, "images", known)

    @property
    def each(self) -> tuple[Context, Context, Context, Context]:
        """The four contexts."""
        return self.full, self.view, self.without_text, self.without_images

    def replaced(
        self, each: Sequence[Context], images: Mapping[Context, tuple[ImageSlots, ...]]
    ) -> Contexts:
        """Return others in place of the four contexts, and where images lie in them."""
        full, view, without_text, without_images = each
        return replace(
            self,
            full=full,
            view=view,
            without_text=without_text,
            without_images=without_images,
            images=images,
        )

    def images_after(
        self, read: Mapping[Context, Context]
    ) -> Mapping[Context, tuple[ImageSlots, ...]]:
        """Return where images lie in these contexts, and in those that a text made of them."""
        moved = {read[c]: images for c, images in self.images.items() if c in read}
        return {**self.images, **moved}


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """An image on its way into the contexts.

    Attributes:
        picture: RGB, for the vision encoder.
        latent: (rows * columns, patch values).
        grid: (rows, columns).
        drawn: made by this run, as opposed to given by the caller.
    """

    picture: Image.Image
    latent: Tensor
    grid: tuple[int, int]
    drawn: bool


def empty_contexts(nothing: Context) -> Contexts:
    """Return contexts that have read nothing, all of them the given one."""
    return Contexts(full=nothing, view=nothing, without_text=nothing, without_images=nothing)


class Reader:
    """Extends contexts by texts and images, following a protocol's rules.

    Contexts that are equal are extended once.

    Args:
        protocol: what each context holds.
        image_memory: what images older than the newest leave behind.
    """

    def __init__(self, protocol: Protocol, image_memory: ImageMemory = "all") -> None:
        self._protocol = protocol
        self._image_memory = image_memory

    def instruct(self, contexts: Contexts, ids: Sequence[int]) -> Work[Contexts]:
        """Read a system prompt: every context but the one without text holds it."""
        return self._read_text(contexts, ids, {})

    def read_text(self, contexts: Contexts, ids: Sequence[int]) -> Work[Contexts]:
        """Read a text of the caller's; `ids` include bos and eos."""
        return self._with_text(contexts, ids, {}, is_input=True)

    def keep_text(self, contexts: Contexts, ids: Sequence[int], after: Context) -> Work[Contexts]:
        """Keep a text that was written over `contexts.view` and led to `after`."""
        return self._with_text(contexts, ids, {contexts.view: after}, is_input=False)

    def keep_thought(
        self, contexts: Contexts, ids: Sequence[int], after: Context
    ) -> Work[Contexts]:
        """Keep a plan in the full context, and where text is written, only."""
        known = {contexts.view: after}
        full = yield from self._extend(contexts.full, ids, known)
        return replace(contexts, full=full, view=after, images=contexts.images_after(known))

    def see(self, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
        """Read an image, and forget of older ones what they are not to leave behind."""
        read = yield from self.read_image(contexts, image)
        return (yield from self.forget_images(read))

    def read_image(self, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
        """Read an image into every context that holds it."""
        protocol = self._protocol
        latent = protocol.reads_latent or not image.drawn
        vision = protocol.reads_vision or not image.drawn
        images = dict(contexts.images)
        number = contexts.num_images + 1

        def see(context: Context, *, latent: bool, vision: bool) -> Work[Context]:
            after, slots = yield from _see(context, image, number, latent=latent, vision=vision)
            images[after] = (*images.get(context, ()), slots)
            return after

        view = full = yield from see(contexts.full, latent=latent, vision=vision)
        if protocol.text_view == "vision":
            view = yield from see(contexts.view, latent=False, vision=True)
        without_text = full
        if protocol.without_text == "images_only":
            without_text = yield from see(contexts.without_text, latent=latent, vision=vision)
        elif protocol.without_text == "inputs" and image.drawn:
            without_text = contexts.without_text
        without_images = contexts.without_images
        if protocol.without_images == "without_newest_image":
            without_images = contexts.full
        each = full, view, without_text, without_images
        return replace(contexts.replaced(each, images), num_images=number)

    def read_instead(self, contexts: Contexts, blank: ReadImage) -> Work[Contexts]:
        """Read a blank image in place of one that is not drawn; nothing will be drawn any more.

        It costs as little as an image can, and guidance contexts are given up.
        """
        see = self._see_blank
        full = yield from see(contexts.full, blank)
        view = full
        if contexts.view != contexts.full:
            view = yield from see(contexts.view, blank)
        read = {contexts.full: full, contexts.view: view}
        images = contexts.images_after(read)
        return contexts.replaced([full, view, full, full], images)

    def _see_blank(self, context: Context, blank: ReadImage) -> Work[Context]:
        if self._protocol.reads_vision:
            return (yield from ask(ReadVision(picture=blank.picture, context=context)))
        read = ReadLatent(latent=blank.latent, grid=blank.grid, context=context)
        return (yield from ask(read))

    def forget_images(self, contexts: Contexts) -> Work[Contexts]:
        """Forget of all images but the newest what they are not to leave behind.

        It is the same for every context, so that contexts of one store go on sharing one.
        """
        lost = {context: self._lost(contexts, context) for context in contexts.each}
        if not any(lost.values()):
            return contexts
        spans = [lost[context] for context in contexts.each]
        kept = yield from ask(Forget(contexts=contexts.each, spans=spans))
        images = {
            after: tuple(slots.after(lost[before]) for slots in contexts.images.get(before, ()))
            for before, after in zip(contexts.each, kept, strict=True)
        }
        return contexts.replaced(kept, images)

    def _lost(self, contexts: Contexts, context: Context) -> list[range]:
        """Return the slots of a context that are to be forgotten."""
        if self._image_memory == "all":
            return []
        older = [i for i in contexts.images.get(context, ()) if i.number < contexts.num_images]
        halves = [(i.latent, i.vision if self._image_memory == "text" else _NOWHERE) for i in older]
        return [slots for pair in halves for slots in pair if slots]

    def _with_text(
        self,
        contexts: Contexts,
        ids: Sequence[int],
        known: dict[Context, Context],
        *,
        is_input: bool,
    ) -> Work[Contexts]:
        without_text = contexts.without_text
        rule = self._protocol.without_text
        if (
            rule == "before_last_text"
            or (rule == "inputs" and is_input)
            or (rule == "after_newest_image" and not contexts.num_images)
        ):
            without_text = contexts.full
        frozen = self._protocol.without_images == "inputs" and not is_input
        extended = yield from self._read_text(contexts, ids, known, images_frozen=frozen)
        images = contexts.images_after(known)
        return replace(extended, without_text=without_text, images=images)

    def _read_text(
        self,
        contexts: Contexts,
        ids: Sequence[int],
        known: dict[Context, Context],
        *,
        images_frozen: bool = False,
    ) -> Work[Contexts]:
        # The full context goes first: whoever comes first at the end of a store writes in place.
        full = yield from self._extend(contexts.full, ids, known)
        view = yield from self._extend(contexts.view, ids, known)
        without_images = contexts.without_images
        if not images_frozen:
            without_images = yield from self._extend(without_images, ids, known)
        return replace(contexts, full=full, view=view, without_images=without_images)

    @staticmethod
    def _extend(
        context: Context, ids: Sequence[int], known: dict[Context, Context]
    ) -> Work[Context]:
        if context not in known:
            known[context], _ = yield from ask(ReadIds(ids=ids, context=context))
        return known[context]


def _see(
    context: Context, image: ReadImage, number: int, *, latent: bool, vision: bool
) -> Work[tuple[Context, ImageSlots]]:
    before = middle = context.length
    if latent:
        read = ReadLatent(latent=image.latent, grid=image.grid, context=context)
        context = yield from ask(read)
        middle = context.length
    if vision:
        context = yield from ask(ReadVision(picture=image.picture, context=context))
    return context, ImageSlots(
        number=number, latent=range(before, middle), vision=range(middle, context.length)
    )


def _moved(run: range, lost: Sequence[range]) -> range:
    """Return where a run of slots lies once others are gone; nowhere if it is one of those."""
    if run in lost or not run:
        return _NOWHERE
    distance = sum(len(other) for other in lost if other.stop <= run.start)
    return range(run.start - distance, run.stop - distance)
