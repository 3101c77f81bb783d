"""SigLIP itself, under the name that published code has it by: it is transformers' own.

BAGEL's vision encoder, which reads images of any size as packed patches, is
`modeling.bagel.SiglipVisionModel`; its configuration is a subclass of the one here.
"""

from __future__ import annotations

from typing import Any

import transformers

__all__ = [  # noqa: F822 - __getattr__ finds them
    "SiglipConfig",
    "SiglipForImageClassification",
    "SiglipImageProcessor",
    "SiglipModel",
    "SiglipPreTrainedModel",
    "SiglipProcessor",
    "SiglipTextConfig",
    "SiglipTextModel",
    "SiglipTokenizer",
    "SiglipVisionConfig",
    "SiglipVisionModel",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # each when it is asked for: some need what is not installed everywhere
        return getattr(transformers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
