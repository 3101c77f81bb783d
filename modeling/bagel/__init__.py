"""BAGEL itself, under the names that scripts import."""

from modeling.bagel.bagel import Bagel
from modeling.bagel.config import BagelConfig, Qwen2Config, SiglipVisionConfig
from modeling.bagel.qwen2_navit import Qwen2ForCausalLM, Qwen2Model
from modeling.bagel.siglip_navit import SiglipVisionModel

__all__ = [
    "Bagel",
    "BagelConfig",
    "Qwen2Config",
    "Qwen2ForCausalLM",
    "Qwen2Model",
    "SiglipVisionConfig",
    "SiglipVisionModel",
]
