"""How long and how fast to learn, and what such numbers may be."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class NotANumberError(FloatingPointError):
    """A loss or a weight is not a finite number; nothing can be learnt from there on."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: after warm-up, until the decay.
        warm_up: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to a hundredth.
        ce_weight: weight of the text loss beside the picture loss.
        mse_weight: weight of the picture loss.
        clip: largest norm of a gradient.
        save_every: minutes between two saved states.
    """

    steps: int
    learning_rate: float = 2e-3
    warm_up: int = 60
    decay: float = 0.4
    ce_weight: float = 0.25
    mse_weight: float = 1.0
    clip: float = 1.0
    save_every: float = 10.0

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_number("learning_rate", self.learning_rate, most=1.0)
        require_count("warm_up", self.warm_up)
        require_number("clip", self.clip)
        require_number("save_every", self.save_every)

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        falling = (self.steps - step) / max(1, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up, max(0.01, falling))


def require_count(name: str, value: Any, *, least: int = 1) -> None:
    """Raise unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_number(name: str, value: Any, *, most: float = math.inf) -> None:
    """Raise unless a value is a finite number above 0 and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or not 0 < value <= most:
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise ValueError(f"{name} must be a number above 0{bound}, got {value!r}")


def require_output(output: Path, *inputs: Path) -> None:
    """Make the directory that results go to, unless something else is in its place.

    Args:
        output: the directory.
        *inputs: checkpoints that are read and must stay as they are.

    Raises:
        ValueError: it is one of the inputs.
        NotADirectoryError: a file is in the way.
        PermissionError: nothing can be written there.
    """
    for source in inputs:
        if output.resolve() == source.resolve():
            raise ValueError(
                f"output must not be the checkpoint itself, {source}; name a new directory"
            )
    for folder in (output, *output.parents):
        if os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(
                f"output must be a directory, and {folder} is a file; name another"
            )
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK | os.X_OK):
        raise PermissionError(f"output must be a directory to write to, and {output} is not")


def require_device(device: str) -> None:
    """Raise unless something can be computed on a device here."""
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device must be one like "cpu" or "cuda", got {device!r}') from error
    if kind.type == "meta":
        raise ValueError('device must be one that computes, such as "cpu", got "meta"')
    if kind.index is not None and (kind.type == "cpu" or kind.index > 0):
        chosen = (
            f"; choose a GPU by CUDA_VISIBLE_DEVICES={kind.index}" if kind.type != "cpu" else ""
        )
        raise ValueError(f"device must be {kind.type} without a number, got {device!r}{chosen}")
    try:
        torch.zeros(1, device=kind)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f'device must be one that is here, got {device!r}; "cpu" always is'
        ) from error
