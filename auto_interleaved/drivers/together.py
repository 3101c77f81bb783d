"""Answers to asks of one kind together: as rows of one forward, or as one batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from auto_interleaved.drivers.direct import Direct, sheet_of
from auto_interleaved.options.sizes import read_size
from auto_interleaved.run.asks import (
    Ask,
    DecodeImage,
    Drawing,
    NextStep,
    NextSteps,
    NextToken,
    ReadIds,
    ReadLatent,
    ReadVision,
)
from modeling.bagel.blocks import Block
from modeling.bagel.drawing import draws_small
from modeling.choice import likeliest
from modeling.together import Line, Sheet, step_together, write_together
from modeling.verbs import Verbs

Reads = ReadIds | ReadLatent | ReadVision


class Together:
    """Computes what several runs ask, each method for questions of one kind.

    Answers come in the order of the questions; one may be an exception where a single row failed.

    Args:
        verbs: the model and everything around it.
    """

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._direct = Direct(verbs)

    def is_small(self, question: NextStep | NextSteps) -> bool:
        """Say whether a drawing is one that others can be drawn beside."""
        drawing, model = question.drawing, self._verbs.model
        rows, columns = model.latent_grid(*drawing.shape)
        return not drawing.options.enable_taylorseer and draws_small(model, rows * columns)

    def tokens_drawn(self, question: NextStep | NextSteps) -> int:
        """Return how many tokens a step computes at most."""
        rows, columns = self._verbs.model.latent_grid(*question.drawing.shape)
        return 3 * rows * columns * len(_images(question))  # at most three contexts each

    def tokens_read(self, question: Reads) -> int:
        """Return how many tokens are to be read."""
        match question:
            case ReadIds(ids=ids):
                return len(ids)
            case ReadLatent(latent=latent):
                return len(latent)
        width, height = read_size(self._verbs.vit_transform, question.picture.size)
        return (width * height) // self._verbs.model.vit_patch_size**2

    def alone(self, questions: Sequence[Ask[Any]]) -> list[Any]:
        """Answer one after another."""
        return [self._direct.answer(question) for question in questions]

    def decode(self, questions: Sequence[DecodeImage]) -> list[Any]:
        """Decode images of one size."""
        latents = [question.latent for question in questions]
        return self._verbs.decode_images(latents, questions[0].shape)

    def read(self, questions: Sequence[Reads]) -> list[Any]:
        """Read each after its own context."""
        model, verbs = self._verbs.model, self._verbs
        blocks = [_block(verbs, question) for question in questions]
        pairs = zip((question.context for question in questions), blocks, strict=True)
        read = model.read_all(list(pairs))
        return [
            (context, likeliest(model, model.logits(hidden[-1:])[0]))
            if isinstance(question, ReadIds)
            else context
            for question, (context, hidden) in zip(questions, read, strict=True)
        ]

    def write(self, questions: Sequence[NextToken]) -> list[Any]:
        """Write the next token of each text."""
        model, lines = self._verbs.model, list[Line]()
        for text in (question.text for question in questions):
            if text.state is None:
                first = torch.tensor([self._verbs.bos], device=model.device)
                text.state = Line(text.context, first, text.choose)
            lines.append(text.state)
        return write_together(model, lines)

    def draw(self, questions: Sequence[NextStep | NextSteps]) -> list[Any]:
        """Take the next step of each drawing."""
        sheets = [self._sheet(question) for question in questions]
        steps = iter(step_together([s for sheet in sheets for s in sheet.samplings]))
        return [
            list(islice(steps, len(sheet.samplings)))
            if isinstance(question, NextSteps)
            else next(steps)
            for question, sheet in zip(questions, sheets, strict=True)
        ]

    def _sheet(self, question: NextStep | NextSteps) -> Sheet:
        if question.drawing.state is None:
            question.drawing.state = sheet_of(self._verbs, _images(question))
        sheet: Sheet = question.drawing.state
        if isinstance(question, NextStep) and question.changed is not None:
            [sampling] = sheet.samplings
            sampling.latent = question.changed.to(sampling.latent)
        return sheet


def _images(question: NextStep | NextSteps) -> Sequence[Drawing]:
    return [question.drawing] if isinstance(question, NextStep) else question.drawing.each


def _block(verbs: Verbs, question: Reads) -> Block:
    model = verbs.model
    match question:
        case ReadIds(ids=ids):
            return model.text_block(ids)
        case ReadLatent(latent=latent, grid=grid):
            return model.latent_block(latent, grid, verbs.markers)
    return model.vit_block(verbs.vit_transform(question.picture), verbs.markers)
