"""The command for the day a GPU is there: steps cannot hurt one another, and nothing is lost."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, options, recorded
from modeling.bagel import Bagel
from tests.test_benchmarks import toy


def step(name: str, code: str, seconds: float = 60) -> gpu.Step:
    return gpu.Step(name=name, command=("-c", code), seconds=seconds)


GOOD = step("good", "print('| figures |')")
BAD = step("bad", "print('so far'); raise ValueError('a wrong shape')")
CRASH = step("crash", "import os; os.abort()")
LONG = step("long", "import time; print('begun'); time.sleep(60)", seconds=1)


def test_what_fails_crashes_or_hangs_costs_no_other_step_anything(tmp_path: Path) -> None:
    outcomes = gpu.run_all([BAD, CRASH, LONG, GOOD], tmp_path, minutes=5)
    states = [outcome.state for outcome in outcomes]
    assert states == ["failed, exit code 1", "failed, exit code -6", "ran out of time", "passed"]
    page = (tmp_path / "summary.md").read_text()
    for said in ("so far", "ValueError: a wrong shape", "Fatal Python error: Aborted", "begun"):
        assert said in page
    assert (tmp_path / "good.txt").read_text() == "| figures |\n"


def test_steps_that_no_time_is_left_for_are_left_out_and_named(tmp_path: Path) -> None:
    [outcome] = gpu.run_all([GOOD], tmp_path, minutes=0)
    assert not outcome.failed
    assert "| good | left out | 0 |" in (tmp_path / "summary.md").read_text()


def test_every_step_is_a_module_that_can_be_run() -> None:
    for made in gpu.steps_for("7b", "cuda", "bfloat16"):
        assert made.command[0] == "-m"
        module = made.command[1]
        assert module == "pytest" or Path(*module.split(".")).with_suffix(".py").is_file()


def test_a_rehearsal_asks_for_no_picture_that_the_model_cannot_draw() -> None:
    for model, asked in (("7b", True), ("bundled", False), ("mid", False)):
        words = [word for made in gpu.steps_for(model, "cpu", "float32") for word in made.command]
        assert ("--side" in words) == asked


def test_an_unknown_step_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["gpu", "--output", str(tmp_path), "--only", "decode,flaw"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit):
        gpu.main()
    assert "there is no step flaw; there are tests, " in capsys.readouterr().err


def test_where_nothing_is_recorded_both_ways_agree_wholly() -> None:
    text = recorded.compare_texts(toy().model, 8, repeats=1)
    picture = recorded.compare_pictures(toy(), 4, repeats=1)
    assert (text.difference, picture.difference) == (0, 0)
    assert all(line.startswith("met") for line in recorded.verdicts([text, picture]))


def test_options_that_cannot_be_had_are_told_and_the_others_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(options, "compile_layers", lambda model: None)  # minutes, tested elsewhere
    costs, missing = options.measure(toy(), length=20, repeats=1)
    assert [cost.name for cost in costs] == ["as it is", "TaylorSeer", "compiled"]
    same, extrapolated, compiled = (cost.difference for cost in costs)
    assert same == compiled == 0 < extrapolated < 0.5
    assert len(missing) == 1
    assert "fp8" in missing[0]
    assert torch.isfinite(torch.tensor([cost.step for cost in costs])).all()


def test_few_bits_are_measured_beside_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(model: Bagel, kind: str, device: torch.device) -> None:
        assert (kind, device.type) == ("nf4", "cpu")
        for parameter in model.language_model.model.layers.parameters():
            parameter.data = parameter.data.to(torch.float8_e5m2).to(parameter.dtype)

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "bitsandbytes", None)
        costs, missing = options.measure(toy(), length=20, repeats=1, quantize="nf4")
    assert [cost.name for cost in costs] == ["as it is"]
    assert "pip install bitsandbytes" in missing[0]
    monkeypatch.setattr(options, "quantize_layers", rounded)
    inferencer = copy.deepcopy(toy())
    costs, missing = options.measure(inferencer, length=20, repeats=1, quantize="nf4")
    assert [cost.name for cost in costs] == ["as it is", "nf4"]
    assert not missing
    assert 0 < costs[1].difference < 1
