"""Configurations of the decoder, the vision encoder and the whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import transformers

from modeling.autoencoder import AutoEncoderParams


class Qwen2Config(transformers.Qwen2Config):
    """The decoder's configuration: Qwen2's, with what BAGEL adds.

    Args:
        qk_norm: normalise queries and keys per head; every BAGEL checkpoint does.
        layer_module: the decoder layer; "Qwen2MoTDecoderLayer" is the one that exists.
        **kwargs: Qwen2's own fields.
    """

    def __init__(
        self, qk_norm: bool = True, layer_module: str = "Qwen2MoTDecoderLayer", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.qk_norm = qk_norm
        self.layer_module = layer_module


class SiglipVisionConfig(transformers.SiglipVisionConfig):
    """The vision encoder's configuration: SigLIP's, with the switch that BAGEL's scripts set.

    Args:
        rope: rotary positions in the encoder; no BAGEL checkpoint has them.
        **kwargs: SigLIP's own fields.
    """

    def __init__(self, rope: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rope = rope


def rope_theta(config: transformers.PretrainedConfig) -> float:
    """Return the RoPE base, which transformers 4 and 5 keep in different places."""
    nested = getattr(config, "rope_parameters", None)
    if nested:
        return float(nested["rope_theta"])
    return float(config.rope_theta)


class BagelConfig(transformers.PretrainedConfig):
    """How decoder, vision encoder and autoencoder are joined.

    Args:
        visual_gen: the model can draw.
        visual_und: the model can read images with its vision encoder.
        llm_config: the decoder's configuration.
        vit_config: the vision encoder's configuration.
        vae_config: the autoencoder's parameters, as `load_ae` returns them.
        latent_patch_size: side of a latent token, in latent pixels.
        max_latent_size: side of the latent position table, in tokens.
        vit_max_num_patch_per_side: side of the vision position table, in patches.
        connector_act: activation between the connector's two layers.
        interpolate_pos: spread an image's positions over the whole table.
        timestep_shift: shift of the training times.
        **kwargs: anything else; it is kept, and changes nothing here.
    """

    def __init__(  # noqa: PLR0913 - the published signature
        self,
        visual_gen: bool = True,
        visual_und: bool = True,
        llm_config: Qwen2Config | None = None,
        vit_config: SiglipVisionConfig | None = None,
        vae_config: AutoEncoderParams | None = None,
        latent_patch_size: int = 2,
        max_latent_size: int = 32,
        vit_max_num_patch_per_side: int = 70,
        connector_act: str = "gelu_pytorch_tanh",
        interpolate_pos: bool = False,
        timestep_shift: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.visual_gen = visual_gen
        self.visual_und = visual_und
        self.llm_config = llm_config
        self.vit_config = vit_config
        self.vae_config = vae_config
        self.latent_patch_size = latent_patch_size
        self.max_latent_size = max_latent_size
        self.vit_max_num_patch_per_side = vit_max_num_patch_per_side
        self.connector_act = connector_act
        self.interpolate_pos = interpolate_pos
        self.timestep_shift = timestep_shift

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the parts' configurations as dictionaries."""
        values = super().to_dict()
        if isinstance(self.vae_config, AutoEncoderParams):
            values["vae_config"] = asdict(self.vae_config)
        return values
