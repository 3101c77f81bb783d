"""Memory: what a run's contexts take, and whether what comes next fits into a limit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from auto_interleaved.contexts import Contexts, Reader, ReadImage
from auto_interleaved.options import GenerationOptions
from auto_interleaved.sizes import Size, read_size
from data.protocols import Protocol
from inferencer import InterleaveInferencer
from modeling.bagel import Bagel
from modeling.context import Context, draft

logger = logging.getLogger("auto_interleaved")

# Takes sketches of contexts through what a run does; returns all that it passes, the last one last.
Step = Callable[[Contexts], Sequence[Contexts]]


def bytes_per_token(model: Bagel) -> int:
    """Return the bytes of keys and values that a token takes, over all layers."""
    config = model.language_model.config
    head_dim = config.hidden_size // config.num_attention_heads
    values = config.num_key_value_heads * head_dim * config.num_hidden_layers
    return 2 * values * model.dtype.itemsize


class Budget:
    """Foretells what contexts will take, by doing all that is done to them but the computing.

    A sketch of a store has its capacity and no layers. Sketches of contexts go through the same
    reader and the same drafts as the contexts themselves, so whatever forks, grows, is shared or
    forgotten there does so here.

    Args:
        inferencer: the model, and the transforms by which it reads.
        protocol: what each context holds.
        options: the limit, and what decides how much a step takes.
    """

    def __init__(
        self, inferencer: InterleaveInferencer, protocol: Protocol, options: GenerationOptions
    ) -> None:
        self._inferencer = inferencer
        self._options = options
        self._counter = _Counter(inferencer)
        self._reader = Reader(self._counter, protocol, options.image_memory)

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
        """Check that the first steps of a run fit.

        Raises:
            ValueError: if they do not.
        """
        limit = self._options.max_context_memory
        if limit is None:
            return
        needed = self.needed(self._reader.empty(), *steps)
        if needed > limit:
            raise ValueError(
                f"max_context_memory must be at least {needed} for this prompt, got {limit}; "
                "it counts bytes; give more of them, or fewer or smaller images"
            )

    def needed(self, contexts: Contexts, *steps: Step) -> int:
        """Return the most bytes that contexts take on their way through some steps."""
        sketch, peak = _sketched(contexts), 0
        for step in steps:
            passed = step(sketch)
            # Those before a step are kept until it is done.
            stores = {context.store for stage in (sketch, *passed) for context in stage.each}
            peak = max(peak, sum(store.capacity for store in stores))
            sketch = passed[-1]
        return peak * bytes_per_token(self._inferencer.model)

    def instruction(self, ids: Sequence[int]) -> Step:
        """Reading what is said before the prompt."""
        return lambda contexts: [self._reader.instruct(contexts, ids)]

    def text(self, ids: Sequence[int]) -> Step:
        """Reading a text of the caller's."""
        return lambda contexts: [self._reader.read_text(contexts, ids)]

    def writing(self) -> Step:
        """Writing a text as long as one may become."""
        return self._written(self._options.max_text_length, self._reader.keep_text)

    def plan(self) -> Step:
        """Writing a plan as long as one may become."""
        return self._written(self._options.max_think_token_n, self._reader.keep_thought)

    def image(self, size: Size) -> Step:
        """Reading an image of the caller's, of (width, height)."""
        return lambda contexts: self._see(contexts, self._encoded(size), drawn=False)

    def drawing(self, shape: tuple[int, int]) -> Step:
        """Drawing an image of (height, width), and reading it."""
        options, model = self._options, self._inferencer.model
        size = shape[1], shape[0]

        def step(contexts: Contexts) -> Sequence[Contexts]:
            guidance = (contexts.without_text, contexts.without_images)
            count = 0 if options.cfg_text_scale <= 1 else 1 if options.cfg_img_scale <= 1 else 2
            rows, columns = model.latent_grid(*shape)
            tokens = len(self._inferencer.markers) + rows * columns
            with draft([contexts.full, *guidance[:count]], tokens):
                pass  # the slots that it took stay there
            seen = size if options.image_feedback == "latent" else self._encoded(size)
            return self._see(contexts, seen, drawn=True)

        return step

    def instead(self, blank: ReadImage) -> Step:
        """Reading a blank image in place of one that is not drawn."""
        return lambda contexts: [self._reader.read_instead(contexts, blank)]

    def _written(
        self, limit: int, keep: Callable[[Contexts, Sequence[int], Context], Contexts]
    ) -> Step:
        def step(contexts: Contexts) -> Sequence[Contexts]:
            space = self._inferencer.max_positions - contexts.full.position
            ids = range(min(limit + 2, space))  # bos and eos as well
            after, _ = self._counter.read_ids(ids, contexts.view)
            return [keep(contexts, ids, after)]

        return step

    def _see(self, contexts: Contexts, size: Size, *, drawn: bool) -> Sequence[Contexts]:
        width, height = size
        image = ReadImage(
            picture=Image.new("L", size),
            latent=torch.empty(0, device="cpu"),
            grid=self._inferencer.model.latent_grid(height, width),
            drawn=drawn,
        )
        read = self._reader.read_image(contexts, image)
        return read, self._reader.forget_images(read)

    def _encoded(self, size: Size) -> Size:
        """Return the size at which the autoencoder reads an image."""
        return read_size(self._inferencer.vae_transform, size)


@dataclass(frozen=True)
class _Advance:
    """Stands for a block: all that a context asks of it."""

    advance: int


class _Counter:
    """Reads as an inferencer does, into stores without layers."""

    def __init__(self, inferencer: InterleaveInferencer) -> None:
        self._inferencer = inferencer

    def new_context(self) -> Context:
        return Context.empty(0)

    def read_ids(self, ids: Sequence[int], context: Context) -> tuple[Context, int]:
        return _longer(context, len(ids), len(ids)), 0

    def read_latent(self, latent: Tensor, grid: tuple[int, int], context: Context) -> Context:
        del latent
        return _longer(context, len(self._inferencer.markers) + grid[0] * grid[1], 1)

    def read_vision(self, image: Image.Image, context: Context) -> Context:
        width, height = read_size(self._inferencer.vit_transform, image.size)
        side = self._inferencer.model.vit_patch_size
        patches = (width // side) * (height // side)
        return _longer(context, len(self._inferencer.markers) + patches, 1)


def _longer(context: Context, count: int, advance: int) -> Context:
    with context.room(count) as tail:
        return context.after(tail, _Advance(advance))


def _sketched(contexts: Contexts) -> Contexts:
    """Return contexts of the same lengths over sketches of their stores."""
    stores = {context.store: context.store.sketch() for context in contexts.each}
    of = {context: replace(context, store=stores[context.store]) for context in contexts.each}
    images = {of[context]: images for context, images in contexts.images.items()}
    return contexts.replaced([of[context] for context in contexts.each], images)
