"""Writing: the choice of the next token, and the step that feeds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modeling.bagel.bagel import Bagel
from modeling.context import Context

Choice = Callable[[Sequence[int], Tensor], int]
Processor = Callable[[Tensor, Tensor], Tensor]


def greedy(written: Sequence[int], logits: Tensor) -> int:
    """Return the likeliest id of (vocabulary,) logits; what was written plays no part."""
    del written
    return int(logits.argmax())


def choice(  # noqa: PLR0913 - the usual knobs of sampling
    *,
    do_sample: bool,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    logits_processor: Processor | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """Make a function that picks the next id.

    Args:
        do_sample: draw from the distribution; False takes the likeliest id.
        temperature: above 0; below 1 sharpens. Plays no part without sampling, as top_k and top_p.
        top_k: draw among so many likeliest ids; 0 is all.
        top_p: draw among the likeliest ids that together have this probability; 1 is all.
        repetition_penalty: above 1 makes ids less likely that were written before.
        logits_processor: called with ids (1, written) and scores (1, vocabulary) before all
            others, as transformers' processors are; returns scores. One or a LogitsProcessorList.
        generator: where randomness comes from; None is torch's global generator.

    Returns:
        A function of the ids written so far and (vocabulary,) logits.

    Raises:
        ValueError: if a number is out of range.
    """
    if do_sample and not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature must be above 0 when sampling, got {temperature}; "
            "for the likeliest token set do_sample=False"
        )
    processors = LogitsProcessorList(_each(logits_processor))
    if repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if do_sample:
        processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            processors.append(TopPLogitsWarper(top_p))
    if not (processors or do_sample):
        return greedy

    def choose(written: Sequence[int], logits: Tensor) -> int:
        ids = torch.tensor([list(written)], dtype=torch.long, device=logits.device)
        scores = processors(ids, logits.float()[None])[0]
        if not do_sample:
            return int(scores.argmax())
        probabilities = scores.softmax(-1)
        if generator is not None:
            probabilities = probabilities.to(generator.device)
        return int(torch.multinomial(probabilities, 1, generator=generator))

    return choose


def _each(processor: Processor | None) -> list[Processor]:
    # A list within a list would be called with what its members do not take.
    if isinstance(processor, LogitsProcessorList):
        return list(processor)
    return [] if processor is None else [processor]


def decode(
    model: Bagel, context: Context, first_id: int, choose: Choice
) -> Iterator[tuple[int, Context]]:
    """Write after a context, token by token, until the caller stops asking.

    Args:
        model: the model.
        context: what came before; it stays as it is.
        first_id: the id fed first, bos for a new text.
        choose: picks an id from what was written and (vocabulary,) logits.

    Yields:
        The next id, and the context with everything fed so far (not yet the id itself).
    """
    written: list[int] = []
    token = first_id
    while True:
        context, hidden = model.read(context, model.text_block([token]))
        token = choose(written, model.logits(hidden[-1:])[0])
        written.append(token)
        yield token, context
