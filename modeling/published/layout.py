"""Packed tensors: how several samples lie one after another, and what indexes may say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

Counts = tuple[int, ...]
Inputs = dict[str, Any]


def counts(name: str, values: Tensor | Iterable[Any], num_samples: int | None = None) -> Counts:
    """Read one whole number a sample, from a list or a tensor.

    Raises:
        TypeError: if they are no whole numbers.
        ValueError: if one is negative, or there are not as many as samples.
    """
    try:
        found = list(map(index, values.tolist() if isinstance(values, Tensor) else values))
    except TypeError:
        raise TypeError(
            f"{name} must be a list or tensor of whole numbers, got {str(values)[:80]}"
        ) from None
    if min(found, default=0) < 0:
        raise ValueError(f"{name} must be at least 0, got {str(found)[:80]}")
    if num_samples is not None and len(found) != num_samples:
        raise ValueError(
            f"{name} must have one entry for each of {num_samples} samples, got {len(found)}"
        )
    return tuple(found)


def integers(values: Iterable[int], dtype: torch.dtype = torch.int64) -> Tensor:
    """Return a tensor on the CPU, whatever the default device is."""
    return torch.tensor(list(values), dtype=dtype, device="cpu")


def sums(first: Counts, second: Counts) -> list[int]:
    """Add up two numbers of each sample."""
    return [a + b for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class Layout:
    """Samples one after another: what each has cached, then what is new of it.

    Attributes:
        cached: tokens of each sample that are in a cache.
        new: tokens of each sample that come now.
    """

    cached: Counts
    new: Counts

    def places(self) -> tuple[Tensor, Tensor]:
        """Return where cached tokens stand among all of them, and where new ones do."""
        sizes = integers(size for pair in zip(self.cached, self.new, strict=True) for size in pair)
        kind = torch.tensor([False, True], device="cpu").repeat(len(self.cached))
        is_new = kind.repeat_interleave(sizes)
        return (~is_new).nonzero().flatten(), is_new.nonzero().flatten()

    def check(self, query_indexes: Tensor | None, key_value_indexes: Tensor | None) -> None:
        """Refuse indexes that say otherwise; None says nothing.

        Raises:
            ValueError: if they do.
        """
        for name, given, place in (
            ("indexes of new tokens", query_indexes, self.places()[1]),
            ("packed_key_value_indexes", key_value_indexes, self.places()[0]),
        ):
            if given is not None and not torch.equal(given.cpu().flatten(), place):
                raise ValueError(
                    f"{name} do not fit lengths {list(self.cached)} in the cache and "
                    f"{list(self.new)} new: each sample's new tokens follow its cached ones; "
                    "pass on what prepare_* returned for these lengths"
                )


def in_order(places: Sequence[tuple[str, Tensor]], num_tokens: int) -> Tensor:
    """Return where each of `num_tokens` stands in a concatenation of parts.

    Args:
        places: by name, which tokens each part holds.
        num_tokens: of the whole sequence.

    Raises:
        ValueError: if the parts are not the whole, each token once.
    """
    joined = torch.cat([tensor.flatten() for _, tensor in places])
    order = joined.argsort()
    whole = torch.arange(num_tokens, device=joined.device)
    if len(joined) != num_tokens or not torch.equal(joined[order], whole):
        names = " and ".join(name for name, _ in places)
        raise ValueError(f"{names} must name each of {num_tokens} tokens once")
    return order


@dataclass(frozen=True)
class ImageBlocks:
    """One image block a sample: a marker, the image's tokens, a marker; all at one position."""

    cached: Counts
    ropes: Counts
    num_tokens: Counts
    new_token_ids: Mapping[str, int]

    @property
    def sizes(self) -> Counts:
        """Tokens of each block."""
        return tuple(count + 2 for count in self.num_tokens)

    @property
    def next_lengths(self) -> list[int]:
        """Tokens of each sample once its block is read."""
        return sums(self.cached, self.sizes)

    @property
    def next_positions(self) -> list[int]:
        """The next position of each sample then."""
        return [rope + 1 for rope in self.ropes]

    def texts(self) -> Inputs:
        """Return the markers' ids, and where they stand."""
        names = ("start_of_image", "end_of_image")
        markers = [self.new_token_ids[name] for name in names]
        return {
            "packed_text_ids": integers(markers * len(self.num_tokens)),
            "packed_text_indexes": self._is_marker().nonzero().flatten(),
        }

    def token_indexes(self) -> Tensor:
        """Return where the images' tokens stand."""
        return (~self._is_marker()).nonzero().flatten()

    def positions(self) -> Tensor:
        """Return every token's RoPE position."""
        return integers(self.ropes).repeat_interleave(integers(self.sizes))

    def lengths(self) -> Inputs:
        """Return the blocks' lengths."""
        return {"packed_seqlens": integers(self.sizes, torch.int32)}

    def cached_lengths(self) -> Inputs:
        """Return the lengths before them."""
        return {"key_values_lens": integers(self.cached, torch.int32)}

    def places(self) -> Inputs:
        """Return where new and cached tokens stand among all."""
        cached, new = Layout(self.cached, self.sizes).places()
        return {"packed_indexes": new, "packed_key_value_indexes": cached}

    def _is_marker(self) -> Tensor:
        ends = integers(self.sizes).cumsum(0)
        is_marker = torch.zeros(sum(self.sizes), dtype=torch.bool, device="cpu")
        is_marker[ends - 1] = True
        is_marker[ends - integers(self.sizes)] = True
        return is_marker
