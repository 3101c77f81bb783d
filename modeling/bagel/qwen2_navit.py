"""The decoder: Qwen2 with two sets of weights in every layer, one for text, one for drawing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.wording import shown
from modeling.attention import Fixed, Projected, Sequences
from modeling.bagel.config import Qwen2Config, rope_theta
from modeling.linear import Linear
from modeling.published import forward
from modeling.published.cache import NaiveCache
from modeling.published.forward import BaseNavitOutputWithPast

__all__ = [
    "BaseNavitOutputWithPast",
    "NaiveCache",
    "Qwen2ForCausalLM",
    "Qwen2MoTDecoderLayer",
    "Qwen2Model",
    "rotary_angles",
]

Rotary = tuple[Tensor, Tensor]  # cosines and sines, (tokens, head_dim), float32
Rotaries = tuple[Rotary, Rotary | None]  # of tokens of text, and of latent ones
Pair = tuple[Tensor, Tensor | None]  # what goes through the text and the generation weights


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> Rotary:
    """Compute RoPE cosines and sines in float32, once for all layers.

    Args:
        positions: (tokens,) integers.
        head_dim: channels of a head.
        theta: base of the frequencies.

    Returns:
        Two tensors of shape (tokens, head_dim): the angles of one half, twice; the sines of the
        first half with the sign that they have in a rotation.
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions.float()[:, None] / theta ** (steps / head_dim)
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat([cosines, cosines], dim=1), torch.cat([-sines, sines], dim=1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate (tokens, heads, head_dim) by position: channel i with channel i + head_dim / 2."""
    cosines, sines = (r[:, None, :] for r in rotary)
    first, second = x.chunk(2, dim=-1)
    # float32 angles promote the product; the result returns to the model's dtype.
    return (x * cosines + torch.cat([second, first], dim=-1) * sines).to(x.dtype)


def _moved(rotary: Rotaries, device: torch.device) -> Rotaries:
    text, latent = rotary
    return _on(text, device), None if latent is None else _on(latent, device)


def _on(angles: Rotary, device: torch.device) -> Rotary:
    return angles[0].to(device), angles[1].to(device)


def _by_expert(text_module: nn.Module, latent_module: nn.Module, pair: Pair) -> Pair:
    """Send each part through its own weights."""
    text, latent = pair
    return text_module(text), None if latent is None else latent_module(latent)


def _add(left: Pair, right: Pair) -> Pair:
    text = left[0] + right[0]
    if left[1] is None or right[1] is None:
        return text, None
    return text, left[1] + right[1]


class Qwen2MLP(nn.Module):
    """The SwiGLU feed-forward layer."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, inner, bias=False)
        self.up_proj = Linear(hidden, inner, bias=False)
        self.down_proj = Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (tokens, hidden) to (tokens, hidden)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Qwen2MoTAttention(nn.Module):
    """Grouped-query attention whose projections and head norms exist twice.

    Which tokens see which is not decided here: the projected tokens go to `sequences`.
    """

    o_proj: Linear
    o_proj_moe_gen: Linear

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = hidden // heads
        kv_size = config.num_key_value_heads * self.head_dim
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", Linear(hidden, hidden))
            self.add_module(f"k_proj{suffix}", Linear(hidden, kv_size))
            self.add_module(f"v_proj{suffix}", Linear(hidden, kv_size))
            self.add_module(f"o_proj{suffix}", Linear(hidden, hidden, bias=False))
            for name in ("q_norm", "k_norm"):
                norm = nn.RMSNorm(self.head_dim, config.rms_norm_eps)
                self.add_module(f"{name}{suffix}", norm if config.qk_norm else nn.Identity())

    def forward(
        self,
        text: Tensor,
        latent: Tensor | None,
        rotary: Rotaries,
        sequences: Sequences,
    ) -> Pair:
        """Attend; every tensor is (tokens, hidden)."""
        text_qkv = self._project(text, rotary[0], "")
        latent_qkv = None
        if latent is not None and rotary[1] is not None:
            latent_qkv = self._project(latent, rotary[1], "_moe_gen")
        attended = self._attend(sequences, text_qkv, latent_qkv)
        return _by_expert(self.o_proj, self.o_proj_moe_gen, attended)

    def _attend(self, sequences: Sequences, text: Projected, latent: Projected | None) -> Pair:
        if torch.compiler.is_compiling() and not isinstance(sequences, Fixed):
            from modeling.bagel.uncompiled import attend

            return attend(sequences, self.layer_idx, text, latent)
        return sequences.attend(self.layer_idx, text, latent)

    def _project(self, x: Tensor, rotary: Rotary, suffix: str) -> Projected:
        def heads(name: str) -> Tensor:
            projection: Callable[[Tensor], Tensor] = getattr(self, name + suffix)
            return projection(x).unflatten(-1, (-1, self.head_dim))

        query = getattr(self, f"q_norm{suffix}")(heads("q_proj"))
        key = getattr(self, f"k_norm{suffix}")(heads("k_proj"))
        return Projected(
            query=rotate(query, rotary), key=rotate(key, rotary), value=heads("v_proj")
        )


class Qwen2MoTDecoderLayer(nn.Module):
    """One layer of the mixture of transformers: shared attention, everything else twice."""

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Qwen2MoTAttention(config, layer_idx)
        self.mlp = Qwen2MLP(config)
        self.mlp_moe_gen = Qwen2MLP(config)
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.input_layernorm_moe_gen = nn.RMSNorm(hidden, eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)
        self.post_attention_layernorm_moe_gen = nn.RMSNorm(hidden, eps)

    def forward(
        self,
        text: Tensor,
        latent: Tensor | None,
        rotary: Rotaries,
        sequences: Sequences,
    ) -> Pair:
        """Run the layer; every tensor is (tokens, hidden)."""
        pair: Pair = (text, latent)
        normed = _by_expert(self.input_layernorm, self.input_layernorm_moe_gen, pair)
        pair = _add(pair, self.self_attn(*normed, rotary, sequences))
        normed = _by_expert(
            self.post_attention_layernorm, self.post_attention_layernorm_moe_gen, pair
        )
        return _add(pair, _by_expert(self.mlp, self.mlp_moe_gen, normed))


class Qwen2Model(nn.Module):
    """Embedding, layers and final norms.

    Args:
        config: the decoder's configuration.

    Raises:
        ValueError: if the configuration asks for a layer that does not exist here.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Qwen2MoTDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary(self, positions: Tensor) -> Rotary:
        """Return cosines and sines, (tokens, head_dim), for (tokens,) positions."""
        config = self.config
        head_dim = config.hidden_size // config.num_attention_heads
        return rotary_angles(positions, head_dim, rope_theta(config))

    def forward(
        self,
        text: Tensor,
        latent: Tensor | None,
        rotary: Rotaries,
        sequences: Sequences,
    ) -> Pair:
        """Run all layers, without the final norms.

        Args:
            text: (tokens, hidden) embeddings for the text weights.
            latent: (tokens, hidden) embeddings for the generation weights, if there are any.
            rotary: the angles of both.
            sequences: which tokens see which.
        """
        for layer in self.layers:
            text, latent = layer(text, latent, rotary, sequences)
            if text.device != rotary[0][0].device:
                # Else the hooks of a model on several devices would fetch them for each layer.
                rotary = _moved(rotary, text.device)
        return text, latent


class Qwen2ForCausalLM(nn.Module):
    """The decoder with its vocabulary head.

    Args:
        config: the decoder's configuration.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.model = Qwen2Model(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.compiled = False  # see `modeling.speed.compile_layers`

    forward_inference = forward.forward_inference


def _check(config: Qwen2Config) -> None:
    layer_module = getattr(config, "layer_module", "Qwen2MoTDecoderLayer")
    if layer_module != "Qwen2MoTDecoderLayer":
        raise ValueError(
            f"layer_module must be 'Qwen2MoTDecoderLayer', got {shown(layer_module)}: "
            "BAGEL checkpoints hold two sets of weights a layer"
        )
    if config.tie_word_embeddings:
        raise ValueError(
            "tie_word_embeddings must be False: BAGEL's lm_head has weights of its own"
        )
    heads = config.num_attention_heads
    if config.hidden_size % heads or heads % config.num_key_value_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} must be a multiple of num_attention_heads {heads}, "
            f"and that a multiple of num_key_value_heads {config.num_key_value_heads}"
        )
