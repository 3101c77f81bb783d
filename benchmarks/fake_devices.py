"""Devices that are not there: tensors without values, which know where they would lie.

Under PyTorch's FakeTensorMode a model of any size is built and run in seconds: shapes, dtypes and
devices come out as they would, what meets across devices fails, and nothing is computed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import DeviceType

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry
_PLACES = 20  # of it that are looked at, fewer than there are


class UnavailableError(RuntimeError):
    """This build of PyTorch cannot pretend to have CUDA; the message says why."""


@contextmanager
def fake_devices() -> Iterator[None]:
    """Let every tensor that is made in the block be without values, on any device.

    Devices go by their numbers, "cuda:0" and "mps:0". As a NumPy array such a tensor is zeros: the
    pictures that a model draws come out black.

    Raises:
        UnavailableError: not with this build.
    """
    with _guards(), _pretences(), FakeTensorMode():
        try:
            for device in ("cuda:0", "mps:0"):
                rows = torch.zeros(2).to(device)
                rows[:1] = rows[1:]
        except RuntimeError as error:
            raise UnavailableError(f"fake tensors: {error}") from error
        yield


class _Generator(torch.Generator):
    """A generator for any device, which draws nothing there."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls, "cpu")
        made._pretended = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._pretended

    def get_state(self) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        pass


@contextmanager
def _pretences() -> Iterator[None]:
    def zeros(tensor: FakeTensor) -> np.ndarray:
        return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))

    def listed(tensor: FakeTensor) -> list[Any]:
        [*rows] = tensor.cpu()  # in one copy, as other tensors do
        return [row.tolist() if row.dim() else row.item() for row in rows]

    with (
        mock.patch.object(FakeTensor, "numpy", zeros, create=True),
        mock.patch.object(FakeTensor, "tolist", listed),
        mock.patch("torch.Generator", _Generator),
        # The mask of a text after a prefix is a kind of tensor that cannot be without values.
        mock.patch("torch.nn.attention.bias.causal_lower_right", return_value=None),
    ):
        yield


@contextmanager
def _guards() -> Iterator[None]:
    """Give builds for other devices what each operation asks for its current device.

    PyTorch has a guard for CUDA that does nothing, and FakeTensorMode puts it in the place of one
    that knows of no device, as that of a CUDA build without a GPU does. A build without CUDA has
    none in that place; what stands for lazy tensors knows of no device either, so it is lent. MPS
    has the one for tensors without values.
    """
    registry, places = _registry(), DeviceType
    cuda, mps, lazy, meta = (p.value for p in (places.CUDA, places.MPS, places.Lazy, places.Meta))
    before = registry[cuda], registry[mps]
    if not (registry[lazy] and registry[meta]):
        raise UnavailableError("fake tensors: PyTorch's guards are not as they were known")
    registry[cuda], registry[mps] = before[0] or registry[lazy], before[1] or registry[meta]
    try:
        with FakeTensorMode():
            pass  # which is when it is replaced
        if registry[cuda] == registry[lazy]:
            raise UnavailableError("fake tensors: PyTorch does not bring its own guard for CUDA")
        yield
    finally:
        registry[cuda], registry[mps] = before


def _registry() -> ctypes.Array[ctypes.c_void_p]:
    path = Path(torch.__file__).with_name("lib") / "libc10.so"
    try:
        return (ctypes.c_void_p * _PLACES).in_dll(ctypes.CDLL(str(path)), _REGISTRY)
    except (OSError, ValueError) as error:
        raise UnavailableError(f"fake tensors: no list of guards in {path.name}") from error
