"""The command `page`: what it takes, and what it refuses before it loads anything."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from auto_interleaved.terminal.command_line import run
from auto_interleaved.terminal.page import PageRequest


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is loaded")

    assert run(["page", *words], load) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a prompt"], "a prompt"),
        (["--port", "99999"], "--port must be from 0 to 65535, got 99999"),
        (["--api-key", "\x07"], "--api-key must be printable"),
        (["--max-pixels", "0"], "--max-pixels must be at least 1, got 0"),
        (["--max-answers", "3"], "--max-answers"),
        (["--device", "tpu9"], "--device"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, *words)


def test_others_are_let_in_by_a_key_only(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="gradio is in requirements-page.txt")
    assert "--api-key is needed" in refused(capsys, "--host", "0.0.0.0")


def test_what_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("auto_interleaved.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    message = refused(capsys)
    assert 'page needs gradio, which is not installed: pip install "auto-inter' in message


def test_it_is_for_this_machine_alone_if_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTO_INTERLEAVED_API_KEY", "from the environment")
    request = PageRequest.read([])
    assert (request.host, request.port) == ("127.0.0.1", 7860)
    assert request.keys == ["from the environment"]
    assert request.limits.max_pixels == 2**25


def test_its_help_names_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["page", "--help"], lambda: None) == 0
    told = capsys.readouterr().out
    for flag in ("--model", "--host", "--port", "--api-key", "--max-body", "--max-context-memory"):
        assert flag in told
    assert "--max-answers" not in told
