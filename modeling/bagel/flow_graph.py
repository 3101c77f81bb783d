"""One evaluation of the flow as fixed work, which a CUDA device repeats by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from modeling.cuda_graph import Work, can_repeat, captured, tell_once
from modeling.flow import Evaluation, Velocity
from modeling.inference import inference

# Latent tokens of 512 x 512 pixels. Up to here a GPU waits for its host to start kernels, so that
# graphs and packed branches pay; beyond, each branch fills it by itself.
SMALL_IMAGE_TOKENS = 1024

# A recording costs about four evaluations, and each repetition saves a third of one.
_MIN_CALLS = 12


def steady(model: nn.Module, evaluate: Evaluation, noise: Tensor, num_calls: int) -> Velocity:
    """Return an evaluation that runs many times, recorded where that pays and is possible.

    Args:
        model: what `evaluate` runs.
        evaluate: what it reads and writes must keep its place in memory, and it must not depend on
            how often it was called.
        noise: a first state; all others are like it.
        num_calls: how many are to be expected.
    """
    static = StaticEvaluation(evaluate, noise)
    small = noise.shape[0] <= SMALL_IMAGE_TOKENS
    if small and num_calls >= _MIN_CALLS and can_repeat(model):
        try:
            static.record(captured)
        except RuntimeError as error:
            tell_once("images are drawn", error)
    return static


class StaticEvaluation:
    """An evaluation whose state and time lie in the same memory at every call.

    Args:
        evaluate: of a state and a time (1,).
        noise: a first state.
    """

    def __init__(self, evaluate: Evaluation, noise: Tensor) -> None:
        self._latent = noise.clone()
        self._time = torch.ones(1, dtype=torch.float32, device=noise.device)
        # Without a reference to this object, which would keep a context's memory until collected.
        self._work: Work = partial(evaluate, self._latent, self._time)

    @inference
    def __call__(self, latent: Tensor, time: float) -> Tensor:
        """Evaluate; nothing is copied from the host."""
        self._latent.copy_(latent)
        self._time.fill_(time)
        return self._work()

    @inference
    def record(self, capture: Callable[[Work, torch.device], Work]) -> None:
        """Let calls repeat a recording of the evaluation from now on.

        Args:
            capture: turns work on a device into its repetition.

        Raises:
            RuntimeError: it cannot be recorded; calls go on as before.
        """
        repeat = capture(self._work, self._latent.device)
        self._work = lambda: repeat().clone()  # the next repetition writes over it
