"""How many bytes a way of training takes, from the shapes of a model alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from modeling.bagel import Bagel
from training.lora import TARGETS

Learns = Literal["decision", "lora", "text", "all"]

# Bytes a weight of a linear layer in NF4: four bits, and a float32 for each block of 64.
_NF4 = 0.5 + 4 / 64
_FLOAT, _HALF = 4, 2
# One token in so many is one that the head predicts: what is written, not what is read or drawn.
PREDICTED = 10
# Of one predicted token's logits: in half, in float, their logarithms, and the gradients of both.
_LOGIT_BYTES = _HALF + _FLOAT + _FLOAT + _FLOAT + _HALF
# Who sees whom: a flag, and the same as a number that is added to scores.
_MASK_BYTES = 1 + _HALF
# Libraries, kernels and what an allocator cannot give away.
_BESIDES = 1.5e9
_DRAWING = ("_moe_gen", "time_embedder", "vae2llm", "llm2vae")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What counts of a model.

    Attributes:
        total: weights.
        drawing: those that only drawing goes through.
        linear: those of the linear layers of the decoder's layers, which may be quantised.
        layer: those of one decoder layer.
        low_rank: those of low-rank changes to all of its linear layers, for rank 1.
        layers, hidden, inner, keys: of the decoder: layers, and the widths of a token, of the
            feed-forward layer and of keys.
        vocabulary: tokens.
        vision: values that the vision encoder keeps of a token for its gradients.
    """

    total: int
    drawing: int
    linear: int
    layer: int
    low_rank: int
    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int
    vision: int

    @classmethod
    def of(cls, model: Bagel) -> Shapes:
        """Look at a model's shapes."""
        llm = model.language_model.config
        layers = model.language_model.model.layers
        linear = list(_linear(model))
        vision = getattr(model, "vit_model", None)
        vit = None if vision is None else vision.config
        return cls(
            total=_count(model),
            drawing=sum(
                p.numel()
                for n, p in model.named_parameters()
                if any(part in n for part in _DRAWING)
            ),
            linear=sum(layer.weight.numel() for layer in linear),
            layer=_count(layers[0]),
            low_rank=sum(layer.in_features + layer.out_features for layer in linear),
            layers=len(layers),
            hidden=llm.hidden_size,
            inner=llm.intermediate_size,
            keys=llm.hidden_size // llm.num_attention_heads * llm.num_key_value_heads,
            vocabulary=llm.vocab_size,
            vision=0
            if vit is None
            else vit.num_hidden_layers * (8 * vit.hidden_size + 2 * vit.intermediate_size),
        )

    @property
    def kept_of_a_layer(self) -> int:
        """Values of a token that one decoder layer keeps for its gradients.

        What goes into both norms and what comes out of them; what goes into the norms of queries
        and keys; queries, keys and values for each head; what was attended to, by sequences and
        packed; and four of the feed-forward layer.
        """
        return 10 * self.hidden + self.keys + 4 * self.inner


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of training.

    Attributes:
        bytes_per_weight: of those that are not quantised.
        learns: what.
        rank: of low-rank changes.
        quantized: the decoder's linear layers are in NF4.
        checkpointing: activations are computed again.
        cards: how many the model is sharded over.
    """

    bytes_per_weight: int
    learns: Learns = "all"
    rank: int = 0
    quantized: bool = False
    checkpointing: bool = False
    cards: int = 1


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on each card.

    Attributes:
        weights: those that are kept, and those that are gathered for a while.
        learning: gradients, AdamW's states and what its step needs.
        activations: what is kept between forward and backward, logits included.
        besides: everything else.
    """

    weights: float
    learning: float
    activations: float
    besides: float = _BESIDES

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.learning + self.activations + self.besides


def footprint(shapes: Shapes, way: Way, tokens: int) -> Footprint:
    """Return what a way of training takes on each card.

    Args:
        shapes: of the model.
        way: how.
        tokens: tokens a step and card, of which one in `PREDICTED` is written.
    """
    return Footprint(
        weights=_weights(shapes, way),
        learning=_learning(shapes, way) / way.cards,
        activations=_activations(shapes, way, tokens),
    )


def longest(shapes: Shapes, way: Way, memory: float) -> int:
    """Return with how many tokens a step a way fits into memory; 0 if with none that is of use."""
    fitting, least = 0, 256
    while footprint(shapes, way, fitting + least).total <= memory:
        fitting += least
    return fitting


def _weights(shapes: Shapes, way: Way) -> float:
    plain = shapes.total - shapes.linear if way.quantized else shapes.total
    kept = plain * way.bytes_per_weight + (shapes.linear * _NF4 if way.quantized else 0)
    if way.cards == 1:
        return kept
    # Two layers at a time, and all that is outside of them, for products in half.
    outside = shapes.total - shapes.layers * shapes.layer
    return kept / way.cards + (2 * shapes.layer + outside) * _HALF


def _learning(shapes: Shapes, way: Way) -> float:
    if way.learns == "decision":
        return 0.0
    if way.learns == "lora":
        learnt, size = way.rank * shapes.low_rank, _FLOAT
    else:
        learnt, size = shapes.total, way.bytes_per_weight
        learnt -= shapes.drawing if way.learns == "text" else 0
    # A gradient, two states, and what a step computes before it is written back.
    return learnt * size * 4


def _activations(shapes: Shapes, way: Way, tokens: int) -> float:
    predicted = tokens / PREDICTED
    masks = tokens**2 * _MASK_BYTES
    if way.learns == "decision":
        # One conversation at a time, one layer at a time.
        layer = (shapes.kept_of_a_layer) * _HALF * tokens
        return layer + masks + predicted * shapes.vocabulary * (_HALF + _FLOAT)
    layer = shapes.kept_of_a_layer * _HALF * tokens
    if way.checkpointing:
        kept = shapes.layers * shapes.hidden * _HALF * tokens + 2 * layer  # with its gradients
    else:
        kept = shapes.layers * layer
    vision = 0.0 if way.learns == "lora" else shapes.vision * _HALF * tokens / 2
    return kept + vision + masks + predicted * shapes.vocabulary * _LOGIT_BYTES


def _linear(model: Bagel) -> Iterator[nn.Linear]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and re.fullmatch(TARGETS["both"], name):
            yield module


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
