"""A sharded model is the same model, whatever number of processes holds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from picturebook.training.conversations import stories, write
from tests.builders import toy_bagel
from tests.sharded_training import Exact
from train import main
from training import decoder

ROOT = Path(__file__).parent.parent
CONFIGURATION = ROOT / "training" / "fsdp_8_gpus.yaml"


def flags(data: Path, output: Path, steps: int) -> list[str]:
    """Return the flags of a small training of the bundled model."""
    places = [f"--data={data}", f"--held-out={data}", f"--output={output}", "--device=cpu"]
    return [*places, f"--steps={steps}", "--batch-tokens=300", "--learning-rate=1e-3"]


def shared_by(processes: int, data: Path, output: Path, steps: int) -> list[str]:
    """Train in so many processes that share the model; return what was logged."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={CONFIGURATION}"]
    launch += [f"--num_processes={processes}", "--main_process_port=0"]
    done = subprocess.run(
        [*launch, "-m", "tests.sharded_training", *flags(data, output, steps)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return steps_of(done.stderr)


def steps_of(log: str) -> list[str]:
    return re.findall(r"(?:goes on after )?step \d+.*", log)


@pytest.fixture
def _another_precision() -> Iterator[None]:
    """Let this process compute in float32, though others in it have chosen bfloat16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_another_precision")
@pytest.mark.slow  # four processes import everything
def test_two_processes_that_share_a_model_learn_what_one_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And one goes on from where both were: a state belongs to no number of processes.

    All see the same conversation, so that one process alone takes the same steps.
    """
    monkeypatch.setattr(decoder, "Accelerator", Exact)
    caplog.set_level("INFO", logger="auto_interleaved.training")
    data = write(tmp_path / "data", stories(Random("tests of sharding")), 1)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for steps, processes in ((2, 2), (3, 1)):
        caplog.clear()
        assert main(flags(data, alone, steps)) == 0
        told = steps_of(caplog.text)
        assert len(told) == steps  # before the first and at the end, and where it goes on from
        assert shared_by(processes, data, shared, steps) == told
        parts = list((shared / "state").rglob("*.distcp"))
        assert len(parts) == 2 * processes  # each process wrote its own of weights and optimiser
    one, other = (load_file(folder / "model.safetensors") for folder in (alone, shared))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_the_configuration_for_8_gpus_is_one_that_accelerate_knows() -> None:
    configuration = load_config_from_file(str(CONFIGURATION))
    assert configuration.num_processes == 8
    wrapped = configuration.fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    assert wrapped in {type(module).__name__ for module in toy_bagel().modules()}


def test_every_line_of_it_is_explained() -> None:
    lines = CONFIGURATION.read_text().splitlines()
    settings = {n for n, line in enumerate(lines) if line.strip() and line.strip()[0] != "#"}
    for number in settings - {n + 1 for n in settings}:  # the first of lines that stand together
        if lines[number].strip() != "fsdp_config:":
            assert lines[number - 1].strip().startswith("#"), lines[number]
    assert yaml.safe_load(CONFIGURATION.read_text())["fsdp_config"]["fsdp_version"] == 2
