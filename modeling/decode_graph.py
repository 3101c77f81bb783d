"""One token's way through the decoder as fixed work: repeated by a CUDA device, or compiled.

The step of `feed_token` is new work for every token: Python starts each kernel, and the slots that
attention reads grow by one. Here id, position and slot lie on the device, keys and values enter a
store's buffers by index, and attention reads a bucket of slots of which only the device knows how
many count. Such a step is recorded once and repeated for all tokens that lie in the bucket. On a
CPU, where there is nothing to record, torch.compile makes one piece of code of it.

The choice of the next token stays outside. The host runs ahead of the device, so that its few
kernels cost no time, and every generator keeps its own account of what was drawn.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from modeling.attention import Fixed, Projected, attend
from modeling.cuda_graph import Work, can_repeat, captured, is_plain, tell_once
from modeling.inference import inference
from modeling.kv_store import Tail

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

Feed = Callable[[Tail, Tensor], Tensor]
Buffers = Sequence[tuple[Tensor, Tensor]]  # keys and values of every layer
Step = Callable[["Bagel", "_Inputs", Buffers], Tensor]
Backend = str | Callable[..., Any]  # of torch.compile

BUCKET = 512  # slots; a recorded step reads a multiple of them
# Tokens before the first recording, which costs as much as it saves over so many: 60 to 120 ms
# against 12 a token (7B in bfloat16 on an H200).
PATIENCE = 8
_HALVES = (torch.bfloat16, torch.float16)


def fastest_feed(model: Bagel) -> Feed:
    """Return the fastest way for ids to enter a model, as far as the model permits."""
    if can_repeat(model.language_model):
        return GraphFeed(model)
    if model.language_model.compiled and is_plain(model.language_model, "cpu"):
        return compiled_feed(model)
    return partial(feed_token, model)


def compiled_feed(model: Bagel) -> GraphFeed:
    """Return one that feeds a token by one piece of code, as soon as a store has buffers."""
    return GraphFeed(model, tried, patience=0, step=compiled_step())


@inference
def feed_token(model: Bagel, tail: Tail, token: Tensor) -> Tensor:
    """Feed a (1,) id into a tail of one slot; return (vocabulary,) logits of what follows."""
    [(hidden, _)] = model.extend([(tail, model.text_block(token))])
    return model.logits(hidden)[0]


class GraphFeed:
    """Feeds tokens as `feed_token` does, by steps that are recorded once a bucket.

    It owns the recordings and lives as long as one text. They read and write the buffers that the
    store had when they were made. These are known by weak references: a recording does not keep
    them, and is never repeated once the store has grown out of them.

    Args:
        model: the model.
        record: turns work into its repetition; the default needs CUDA.
        patience: how many tokens to feed before the first recording.
        step: what is recorded.
    """

    def __init__(
        self,
        model: Bagel,
        record: Callable[[Work, torch.device], Work] | None = None,
        patience: int = PATIENCE,
        step: Step | None = None,
    ) -> None:
        self._model = model
        self._step = inference(_step if step is None else step)
        self._record = captured if record is None else record
        self._patience: float = patience
        self._inputs = _Inputs.on(model.device)
        self._repeats: dict[int, Work] = {}
        self._known: list[weakref.ref[Tensor]] = []

    def __call__(self, tail: Tail, token: Tensor) -> Tensor:
        """Feed a (1,) id into a tail of one slot; return (vocabulary,) logits of what follows.

        The next call may overwrite them.
        """
        self._patience -= 1
        # Until every layer has written there are no buffers.
        buffers = tail.store.buffers() if self._patience < 0 else []
        if buffers:
            self._inputs.set(tail, token)
            repeat = self._step_for(tail.start, buffers)
            if repeat is not None:
                return repeat()
        return feed_token(self._model, tail, token)

    def _step_for(self, slot: int, buffers: Buffers) -> Work | None:
        """Return the step of the bucket that a slot lies in, or None if none can be recorded."""
        self._forget_all_but(buffers)
        capacity = buffers[0][0].shape[0]
        bucket = min((slot // BUCKET + 1) * BUCKET, capacity)
        if bucket not in self._repeats:
            try:
                self._repeats[bucket] = self._recorded(slot, bucket, buffers)
            except Exception as error:
                tell_once("text is written", error)
                self._patience = math.inf
        return self._repeats.get(bucket)

    def _recorded(self, slot: int, bucket: int, buffers: Buffers) -> Work:
        views = [(keys[:bucket], values[:bucket]) for keys, values in buffers]
        for pair in views:
            for buffer in pair:
                # Nobody living holds these slots. They count for nothing, but nothing times what
                # is no number, as memory may hold at first, is no number either.
                buffer[slot:] = 0
        work = partial(self._step, self._model, self._inputs, views)
        return self._record(work, self._inputs.slot.device)

    def _forget_all_but(self, buffers: Buffers) -> None:
        """Drop the recordings if they were made over other buffers than these."""
        flat = [buffer for pair in buffers for buffer in pair]
        known = [reference() for reference in self._known]
        if len(known) != len(flat) or any(a is not b for a, b in zip(known, flat, strict=True)):
            self._repeats.clear()
            self._known = [weakref.ref(buffer) for buffer in flat]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What differs from token to token: (1,) integers each, which stay where they are."""

    token: Tensor
    position: Tensor
    slot: Tensor

    @classmethod
    def on(cls, device: torch.device) -> _Inputs:
        return cls(*(torch.zeros(1, dtype=torch.long, device=device) for _ in range(3)))

    def set(self, tail: Tail, token: Tensor) -> None:
        self.token.copy_(token)
        self.position.fill_(tail.position)
        self.slot.fill_(tail.start)


