"""The slow way, as a yardstick: caches that are allocated and copied anew at every step.

This keeps its cache the way the published inference code does: every layer, at every token and at
every denoising step, allocates room for the whole context and scatters what is new and what is
cached into it by index; forks and guidance contexts are deep copies; every branch is computed at
every guided step. It runs the same layers with the same weights and the same attention, so that it
is slower by its ways alone. Under `plainly` it also has the kernels that PyTorch picks by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from modeling.attention import Projected, attend
from modeling.bagel import Bagel
from modeling.bagel.blocks import Block
from modeling.context import Context
from modeling.flow import ImageOptions, guide, schedule
from modeling.linear import Linear


@dataclass
class NaiveContext:
    """Keys and values by layer, and where the next token stands."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    length: int = 0
    position: int = 0

    @classmethod
    def of(cls, context: Context) -> NaiveContext:
        """Return a copy of what a context holds."""
        copied = cls(length=context.length, position=context.position)
        for layer in range(context.store.num_layers):
            rows = context.rows(layer)
            if rows is not None:
                copied.keys[layer], copied.values[layer] = (row.clone() for row in rows)
        return copied

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        tensors = (*self.keys.values(), *self.values.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def fork(self) -> NaiveContext:
        """Copy everything."""
        return copy.deepcopy(self)

    def alias(self) -> NaiveContext:
        """Return the same tensors under another name; what it reads on does not show here."""
        return replace(self, keys=dict(self.keys), values=dict(self.values))


@dataclass
class _CopyingRow:
    """Attends over a freshly allocated merger of the cache and the new tokens."""

    context: NaiveContext
    num_text: int
    causal: bool
    keep: bool
    cached_places: Tensor
    new_places: Tensor

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
        merged = new.new_zeros(len(self.cached_places) + len(self.new_places), *new.shape[1:])
        merged[self.new_places] = new
        if cached is not None:
            merged[self.cached_places] = cached
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
    places = torch.arange(context.length + block.length, device=device)
    row = _CopyingRow(
        context,
        block.num_text,
        block.causal,
        keep,
        cached_places=places[: context.length],
        new_places=places[context.length :],
    )
    hidden = decoder(block.text, block.latent, rotaries, row)
    if keep:
        context.length += block.length
        context.position += block.advance
    return hidden


def tokens(model: Bagel, context: NaiveContext, first_id: int) -> Iterator[int]:
    """Write greedy tokens for as long as they are asked for; the context goes along."""
    token = first_id
    while True:
        hidden, _ = extend(model, context, model.text_block([token]))
        token = int(model.logits(hidden[-1:])[0].argmax())
        yield token


def draw(
    model: Bagel,
    contexts: Sequence[NaiveContext],
    noise: Tensor,
    grid: tuple[int, int],
    markers: tuple[int, int],
    options: ImageOptions,
) -> Tensor:
    """Sample an image, every branch computed at every guided step.

    Contexts are the full one, and where there is guidance those without text and without images.
    """
    latent = noise.to(model.device)
    times = schedule(options.num_timesteps, options.timestep_shift)
    for time, following in zip(times[:-1], times[1:], strict=True):
        block = model.latent_block(latent, grid, markers, time)
        chosen = contexts if options.guided(time) else contexts[:1]
        velocities = []
        for context in chosen:
            _, drawn = extend(model, context, block, keep=False)
            assert drawn is not None
            velocities.append(model.velocity(drawn))
        latent = latent - _guided(velocities, options) * (time - following)
    return latent


def _guided(velocities: Sequence[Tensor], options: ImageOptions) -> Tensor:
    full, *others = velocities
    if not others:
        return full
    without_text, *rest = others
    return guide(full, without_text, rest[0] if rest else None, options)


@contextmanager
def plainly() -> Iterator[None]:
    """Compute with PyTorch's own choice of kernels: its products, and a key read once a head."""
    with (
        mock.patch(f"{__name__}.attend", _attend_plainly),
        mock.patch.object(Linear, "forward", nn.Linear.forward),
    ):
        yield


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    bias = causal_lower_right(len(query), len(key)) if causal and len(query) > 1 else None
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
    return attended[0].transpose(0, 1)
