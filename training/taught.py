"""What teaching leaves: a whole checkpoint, or a few rows or an adapter with a card beside them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from modeling.checkpoint.files import INDEX_SUFFIX
from modeling.checkpoint.settings import SETTINGS_FILE
from training.states import replace_file

logger = logging.getLogger("auto_interleaved.training")

CARD_FILE = "README.md"
TAUGHT_PROTOCOL = "native"  # what conversations teach
_KEPT = ("*.json", "merges.txt", "vocab.json", "ae.safetensors")  # beside the new weights


def complete(
    checkpoint: Path, weights: Path, output: Path, protocol: str = TAUGHT_PROTOCOL
) -> None:
    """Put new weights in their place beside what teaching leaves as it is.

    The new checkpoint says how it asks for pictures.

    Args:
        checkpoint: the directory that it began from.
        weights: a folder of new weights, which is gone afterwards.
        output: the new checkpoint's directory.
        protocol: by which it asks.
    """
    for pattern in _KEPT:
        for file in checkpoint.glob(pattern):
            if not file.name.endswith(INDEX_SUFFIX):
                replace_file(output / file.name, partial(shutil.copyfile, file))
    path = output / SETTINGS_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_text(path, json.dumps({**known, "protocol": protocol}, indent=1) + "\n")
    new = {file.name for file in weights.iterdir()}
    for name in sorted(new):  # shards first, the index that names them last
        replace_file(output / name, partial(os.replace, weights / name))
    for old in output.glob("model*.safetensors*"):
        if old.name not in new:
            old.unlink()
    weights.rmdir()
    logger.info("saved %s", output)


def write_card(output: Path, title: str, load: str, facts: Mapping[str, Any]) -> None:
    """Write a page about what was learnt.

    Args:
        output: the directory.
        title: what it is.
        load: the keyword by which it is loaded.
        facts: what is known of how it came about.
    """
    base = str(facts["checkpoint"])
    lines = [
        f"# {title}",
        "",
        "```python",
        "AutoInterleavedInferencer.from_pretrained(",
        f"    {json.dumps(base)}, {load}={json.dumps(str(output))}",
        ")",
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items()),
    ]
    content = "\n".join(lines) + "\n"
    write_text(output / CARD_FILE, content)


def write_text(path: Path, content: str) -> None:
    """Put a text in its place at once."""
    replace_file(path, lambda beside: beside.write_text(content, encoding="utf-8"))


def _shown(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value)
    return words.replace("|", "\\|").replace("\n", " ")
