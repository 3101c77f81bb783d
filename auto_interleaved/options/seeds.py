"""Randomness: where a run's draws come from, and what repeats them."""

from __future__ import annotations

import base64
import binascii
import secrets
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_SEED = 2**64 - 1  # the largest that torch's generators take
ANY_SEED = -1

_TEXT, _IMAGE, _TURN, _CANDIDATE = 0, 1, 2, 3
_STATE = "state:"
_STATE_BYTES = 2**16  # many times what a generator's state takes

Seed = int | str


def any_seed() -> int:
    """Return a new seed, as no generator that somebody may have set would choose it."""
    return secrets.randbelow(2**32)


def derive_seed(seed: int, *path: int) -> int:
    """Return a seed in [0, 2**63) that a seed and a path of numbers fix."""
    sequence = np.random.SeedSequence(seed, spawn_key=path)
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def turn_seed(seed: int, index: int) -> int:
    """Return the seed of a session's turn, counted from 0; the first one has the session's own."""
    return derive_seed(seed, _TURN, index) if index else seed


@dataclass(frozen=True, eq=False)
class RandomState:
    """How the generators stood that a run without a seed draws from.

    Attributes:
        images: of the CPU's generator, where noise comes from.
        texts: of the device's, where texts draw from that; None where they draw from the CPU's.
    """

    images: Tensor
    texts: Tensor | None = None

    @classmethod
    def of(cls, generator: torch.Generator | None, device: torch.device) -> RandomState:
        """Return how a generator stands; None means torch's global ones, for texts on a device."""
        if generator is not None:
            return cls(generator.get_state())
        texts = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), texts)

    @classmethod
    def parse(cls, written: str) -> RandomState:
        """Return the state that `str` wrote down.

        Raises:
            ValueError: if it is none.
        """
        try:
            if not written.startswith(_STATE):
                raise ValueError(f"it does not begin with {_STATE!r}")
            states = [_unpacked(part) for part in written.removeprefix(_STATE).split(",")]
            images, texts = states[0], states[1] if len(states) > 1 else None
            torch.Generator("cpu").set_state(images)
        except (ValueError, binascii.Error, zlib.error, RuntimeError) as error:
            raise ValueError("it is no state of a generator") from error
        return cls(images, texts)

    def set(self, generator: torch.Generator | None, device: torch.device) -> None:
        """Let a generator stand so; None means torch's global ones, for texts on a device."""
        if generator is not None:
            generator.set_state(self.images)
            return
        torch.set_rng_state(self.images)
        if self.texts is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.texts, device)

    def __str__(self) -> str:
        states = [self.images] if self.texts is None else [self.images, self.texts]
        return _STATE + ",".join(map(_packed, states))


def _packed(state: Tensor) -> str:
    return base64.b64encode(zlib.compress(state.numpy().tobytes())).decode()


def _unpacked(text: str) -> Tensor:
    packed = base64.b64decode(text, validate=True)
    state = zlib.decompressobj().decompress(packed, _STATE_BYTES)
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


class Randomness:
    """Where a run's randomness comes from.

    With a seed, texts and each image draw from generators of their own: a longer text before an
    image does not change its noise. The first image's seed is the run's own, so that the seed of
    any image, given to another run, begins that run's first image with the same noise. With a
    generator, everything draws from that, in order. With neither, from torch's global generators,
    as the published code does.

    Args:
        seed: in [0, 2**64), or the state that `recorded` gave for a run without one.
        generator: a CPU generator; not together with a seed.
    """

    def __init__(self, seed: Seed | None = None, generator: torch.Generator | None = None) -> None:
        self._given = seed
        self._seed = seed if isinstance(seed, int) else None
        self._generator = generator
        self._texts: Tensor | None = None
        if isinstance(seed, str):
            state = RandomState.parse(seed)
            self._generator, self._texts = torch.Generator("cpu"), state.texts
            self._generator.set_state(state.images)

    def recorded(self, device: torch.device) -> Seed:
        """Return what, given as a seed, repeats all that is drawn from now on.

        Args:
            device: where texts are drawn.
        """
        if self._given is not None:
            return self._given
        return str(RandomState.of(self._generator, device))

    def image_seed(self, index: int, candidate: int = 0) -> int | None:
        """Return the seed of the run's image number `index`; None without a seed.

        The first of several candidates has the seed that the image has without others.
        """
        if self._seed is not None and candidate:
            return derive_seed(self._seed, _CANDIDATE, index, candidate)
        if self._seed is None or index == 0:
            return self._seed
        return derive_seed(self._seed, _IMAGE, index)

    def for_image(self, index: int, candidate: int = 0) -> torch.Generator | None:
        """Return the generator of an image's noise, on the CPU."""
        seed = self.image_seed(index, candidate)
        return self._generator if seed is None else torch.Generator("cpu").manual_seed(seed)

    def for_texts(self, device: torch.device) -> torch.Generator | None:
        """Return the generator of all texts.

        Raises:
            ValueError: if the seed is the state of a run whose texts another kind of device drew.
        """
        if self._seed is not None:
            return torch.Generator(device).manual_seed(derive_seed(self._seed, _TEXT, 0))
        if self._texts is None:
            return self._generator
        if device.type != "cuda":
            raise ValueError(
                "seed is the state of a run whose texts were drawn on a CUDA device, and this "
                f"model is on {device}; repeat it there, or give a seed of 0 to 2**64 - 1"
            )
        texts = torch.Generator(device)
        texts.set_state(self._texts)
        return texts
