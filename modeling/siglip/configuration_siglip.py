"""SigLIP's configurations, in the file where published code has them."""

from transformers import SiglipConfig, SiglipTextConfig, SiglipVisionConfig

__all__ = ["SiglipConfig", "SiglipTextConfig", "SiglipVisionConfig"]
