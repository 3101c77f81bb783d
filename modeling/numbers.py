"""Whether what was made is made of numbers, and the error where it holds nan or inf.

Nothing between fails at such values: a picture comes out black, and the likeliest id is the first.
So each picture is looked at once when it is made, and each run of tokens where the host looks at
its ids anyway. No step of a picture makes the host wait.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PLAIN = (torch.float32, torch.bfloat16, torch.float16)


class NotANumberError(RuntimeError):
    """Something that was made holds nan or inf.

    Attributes:
        what: the first thing that does.
        advice: what helps.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"nan or inf in {self.what}; {self.advice}"


def all_numbers(made: Tensor) -> Tensor:
    """Return whether a tensor is made of numbers, as a truth value on its device."""
    # Not of every value, which would take the memory of several such tensors.
    return torch.stack((made.amin(), made.amax())).isfinite().all()


def require_numbers(made: Tensor, what: str, module: nn.Module) -> None:
    """Check what a module made; the host waits for it.

    Raises:
        NotANumberError: if it holds nan or inf.
    """
    if not all_numbers(made):
        raise NotANumberError(what, advice_on(module))


def advice_on(module: nn.Module) -> str:
    """Say what helps where a module made nan or inf; its weights are looked at for that."""
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        if _is_damaged(weight):
            return f"the weight {name} holds nan or inf itself: get the checkpoint's files anew"
    dtypes = {weight.dtype for weight in module.parameters()}
    if torch.float16 in dtypes:
        return "float16 ends at 65504: load the model with dtype=torch.bfloat16 or torch.float32"
    if torch.bfloat16 in dtypes:
        return "load the model with dtype=torch.float32, to see whether that is more precise"
    return "all weights are numbers: look at hooks on the model, and at what it was given"


def _is_damaged(weight: Tensor) -> bool:
    # What is offloaded or quantised cannot be looked at.
    plain = type(weight) in (nn.Parameter, Tensor) and weight.dtype in _PLAIN
    if not plain or weight.is_meta:
        return False
    return bool(weight.numel()) and not bool(all_numbers(weight.detach()))


def require_within(name: str, value: float, low: float, high: float) -> None:
    """Check an option that leads beyond the numbers of float32 if it is too small or too large.

    Raises:
        ValueError: if it is.
    """
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be from {low:g} to {high:g}, got {value:g}; "
            "beyond that float32 runs out of numbers"
        )
