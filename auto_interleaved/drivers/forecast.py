"""The forecast driver: answers what a run asks without computing, and counts the slots it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from PIL import Image

from auto_interleaved.drivers.direct import drive
from auto_interleaved.options.sizes import read_size
from auto_interleaved.run.asks import (
    Ask,
    DecodeImage,
    Drawing,
    EncodeImage,
    Forget,
    NextStep,
    NextSteps,
    NextToken,
    ReadIds,
    ReadLatent,
    ReadVision,
    Result,
    Work,
)
from inferencer import InterleaveInferencer
from modeling.bagel.drawing import Branches
from modeling.context import Context, draft, without
from modeling.flow import FlowStep
from modeling.kv_store import KVStore


class Forecast:
    """Takes work over sketches of contexts: stores without layers that grow as real ones do.

    Whatever forks, grows, is shared or forgotten does so here as it does when it is computed,
    because it is the same work.

    Args:
        inferencer: the model's sizes, and the transforms by which it reads.
        contexts: that the work begins with, over sketches.

    Attributes:
        peak: the most slots that living stores had together.
    """

    def __init__(self, inferencer: InterleaveInferencer, contexts: Iterable[Context]) -> None:
        self._inferencer = inferencer
        self._stores: WeakSet[KVStore] = WeakSet()
        self.peak = 0
        self._note(contexts)

    def result(self, work: Work[Result]) -> Result:
        """Return what work returns, which tells of no events."""
        try:
            next(drive(work, self._answer))
        except StopIteration as stop:
            result: Result = stop.value
            return result
        raise AssertionError("what is foretold has no events")

    def _answer(self, question: Ask[Any]) -> Any:
        match question:
            case ReadIds(ids=ids, context=context):
                return self._longer(context, len(ids), len(ids)), 0
            case NextToken(text=text):
                return 0, self._longer(text.context, 1, 1)
            case ReadLatent(grid=grid, context=context):
                return self._longer(context, self._block(grid), 1)
            case ReadVision(picture=picture, context=context):
                side = self._inferencer.model.vit_patch_size
                width, height = read_size(self._inferencer.vit_transform, picture.size)
                return self._longer(context, self._block((height // side, width // side)), 1)
            case Forget(contexts=contexts, spans=spans):
                kept = without(contexts, spans)
                self._note(kept)
                return kept
            case NextStep(drawing=drawing):
                return self._steps([drawing])[0]
            case NextSteps(drawing=drawings):
                return self._steps(drawings.each)
            case DecodeImage(shape=(height, width)):
                return Image.new("L", (width, height))
            case EncodeImage(picture=picture):
                grid = self._inferencer.model.latent_grid(picture.height, picture.width)
                return torch.empty(0), grid
        raise TypeError(f"{type(question).__name__} cannot be foretold")

    def _block(self, grid: tuple[int, int]) -> int:
        """Return the tokens of an image's block."""
        return len(self._inferencer.markers) + grid[0] * grid[1]

    def _longer(self, context: Context, count: int, advance: int) -> Context:
        with context.room(count) as tail:
            longer = context.after(tail, _Advance(advance))
        self._note([longer])
        return longer

    def _steps(self, drawings: Sequence[Drawing]) -> list[FlowStep]:
        """Open the draft of drawings for a moment: the slots that it took stay there."""
        count = self._block(self._inferencer.model.latent_grid(*drawings[0].shape))
        options, empty = drawings[0].options, torch.empty(0)
        over = [Branches.of(d.full, d.without_text, d.without_images, options) for d in drawings]
        with draft([context for branches in over for context in branches.contexts], count):
            self._note([])
        step = FlowStep(index=1, num_steps=1, time=0.0, latent=empty, clean=empty)
        return [step] * len(drawings)

    def _note(self, contexts: Iterable[Context]) -> None:
        self._stores.update(context.store for context in contexts)
        self.peak = max(self.peak, sum(store.capacity for store in self._stores))


@dataclass(frozen=True)
class _Advance:
    """Stands for a block: all that a context asks of it."""

    advance: int
