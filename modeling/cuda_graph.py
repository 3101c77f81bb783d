"""CUDA graphs: fixed work on a device, recorded once and repeated without the host's help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

logger = logging.getLogger("auto_interleaved")

Work = Callable[[], Tensor]

_WARM_UPS = 2
_PLAIN = (torch.float32, torch.bfloat16, torch.float16)


def can_repeat(model: nn.Module) -> bool:
    """Say whether what a model does may be recorded."""
    return is_plain(model, "cuda")


def is_plain(model: nn.Module, kind: str) -> bool:
    """Say whether a model does what its classes say and no more, on one device of a kind.

    Its weights must lie there as they are, and nothing may hang on its modules, as offloading,
    quantisation and observers do: a repetition would pass them over.
    """
    parameters = list(model.parameters())
    devices = {parameter.device for parameter in parameters}
    return (
        len(devices) == 1
        and devices.pop().type == kind
        and all(type(p) is nn.Parameter and p.dtype in _PLAIN for p in parameters)
        and not any(is_hooked(module) for module in model.modules())
    )


def is_hooked(module: nn.Module) -> bool:
    """Say whether a module does more than its class says."""
    # accelerate puts a `forward` of its own on the instance.
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def captured(work: Work, device: torch.device) -> Work:
    """Record what work does on a CUDA device; the result does it again, into the same tensor.

    Raises:
        RuntimeError: the work does what no graph can hold, or the device has no memory for it.
    """
    with torch.cuda.device(device):
        stream = _recording_stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # libraries set themselves up, which no recording may hold
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile. The graph's memory is a pool of its own.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()

    def repeat() -> Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return result

    return repeat


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all recordings: matrix products keep a workspace for every stream they ran on.
    return torch.cuda.Stream(device)


def tell_once(what: str, error: Exception) -> None:
    """Log that something goes on without what was to make it faster, once for each reason."""
    first_line, *_ = str(error).splitlines() or [""]
    _tell(what, f"{type(error).__name__}: {first_line}")


@cache
def _tell(what: str, reason: str) -> None:
    logger.warning("%s the slow way: %s", what, reason)
