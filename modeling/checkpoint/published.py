"""Whether a checkpoint is the published one, told by what is loaded and not by how it is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling.bagel import BagelConfig
from modeling.checkpoint.files import Location
from modeling.checkpoint.names import TABLES
from modeling.checkpoint.weights import Weights

# Owners and storage formats may stand around the name; anything else makes it another checkpoint.
_NAME = re.compile(
    r"(?:.*(?:--|/))?bagel[-_. ]?7b[-_. ]?mot"
    r"(?:[-_. ](?:b?fp?\d+|e\dm\d\w*|int\d|nf4|w?\d+-?bit|w\da\d+|bnb|gptq|awq|df11|dynamic|hf|"
    r"safetensors|main))*",
    re.IGNORECASE,
)

_PUBLISHED_DECODER = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}


def protocol_of(
    location: Location, config: BagelConfig, weights: Weights, settings: Mapping[str, Any]
) -> tuple[str, str]:
    """Choose the protocol by which a checkpoint asks for pictures.

    Args:
        location: where it lies; only what its directory is called after all links counts, so that
            every way of writing the path leads to the same answer.
        config: of its model.
        weights: its own tensors, without those of a base.
        settings: of the file beside them, and of the caller.

    Returns:
        The preset's name, and why it is that one.
    """
    if "protocol" in settings:
        return settings["protocol"], "the settings name it"
    name = _name(location.directory)
    if _NAME.fullmatch(name):
        return "bagel", f"its directory is called {name}"
    sizes = {key: getattr(config.llm_config, key) for key in _PUBLISHED_DECODER}
    # The published file holds the position tables; what training by its scripts saves does not.
    if sizes == _PUBLISHED_DECODER and weights.tensors.keys() >= set(TABLES):
        return "bagel", "it has the published sizes and tensors"
    return "native", "nothing says that it is the published checkpoint or names another"


def _name(directory: Path) -> str:
    """Return a directory's name, or that of the repository whose snapshot the hub put there."""
    directory = directory.resolve()
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name
    return directory.name
