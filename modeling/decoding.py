"""Writing: the choice of the next token, and the step that feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from modeling.bagel.bagel import Bagel
from modeling.context import Context

Choice = Callable[[Tensor], Tensor]


def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest id of (vocabulary,) logits, as a tensor without dimensions."""
    return logits.argmax()


def sampler(temperature: float, generator: torch.Generator | None = None) -> Choice:
    """Return a choice that draws from the distribution at a temperature.

    Args:
        temperature: above 0; below 1 sharpens.
        generator: where randomness comes from; None is torch's global generator.

    Raises:
        ValueError: if the temperature is not a positive number.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature must be above 0 when sampling, got {temperature}; "
            "for the likeliest token set do_sample=False"
        )

    def choose(logits: Tensor) -> Tensor:
        probabilities = torch.softmax(logits.float() / temperature, dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator)[0]

    return choose


def decode(
    model: Bagel, context: Context, first_id: int, choose: Choice
) -> Iterator[tuple[int, Context]]:
    """Write after a context, token by token, until the caller stops asking.

    Args:
        model: the model.
        context: what came before; it stays as it is.
        first_id: the id fed first, bos for a new text.
        choose: picks an id from (vocabulary,) logits.

    Yields:
        The next id, and the context with everything fed so far (not yet the id itself).
    """
    token = first_id
    while True:
        context, hidden = model.read(context, model.text_block([token]))
        token = int(choose(model.logits(hidden[-1:])[0]))
        yield token, context
