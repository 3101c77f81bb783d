"""Names of tensors: what wrappers put before and between their parts is taken away."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

ROOTS = (
    "language_model",
    "vit_model",
    "connector",
    "time_embedder",
    "vae2llm",
    "llm2vae",
    "latent_pos_embed",
    "vit_pos_embed",
)
"""The first part of every tensor's name in a BAGEL model."""

TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")
"""The fixed position tables, which a file may leave out: they are computed."""

# DistributedDataParallel, torch.compile, FSDP and activation checkpointing wrap any module; a class
# of one's own that holds a whole model stands before everything.
_ANYWHERE = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
_BEFORE = ("model", "bagel", "bagel_model", "_model", "net", "state_dict")


def plain(name: str) -> str:
    """Return a tensor's name without what wrappers added; a name of something else as it is."""
    parts = [part for part in name.split(".") if part not in _ANYWHERE]
    start = 0
    while start < len(parts) and parts[start] in _BEFORE:
        start += 1
    if start < len(parts) and parts[start] in ROOTS:
        return ".".join(parts[start:])
    return name


def plain_names(names: Iterable[str], source: object) -> MappingProxyType[str, str]:
    """Map plain names to the names as they are stored.

    Raises:
        ValueError: two stored names mean the same tensor.
    """
    stored: dict[str, str] = {}
    for name in names:
        other = stored.setdefault(plain(name), name)
        if other != name:
            raise ValueError(
                f"{source} holds the same tensor twice, as {other} and as {name}; save the model "
                "again with one of them"
            )
    return MappingProxyType(stored)
