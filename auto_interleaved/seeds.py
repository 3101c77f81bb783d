"""Randomness: one generator for the texts of a run and one for each of its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_TEXT, _IMAGE = 0, 1


@dataclass(frozen=True, eq=False)
class Randomness:
    """Where a run's randomness comes from.

    With a seed, texts and each image draw from generators of their own, derived from it: a longer
    text before an image does not change its noise. With a generator, everything draws from that,
    in order. With neither, from torch's global generators, as the published code does.

    Attributes:
        seed: in [0, 2**63), or None.
        generator: a CPU generator, or None.
    """

    seed: int | None = None
    generator: torch.Generator | None = None

    def image_seed(self, index: int) -> int | None:
        """Return the seed of the run's image number `index`; None without a seed."""
        return None if self.seed is None else derive_seed(self.seed, _IMAGE, index)

    def for_image(self, index: int) -> torch.Generator | None:
        """Return the generator of an image's noise, on the CPU."""
        seed = self.image_seed(index)
        return self.generator if seed is None else torch.Generator().manual_seed(seed)

    def for_texts(self, device: torch.device) -> torch.Generator | None:
        """Return the generator of all texts."""
        if self.seed is None:
            return self.generator
        return torch.Generator(device).manual_seed(derive_seed(self.seed, _TEXT, 0))


def derive_seed(seed: int, *path: int) -> int:
    """Return a seed in [0, 2**63) that a seed and a path of numbers fix."""
    sequence = np.random.SeedSequence(seed, spawn_key=path)
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1
