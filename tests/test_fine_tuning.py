"""A user's conversations teach a checkpoint to ask for pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from auto_interleaved_inference import AutoInterleavedInferencer
from modeling.checkpoint.settings import SETTINGS_FILE
from tests.checkpoints import copy_checkpoint, golden_settings
from train import main
from training.conversations import read_conversations
from training.samples import Text

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint"
ASK = {"role": "user", "content": "Draw."}
ANSWER = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "Red:"},
        {"type": "image", "path": "red.png"},
        {"type": "text", "text": "Done."},
    ],
}


def write(directory: Path, *messages: Mapping[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(directory / "red.png")
    (directory / "a.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    return directory


def kinds(directory: Path) -> list[tuple[Any, ...]]:
    [conversation] = read_conversations(directory)
    return [
        (item.text, item.learnt, item.following)
        if isinstance(item, Text)
        else (item.image.size, item.drawn)
        for item in conversation.outline()
    ]


def test_what_the_user_says_is_read_and_what_the_assistant_says_is_learnt(tmp_path: Path) -> None:
    assert kinds(write(tmp_path, ASK, ANSWER)) == [
        ("Draw.", False, None),
        ("Red:", True, "image"),
        ((32, 32), True),
        ("Done.", True, "end"),
    ]


def test_a_picture_without_words_is_led_to_by_an_empty_text(tmp_path: Path) -> None:
    image = {"type": "image", "image": "red.png"}
    assert kinds(write(tmp_path, ASK, {"role": "assistant", "content": [image, image]})) == [
        ("Draw.", False, None),
        ("", True, "image"),
        ((32, 32), True),
        ("", True, "image"),
        ((32, 32), True),
        ("", True, "end"),
    ]


def test_a_marker_that_a_message_quotes_is_characters(tmp_path: Path) -> None:
    quoting = {"role": "user", "content": "What is <|vision_start|>?"}
    answer = {"role": "assistant", "content": "A marker."}
    assert kinds(write(tmp_path, quoting, answer))[0] == ("What is <|vision_start|>?", False, None)


def test_every_turn_of_the_assistant_ends(tmp_path: Path) -> None:
    turns = kinds(write(tmp_path, ASK, ANSWER, ASK, {"role": "assistant", "content": "No."}))
    assert [turn for turn in turns if turn[-1] == "end"] == [
        ("Done.", True, "end"),
        ("No.", True, "end"),
    ]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", ValueError, r"a\.jsonl, line 1: not JSON"),
        ("[]", ValueError, r'line 1: must be \{"messages"'),
        (json.dumps({"messages": [ASK]}), ValueError, "nothing is learnt"),
        (json.dumps({"messages": [ASK, ANSWER]}), FileNotFoundError, r"no image file .*red\.png"),
        ("\n", ValueError, "are empty"),
    ],
)
def test_bad_data_is_refused_by_file_and_line(
    tmp_path: Path, line: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(error, match=message):
        read_conversations(tmp_path)


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.jsonl file"):
        read_conversations(tmp_path)


def test_a_message_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    write(tmp_path, {"role": "robot", "content": "x"}, ANSWER)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: .*role"):
        read_conversations(tmp_path)


def test_the_output_must_not_be_the_checkpoint_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output must not be the checkpoint itself"):
        main([f"--output={CHECKPOINT}", f"--checkpoint={CHECKPOINT}", f"--data={tmp_path}"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainable=text"], "--trainable needs --data"),
        (["--data=x", "--pool=3"], "--pool does not go with --data"),
    ],
)
def test_flags_of_the_other_kind_of_training_are_refused(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--output={tmp_path}", *flags])
    assert message in capsys.readouterr().err


def finish_reason(directory: Path) -> str:
    inferencer = AutoInterleavedInferencer.from_pretrained(directory, dtype=torch.float32)
    inferencer.set_progress_bar_config(disable=True)
    output = inferencer.auto_interleaved_generation(
        "Draw.", num_timesteps=3, max_text_length=20, seed=0, image_shape=(32, 32)
    )
    assert output.finish_reason in ("stop", "length", "no_image"), output.error
    texts = [item for item in output if isinstance(item, str)]
    return f"{output.finish_reason} after {texts} and {len(output.images)} images"


@pytest.mark.slow
def test_a_checkpoint_that_never_asked_for_a_picture_learns_to(tmp_path: Path) -> None:
    data, output = write(tmp_path / "data", ASK, ANSWER), tmp_path / "taught"
    checkpoint = copy_checkpoint(tmp_path / "checkpoint")
    (checkpoint / SETTINGS_FILE).write_text(json.dumps(golden_settings()))
    assert not finish_reason(checkpoint).endswith("1 images")
    command = [f"--data={data}", f"--checkpoint={checkpoint}", f"--output={output}"]
    settings = ["--device=cpu", "--learning-rate=3e-3", "--trainable=text"]
    assert main([*command, *settings, "--steps=60"]) == 0
    assert main([*command, *settings, "--steps=120"]) == 0  # goes on where it was
    assert finish_reason(output) == "stop after ['Red:', 'Done.'] and 1 images"
    before, after = (
        load_file(CHECKPOINT / "ema.safetensors"),
        load_file(output / "model.safetensors"),
    )
    # Fixed tables are saved with the weights or left out, as in the checkpoints that there are.
    shared = before.keys() & after.keys()
    moved = {name for name in shared if not torch.equal(before[name].float(), after[name])}
    assert moved
    assert not any("moe_gen" in name or "vae2llm" in name for name in moved)
