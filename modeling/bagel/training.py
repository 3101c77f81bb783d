"""The training forward: packed sequences without a cache, and their two losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from data.packing import PackedBatch
from modeling.attention import MaskedSequences
from modeling.bagel.blocks import Grid, flattened_positions


class _Trained(Protocol):
    """What training asks of a `Bagel`."""

    config: Any
    language_model: Any
    llm2vae: Any
    vit_max_num_patch_per_side: int

    def embed(self, ids: Tensor) -> Tensor: ...
    def vision_features(self, patches: Tensor, positions: Tensor, lengths: list[int]) -> Tensor: ...
    def latent_places(self, grid: Grid) -> Tensor: ...
    def latent_tokens(self, latent: Tensor, time: Tensor, places: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Losses:
    """Unreduced losses, so that the caller decides how to weigh them.

    Attributes:
        ce: (predicted tokens,), cross entropy, float32.
        mse: (noised tokens, patch values), squared error of the velocity, float32.
    """

    ce: Tensor
    mse: Tensor


def training_losses(model: _Trained, batch: PackedBatch, noise: Tensor | None = None) -> Losses:
    """Run packed sequences and compare with what should come out.

    A noised latent is `(1 - t) * clean + t * noise`; its velocity is `noise - clean`.

    Args:
        model: the model.
        batch: see `data.packing.pack`; on the model's device.
        noise: (latent tokens, patch values), for clean images too; None draws it.
    """
    latent, target = _latent_stream(model, batch, noise)
    writing, latent = _run(model, batch, latent)
    decoder = model.language_model.model
    logits = model.language_model.lm_head(writing)
    ce = F.cross_entropy(logits.float(), batch.ce_labels, reduction="none")
    if latent is None or target is None:
        return Losses(ce=ce, mse=ce.new_zeros(0, 0))
    velocity = model.llm2vae(decoder.norm_moe_gen(latent[batch.noised]))
    return Losses(ce=ce, mse=(velocity.float() - target[batch.noised]).square())


def writing_states(model: _Trained, batch: PackedBatch) -> Tensor:
    """Return what the head sees where texts are learnt, (predicted tokens, hidden).

    Args:
        model: the model.
        batch: see `data.packing.pack`; on the model's device, without noised images.
    """
    latent, _ = _latent_stream(model, batch, None)
    return _run(model, batch, latent)[0]


def _run(
    model: _Trained, batch: PackedBatch, latent: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Run the decoder; return what the head sees where a token is predicted, and the latents."""
    text, text_places = _text_stream(model, batch)
    decoder = model.language_model.model
    rotaries = (
        decoder.rotary(batch.positions[text_places]),
        None if latent is None else decoder.rotary(batch.positions[batch.latent_places]),
    )
    places = torch.cat([text_places, batch.latent_places])
    text, latent = decoder(text, latent, rotaries, MaskedSequences.of(places, batch.mask))
    writing = _pick(text, text_places, batch.ce_places, batch.positions.numel())
    return decoder.norm(writing), latent


def _text_stream(model: _Trained, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Embed texts, markers and vision patches; return them and their places."""
    embedded = model.embed(batch.text_ids)
    if batch.patches is None:
        return embedded, batch.text_places
    side, interpolate = model.vit_max_num_patch_per_side, model.config.interpolate_pos
    positions = [flattened_positions(grid, side, interpolate) for grid in batch.patch_grids]
    features = model.vision_features(
        batch.patches.to(embedded),
        torch.cat(positions).to(embedded.device),
        [rows * columns for rows, columns in batch.patch_grids],
    )
    return torch.cat([embedded, features]), torch.cat([batch.text_places, batch.patch_places])


def _latent_stream(
    model: _Trained, batch: PackedBatch, noise: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Noise and embed latents; return them and the velocities they should give."""
    if batch.latents is None:
        return None, None
    clean = batch.latents.float()
    noise = torch.randn_like(clean) if noise is None else noise
    times = batch.times[:, None]
    places = torch.cat([model.latent_places(grid) for grid in batch.latent_grids])
    mixed = (1 - times) * clean + times * noise
    return model.latent_tokens(mixed, batch.times, places), noise - clean


def _pick(stream: Tensor, places: Tensor, wanted: Tensor, size: int) -> Tensor:
    """Return the rows of a stream that stand at the wanted places."""
    index = torch.empty(size, dtype=torch.long, device=places.device)
    index[places] = torch.arange(len(places), device=places.device)
    return stream[index[wanted]]
