"""Memory: what a run's contexts take, and whether what comes next fits into a limit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from PIL import Image

from auto_interleaved.drivers.forecast import Forecast
from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.options.sizes import Size, read_size
from auto_interleaved.run.apart import ReadInput
from auto_interleaved.run.asks import ReadIds, Work, ask
from auto_interleaved.run.contexts import Contexts, Reader, ReadImage, empty_contexts
from auto_interleaved.run.expectations import TEXT_POSITIONS
from auto_interleaved.run.painter import BLANK, Painter
from auto_interleaved.run.piece import Place
from auto_interleaved.run.standing import Standing
from data.prompts import ImageInput
from inferencer import InterleaveInferencer
from modeling.context import Context

logger = logging.getLogger("auto_interleaved")

# What a run does next with its contexts, as far as memory goes.
Step = Callable[[Contexts], Work[Contexts]]


class Budget:
    """Foretells what contexts will take: the same work as the run's, under a driver of its own.

    Args:
        inferencer: the model, and the transforms by which it reads.
        options: the limit, and what decides how much a step takes.
        reader, painter: those of the run.
        start: where the run begins, which somebody keeps meanwhile; None: with nothing.
    """

    def __init__(  # noqa: PLR0913 - one collaborator each
        self,
        inferencer: InterleaveInferencer,
        options: GenerationOptions,
        reader: Reader,
        painter: Painter,
        start: Standing | None = None,
    ) -> None:
        self._inferencer = inferencer
        self._model = inferencer.model
        self._options = options
        self._reader = reader
        self._painter = painter
        self._start = start or Standing()

    def allows(self, contexts: Contexts, step: Step) -> bool:
        """Say whether a step fits; a warning tells of one that does not."""
        limit = self._options.max_context_memory
        if limit is None:
            return True
        needed = self.needed(contexts, step)
        if needed > limit:
            logger.warning(
                "max_context_memory is used up: what comes next may need %d bytes, and it is %d",
                needed,
                limit,
            )
        return needed <= limit

    def check(self, steps: Sequence[Step]) -> None:
        """Check that the first steps of a run fit, after where it begins.

        Raises:
            ValueError: if they do not.
        """
        limit = self._options.max_context_memory
        if limit is None:
            return
        if self._start.contexts is None:
            nothing = empty_contexts(Context.empty(0))
            needed = self.needed(nothing, self._start.resumed, *steps)
        else:
            needed = self.needed(self._start.contexts, *steps)
        if needed > limit:
            before = " after what was read before" if self._start.position else ""
            raise ValueError(
                f"max_context_memory must be at least {needed} for this prompt{before}, "
                f"got {limit}; it counts bytes; give more of them, or fewer or smaller images"
            )

    def needed(self, contexts: Contexts, *steps: Step) -> int:
        """Return the most bytes that contexts take on their way through some steps."""
        sketch, kept = _sketched(contexts, self._start.each)
        forecast = Forecast(self._inferencer, (*sketch.each, *kept))
        for step in steps:  # the contexts before a step are kept until it is done, as in a run
            sketch = forecast.result(step(sketch))
        return forecast.peak * self._model.bytes_per_token

    def most(self, steps: Iterable[Step]) -> int:
        """Return the most bytes that a run of these steps can come to take.

        It is at most the limit, before which a run ends, and no step begins where the model has no
        positions for it.
        """
        start, limit = self._start.contexts, self._options.max_context_memory
        sketch, kept = _sketched(start or empty_contexts(Context.empty(0)), self._start.each)
        forecast = Forecast(self._inferencer, (*sketch.each, *kept))
        size = self._model.bytes_per_token
        again = [] if start is not None or not self._start.items else [self._start.resumed]
        for step in (*again, *steps):
            if limit is not None and forecast.peak * size >= limit:
                return limit
            if sketch.full.position + TEXT_POSITIONS > self._inferencer.max_positions:
                break
            sketch = forecast.result(step(sketch))
        return min(forecast.peak * size, limit or sys.maxsize)

    def instruction(self, ids: Sequence[int]) -> Step:
        """Reading what is said before the prompt."""
        return lambda contexts: self._reader.instruct(contexts, ids)

    def text(self, ids: Sequence[int]) -> Step:
        """Reading a text of the caller's."""
        return lambda contexts: self._reader.read_text(contexts, ids)

    def writing(self) -> Step:
        """Writing a text as long as one may become."""
        return self._written(self._options.max_text_length, self._reader.keep_text)

    def plan(self) -> Step:
        """Writing a plan as long as one may become."""
        return self._written(self._options.max_think_token_n, self._reader.keep_thought)

    def image(self, size: Size) -> Step:
        """Reading an image of the caller's, of (width, height)."""
        return lambda contexts: self._see(contexts, self._encoded(size), drawn=False)

    def drawing(self, shape: tuple[int, int], text: str | None = None) -> Step:
        """Drawing an image of (height, width), and reading it.

        Args:
            shape: in pixels.
            text: what it is to show; None where that is not known.
        """
        read = self.drawn(shape)

        def step(contexts: Contexts) -> Work[Contexts]:
            place = Place(contexts=contexts, shape=shape, text=text)
            yield from self._foretold([place])
            return (yield from read(contexts))

        return step

    def drawn(self, shape: tuple[int, int]) -> Step:
        """Reading an image of (height, width) that was drawn."""
        size = shape[1], shape[0]
        seen = size if self._options.image_feedback == "latent" else self._encoded(size)
        return lambda contexts: self._see(contexts, seen, drawn=True)

    def apart(self, find: Callable[[Contexts, ReadInput], Work[list[Place]]]) -> Step:
        """Drawing all images that a prompt asks for together, each over the prompt alone.

        Args:
            find: returns where they are to stand; it takes contexts, and what an image of the
                caller's is read as.
        """

        def step(contexts: Contexts) -> Work[Contexts]:
            yield from self._foretold((yield from find(contexts, self._sketched)))
            return contexts

        return step

    def instead(self) -> Step:
        """Reading a blank image in place of one that is not drawn."""
        image = self._sketch(self._encoded(BLANK), drawn=True)
        return lambda contexts: self._reader.read_instead(contexts, image)

    def _written(
        self, limit: int, keep: Callable[[Contexts, Sequence[int], Context], Work[Contexts]]
    ) -> Step:
        def step(contexts: Contexts) -> Work[Contexts]:
            space = self._inferencer.max_positions - contexts.full.position
            ids = range(min(limit + 2, space))  # bos and eos as well
            after, _ = yield from ask(ReadIds(ids=ids, context=contexts.view))
            return (yield from keep(contexts, ids, after))

        return step

    def _foretold(self, places: Sequence[Place]) -> Work[None]:
        return self._painter.foretell(places, longest=self._options.max_text_length)

    def _sketched(self, part: ImageInput) -> Work[ReadImage]:
        return self._sketch(self._encoded(part.image.size), drawn=False)
        yield  # it has nothing to ask

    def _see(self, contexts: Contexts, size: Size, *, drawn: bool) -> Work[Contexts]:
        return self._reader.see(contexts, self._sketch(size, drawn=drawn))

    def _sketch(self, size: Size, *, drawn: bool) -> ReadImage:
        """Return an image of which only the size counts."""
        width, height = size
        return ReadImage(
            picture=Image.new("L", size),
            latent=torch.empty(0, device="cpu"),
            grid=self._inferencer.model.latent_grid(height, width),
            drawn=drawn,
        )

    def _encoded(self, size: Size) -> Size:
        """Return the size at which the autoencoder reads an image."""
        return read_size(self._inferencer.vae_transform, size)


def _sketched(contexts: Contexts, held: Sequence[Context]) -> tuple[Contexts, list[Context]]:
    """Return contexts of the same lengths over sketches of their stores, and what others hold."""
    stores = {context.store: context.store.sketch() for context in (*contexts.each, *held)}
    of = {context: replace(context, store=stores[context.store]) for context in contexts.each}
    images = {of[context]: images for context, images in contexts.images.items()}
    # Whoever holds contexts may hold longer ones too, and nothing is written over those.
    kept = [Context(stores[context.store], context.store.written) for context in held]
    return contexts.replaced([of[context] for context in contexts.each], images), kept
