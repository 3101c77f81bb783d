"""What docs/training.md tells a reader to type does what it says, on the bundled model."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import auto_interleaved_inference
import train
from data.output import InterleavedOutput
from modeling.checkpoint import BUNDLED_MODEL
from picturebook.training import conversations
from tests.bundled import SAMPLING
from training import check, merge

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "python train.py": train.main,
    "python auto_interleaved_inference.py": auto_interleaved_inference.main,
    "python -m picturebook.training.conversations": conversations.main,
    "python -m training.check": check.main,
    "python -m training.merge": merge.main,
}
# How a command is made small.
SMALLER = {
    "--stories": "8",
    "--steps": "2",
    "--draw-every": "2",
    "--batch-tokens": "300",
    "--lora-rank": "2",
}


def commands() -> list[list[str]]:
    """Return every command of the page that its reader is told to run, as words."""
    blocks = re.findall(r"<!-- run -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def smaller(words: Sequence[str]) -> list[str]:
    """Return a command's words with small numbers."""
    changed = list(words)
    for place, word in enumerate(words):
        if word in SMALLER:
            changed[place + 1] = SMALLER[word]
    if "train.py" in words and "--plan" not in words:
        changed += ["--device", "cpu"]
        if "decision" not in words:
            absent = [name for name in ("--steps", "--batch-tokens") if name not in words]
            changed += [part for name in absent for part in (name, SMALLER[name])]
    if "auto_interleaved_inference.py" in words:
        changed += ["--num-timesteps", str(SAMPLING["num_timesteps"]), "--seed", "1"]
    if "--quantize" in words and importlib.util.find_spec("bitsandbytes") is None:
        place = changed.index("--quantize")
        del changed[place : place + 2]
    return changed


def ran(words: list[str]) -> int:
    for name, command in COMMANDS.items():
        known = name.split()
        if words[: len(known)] == known:
            return command(words[len(known) :])
    raise AssertionError(f"nobody knows how to run {' '.join(words)}")


@pytest.mark.slow  # four trainings, small ones
def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra `train`)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BAGEL-7B-MoT").symlink_to(BUNDLED_MODEL)
    torch.manual_seed(0)
    for words in commands():
        if words[0] == "accelerate":  # see test_sharded.py
            assert (PAGE.parent.parent / words[3]).is_file()
            words = ["python", *words[4:]]
        assert ran(smaller(words)) == 0, (" ".join(words), capsys.readouterr())
        if "auto_interleaved_inference.py" in words:
            told = InterleavedOutput.load("story.html")
            assert len(told.images) == 2, words
            assert told.finish_reason == "stop"
    assert Path("runs/adapter/stories/index.html").is_file()
    assert Path("BAGEL-drawing/model.safetensors").is_file()


def test_the_page_has_a_command_for_each_step() -> None:
    steps = re.findall(r"\n## (\d)\. .*?(?=\n## )", PAGE.read_text(), re.DOTALL)
    assert steps == list("123456")
    assert len(commands()) == 12
