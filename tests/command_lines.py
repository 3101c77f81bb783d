"""What tests of the command line share: a checkpoint that draws, a run and what it showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from auto_interleaved_inference import main
from modeling.checkpoint.settings import SETTINGS_FILE
from tests.checkpoints import change_json, copy_checkpoint, golden_settings

SHORT: dict[str, Any] = {
    "max_interleaved_blocks": 2,
    "max_text_length": 6,
    "num_timesteps": 3,
    "seed": 3,
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


SHORT_FLAGS = [word for name, value in SHORT.items() for word in (flag(name), str(value))]


@dataclass(frozen=True)
class Ran:
    """What a run left on the terminal."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command line and reads what it showed."""

    def run_and_read(*arguments: str) -> Ran:
        code = main(arguments)
        shown = capsys.readouterr()
        return Ran(code, shown.out, shown.err)

    return run_and_read


def drawing_checkpoint(directory: Path) -> str:
    """Make a checkpoint that draws a small picture after every text."""
    copy_checkpoint(directory)
    (directory / SETTINGS_FILE).write_text("{}")
    own = {"protocol": "every-block", "image_shape": [32, 48]}
    change_json(directory / SETTINGS_FILE, **own, **golden_settings())
    return str(directory)
