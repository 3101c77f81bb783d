"""The slow way, as a yardstick: caches that are allocated and copied anew at every step.

This keeps its cache the way the published inference code does: every layer, at every token and at
every denoising step, allocates room for the whole context, scatters what is cached and what is new
into it by lists of indices, and guidance contexts are deep copies. It runs the same layers with the
same weights; only who attends to what is found differently.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeling.attention import Projected, attend
from modeling.bagel import Bagel
from modeling.bagel.blocks import Block
from modeling.flow import ImageOptions, guide, schedule


@dataclass
class NaiveContext:
    """Keys and values by layer, and where the next token stands."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    length: int = 0
    position: int = 0

    def fork(self) -> NaiveContext:
        """Copy everything."""
        return copy.deepcopy(self)


@dataclass
class _CopyingRow:
    """Attends over a freshly allocated merger of the cache and the new tokens."""

    context: NaiveContext
    num_text: int
    causal: bool
    keep: bool

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = (
            getattr(text, name)
            if latent is None
            else torch.cat([getattr(text, name), getattr(latent, name)])
            for name in ("query", "key", "value")
        )
        keys = self._merged(self.context.keys.get(layer), key)
        values = self._merged(self.context.values.get(layer), value)
        if self.keep:
            self.context.keys[layer], self.context.values[layer] = keys, values
        attended = attend(query, keys, values, causal=self.causal).flatten(1)
        if latent is None:
            return attended, None
        return attended[: self.num_text], attended[self.num_text :]

    def _merged(self, cached: Tensor | None, new: Tensor) -> Tensor:
        length = 0 if cached is None else cached.shape[0]
        merged = new.new_zeros(length + new.shape[0], *new.shape[1:])
        if cached is not None:
            merged[torch.tensor(list(range(length)), device=new.device)] = cached
        places = list(range(length, length + new.shape[0]))
        merged[torch.tensor(places, device=new.device)] = new
        return merged


@torch.inference_mode()
def extend(
    model: Bagel, context: NaiveContext, block: Block, *, keep: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Run a block after a context; `keep` appends it."""
    decoder, start = model.language_model.model, context.position
    stop = start + block.num_text if block.causal else start + 1
    device = block.text.device
    text_positions = torch.arange(start, stop, device=device).expand(block.num_text)
    latent_positions = torch.full((block.num_latent,), start, device=device)
    rotaries = (
        decoder.rotary(text_positions),
        decoder.rotary(latent_positions) if block.latent is not None else None,
    )
    row = _CopyingRow(context, block.num_text, block.causal, keep)
    hidden = decoder(block.text, block.latent, rotaries, row)
    if keep:
        context.length += block.length
        context.position += block.advance
    return hidden


def decode(model: Bagel, context: NaiveContext, first_id: int, count: int) -> list[int]:
    """Write `count` greedy tokens."""
    token, written = first_id, []
    for _ in range(count):
        hidden, _ = extend(model, context, model.text_block([token]))
        token = int(model.logits(hidden[-1:])[0].argmax())
        written.append(token)
    return written


def draw(
    model: Bagel,
    contexts: Sequence[NaiveContext],
    noise: Tensor,
    grid: tuple[int, int],
    markers: tuple[int, int],
    options: ImageOptions,
) -> Tensor:
    """Sample an image, every branch computed at every guided step."""
    latent = noise
    times = schedule(options.num_timesteps, options.timestep_shift)
    for time, following in zip(times[:-1], times[1:], strict=True):
        block = model.latent_block(latent, grid, markers, time)
        chosen = contexts if options.guided(time) else contexts[:1]
        velocities = []
        for context in chosen:
            _, drawn = extend(model, context, block, keep=False)
            assert drawn is not None
            velocities.append(model.velocity(drawn))
        v = guide(*velocities, options) if len(velocities) == 3 else velocities[0]
        latent = latent - v * (time - following)
    return latent
