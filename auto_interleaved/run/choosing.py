"""Choosing among pictures that were drawn for one place: by the caller, or by the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from auto_interleaved.run.asks import NextToken, ReadIds, ReadVision, Text, Work, ask
from data.understanding import Understanding
from inferencer import InterleaveInferencer
from modeling.checks import integer
from modeling.context import Context
from modeling.decoding import choice

_OWN_POSITIONS = 8  # of an answer, and of the picture before the question


class Chooser:
    """Chooses one of several pictures.

    Args:
        inferencer: what understands.
        choose: a function of pictures and a text, or "understanding".
        understanding: how the model is asked.
    """

    def __init__(
        self,
        inferencer: InterleaveInferencer,
        choose: Callable[..., Any] | str,
        understanding: Understanding,
    ) -> None:
        self._inferencer = inferencer
        self._function = choose if callable(choose) else None
        self._understanding = understanding

    def chosen(self, pictures: Sequence[Image.Image], text: str) -> Work[int]:
        """Return the number of the picture that is kept.

        Raises:
            TypeError: if the caller's function returns no number.
            ValueError: if it returns one that no picture has.
        """
        if len(pictures) == 1:
            return 0
        if self._function is not None:
            # Copies, for what it does to them must not reach the run.
            answer = self._function([picture.copy() for picture in pictures], text)
            last = len(pictures) - 1
            check = integer(minimum=0, maximum=last, hint="it is the number of one of the images")
            return check("what choose(images, text) returns", answer)
        scores = yield from self.scores(pictures, self._understanding.questions(text))
        return max(range(len(pictures)), key=scores.__getitem__)  # the first of equals

    def scores(
        self, pictures: Sequence[Image.Image], questions: Sequence[str]
    ) -> Work[list[float]]:
        """Say of each picture how much speaks for yes, by the question that is the least sure."""
        ids = [self._ids(question) for question in questions]
        scores: list[float] = []
        for picture in pictures:
            scores.append((yield from self._score(picture, ids)))
        return scores

    def foretold(
        self, picture: Image.Image, count: int, text: str | None, longest: int
    ) -> Work[None]:
        """Do what choosing does to memory.

        Args:
            picture: of the right size.
            count: how many there will be.
            text: what they are to show; None for one that nobody knows yet.
            longest: ids of a text at most.
        """
        if count == 1 or self._function is not None:
            return
        questions: Sequence[Sequence[int]]
        if text is None:
            limit = self._inferencer.max_positions - _OWN_POSITIONS
            length = len(self._inferencer.encode_text(self._understanding.question)) + longest + 2
            questions = [range(min(length, limit))]
        else:
            questions = [self._ids(question) for question in self._understanding.questions(text)]
        yield from self._score(picture, questions)

    def _score(self, picture: Image.Image, questions: Sequence[Sequence[int]]) -> Work[float]:
        """Read a picture as understanding does, by vision alone and with nothing before it."""
        nothing = self._inferencer.new_context()
        seen = yield from ask(ReadVision(picture=picture, context=nothing, passing=True))
        least = float("inf")
        for ids in questions:
            least = min(least, (yield from self._asked(ids, seen)))
        return least

    def _asked(self, ids: Sequence[int], seen: Context) -> Work[float]:
        """Ask a question; return the logarithm of how much likelier yes is than no.

        A frame of its own: with it goes the context, and the next question takes its slots.
        """
        noted: list[Tensor] = []

        def note(_: Tensor, scores: Tensor) -> Tensor:
            noted.append(scores[0].float().log_softmax(-1))
            return scores

        context, _ = yield from ask(ReadIds(ids=ids, context=seen))
        weigh = choice(do_sample=False, logits_processor=note)
        with closing(Text(context=context, choose=weigh, at_most=1)) as answer:
            del context
            yield from ask(NextToken(answer))
        if not noted:
            return 0.0  # it is only foretold
        words = self._understanding.yes, self._understanding.no
        yes, no = (_total(noted[0], self._first_ids(beginnings)) for beginnings in words)
        return (yes - no).item()

    def _ids(self, question: str) -> list[int]:
        """Return a question's ids; of one that is too long as much of its end as there is room."""
        ids = self._inferencer.encode_text(question)
        limit = self._inferencer.max_positions - _OWN_POSITIONS
        return [self._inferencer.bos, *ids[-limit:], self._inferencer.eos]

    def _first_ids(self, words: Sequence[str]) -> list[int]:
        return sorted({self._inferencer.encode_text(word)[0] for word in words})


def _total(logarithms: Tensor, ids: Sequence[int]) -> Tensor:
    return logarithms[torch.tensor(ids, device=logarithms.device)].logsumexp(0)
