"""The tensors of safetensors files, mapped into memory instead of read."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.wording import shown
from modeling.checkpoint.files import INDEX_SUFFIX, shorten
from modeling.checkpoint.names import plain_names
from modeling.checkpoint.recognition import advice_on_file, advice_on_tensors
from modeling.small_files import exists, read_object, require_file

logger = logging.getLogger("auto_interleaved")

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
        tensors: every tensor by its plain name; nothing but headers has been read.
        changes: what is done to a tensor whenever it is read, by its name.
    """

    source: Path
    tensors: Mapping[str, StoredTensor]
    changes: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def over(self, base: Weights, names: Collection[str] | None = None) -> Weights:
        """Return these, completed with another checkpoint's.

        Args:
            base: the other checkpoint.
            names: which tensors to take from it where they are missing here; None is all.
        """
        taken = {n: t for n, t in base.tensors.items() if names is None or n in names}
        return replace(self, tensors={**taken, **self.tensors})

    def changed(self, name: str, change: Callable[[Tensor], Tensor]) -> Weights:
        """Return these with a tensor that is other than in its file.

        Args:
            name: which tensor.
            change: takes it as stored, a private copy, and returns what is read instead.
        """
        return replace(self, changes={**self.changes, name: change})

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
        if file == self.source:
            return name
        return f"{name} in {file.name if file.parent == self.source.parent else file}"

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Map tensors into memory, as stored but for `changes`.

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
        for name in mapped.keys() & self.changes.keys():
            mapped[name] = self.changes[name](mapped[name])
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

    Names are read without what wrappers such as DistributedDataParallel or torch.compile put there.

    Raises:
        FileNotFoundError: the file or one of the shards is not there.
        ValueError: a file is no safetensors or not whole, index and shards contradict each other,
            two names mean one tensor, or it is another kind of model.
    """
    entries = _indexed(path) if path.name.endswith(INDEX_SUFFIX) else _header(path)
    names = plain_names(entries, path)
    changed = [f"{stored} as {name}" for name, stored in names.items() if name != stored]
    if changed:
        logger.info("%s: read %d names like %s", path, len(changed), changed[0])
    tensors = {name: entries[stored] for name, stored in names.items()}
    what = advice_on_tensors({name: tensor.dtype for name, tensor in tensors.items()})
    if what is not None:
        raise ValueError(f"{path} is no BAGEL model that can be loaded: {what}")
    return Weights(source=path, tensors=tensors)


def _indexed(path: Path) -> dict[str, StoredTensor]:
    places = read_object(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ValueError(f"{path} has no weight_map of tensor names to files; download it again")
    shards = sorted(set(places.values()))
    for shard in shards:
        _check_shard(shard, path)
    absent = [shard for shard in shards if not exists(path.parent / shard)]
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
    return {name: headers[shard][name] for name, shard in places.items()}


def _check_shard(shard: str, path: Path) -> None:
    """Refuse a shard outside the index's directory: an index comes from the network."""
    forms = PurePosixPath(shard), PureWindowsPath(shard)
    if any(form.anchor or ".." in form.parts for form in forms) or not forms[0].parts:
        raise ValueError(
            f"{path} names a shard outside its directory: {shown(shard)}; shards lie beside their "
            "index, under names without a path"
        )
    if not shard.endswith(".safetensors"):
        raise ValueError(
            f"{path} names a shard that is no safetensors file: {shown(shard)}; convert the model "
            "to safetensors, or download it in that format"
        )


def _header(file: Path) -> dict[str, StoredTensor]:
    require_file(file, "give the path of the checkpoint's file of weights")
    try:
        # For its checks alone. As "pt" it would map the whole file at once, see _PIECE_BYTES.
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({_reason(error)}; it has "
            f"{file.stat().st_size:,} bytes): {advice_on_file(file)}"
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


def _reason(error: Exception) -> str:
    """Return what safetensors says, which may be in Rust's words and as long as the file."""
    return shown(str(error)).strip("'\"")