def _step(model: Bagel, inputs: _Inputs, buffers: Buffers) -> Tensor:
    """Feed the token of the inputs; every number that changes is read on the device."""
    return _fed(model, inputs, Slots.of(buffers, inputs.slot))


def _whole_step(model: Bagel, inputs: _Inputs, buffers: Buffers) -> Tensor:
    """Do the same, for a compiler that makes one piece of code of it."""
    return _fed(model, inputs, FixedSlots.of(buffers, inputs.slot))


def _fed(model: Bagel, inputs: _Inputs, slots: Slots) -> Tensor:
    decoder = model.language_model.model
    rotary = decoder.rotary(inputs.position)
    hidden, _ = decoder(model.embed(inputs.token), None, (rotary, None), slots)
    return model.logits(hidden)[0]


def tried(work: Work, device: torch.device) -> Work:
    """Return work as it is, done once: it may have to be compiled, and nothing to be recorded."""
    del device
    work()
    return work


@cache
def compiled_step(backend: Backend = "inductor") -> Step:
    """Return the step as one piece of code, for any number of slots.

    Args:
        backend: of torch.compile.
    """
    # A wrapper in C++ around its loops: one in Python costs a quarter of a small model's token.
    options: dict[str, Any] | None = {"cpp_wrapper": True} if backend == "inductor" else None
    compiled = torch.compile(_whole_step, fullgraph=True, backend=backend, options=options)

    def step(model: Bagel, inputs: _Inputs, buffers: Buffers) -> Tensor:
        for pair in buffers:
            for buffer in pair:
                torch._dynamo.maybe_mark_dynamic(buffer, 0)
        return compiled(model, inputs, buffers)

    return step


@dataclass(frozen=True, eq=False, kw_only=True)
class Slots:
    """One token over a bucket of slots, of which it sees all up to its own.

    Attributes:
        buffers: each layer's keys and values, (slots, key/value heads, head_dim).
        slot: (1,), the token's own.
        seen: (1,) int32, how many slots it sees.
        mask: (1, slots), True for those.
        query_ends: (2,) int32, where the queries begin and end: 0 and 1.
        slot_ends: (2,) int32, where the slots begin and end.
    """

    buffers: Buffers
    slot: Tensor
    seen: Tensor
    mask: Tensor
    query_ends: Tensor
    slot_ends: Tensor

    @classmethod
    def of(cls, buffers: Buffers, slot: Tensor) -> Self:
        """Work out once what every layer needs, without a look at the slot's number."""
        size = buffers[0][0].shape[0]
        ends = torch.arange(2, dtype=torch.int32, device=slot.device)
        return cls(
            buffers=buffers,
            slot=slot,
            seen=(slot + 1).int(),
            mask=(torch.arange(size, device=slot.device) <= slot)[None],
            query_ends=ends,
            slot_ends=ends * size,
        )

    def attend(
        self, layer: int, text: Projected, latent: Projected | None
    ) -> tuple[Tensor, Tensor | None]:
        """Put the token's key and value into its slot, then attend over what it sees."""
        assert latent is None, "only text is written token by token"
        keys, values = self.buffers[layer]
        keys.index_copy_(0, self.slot, text.key)
        values.index_copy_(0, self.slot, text.value)
        if text.query.is_cuda and text.query.dtype in _HALVES:
            return self._flash(text.query, keys, values).flatten(1), None
        return attend(text.query, keys, values, mask=self.mask).flatten(1), None

    def _flash(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # A mask would keep SDPA from the kernel that spreads one query's keys over the device;
        # this one is told by the device how far to read. Torch's own door to it, `varlen_attn`,
        # lets that number through only since 2.12; the operator behind takes it in all versions.
        attended: Tensor = torch.ops.aten._flash_attention_forward(
            query,
            keys,
            values,
            self.query_ends,
            self.slot_ends,
            1,
            keys.shape[0],
            0.0,
            False,
            False,
            seqused_k=self.seen,
        )[0]
        return attended


class FixedSlots(Slots, Fixed):
    """Slots of a step whose layers are compiled as one."""
