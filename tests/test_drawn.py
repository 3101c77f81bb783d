"""While a model is taught it tells stories, on a page that grows."""

from __future__ import annotations

from html import escape
from pathlib import Path
from random import Random

import pytest

from data.output import InterleavedOutput
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from picturebook.training.conversations import stories, write
from train import main
from training.conversations import read_conversations
from training.drawn import Drawn, prompt_of
from training.task import FineTuning


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, stories(Random("tests of stories meanwhile")), 3)
    return folder


def test_stories_are_told_every_so_many_steps(data: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "other", stories(Random("others")), 1)
    flags = [f"--data={data}", f"--held-out={held_out}", f"--output={tmp_path / 'taught'}"]
    size = ["--device=cpu", "--batch-tokens=300", "--steps=3", "--draw-every=2"]
    assert main([*flags, *size]) == 0
    folder = tmp_path / "taught" / "stories"
    assert sorted(path.name for path in folder.iterdir()) == ["000002_0.html", "index.html"]
    told = InterleavedOutput.load(folder / "000002_0.html")
    assert told.images
    page = (folder / "index.html").read_text()
    assert "After 2 steps" in page
    assert str(told[0]).split("\n")[0] in page
    [asked] = [m for m in read_conversations(held_out)[0].messages if m.role == "user"]
    assert escape(str(asked.parts[0])) in page
    assert page.count("<img") == len(told.images)


def test_the_page_has_the_newest_first_and_what_an_earlier_run_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(BUNDLED_MODEL)
    conversations = read_conversations(data)[:1]
    monkeypatch.setattr("training.drawn._OPTIONS", {"num_timesteps": 2, "max_images": 1})
    for step in (2, 4):
        drawn = Drawn(checkpoint, conversations, tmp_path, every=2)
        assert [drawn.is_due(number) for number in (1, step)] == [False, True]
        drawn.tell(step)
    page = (tmp_path / "index.html").read_text()
    assert page.index("After 4 steps") < page.index("After 2 steps")


def test_what_goes_wrong_there_does_not_end_training(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    checkpoint = load_checkpoint(BUNDLED_MODEL)
    Drawn(checkpoint, read_conversations(data), tmp_path / "file", every=1).tell(5)
    assert "no stories after step 5" in caplog.text


def test_a_prompt_is_what_is_said_before_the_first_answer(data: Path) -> None:
    conversation = read_conversations(data)[0]
    prompt = prompt_of(conversation)
    assert prompt is not None
    assert [message["role"] for message in prompt] == ["user"]
    assert prompt[0]["content"][0]["text"] == conversation.messages[0].parts[0]


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="draw_every must be at least 0"):
        FineTuning(checkpoint=BUNDLED_MODEL, data="x", output=Path("y"), draw_every=-1)
