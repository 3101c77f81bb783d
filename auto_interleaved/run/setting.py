"""What a run goes by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from auto_interleaved.options.generation import GenerationOptions
from data.protocols import Protocol
from data.understanding import Understanding


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run goes by, all of it checked.

    Attributes:
        options: the caller's.
        protocol: when to draw, when to stop.
        image_shape: (height, width) of images where neither the options nor an input image say.
        progress: keyword arguments for tqdm.
        understanding: how the model is asked whether a picture shows a text.
    """

    options: GenerationOptions
    protocol: Protocol
    image_shape: tuple[int, int]
    progress: Mapping[str, Any]
    understanding: Understanding = Understanding()

    @property
    def max_images(self) -> float:
        """Images at most."""
        limits = (self.options.max_images, self.protocol.max_images)
        return min((n for n in limits if n is not None), default=math.inf)
