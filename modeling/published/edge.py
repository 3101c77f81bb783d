"""What surrounds a published call: no gradients, and the model's own precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_CASTING = ("cpu", "cuda", "xpu", "mps")


def published(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a call compute without gradients and apart from the autocast that scripts put around it.

    Keys and values go from call to call: what one wrote in another precision the next could not
    read. What it returns are plain tensors, which scripts may write to.
    """

    @wraps(function)
    def apart(*args: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for device in filter(torch.is_autocast_enabled, _CASTING):
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **named)

    return apart
