"""The contexts of a run: what is known, and what each guidance branch is not to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from data.protocols import Protocol
from inferencer import InterleaveInferencer
from modeling.context import Context


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
    """

    full: Context
    view: Context
    without_text: Context
    without_images: Context
    num_images: int = 0


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


class Reader:
    """Extends contexts by texts and images, following a protocol's rules.

    Contexts that are equal are extended once.

    Args:
        inferencer: the verbs.
        protocol: what each context holds.
    """

    def __init__(self, inferencer: InterleaveInferencer, protocol: Protocol) -> None:
        self._inferencer = inferencer
        self._protocol = protocol

    def empty(self) -> Contexts:
        """Return contexts that have read nothing."""
        nothing = self._inferencer.init_gen_context()
        return Contexts(full=nothing, view=nothing, without_text=nothing, without_images=nothing)

    def instruct(self, contexts: Contexts, ids: Sequence[int]) -> Contexts:
        """Read a system prompt: every context but the one without text holds it."""
        return self._read_text(contexts, ids, {})

    def read_text(self, contexts: Contexts, ids: Sequence[int]) -> Contexts:
        """Read a text of the caller's; `ids` include bos and eos."""
        return self._with_text(contexts, ids, {}, is_input=True)

    def keep_text(self, contexts: Contexts, ids: Sequence[int], after: Context) -> Contexts:
        """Keep a text that was written over `contexts.view` and led to `after`."""
        return self._with_text(contexts, ids, {contexts.view: after}, is_input=False)

    def keep_thought(self, contexts: Contexts, ids: Sequence[int], after: Context) -> Contexts:
        """Keep a plan in the full context, and where text is written, only."""
        full = self._extend(contexts.full, ids, {contexts.view: after})
        return replace(contexts, full=full, view=after)

    def read_image(self, contexts: Contexts, image: ReadImage) -> Contexts:
        """Read an image into every context that holds it."""
        protocol = self._protocol
        latent = protocol.reads_latent or not image.drawn
        vision = protocol.reads_vision or not image.drawn
        full = self._see(contexts.full, image, latent=latent, vision=vision)
        view = full
        if protocol.text_view == "vision":
            view = self._see(contexts.view, image, latent=False, vision=True)
        without_text = full
        if protocol.without_text == "images_only":
            without_text = self._see(contexts.without_text, image, latent=latent, vision=vision)
        elif protocol.without_text == "inputs" and image.drawn:
            without_text = contexts.without_text
        without_images = contexts.without_images
        if protocol.without_images == "without_newest_image":
            without_images = contexts.full
        return Contexts(
            full=full,
            view=view,
            without_text=without_text,
            without_images=without_images,
            num_images=contexts.num_images + 1,
        )

    def _with_text(
        self,
        contexts: Contexts,
        ids: Sequence[int],
        known: dict[Context, Context],
        *,
        is_input: bool,
    ) -> Contexts:
        without_text = contexts.without_text
        rule = self._protocol.without_text
        if (
            rule == "before_last_text"
            or (rule == "inputs" and is_input)
            or (rule == "after_newest_image" and not contexts.num_images)
        ):
            without_text = contexts.full
        frozen = self._protocol.without_images == "inputs" and not is_input
        extended = self._read_text(contexts, ids, known, images_frozen=frozen)
        return replace(extended, without_text=without_text)

    def _read_text(
        self,
        contexts: Contexts,
        ids: Sequence[int],
        known: dict[Context, Context],
        *,
        images_frozen: bool = False,
    ) -> Contexts:
        # The full context goes first: whoever comes first at the end of a store writes in place.
        full = self._extend(contexts.full, ids, known)
        view = self._extend(contexts.view, ids, known)
        without_images = contexts.without_images
        if not images_frozen:
            without_images = self._extend(without_images, ids, known)
        return replace(contexts, full=full, view=view, without_images=without_images)

    def _extend(
        self, context: Context, ids: Sequence[int], known: dict[Context, Context]
    ) -> Context:
        if context not in known:
            known[context] = self._inferencer.read_ids(ids, context)[0]
        return known[context]

    def _see(self, context: Context, image: ReadImage, *, latent: bool, vision: bool) -> Context:
        if latent:
            context = self._inferencer.read_latent(image.latent, image.grid, context)
        if vision:
            context = self._inferencer.read_vision(image.picture, context)
        return context
