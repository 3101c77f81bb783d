"""`generate_text` and `chat`: one text a sample, all samples in step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from modeling.checks import integer
from modeling.context import Context
from modeling.decoding import choice, decode
from modeling.numbers import NotANumberError, advice_on
from modeling.published.cache import NaiveCache
from modeling.published.edge import published
from modeling.published.forward import cached_lengths
from modeling.published.layout import Layout, counts

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

Pick = Callable[[Tensor], Tensor]  # of logits (samples, vocabulary), gives ids (samples,)


@published
def generate_text(  # noqa: PLR0913 - the published signature
    self: Bagel,
    past_key_values: NaiveCache,
    packed_key_value_indexes: Tensor,
    key_values_lens: Tensor,
    packed_start_tokens: Tensor,
    packed_query_position_ids: Tensor,
    max_length: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    end_token_id: int | None = None,
) -> Tensor:
    """Write one text a sample after what `prepare_start_tokens` prepared; the cache grows.

    Args:
        past_key_values: the cache; all ids that are returned enter it.
        packed_key_value_indexes: where the cached tokens stand.
        key_values_lens: tokens of each sample in the cache.
        packed_start_tokens: (samples,) ids that are fed first.
        packed_query_position_ids: (samples,) their RoPE positions.
        max_length: ids a sample at most, the first one included.
        do_sample: draw ids from torch's global generator, all samples in one draw a step.
        temperature: above 0; plays no part without sampling.
        end_token_id: the text ends when the first sample writes it; it is left out.

    Returns:
        (steps, samples) ids, the start tokens first.

    Raises:
        TypeError: if `max_length` is no whole number.
        ValueError: on a bad number, or if lengths and indexes contradict one another or the cache.
        NotANumberError: if no id has a probability, because a logit is no number.
    """
    max_length = integer(minimum=1)("max_length", max_length)
    choose = choice(do_sample=do_sample, temperature=temperature)
    start = packed_start_tokens.flatten()
    ones = (1,) * len(start)
    num_layers = self.language_model.config.num_hidden_layers
    lengths = cached_lengths(past_key_values, key_values_lens, ones, num_layers)
    # The indexes of a step on which nothing has come yet: the cached tokens alone.
    Layout(lengths, (0,) * len(start)).check(None, packed_key_value_indexes)
    positions = counts("packed_query_position_ids", packed_query_position_ids, len(start))
    contexts = [
        replace(context, position=position)
        for context, position in zip(past_key_values.contexts(lengths), positions, strict=True)
    ]
    if len(contexts) == 1:
        written = [int(start)]
        ids = decode(self, contexts[0], written[0], choose, at_most=max_length)
        for id_, contexts[0] in ids:
            if id_ == end_token_id:
                break
            written.append(id_)
        steps = torch.tensor(written[:max_length], device=start.device)[:, None]
    else:
        pick = _sampled(temperature) if do_sample else _likeliest
        steps = _together(self, contexts, start, pick, max_length, end_token_id)
    past_key_values.hold(contexts)
    return steps


def chat(  # noqa: PLR0913 - the published signature
    self: Bagel,
    tokenizer: Any,
    new_token_ids: Mapping[str, int],
    image_transform: Callable[[Image.Image], Tensor],
    images: Sequence[Image.Image],
    prompt: str,
    max_length: int,
    do_sample: bool = False,
    temperature: float = 1.0,
) -> str:
    """Answer about images, which are read by the vision encoder, before the prompt.

    Args:
        tokenizer: of the model.
        new_token_ids: as `add_special_tokens` returns them.
        image_transform: the vision encoder's `ImageTransform`.
        images: any number.
        prompt: what is asked.
        max_length: tokens at most, the bos that is fed included.
        do_sample: draw tokens from torch's global generator.
        temperature: above 0; plays no part without sampling.
    """
    if isinstance(images, Image.Image):
        raise TypeError("images must be a list of images, got one image")
    cache = NaiveCache(self.language_model.config.num_hidden_layers)
    lengths, ropes = [0], [0]
    for image in images:
        inputs, lengths, ropes = self.prepare_vit_images(
            lengths, ropes, [image], image_transform, new_token_ids
        )
        self.forward_cache_update_vit(cache, **inputs)
    inputs, lengths, ropes = self.prepare_prompts(
        lengths, ropes, [prompt], tokenizer, new_token_ids
    )
    self.forward_cache_update_text(cache, **inputs)
    steps = self.generate_text(
        cache,
        **self.prepare_start_tokens(lengths, ropes, new_token_ids),
        max_length=max_length,
        do_sample=do_sample,
        temperature=temperature,
        end_token_id=new_token_ids["eos_token_id"],
    )
    bos = new_token_ids["bos_token_id"]
    return tokenizer.decode(list(takewhile(lambda id_: id_ != bos, steps[1:, 0].tolist())))


def _together(  # noqa: PLR0913 - what to write after what, and until when
    model: Bagel,
    contexts: list[Context],
    start: Tensor,
    pick: Pick,
    max_length: int,
    end_token_id: int | None,
) -> Tensor:
    """Write several texts, one row each of every forward; longer contexts come in place."""
    fed = start.to(model.device)
    steps: list[Tensor] = []
    finite: list[Tensor] = []
    while len(steps) < max_length:
        steps.append(fed)
        contexts[:], logits = model.feed(contexts, fed)
        finite.append(logits.isfinite().all())
        fed = pick(logits)
        if end_token_id is not None and int(fed[0]) == end_token_id:
            break
    if not torch.stack(finite).all():
        raise NotANumberError("the logits of a text", advice_on(model))
    return torch.stack(steps).to(start.device)


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def _sampled(temperature: float) -> Pick:
    def pick(logits: Tensor) -> Tensor:
        probabilities = (logits.float() / temperature).softmax(-1)
        return torch.multinomial(probabilities, 1).squeeze(1)

    return pick
