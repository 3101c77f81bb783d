"""A decision: the few rows of a head that say what follows a text, kept apart from its checkpoint.

What a checkpoint writes and draws is left as it is; only whether a text ends, and whether a
picture, another text or nothing follows it, is a decision's. Its rows take the place of the
checkpoint's own while the head is read, so that nothing else knows of them: devices, offloading
and recorded steps see a head like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.wording import shown
from modeling.checkpoint.weights import Weights
from modeling.small_files import is_directory, require_file

DECISION_FILE = "decision.safetensors"
HEAD = "language_model.lm_head.weight"
PROTOCOL = "native"  # by which a checkpoint with a decision asks for pictures

_FORMAT = "auto-interleaved decision 1"
_ROWS = "rows"
_SAMPLES = 64  # rows of the head that tell one checkpoint from another
_LAYER = ".self_attn.o_proj.weight"
_REMEDY = "give the file that `train.py --trainable decision` wrote, or its folder"


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """Rows of a head.

    Attributes:
        ids: the tokens that they are for, by name: what may follow a text, and a text's end.
        rows: (ids, hidden), in the order of `ids`, in the dtype that the head is stored in.
        vocabulary: rows of the whole head.
        made_for: what tells its checkpoint from others, see `fingerprint`.
        card: how it came about; values that JSON can hold.
    """

    ids: Mapping[str, int]
    rows: Tensor
    vocabulary: int
    made_for: str
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Decision:
        """Read a decision.

        Args:
            path: the file, or the folder that training wrote it to.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is something else, or damaged.
            TypeError: the path is none.
        """
        file = _file(path)
        try:
            with safe_open(file, framework="pt") as stored:
                known = stored.metadata() or {}
                rows = stored.get_tensor(_ROWS) if _ROWS in stored.keys() else None  # noqa: SIM118
            if known.get("format") != _FORMAT or rows is None:
                raise ValueError("it is another safetensors file")
            return cls(
                ids=json.loads(known["ids"]),
                rows=rows,
                vocabulary=int(known["vocabulary"]),
                made_for=known["made_for"],
                card=json.loads(known["card"]),
            )._checked()
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is no decision that can be read ({shown(str(error))}); {_REMEDY}"
            ) from error

    def to_bytes(self) -> bytes:
        """Return what a file of it holds."""
        metadata = {
            "format": _FORMAT,
            "ids": json.dumps(dict(self.ids)),
            "vocabulary": str(self.vocabulary),
            "made_for": self.made_for,
            "card": json.dumps(dict(self.card)),
        }
        return save({_ROWS: self.rows.cpu().contiguous()}, metadata)

    def over(self, weights: Weights, known_ids: Mapping[str, int], source: object) -> Weights:
        """Return weights in which these rows take the place of the head's own.

        Args:
            weights: those that the decision was made for.
            known_ids: the ids of its tokens in the checkpoint's tokenizer, by name.
            source: the decision's place, for messages.

        Raises:
            ValueError: it was made for another checkpoint, or for other ids.
        """
        shape = weights.tensors[HEAD].shape
        if shape != (self.vocabulary, self.rows.shape[1]):
            raise ValueError(
                f"{source} was learnt for a head of {self.vocabulary} x {self.rows.shape[1]}, and "
                f"{weights.source} has one of {' x '.join(map(str, shape))}; {_TEACH}"
            )
        other = {name: id_ for name, id_ in self.ids.items() if known_ids.get(name) != id_}
        if other:
            raise ValueError(
                f"{source} takes {', '.join(f'{n} for id {i}' for n, i in other.items())}, which "
                f"the tokenizer of {weights.source} does not; {_TEACH}"
            )
        if fingerprint(weights, tuple(self.ids.values())) != self.made_for:
            raise ValueError(
                f"{source} was learnt on another checkpoint than {weights.source}"
                f"{self._learnt_on()}: what it says about that one's states means nothing here; "
                f"{_TEACH}"
            )
        return weights.changed(HEAD, partial(_replaced, ids=self.ids, rows=self.rows))

    def _learnt_on(self) -> str:
        name = self.card.get("checkpoint")
        return f" ({shown(name)})" if isinstance(name, str) else ""

    def _checked(self) -> Decision:
        good = isinstance(self.ids, dict) and self.rows.ndim == 2 and self.rows.is_floating_point()
        good = good and isinstance(self.card, dict) and len(self.ids) == len(self.rows)
        if not good or not all(
            isinstance(i, int) and 0 <= i < self.vocabulary for i in self.ids.values()
        ):
            raise ValueError("ids and rows do not fit each other")
        if not self.rows.isfinite().all():
            raise ValueError("its rows hold values that are no finite numbers")
        return self


_TEACH = "learn one for this checkpoint, which takes minutes: docs/training.md"


def fingerprint(weights: Weights, ids: Sequence[int]) -> str:
    """Return what tells the decoder of one checkpoint from that of another.

    It looks at some rows of the head and one of each layer, and at none that a decision replaces.
    The same weights in another of the dtypes that a checkpoint is stored in give the same.

    Args:
        weights: the checkpoint's.
        ids: rows of the head that count for nothing.
    """
    layers = sorted(n for n in weights.tensors if n.endswith(_LAYER) and "vit_model" not in n)
    read = weights.read([HEAD, *layers])
    head = read[HEAD]
    places = range(0, len(head), max(1, len(head) // _SAMPLES))
    rows = [head[place] for place in places if place not in ids]
    rows += [read[name][0] for name in layers]
    values = torch.cat([row.to(torch.bfloat16) for row in rows])
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()


def _replaced(head: Tensor, ids: Mapping[str, int], rows: Tensor) -> Tensor:
    # A private copy of the file's pages: only those change in which these rows lie.
    head[list(ids.values())] = rows.to(head.dtype)
    return head


def _file(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"decision must be a path, got {shown(path)}; {_REMEDY}")
    file = Path(path).expanduser()
    if is_directory(file):
        file = file / DECISION_FILE
    require_file(file, _REMEDY)
    return file
