"""What surrounds a published call: no gradients, and nothing of what its caller set around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from modeling.inference import without_settings

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def published(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a call compute as `inference` does, but return plain tensors, which scripts write to."""

    @wraps(function)
    def call(*args: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with torch.no_grad(), without_settings():
            return function(*args, **named)

    return call
