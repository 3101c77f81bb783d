"""The published inferencer's contexts: dictionaries that calls change, a context in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modeling.context import Context
from modeling.published.cache import NaiveCache
from modeling.published.layout import counts

_NAMES = ("kv_lens", "ropes", "past_key_values")


def new_dictionary(num_layers: int) -> dict[str, Any]:
    """Return a context of one sample that has read nothing, for a decoder of `num_layers`."""
    cache = NaiveCache(num_layers)
    cache.hold(
        [Context.empty(num_layers)]
    )  # one that copies share, so that they are known as equal
    return {"kv_lens": [0], "ropes": [0], "past_key_values": cache}


def value_in(holder: Mapping[str, Any] | Context) -> Context:
    """Return the context that a dictionary stands for; a context stands for itself.

    Raises:
        TypeError: if it is neither.
        ValueError: if an entry is missing, its entries contradict one another, or it holds
            several samples.
    """
    if isinstance(holder, Context):
        return holder
    if not isinstance(holder, Mapping):
        raise TypeError(
            f"a context must be what init_gen_context() returned, got {type(holder).__name__}"
        )
    missing = [name for name in _NAMES if name not in holder]
    if missing:
        raise ValueError(
            f"a context lacks {', '.join(missing)}; begin with what init_gen_context() returns"
        )
    lengths = counts("kv_lens", holder["kv_lens"])
    if len(lengths) != 1:
        raise ValueError(
            f"a context must hold one sample, got {len(lengths)} in kv_lens; for several at once "
            "use the model's own prepare_*, forward_cache_update_* and generate_* calls"
        )
    [position] = counts("ropes", holder["ropes"], 1)
    cache = holder["past_key_values"]
    if not isinstance(cache, NaiveCache):
        raise TypeError(f"past_key_values must be a NaiveCache, got {type(cache).__name__}")
    [context] = cache.contexts(lengths)
    return replace(context, position=position)


def put(value: Context, holder: Any) -> Any:
    """Put a new value where the old one was held, and return the holder.

    A context cannot be changed; whoever gave one gets the new one.
    """
    if isinstance(holder, Context):
        return value
    holder["kv_lens"], holder["ropes"] = [value.length], [value.position]
    holder["past_key_values"].hold([value])
    return holder
