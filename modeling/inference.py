"""What surrounds computing: no gradients, and the model's own precision and device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

logger = logging.getLogger("auto_interleaved")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_CASTING = ("cpu", "cuda", "xpu", "mps")
_NOTHING = nullcontext()


class _Here(threading.local):
    inside = False


_here = _Here()


def inference(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function compute without gradients, and apart from what its caller set around it.

    That is `torch.autocast`: keys and values go from call to call, and what one wrote in another
    precision the next could not read. And it is the default device: code of this library names the
    devices of what it makes, but accelerate, which fetches offloaded weights, does not. (The
    default dtype is named as well, and could not be set here: it is the whole process's.)

    The function must not be a generator, whose blocks would stay open between two of its values.
    """

    @wraps(function)
    def apart(*args: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        if _here.inside:
            return function(*args, **named)
        _here.inside = True
        try:
            with torch.inference_mode(), without_settings():
                return function(*args, **named)
        finally:
            _here.inside = False

    return apart


def without_settings() -> AbstractContextManager[Any]:
    """Return a block that neither `torch.autocast` nor a default device reaches into."""
    casting = [device for device in _CASTING if torch.is_autocast_enabled(device)]
    elsewhere = torch.empty(0).device.type != "cpu"  # get_default_device takes five times as long
    if not (casting or elsewhere):
        return _NOTHING
    stack = ExitStack()
    if elsewhere:
        stack.enter_context(torch.device("cpu"))
    for device in casting:
        _tell_once()
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


@cache
def _tell_once() -> None:
    logger.warning(
        "torch.autocast has no effect on this library, which computes in the dtype of the model; "
        "for another one load it so, with dtype=torch.bfloat16 for example"
    )
