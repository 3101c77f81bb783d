"""Where a run ended and another may go on: its contexts, and what it takes to have them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from auto_interleaved.options.generation import ImageMemory
from auto_interleaved.options.sizes import Size
from auto_interleaved.run.asks import ReadIds, Work, ask
from auto_interleaved.run.contexts import Contexts, Reader, ReadImage
from data.protocols import EveryText, ImageRule, Protocol, TextRule, TextView
from modeling.context import Context

ItemKind = Literal["instruction", "prompt", "generated", "thought", "image", "blank"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides which context an item enters, and what it leaves of older ones.

    Attributes:
        image_memory: see `GenerationOptions`.
        reads_latent, reads_vision, text_view, without_text, without_images: see `Protocol`.
    """

    image_memory: ImageMemory = "all"
    reads_latent: bool = True
    reads_vision: bool = True
    text_view: TextView = "full"
    without_text: TextRule = "before_last_text"
    without_images: ImageRule = "all_texts"

    @classmethod
    def of(cls, protocol: Protocol, image_memory: ImageMemory) -> Rules:
        """Return the rules of a protocol."""
        names = {entry.name for entry in fields(cls)} - {"image_memory"}
        return cls(image_memory=image_memory, **{name: getattr(protocol, name) for name in names})

    def protocol(self) -> Protocol:
        """Return a protocol by which to read, and nothing else."""
        known = {name: value for name, value in vars(self).items() if name != "image_memory"}
        return Protocol(name="reading", trigger=EveryText(), **known)


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """A text or an image that entered the contexts.

    Attributes:
        kind: what it was, which decides where it is read.
        rules: by which it was read.
        ids: of a text, bos and eos included.
        image: the image.
    """

    kind: ItemKind
    rules: Rules
    ids: tuple[int, ...] = ()
    image: ReadImage | None = None


class Noting(Reader):
    """A reader that notes down what it reads, so that the same can be read again.

    A picture that stands for one that is not drawn leaves the guidance contexts as they are, where
    a single run gives them up: later there may be drawing again.

    Args:
        rules: what each context holds.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules.protocol(), rules.image_memory)
        self._rules = rules

    def instruct(self, contexts: Contexts, ids: Sequence[int]) -> Work[Contexts]:
        """Read a system prompt."""
        return (yield from self._noted("instruction", super().instruct(contexts, ids), ids))

    def read_text(self, contexts: Contexts, ids: Sequence[int]) -> Work[Contexts]:
        """Read a text of the caller's."""
        return (yield from self._noted("prompt", super().read_text(contexts, ids), ids))

    def keep_text(self, contexts: Contexts, ids: Sequence[int], after: Context) -> Work[Contexts]:
        """Keep a text that was written."""
        return (yield from self._noted("generated", super().keep_text(contexts, ids, after), ids))

    def keep_thought(
        self, contexts: Contexts, ids: Sequence[int], after: Context
    ) -> Work[Contexts]:
        """Keep a plan."""
        return (yield from self._noted("thought", super().keep_thought(contexts, ids, after), ids))

    def read_image(self, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
        """Read an image into every context that holds it."""
        return (yield from self._noted("image", super().read_image(contexts, image), image=image))

    def read_instead(self, contexts: Contexts, blank: ReadImage) -> Work[Contexts]:
        """Read a blank image in place of one that is not drawn."""
        read = yield from super().read_instead(contexts, blank)
        each = read.full, read.view, contexts.without_text, contexts.without_images
        kept = read.replaced(each, {**contexts.images, **read.images})
        return self._with(kept, "blank", image=blank)

    def _noted(
        self,
        kind: ItemKind,
        work: Work[Contexts],
        ids: Sequence[int] = (),
        image: ReadImage | None = None,
    ) -> Work[Contexts]:
        return self._with((yield from work), kind, ids, image)

    def _with(
        self,
        contexts: Contexts,
        kind: ItemKind,
        ids: Sequence[int] = (),
        image: ReadImage | None = None,
    ) -> Contexts:
        item = Item(kind=kind, rules=self._rules, ids=tuple(ids), image=image)
        return replace(contexts, items=(*contexts.items, item))


def read_again(items: Sequence[Item], contexts: Contexts) -> Work[Contexts]:
    """Read items after contexts, as they were read and written: each of them once."""
    for item in items:
        reader = Noting(item.rules)
        if item.kind == "instruction":
            contexts = yield from reader.instruct(contexts, item.ids)
        elif item.kind == "prompt":
            contexts = yield from reader.read_text(contexts, item.ids)
        elif item.image is None:
            after, _ = yield from ask(ReadIds(ids=item.ids, context=contexts.view))
            keep = reader.keep_text if item.kind == "generated" else reader.keep_thought
            contexts = yield from keep(contexts, item.ids, after)
        elif item.kind == "image":
            contexts = yield from reader.see(contexts, item.image)
        else:
            contexts = yield from reader.read_instead(contexts, item.image)
    return contexts


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """Where a run ended, or where nothing has been read yet.

    Attributes:
        items: what was read, in order.
        length: tokens of the context.
        position: of the next token.
        input_size: (width, height) of the last image of the caller's.
        contexts: with all that in them; None where they are not kept, and read again if needed.
    """

    items: tuple[Item, ...] = ()
    length: int = 0
    position: int = 0
    input_size: Size | None = None
    contexts: Contexts | None = None

    @classmethod
    def of(cls, contexts: Contexts, input_size: Size | None) -> Standing:
        """Return where contexts stand."""
        return cls(
            items=contexts.items,
            length=contexts.full.length,
            position=contexts.full.position,
            input_size=input_size,
            contexts=contexts,
        )

    @property
    def told(self) -> str:
        """How much was read, for a message about what is to follow."""
        return f" with the {self.position} that were read before" if self.position else ""

    @property
    def instructions(self) -> set[tuple[int, ...]]:
        """The ids of each instruction that was read."""
        return {item.ids for item in self.items if item.kind == "instruction"}

    @property
    def each(self) -> tuple[Context, ...]:
        """The contexts that are kept."""
        return () if self.contexts is None else self.contexts.each

    def resumed(self, nothing: Contexts) -> Work[Contexts]:
        """Return the contexts; where they are not kept, they are read after nothing."""
        if self.contexts is not None:
            return self.contexts
        return (yield from read_again(self.items, nothing))

    def beside(self, newer: Standing) -> Standing:
        """Return the same for somebody who keeps a newer one as well.

        Contexts stay where they take no memory of their own beside the newer ones': in a store of
        theirs, or in one that began as a copy. Else they are let go.
        """
        if self.contexts is None:
            return self
        moved = {}
        for context in self.each:
            place = _within(context, newer.each)
            if place is None:
                return replace(self, contexts=None)
            moved[context] = place
        each = [moved[context] for context in self.each]
        images = {moved[context]: slots for context, slots in self.contexts.images.items()}
        return replace(self, contexts=self.contexts.replaced(each, images))


def _within(context: Context, newer: Iterable[Context]) -> Context | None:
    """Return a context as the beginning of a newer one's store; None if none begins like it."""
    for other in newer:
        same = (
            other.store is context.store or other.store.copied_from(context.store) >= context.length
        )
        if same and other.length >= context.length:
            return replace(context, store=other.store)
    return None


def reader_of(standing: Standing | None, protocol: Protocol, image_memory: ImageMemory) -> Reader:
    """Return the reader of a run, which notes down what it reads if another may go on from it."""
    if standing is None:
        return Reader(protocol, image_memory)
    return Noting(Rules.of(protocol, image_memory))
