"""Wherever training ends, there is a whole state to go on from, and its weights are numbers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.packing import SpecialIds, TextPart
from modeling.checkpoint import BUNDLED_MODEL
from picturebook.training.autoencoder import train_autoencoder
from tests.builders import toy_bagel
from train import main, run
from training.decoder import Batch, accelerator, not_finite, train_decoder
from training.plan import NotANumberError, Plan, require_device, require_output
from training.states import States, replace_file
from training.stopping import Interrupted
from training.taught import complete

SPECIAL = SpecialIds(bos=1, eos=2, start_of_image=3, end_of_image=4)


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def kill_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """End the process, as it were, at one of its file operations."""
    left = iter(range(number))

    def or_killed(operation: Callable[..., Any]) -> Callable[..., Any]:
        def performed(*arguments: Any, **settings: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return operation(*arguments, **settings)

        return performed

    for name in ("mkdir", "unlink", "rename", "rmdir", "fsync", "replace"):
        patch.setattr(os, name, or_killed(getattr(os, name)))


class Diary:
    """Saves and loads a number in three files; a state that misses one is not whole."""

    is_main_process = True

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def wait_for_everyone(self) -> None:
        """There is nobody else."""

    def save_state(self, folder: str) -> None:
        os.mkdir(folder)
        for name in "abc":
            Path(folder, name).write_text(str(self.number))

    def load_state(self, folder: str) -> None:
        [self.number] = {int(Path(folder, name).read_text()) for name in "abc"}


def states(place: Path, diary: Diary) -> States:
    return States(place, diary)  # type: ignore[arg-type]


def test_whatever_file_operation_is_the_last_a_whole_state_is_left(tmp_path: Path) -> None:
    """Between the removal of the old state and the naming of the new one there was none."""
    for operation in count():
        place = tmp_path / str(operation) / "state"
        place.parent.mkdir()
        states(place, Diary(1)).save()
        states(place, Diary(2)).save()
        try:
            with pytest.MonkeyPatch.context() as patch:
                kill_at(operation, patch)
                states(place, Diary(3)).save()
            break
        except Killed:
            pass
        found = Diary()
        assert states(place, found).exists()
        assert states(place, found).load()
        assert found.number in (2, 3)
        states(place, Diary(4)).save()  # and what is left over is in nobody's way
        assert states(place, found).load()
        assert found.number == 4
        assert [path.name for path in place.parent.iterdir()] == ["state"]
    assert operation > 10


def test_without_a_state_there_is_nothing_to_load_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    place = tmp_path / "state"
    assert not states(place, Diary()).load()
    states(place, Diary(1)).save()
    (place / "b").unlink()
    with pytest.raises(ValueError, match="another training, or a damaged one"):
        states(place, Diary()).load()
    os.rename(place, tmp_path / "elsewhere")
    place.write_text("")
    with pytest.raises(ValueError, match="must be the directory of a state"):
        states(place, Diary()).load()


def test_a_state_that_an_earlier_release_had_not_put_in_its_place_is_found(tmp_path: Path) -> None:
    states(tmp_path / "state.new", Diary(7)).save()
    (tmp_path / "state").mkdir()  # what was left of the one that was being removed
    found = Diary()
    assert states(tmp_path / "state", found).load()
    assert found.number == 7


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    replace_file(path, lambda beside: beside.write_text("old"))

    def fail(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, fail)
    assert path.read_text() == "old"


def test_weights_can_be_read_by_whoever_can_read_other_new_files(tmp_path: Path) -> None:
    for folder in ("base", "weights", "taught"):
        (tmp_path / folder).mkdir()
    usual = tmp_path / "usual"
    usual.touch()
    save_file({"a": torch.zeros(1)}, tmp_path / "weights" / "model.safetensors")
    complete(tmp_path / "base", tmp_path / "weights", tmp_path / "taught")
    replace_file(tmp_path / "new", partial(save_file, {"a": torch.zeros(1)}))
    for path in (tmp_path / "new", tmp_path / "taught" / "model.safetensors"):
        assert path.stat().st_mode == usual.stat().st_mode


def teach(place: Path, batches: Callable[[int], Iterator[Batch]], **plan: Any) -> torch.nn.Module:
    model = toy_bagel()
    optimizer = torch.optim.SGD(model.parameters())
    settings = {"steps": 4, "learning_rate": 1e-3, **plan}
    return train_decoder(
        model, [optimizer], batches, SPECIAL, Plan(**settings), place, accelerator("cpu")
    )


def lessons(first: int) -> Iterator[Batch]:
    for _ in range(first, 100):
        yield [[TextPart(ids=(5, 6, 7))]]


def saved_step(place: Path) -> int:
    return torch.load(place / "custom_checkpoint_0.pkl")["step"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_training_after_its_state_is_saved(tmp_path: Path, name: str) -> None:
    before = signal.getsignal(getattr(signal, name))
    begun = []

    def interrupted(first: int) -> Iterator[Batch]:
        begun.append(first)
        for step, batch in enumerate(lessons(first), start=first):
            if step == 2 and len(begun) == 1:
                signal.raise_signal(getattr(signal, name))
                raise AssertionError("the batch that was being made is not waited for")
            yield batch

    with pytest.raises(Interrupted, match=f"stopped by {name} after step 2 of 4"):
        teach(tmp_path / "state", interrupted)
    assert saved_step(tmp_path / "state") == 2
    assert signal.getsignal(getattr(signal, name)) is before
    teach(tmp_path / "state", interrupted)
    assert begun == [0, 2]
    assert saved_step(tmp_path / "state") == 4


def test_a_batch_that_cannot_be_made_costs_no_step_before_it(tmp_path: Path) -> None:
    def failing(first: int) -> Iterator[Batch]:
        for step, batch in enumerate(lessons(first), start=first):
            if step == 3:
                raise ValueError("a.jsonl, line 600: no such picture")
            yield batch

    with pytest.raises(ValueError, match="line 600"):
        teach(tmp_path / "state", failing)
    assert saved_step(tmp_path / "state") == 3


@pytest.mark.parametrize("save_every", [10.0, 1e-9])
def test_training_stops_at_the_first_loss_that_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    rate = Plan.rate
    monkeypatch.setattr(Plan, "rate", lambda self, step: 1e25 if step == 2 else rate(self, step))
    with pytest.raises(NotANumberError, match=r"step [34].* no finite number.*smaller --learn"):
        teach(tmp_path / "state", lessons, save_every=save_every, steps=50)
    assert saved_step(tmp_path / "state") <= 3
    weights = load_file(tmp_path / "state" / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_weights_that_are_no_numbers_are_named() -> None:
    model = toy_bagel()
    assert not_finite(model) is None
    model.llm2vae.bias.data[3] = float("inf")
    assert not_finite(model) == "llm2vae.bias"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rate=nan"], "learning_rate must be a number above 0 and at most 1, got nan"),
        (["--learning-rate=-1"], "learning_rate must be a number above 0"),
        (["--learning-rate=inf"], "learning_rate must be a number above 0"),
        (["--steps=0"], "steps must be at least 1, got 0"),
        (["--batch-tokens=0"], "batch_tokens must be at least 1"),
        (["--save-every=nan"], "save_every must be a number above 0"),
        (["--device=banana"], "device must be one like"),
        (["--checkpoint=nowhere"], "no checkpoint directory nowhere"),
    ],
)
def test_arguments_of_fine_tuning_are_checked_before_anything_is_read(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([f"--output={tmp_path}", "--device=cpu", f"--data={tmp_path}", *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--story-steps=-1"], "story_steps must be at least 0"),
        (["--story-steps=0", "--caption-steps=0"], "must not both be 0"),
        (["--vocab-size=10"], "vocab_size must be at least 261"),
        (["--pool=0"], "pool must be at least 1"),
        (["--start-from=nowhere"], r"start_from must be .* has no vocab\.json"),
    ],
)
def test_arguments_of_the_bundled_model_are_checked_before_anything_is_made(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([f"--output={tmp_path / 'new'}", "--device=cpu", *flags])
    assert not (tmp_path / "new").exists()


def test_results_go_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(NotADirectoryError, match="file is a file"):
            require_output(output)
    (tmp_path / "ema.safetensors").write_text("")
    with pytest.raises(ValueError, match=r"holds ema\.safetensors; name a new one"):
        main([f"--output={tmp_path}", f"--data={tmp_path}", "--device=cpu"])
    with pytest.raises(ValueError, match="must not be the checkpoint itself"):
        main([f"--output={BUNDLED_MODEL}", "--device=cpu"])


@pytest.mark.parametrize("device", ["", "meta", "cpu:3", "cuda:7"])
def test_a_device_is_one_that_is_here(device: str) -> None:
    with pytest.raises(ValueError, match="device must be"):
        require_device(device)


def test_the_command_line_tells_what_is_wrong_in_a_line_and_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--output={tmp_path}", f"--data={tmp_path}", "--device=cpu", "--learning-rate=nan"]
    monkeypatch.setattr("sys.argv", ["train.py", *flags])
    assert run() == 1
    message = "train.py: error: --learning-rate must be a number above 0 and at most 1, got nan\n"
    assert capsys.readouterr().err == message
    monkeypatch.setattr("sys.stderr", None)
    assert run() == 1


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # as processes of several name theirs
def test_an_interrupted_autoencoder_goes_on_where_it_was(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def pictures(*, seed: int, batch_size: int) -> Iterator[torch.Tensor]:
        begun.append(seed)
        yield torch.zeros(batch_size, 3, 64, 64)
        signal.raise_signal(signal.SIGTERM)
        yield torch.zeros(batch_size, 3, 64, 64)

    monkeypatch.setattr("picturebook.training.autoencoder._pictures", pictures)
    for step in (2, 4):
        with pytest.raises(Interrupted, match=f"SIGTERM after step {step} of 9"):
            train_autoencoder(tmp_path / "ae.safetensors", steps=9, batch_size=1, device=device)
        assert torch.load(tmp_path / "ae.training.pt")["step"] == step
    assert begun == [0, 2]


def test_the_autoencoder_is_trained_with_the_cores_of_those_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, seen = torch.get_num_threads(), []

    def pictures(*, seed: int, batch_size: int) -> Iterator[torch.Tensor]:
        while True:
            seen.append(torch.get_num_threads())
            yield torch.zeros(batch_size, 3, 64, 64)

    monkeypatch.setattr("picturebook.training.autoencoder._pictures", pictures)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    train_autoencoder(tmp_path / "ae.safetensors", steps=1, batch_size=1, device="cpu")
    assert seen[0] == 2 * threads
    assert torch.get_num_threads() == threads


def test_processes_wait_for_the_one_that_trains_the_autoencoder() -> None:
    """The usual half an hour ended the others on a busy machine, and with them all training."""
    assert accelerator("cpu").init_handler.timeout >= timedelta(days=1)
