"""A few rows of the head decide when to draw: learnt in a moment, and nothing else changes."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.decision import forget
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from modeling.checkpoint.decision import DECISION_FILE, HEAD, Decision
from picturebook.benchmark.measures import tell_story
from picturebook.training.conversations import main as write_stories
from picturebook.training.conversations import stories, write
from tests.bundled import SAMPLING, bundled, drawn_stories
from tests.checkpoints import copy_checkpoint
from train import main, run
from training.decision import States, learn, rightness
from training.merge import main as merge

IDS = [766, 764, 763, 765]  # <|vision_start|>, <|im_start|>, <|endoftext|>, <|im_end|>
SHORT: dict[str, Any] = {**SAMPLING, "num_timesteps": 4, "max_text_length": 60}


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forget(tmp_path_factory.mktemp("model") / "forgetful")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, stories(Random("tests of decisions")), 16)
    return folder


@pytest.fixture(scope="module")
def taught(forgetful: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("taught")
    flags = [f"--data={data}", f"--checkpoint={forgetful}", f"--output={output}", "--device=cpu"]
    assert main([*flags, "--trainable=decision", "--held-out=0.25"]) == 0
    return output


@cache
def loaded(checkpoint: Path, decision: Path | None = None) -> AutoInterleavedInferencer:
    inferencer = AutoInterleavedInferencer.from_pretrained(checkpoint, decision=decision)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def test_a_checkpoint_that_never_asks_learns_when_to_draw(forgetful: Path, taught: Path) -> None:
    """Its texts and pictures are then those of the model that had forgotten nothing, to the bit."""
    story = drawn_stories("decision", 1, held_out=True)[0]
    before = tell_story(loaded(forgetful), story, seed=1, **SHORT | {"max_interleaved_blocks": 1})
    assert not before.output.images
    after = tell_story(loaded(forgetful, taught), story, seed=1, **SHORT)
    whole = tell_story(bundled(), story, seed=1, **SHORT)
    assert whole.judgement.structure
    assert list(after.output) == list(whole.output)
    assert after.output.finish_reason == "stop"


def test_no_logit_of_another_token_changes(forgetful: Path, taught: Path) -> None:
    before, after = loaded(forgetful).model, loaded(forgetful, taught).model
    others = torch.ones(768, dtype=torch.bool)
    others[IDS] = False
    hidden = torch.randn(5, before.hidden_size)
    assert torch.equal(before.logits(hidden)[:, others], after.logits(hidden)[:, others])
    assert not torch.equal(before.logits(hidden)[:, IDS], after.logits(hidden)[:, IDS])
    for name, tensor in before.state_dict().items():
        changed = after.state_dict()[name]
        assert torch.equal(tensor, changed) or name == HEAD


def test_a_decision_is_a_few_kilobytes_with_a_card(forgetful: Path, taught: Path) -> None:
    assert sorted(path.name for path in taught.iterdir()) == ["README.md", DECISION_FILE]
    assert (taught / DECISION_FILE).stat().st_size < 4000
    card = Decision.load(taught).card
    assert card["conversations"] == 12
    assert card["checkpoint"] == str(forgetful)
    told = re.findall(r"(\d+) of (\d+)", card["right"])
    assert [right for right, _ in told] == [count for _, count in told]
    # States inside texts are learnt from as well, and there are more of them than of ends.
    after, ends, inside = (int(count) for _, count in told)
    assert inside > 5 * ends == 5 * after
    assert "ends of texts" in card["right_held_out"]
    page = (taught / "README.md").read_text()
    assert f'decision="{taught}"' in page
    assert card["right"] in page


def test_a_merged_checkpoint_needs_nothing_beside_it(
    forgetful: Path, taught: Path, tmp_path: Path
) -> None:
    """Bit for bit what the decision gives beside its checkpoint."""
    output = tmp_path / "merged"
    flags = [f"--checkpoint={forgetful}", f"--output={output}", f"--decision={taught}"]
    assert merge(flags) == 0
    merged, beside = loaded(output).model, loaded(forgetful, taught).model
    for name, tensor in beside.state_dict().items():
        assert torch.equal(tensor, merged.state_dict()[name]), name
    stored = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert load_checkpoint(output, decision=taught).protocol == "native"  # and may lie there twice


def test_the_file_of_weights_is_never_written_to(forgetful: Path, taught: Path) -> None:
    def digest() -> str:
        return hashlib.sha256((forgetful / "ema.safetensors").read_bytes()).hexdigest()

    before = digest()
    load_checkpoint(forgetful, decision=taught)
    assert digest() == before


def test_a_head_on_the_disk_has_the_rows_too(forgetful: Path, taught: Path, tmp_path: Path) -> None:
    maps: list[dict[str, Any]] = [
        {},
        {"offload_folder": tmp_path / "offload"},
    ]
    wanted = loaded(forgetful, taught).model
    hidden = torch.randn(2, wanted.hidden_size)
    for extra in maps:
        device_map = {"": "cpu", "language_model.lm_head": "disk"}
        there = load_checkpoint(forgetful, decision=taught, device_map=device_map, **extra).model
        assert torch.allclose(there.logits(hidden), wanted.logits(hidden), atol=1e-4)


def test_a_decision_of_another_checkpoint_is_refused(
    forgetful: Path, taught: Path, tmp_path: Path
) -> None:
    other = copy_checkpoint(tmp_path / "golden")
    with pytest.raises(ValueError, match=r"learnt for a head of 768 x 192, and .* of 504 x 64"):
        load_checkpoint(other, decision=taught)
    moved = forget(tmp_path / "moved")
    weights = load_file(moved / "ema.safetensors")
    weights["language_model.model.layers.2.self_attn.o_proj.weight"] += 1
    save_file(weights, moved / "ema.safetensors")
    with pytest.raises(ValueError, match=r"learnt on another checkpoint than .*forgetful"):
        load_checkpoint(moved, decision=taught)
    # What tells checkpoints apart is none of the rows that are learnt.
    assert load_checkpoint(BUNDLED_MODEL, decision=taught).protocol == "native"


def test_the_same_weights_in_another_dtype_are_the_same_checkpoint(
    forgetful: Path, taught: Path, tmp_path: Path
) -> None:
    wide = forget(tmp_path / "wide")
    weights = {n: t.float() for n, t in load_file(wide / "ema.safetensors").items()}
    save_file(weights, wide / "ema.safetensors")
    model = load_checkpoint(wide, decision=taught).model
    rows = model.language_model.lm_head.weight[IDS]
    assert torch.equal(rows, loaded(forgetful, taught).model.language_model.lm_head.weight[IDS])


def test_what_is_no_decision_is_told(tmp_path: Path, taught: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no decision\.safetensors; give the file"):
        load_checkpoint(BUNDLED_MODEL, decision=tmp_path)
    with pytest.raises(ValueError, match="it is another safetensors file"):
        load_checkpoint(BUNDLED_MODEL, decision=BUNDLED_MODEL / "ae.safetensors")
    with pytest.raises(TypeError, match="decision must be a path, got 3"):
        load_checkpoint(BUNDLED_MODEL, decision=3)  # type: ignore[arg-type]
    cut = tmp_path / DECISION_FILE
    cut.write_bytes((taught / DECISION_FILE).read_bytes()[:-1])
    with pytest.raises(ValueError, match="is no decision that can be read"):
        load_checkpoint(BUNDLED_MODEL, decision=cut)
    good = Decision.load(taught)
    for rows, message in ((good.rows[:3], "do not fit"), (good.rows / 0, "no finite numbers")):
        broken = Decision(**{**vars(good), "rows": rows})
        cut.write_bytes(broken.to_bytes())
        with pytest.raises(ValueError, match=message):
            load_checkpoint(BUNDLED_MODEL, decision=cut)


def test_data_without_pictures_teaches_no_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "A cat."}, '
        '{"role": "assistant", "content": "Here is a cat."}]}\n'
    )
    output = tmp_path / "output"
    flags = [f"--data={tmp_path}", f"--output={output}", "--trainable=decision", "--device=cpu"]
    monkeypatch.setattr("sys.argv", ["train.py", *flags])
    assert run() == 1
    assert "no picture follows any text" in capsys.readouterr().err
    assert not (output / DECISION_FILE).exists()
    with pytest.raises(SystemExit):
        main([*flags, "--steps=3"])
    assert "--steps does not go with --trainable decision" in capsys.readouterr().err


# The regression by itself.


def made_states(hidden: torch.Tensor, labels: list[int], others: float = 2.0) -> States:
    level = torch.full((len(hidden),), others)
    weights = torch.ones(len(hidden))
    return States(
        hidden=hidden,
        others=level,
        highest=level,
        labels=torch.tensor(labels),
        weights=weights,
    )


def test_rows_that_are_right_already_hardly_move() -> None:
    old = 20 * torch.eye(2, 8)
    states = made_states(torch.eye(8), [0, 1, 2, 2, 2, 2, 2, 2])
    assert rightness(states, old, 1).after_text == (1, 1)
    rows = learn(states, old)
    assert (rows - old).abs().max() < 0.2 * old.abs().max()
    assert rightness(states, rows, 1).inside == (6, 6)


def test_states_inside_texts_keep_a_row_from_growing_there() -> None:
    """Without them, a row that grows for the ends of texts would be the likeliest in the middle."""
    torch.manual_seed(0)
    ends, inside = torch.randn(40, 8) + 3, torch.randn(40, 8) + 3
    ends[:, 0] += 6
    old = torch.zeros(1, 8)
    both = made_states(torch.cat([ends, inside]), [0] * 40 + [1] * 40)
    alone = made_states(ends, [0] * 40)
    assert rightness(both, learn(both, old), 1).inside == (40, 40)
    assert rightness(both, learn(alone, old), 1).inside[0] < 40


def test_states_that_are_no_numbers_are_told() -> None:
    states = made_states(torch.full((2, 4), torch.nan), [0, 1])
    with pytest.raises(FloatingPointError, match="no decision can be learnt"):
        learn(states, torch.zeros(1, 4))


def test_stories_are_written_as_conversations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_stories([str(tmp_path / "data"), "--stories=2"]) == 0
    assert capsys.readouterr().out == f"2 conversations in {tmp_path / 'data' / 'stories.jsonl'}\n"
    assert len((tmp_path / "data" / "stories.jsonl").read_text().splitlines()) == 2
    with pytest.raises(SystemExit):
        write_stories([str(tmp_path), "--stories=0"])
