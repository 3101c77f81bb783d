"""The vision encoder: SigLIP over images of any size, as packed patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeling.activations import activation
from modeling.attention import attend
from modeling.bagel.config import SiglipVisionConfig
from modeling.linear import Linear


class SiglipVisionEmbeddings(nn.Module):
    """Patches to vectors, with a learned position each."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.patch_embedding: nn.Module = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, config.patch_size
        )
        num_positions = (config.image_size // config.patch_size) ** 2
        self.position_embedding = nn.Embedding(num_positions, config.hidden_size)

    def convert_conv2d_to_linear(self, config: SiglipVisionConfig, meta: bool = False) -> None:
        """Turn the patch convolution into the linear layer that BAGEL checkpoints store.

        Args:
            config: the encoder's configuration.
            meta: make a layer without storage, to be filled from a checkpoint; otherwise the
                convolution's weights are carried over.
        """
        old = self.patch_embedding
        if not isinstance(old, nn.Conv2d):
            return
        size = config.num_channels * config.patch_size**2
        device = torch.device("meta") if meta else old.weight.device
        linear = Linear(size, config.hidden_size, device=device, dtype=old.weight.dtype)
        if device.type != "meta":
            assert old.bias is not None
            with torch.no_grad():
                linear.weight.copy_(old.weight.permute(0, 2, 3, 1).flatten(1))
                linear.bias.copy_(old.bias)
        self.patch_embedding = linear

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Embed (tokens, patch values) at (tokens,) positions.

        Raises:
            RuntimeError: if the patch embedding is still a convolution.
        """
        if isinstance(self.patch_embedding, nn.Conv2d):
            raise RuntimeError(
                "the patch embedding is still a convolution; call "
                "vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config) first"
            )
        return self.patch_embedding(patches) + self.position_embedding(positions)


class SiglipAttention(nn.Module):
    """Full attention within each image."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.head_dim = hidden // config.num_attention_heads
        self.k_proj = Linear(hidden, hidden)
        self.v_proj = Linear(hidden, hidden)
        self.q_proj = Linear(hidden, hidden)
        self.out_proj = Linear(hidden, hidden)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Attend; `x` is (tokens, hidden) over images of `lengths` tokens each."""
        qkv = (proj(x).unflatten(-1, (-1, self.head_dim)) for proj in self._projections())
        images = zip(*(part.split(list(lengths)) for part in qkv), strict=True)
        return self.out_proj(torch.cat([attend(*image).flatten(1) for image in images]))

    def _projections(self) -> tuple[Linear, Linear, Linear]:
        return self.q_proj, self.k_proj, self.v_proj


class SiglipMLP(nn.Module):
    """The encoder's feed-forward layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.activation_fn = activation(config.hidden_act)
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (tokens, hidden) to (tokens, hidden)."""
        return self.fc2(self.activation_fn(self.fc1(x)))


class SiglipEncoderLayer(nn.Module):
    """One pre-norm encoder layer."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.self_attn = SiglipAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = SiglipMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Run the layer on (tokens, hidden)."""
        x = x + self.self_attn(self.layer_norm1(x), lengths)
        return x + self.mlp(self.layer_norm2(x))


class SiglipEncoder(nn.Module):
    """The stack of encoder layers."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SiglipEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Run all layers on (tokens, hidden)."""
        for layer in self.layers:
            x = layer(x, lengths)
        return x


class SiglipVisionTransformer(nn.Module):
    """Embeddings, encoder and the last norm."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, patches: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Encode packed patches; see `SiglipVisionModel.forward`."""
        return self.post_layernorm(self.encoder(self.embeddings(patches, positions), lengths))


class SiglipVisionModel(nn.Module):
    """The vision encoder.

    Args:
        config: its configuration; `num_hidden_layers` layers are built.

    Raises:
        ValueError: if the configuration asks for rotary positions.
    """

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        if getattr(config, "rope", False):
            raise ValueError(
                "rope=True is not supported: BAGEL's encoder has learned positions; "
                "set vit_config.rope = False"
            )
        self.config = config
        self.vision_model = SiglipVisionTransformer(config)

    def forward(self, patches: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Encode the patches of one or several images, packed one after another.

        Args:
            patches: (tokens, patch values), see `patchify`.
            positions: (tokens,) indices into the position table.
            lengths: tokens of each image.

        Returns:
            (tokens, hidden).
        """
        return self.vision_model(patches, positions, lengths)
