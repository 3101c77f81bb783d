"""What data holds is told before anything is trained, and what is held out is not learnt."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from data.packing import LatentPart, TextPart
from modeling.checkpoint import Checkpoint
from tests.checkpoints import load_golden_checkpoint
from train import main as train
from training.check import main as check
from training.conversations import Conversation, read_conversations
from training.held_out import HeldOut, split
from training.lessons import Lessons
from training.measuring import Ruler, fitting
from training.tokenizer import special_ids

TEXT = {"type": "text", "text": "Here it is."}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_golden_checkpoint()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (90, 40), "red").save(tmp_path / "wide.png")
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    lines = [line(f"Draw {number}.", "wide.png") for number in range(8)]
    (tmp_path / "good.jsonl").write_text("\n".join(lines))
    return tmp_path


def line(prompt: str, *pictures: str) -> str:
    content = [TEXT, *({"type": "image", "path": name} for name in pictures), TEXT]
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    return json.dumps({"messages": messages})


def lessons(checkpoint: Checkpoint, *, skip_bad: bool = False) -> Lessons:
    _, following = special_ids(checkpoint.tokenizer)
    return Lessons(checkpoint, following, 4096, skip_bad=skip_bad)


def test_a_conversation_is_as_long_as_the_parts_that_it_becomes(
    checkpoint: Checkpoint, data: Path
) -> None:
    [first, *_] = read_conversations(data)
    [[[*parts]]] = lessons(checkpoint).once([first])
    length = Ruler(checkpoint).length(first)
    assert length.tokens == sum(part.length for part in parts)
    seen = [p for p in parts if not (isinstance(p, LatentPart) and p.time is not None)]
    assert length.positions == sum(p.length if isinstance(p, TextPart) else 1 for p in seen)


def test_pictures_are_measured_at_the_size_that_they_are_drawn_at(checkpoint: Checkpoint) -> None:
    ruler, rng = Ruler(checkpoint), Random(0)
    for _ in range(50):
        size = (rng.randint(1, 300), rng.randint(1, 300))
        drawn = checkpoint.vae_transform.resize_transform(Image.new("RGB", size))
        assert ruler.size(size) == drawn.size


def test_a_conversation_beyond_the_models_positions_is_refused_by_its_line(
    checkpoint: Checkpoint, data: Path
) -> None:
    (data / "long.jsonl").write_text(f"\n{line('word ' * 5000)}")
    good = read_conversations(data)
    with pytest.raises(ValueError, match=r"long\.jsonl, line 2: takes [\d,]+ positions"):
        fitting(good, Ruler(checkpoint)).good()
    assert len(fitting(good, Ruler(checkpoint)).good(skip_bad=True)) == 8


def test_the_check_tells_what_is_there_and_exits_by_whether_it_is_good(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check([str(data)]) == 0
    told = capsys.readouterr().out
    assert "lines: 8, of which 8 are good" in told
    assert "to learn: 16 texts, 8 pictures" in told
    assert "width x height: 64 x 32 (8)" in told
    assert "nothing is cut off" in told
    bad = data / "bad.txt"
    bad.write_text(f"{line('x', 'cut.png')}\n{{\n{line('x', 'gone.png')}\n{line('word ' * 3000)}")
    assert check([str(bad)]) == 1
    told = capsys.readouterr().out
    assert "bad: 3" in told
    assert all(f"line {number}: " in told for number in (2, 3, 4))
    assert check([str(bad), "--decode"]) == 1
    assert "line 1: must be a readable picture" in capsys.readouterr().out
    assert check([str(data / "nowhere")]) == 1
    assert "no file or directory" in capsys.readouterr().out


def test_a_picture_that_cannot_be_decoded_ends_training_or_is_left_out(
    checkpoint: Checkpoint, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "good.jsonl").write_text(f"{line('a', 'cut.png')}\n{line('b', 'wide.png')}")
    both = read_conversations(data)
    with pytest.raises(ValueError, match="line 1: must be a readable picture"):
        next(lessons(checkpoint).forever(both, 0))
    with caplog.at_level(logging.WARNING, logger="auto_interleaved.training"):
        batches = lessons(checkpoint, skip_bad=True).forever(both, 0)
        assert [len(next(batches)) for _ in range(3)] == [1, 1, 1]
    assert caplog.text.count("left out from here on") == 1
    with pytest.raises(ValueError, match="no conversation is left"):
        next(lessons(checkpoint, skip_bad=True).forever(both[:1], 0))


def places(conversations: list[Conversation]) -> set[str]:
    return {conversation.place for conversation in conversations}


@pytest.mark.parametrize(("share", "number"), [(0.25, 2), (0.01, 1), (0.99, 7)])
def test_a_share_that_is_held_out_is_always_the_same_and_never_learnt(
    data: Path, share: float, number: int
) -> None:
    learnt, others = split(data, share, skip_bad=False)
    assert len(others) == number
    assert places(learnt) | places(others) == places(read_conversations(data))
    assert not places(learnt) & places(others)
    assert split(data, share, skip_bad=False) == (learnt, others)


def test_a_share_of_one_conversation_is_refused(data: Path) -> None:
    (data / "good.jsonl").write_text(line("x"))
    with pytest.raises(ValueError, match="held_out must be a file"):
        split(data, 0.5, skip_bad=False)


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "nan"])
def test_what_is_held_out_is_a_share_or_a_file(data: Path, share: str) -> None:
    with pytest.raises(ValueError, match="held_out must be a share between 0 and 1"):
        train([f"--output={data}", f"--data={data}", "--device=cpu", f"--held-out={share}"])


def test_a_test_gives_the_same_losses_again_and_leaves_chance_alone(
    checkpoint: Checkpoint, data: Path
) -> None:
    special, _ = special_ids(checkpoint.tokenizer)
    held_out = HeldOut(lessons(checkpoint).once(read_conversations(data)), special)
    device = torch.device("cpu")
    before = torch.get_rng_state()
    first = held_out.losses(checkpoint.model, device)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert held_out.losses(checkpoint.model, device) == first
    assert all(loss > 0 for loss in first)


def test_the_command_line_reports_what_is_held_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "taught"
    (data / "bad.jsonl").write_text("{")
    with caplog.at_level(logging.INFO, logger="auto_interleaved.training"):
        flags = ["--held-out=0.25", "--steps=1", "--skip-bad", "--save-every=5"]
        assert train([f"--output={output}", f"--data={data}", "--device=cpu", *flags]) == 0
    assert "step 0 held-out ce" in caplog.text
    assert "bad.jsonl, line 1: not JSON" in caplog.text
    assert sorted(path.name for path in output.iterdir() if "partial" in path.name) == []
