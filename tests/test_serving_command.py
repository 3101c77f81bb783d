"""The command `serve`: what it takes, and what it refuses before it loads anything."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from auto_interleaved.serving.limits import Limits
from auto_interleaved.terminal.command_line import run
from auto_interleaved.terminal.serve import ServeRequest


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is loaded")

    assert run(["serve", *words], load) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot", "1"], "--prot"),
        (["a prompt"], "a prompt"),
        (["--port", "99999"], "--port must be from 0 to 65535, got 99999"),
        (["--port", "http"], "must be a whole number"),
        (["--host", "0.0.0.0"], "--api-key is needed"),
        (["--host", "::"], "--api-key is needed"),
        (["--api-key", " "], "--api-key must be printable"),
        (["--max-running", "0"], "--max-running must be at least 1, got 0"),
        (["--max-seconds", "-1"], "--max-seconds must be above 0"),
        (["--max-body", "lots"], "must be bytes"),
        (["--public-url", "javascript:x"], "--public-url must be http"),
        (["--device", "tpu9"], "--device"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, *words)


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert "cannot listen there (Address already in use)" in refused(capsys, "--port", port)


def test_what_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("auto_interleaved.serving.")]:
        if name.rpartition(".")[2] not in ("limits", "kept", "orders", "runs", "worker"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delattr("auto_interleaved.serving.server", raising=False)
    message = refused(capsys)
    assert "serve needs uvicorn, which is not installed" in message
    assert '"auto-interleaved-bagel[serve]"' in message


def test_every_limit_has_a_flag_of_its_name() -> None:
    request = ServeRequest.read(["--max-body", "3MiB", "--max-seconds", "1.5", "--max-tokens", "7"])
    assert request.limits == Limits(max_body=3 * 2**20, max_seconds=1.5, max_tokens=7)
    assert ServeRequest.read([]).limits == Limits()


def test_keys_come_by_argument_or_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServeRequest.read([]).keys == []
    monkeypatch.setenv("AUTO_INTERLEAVED_API_KEY", "from-outside")
    assert ServeRequest.read([]).keys == ["from-outside"]
    assert ServeRequest.read(["--api-key", "a", "--api-key", "b"]).keys == ["a", "b"]


def test_a_model_is_named_as_its_folder(tmp_path: Any) -> None:
    assert ServeRequest.read([]).name == "picturebook"
    assert ServeRequest.read(["--model", "someone/BAGEL-7B-MoT"]).name == "BAGEL-7B-MoT"
    assert ServeRequest.read(["--model", f"{tmp_path}/"]).name == tmp_path.name
    assert ServeRequest.read(["--served-name", "mine"]).name == "mine"


@pytest.mark.parametrize("words", [["--", "serve"], ["serve the tea"], ["-", "serve"]])
def test_a_prompt_may_still_begin_with_the_word(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    loaded: list[Any] = []

    def load(*given: Any, **_: Any) -> Any:
        loaded.append(given)
        raise OSError("enough")

    assert run(words, load) == 2
    told = capsys.readouterr().err
    assert ("enough" in told) == (words[0] != "-")


def test_help_tells_of_limits_and_of_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"], lambda *_: None) == 0
    told = capsys.readouterr().out
    for name in ("--host", "--port", "--api-key", "--model", "--max-running", "--drain-seconds"):
        assert name in told
    assert run(["--help"], lambda *_: None) == 0
    assert "auto-interleaved serve" in capsys.readouterr().out
