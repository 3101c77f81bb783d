"""The tensors of safetensors files, mapped into memory instead of read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modeling.checkpoint.files import INDEX_SUFFIX, read_json, shorten

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

# Linux refuses a single private mapping larger than all its memory, though none of it is used: a
# file of 29 GB is therefore mapped in pieces. One a tensor would be too many open files.
_PIECE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in a safetensors file.

    Attributes:
        file: the file.
        start, stop: its bytes in the file.
        shape: its shape.
        dtype: its dtype by safetensors' name; see `DTYPES` for those that can be loaded.
    """

    file: Path
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def loadable(self) -> bool:
        """Whether its dtype is one that a model can have."""
        return self.dtype in DTYPES


@dataclass(frozen=True, eq=False, kw_only=True)
class Weights:
    """The tensors of one safetensors file or of all shards of an index.

    Attributes:
        source: the file or the index, for messages.
        tensors: every tensor by name; nothing but headers has been read.
    """

    source: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of the bytes are in, float32 if there is none."""
        sizes: Counter[torch.dtype] = Counter({torch.float32: 0})
        for tensor in self.tensors.values():
            if tensor.loadable:
                sizes[DTYPES[tensor.dtype]] += tensor.stop - tensor.start
        return max(sizes, key=lambda dtype: sizes[dtype])

    def place(self, name: str) -> str:
        """Return a tensor's name, and which file it is in where there are several."""
        file = self.tensors[name].file
        return name if file == self.source else f"{name} in {file.name}"

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors into memory, as stored.

        Pages come from the file when they are first looked at, and the system may drop them again.
        Writing to a tensor changes a private copy, never the file. The file must not change as long
        as the tensors are in use.
        """
        wanted = [(name, self.tensors[name]) for name in names]
        mapped: dict[str, Tensor] = {}
        piece: _Piece | None = None
        for name, tensor in sorted(wanted, key=lambda item: (item[1].file, item[1].start)):
            if piece is None or not piece.holds(tensor):
                piece = _Piece.starting_with(tensor)
            mapped[name] = piece.tensor(tensor)
        return mapped


@dataclass(frozen=True, eq=False, kw_only=True)
class _Piece:
    """A mapped part of a file."""

    file: Path
    start: int
    content: np.memmap[Any, np.dtype[np.uint8]]

    @classmethod
    def starting_with(cls, tensor: StoredTensor) -> _Piece:
        rest = tensor.file.stat().st_size - tensor.start
        size = max(tensor.stop - tensor.start, min(_PIECE_BYTES, rest))
        content = np.memmap(
            tensor.file, mode="c", dtype=np.uint8, offset=tensor.start, shape=(size,)
        )
        return cls(file=tensor.file, start=tensor.start, content=content)

    def holds(self, tensor: StoredTensor) -> bool:
        stop = self.start + len(self.content)
        return tensor.file == self.file and self.start <= tensor.start and tensor.stop <= stop

    def tensor(self, tensor: StoredTensor) -> Tensor:
        flat = torch.frombuffer(
            self.content,
            dtype=DTYPES[tensor.dtype],
            count=math.prod(tensor.shape),
            offset=tensor.start - self.start,
        )
        return flat.reshape(tensor.shape)


def open_weights(path: Path) -> Weights:
    """Read the headers of a safetensors file, or of the shards that an index names.

    Raises:
        FileNotFoundError: the file or one of the shards is not there.
        ValueError: a file is no safetensors or not whole, or index and shards contradict each
            other.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return Weights(source=path, tensors=_header(path))
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ValueError(f"{path} has no weight_map of tensor names to files; download it again")
    shards = sorted(set(places.values()))
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{path} names shards that are not there: {shorten(absent)}; download them again"
        )
    headers = {shard: _header(path.parent / shard) for shard in shards}
    astray = [f"{name} ({shard})" for name, shard in places.items() if name not in headers[shard]]
    if astray:
        raise ValueError(
            f"{path} names tensors that their shard does not hold: {shorten(astray)}; "
            "index and shards are of different checkpoints, download them again"
        )
    return Weights(source=path, tensors={n: headers[shard][n] for n, shard in places.items()})


def _header(file: Path) -> dict[str, StoredTensor]:
    try:
        # For its checks alone. As "pt" it would map the whole file at once, see _PIECE_BYTES.
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({error}); download or copy it again "
            f"(it has {file.stat().st_size} bytes; a few hundred are a Git LFS pointer, which "
            "`git lfs pull` replaces)"
        ) from error
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file=file,
            start=8 + length + entry["data_offsets"][0],
            stop=8 + length + entry["data_offsets"][1],
            shape=tuple(entry["shape"]),
            dtype=entry["dtype"],
        )
        for name, entry in entries.items()
    }
