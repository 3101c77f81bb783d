"""Every command of docs/protocols, run on the bundled model up to the judge's door."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auto_interleaved.layouts.check import main as check
from auto_interleaved.terminal.command_line import run
from data.protocols import PROTOCOLS
from tests.bundled import bundled

PAGES = Path(__file__).parents[1] / "docs" / "protocols"
PROMPT = "Write a short story about a robot's adventure in space with illustrations."
SMALL = ["--limit", "1", "--num-timesteps", "2", "--max-text-length", "24"]
LINES: dict[str, dict[str, Any]] = {
    "opening": {"total_uid": "1", "conversations": [{"input": [{"text": PROMPT, "image": None}]}]},
    "isg": {"id": "1", "Query": [{"type": "text", "content": PROMPT}]},
    "weave": {"id": "1", "turns": [PROMPT, "Draw a red circle."]},
    "risebench": {"index": "1", "category": "c", "instruction": "Draw a red circle.", "image": []},
    "unimmmu": {"id": "1", "prompt": PROMPT},
    "plain": {"id": "1", "prompt": PROMPT, "answer": "4"},
}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command on a page."""
    for block in page.read_text().split("```sh\n")[1:]:
        yield shlex.split(block.split("```")[0].replace("\\\n", " "))


ALL = [(page.stem, command) for page in sorted(PAGES.glob("*.md")) for command in commands(page)]


def test_each_preset_has_a_page_with_a_command() -> None:
    assert {name for name, _ in ALL} == set(PROTOCOLS)
    assert {page.stem for page in PAGES.glob("*.md")} == {*PROTOCOLS, "README"}
    index = (PAGES / "README.md").read_text()
    assert all(f"[{name}]({name}.md)" in index for name in PROTOCOLS)


@pytest.mark.parametrize(("name", "command"), ALL)
def test_a_command_leads_to_the_judge(
    name: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = command
    assert program == "auto-interleaved"
    value = dict(zip(words, words[1:], strict=False))
    layout, model = value["--layout"], value["--model"]
    Path(value["--prompts"]).write_text(json.dumps([LINES[layout]]))
    blocks = ["--max-interleaved-blocks", "2"] if name in ("every-block", "twiff") else []
    assert run([*words, *SMALL, *blocks], lambda *_, **__: bundled()) == 0
    looked_at = [layout, f"results_{layout}", "--prompts", "data.json", "--model", model]
    assert check(looked_at) == 0
