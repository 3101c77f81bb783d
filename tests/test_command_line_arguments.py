"""The command line's arguments: what it takes, what its help says, what it refuses."""

import inspect
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.terminal.arguments import ArgumentError, in_flags
from auto_interleaved.terminal.help_texts import FOR_PROGRAMS_ONLY, OPTIONS
from auto_interleaved.terminal.request import read_request
from auto_interleaved_inference import AutoInterleavedInferencer
from data.protocols import PROTOCOLS
from modeling.checkpoint import BUNDLED_MODEL
from tests.command_lines import Run, drawing_checkpoint, flag, runner


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return drawing_checkpoint(tmp_path_factory.mktemp("model") / "golden")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


# Options.


def test_every_option_of_the_library_is_one_of_the_command_line(ran: Run) -> None:
    parameters = inspect.signature(AutoInterleavedInferencer.auto_interleaved_generation).parameters
    promised = set(parameters) - {"self", "prompt", "others", *FOR_PROGRAMS_ONLY}
    described = {name for texts in OPTIONS.values() for name in texts}
    assert promised <= described
    assert described | set(FOR_PROGRAMS_ONLY) == {entry.name for entry in fields(GenerationOptions)}
    shown = ran("--help").out
    assert all(f"{flag(name)} " in shown for name in described)


GIVEN: dict[str, tuple[list[str], Any]] = {
    "max_text_length": (["7"], 7),
    "max_interleaved_blocks": (["2"], 2),
    "think": ([], True),
    "do_sample": ([], True),
    "text_temperature": (["0.5"], 0.5),
    "cfg_text_scale": (["3"], 3.0),
    "cfg_img_scale": (["2"], 2.0),
    "cfg_interval": (["0.1", "0.9"], (0.1, 0.9)),
    "timestep_shift": (["2"], 2.0),
    "num_timesteps": (["9"], 9),
    "cfg_renorm_min": (["0.5"], 0.5),
    "cfg_renorm_type": (["text_channel"], "text_channel"),
    "image_shape": (["32", "64"], (32, 64)),
    "max_think_token_n": (["8"], 8),
    "protocol": (["twiff"], PROTOCOLS["twiff"]),
    "max_images": (["0"], 0),
    "stop_strings": (["a", "b"], ("a", "b")),
    "top_p": (["0.9"], 0.9),
    "top_k": (["5"], 5),
    "repetition_penalty": (["1.1"], 1.1),
    "enable_taylorseer": ([], True),
    "image_feedback": (["pixels"], "pixels"),
    "image_memory": (["text"], "text"),
    "max_context_memory": (["8GB"], 8 * 10**9),
    "seed": (["11"], 11),
    "on_error": (["raise"], "raise"),
    "split_special_tokens": ([], True),
    "num_candidates": (["4"], 4),
    "independent_images": ([], True),
}


@pytest.mark.parametrize("name", sorted({name for texts in OPTIONS.values() for name in texts}))
def test_an_option_that_is_given_arrives(name: str) -> None:
    words, value = GIVEN[name]
    request = read_request(["Tell me.", "--model", "nowhere", flag(name), *words])
    assert getattr(request.options, name) == value
    assert getattr(GenerationOptions(), name) != value


def test_an_option_that_is_not_given_has_the_librarys_default() -> None:
    given = vars(read_request(["Tell me.", "--model", "nowhere"]).options)
    assert {**given, "seed": None} == vars(GenerationOptions())


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--num-inference-steps", "9"], "num_timesteps", 9),
        (["--temperature", "0.5"], "text_temperature", 0.5),
        (["--max-new-tokens", "7"], "max_text_length", 7),
        (["--height", "32", "--width", "64"], "image_shape", (32, 64)),
        (["--input-size"], "image_shape", "input"),
        (["--seed", "18446744073709551615"], "seed", 2**64 - 1),
    ],
)
def test_other_libraries_spellings_are_understood(words: list[str], name: str, value: Any) -> None:
    request = read_request(["Tell me.", "--model", "nowhere", *words])
    assert getattr(request.options, name) == value


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("1000", 1000),
        ("1000B", 1000),
        ("7kB", 7000),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("0.1tb", 10**11),
        ("8g", 8 * 10**9),
    ],
)
def test_bytes_are_counted_in_the_usual_units(word: str, number: int) -> None:
    request = read_request(["Tell me.", "--model", "nowhere", "--max-context-memory", word])
    assert request.options.max_context_memory == number


def test_what_concerns_loading_reaches_the_loader() -> None:
    flags = ["--device", "cpu", "--dtype", "bfloat16", "--revision", "old", "--local-files-only"]
    flags += ["--base", "elsewhere", "--decision", "rows", "--adapter", "one", "two"]
    assert read_request(["Tell me.", "--model", "nowhere", *flags]).loading == {
        "base": "elsewhere",
        "decision": "rows",
        "adapter": ["one", "two"],
        "device": "cpu",
        "dtype": torch.bfloat16,
        "revision": "old",
        "local_files_only": True,
    }


# Help.


def test_help_shows_groups_defaults_and_examples(ran: Run) -> None:
    done = ran("--help")
    assert done.code == 0
    assert done.err == ""
    groups = re.findall(r"^(\w+):$", done.out, flags=re.MULTILINE)
    assert groups[-6:] == ["loading", "writing", "drawing", "limits", "output", "examples"]
    shown = " ".join(done.out.split())
    assert "tokens of a text at most (default: 500)" in shown
    assert "(default: 0.4 1.0)" in shown
    assert "0 is all (default: 0)" in shown


def test_the_list_of_protocols_has_a_line_for_each(ran: Run) -> None:
    done = ran("--list-protocols")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROTOCOLS)
    assert all("draws" in line for line in lines)


# Bad arguments.


BAD: dict[str, tuple[str, Sequence[str]]] = {
    "no prompt is given; put it first": ("", ()),
    "the prompt is empty": (" ", ()),
    "got 'me' beside it": ("Tell", ("me",)),
    "no option --sed; did you mean --seed?": ("Tell", ("--sed", "3")),
    "no option --max-text; did you mean --max-text-length?": ("Tell", ("--max-text", "3")),
    "no option --stop; did you mean --stop-strings?": ("Tell", ("--stop", "x")),
    "no option --max-tokens; did you mean --max-text-length?": ("Tell", ("--max-tokens", "3")),
    "no option --system-prompt; auto-interleaved --help": ("Tell", ("--system-prompt", "x")),
    "no option --frobnicate; auto-interleaved --help": ("Tell", ("--frobnicate",)),
    "--seed: must be a whole number, got '1.5'": ("Tell", ("--seed", "1.5")),
    "--top-p: must be a number, got 'half'": ("Tell", ("--top-p", "half")),
    "--max-context-memory: must be bytes, such as 8GB or 512MiB, got '8 beans'": (
        "Tell",
        ("--max-context-memory", "8 beans"),
    ),
    "--max-context-memory must be at least 1, got 0": ("Tell", ("--max-context-memory", "0.1B")),
    "seed must be from 0 to": ("Tell", ("--seed", "-2")),
    "--seed: expected one argument": ("Tell", ("--seed",)),
    "--num-timesteps must be at least 2": ("Tell", ("--num-timesteps", "1")),
    "above 0 with --do-sample, got 0.0; for the likeliest token leave --do-sample out": (
        "Tell",
        ("--do-sample", "--temperature", "0"),
    ),
    "must not be given together": ("Tell", ("--temperature", "1", "--text-temperature", "1")),
    "height and width must be given together": ("Tell", ("--height", "32")),
    "--cfg-renorm-type: invalid choice": ("Tell", ("--cfg-renorm-type", "local")),
    "unknown protocol 'natve'; did you mean 'native'?": ("Tell", ("--protocol", "natve")),
    "--image: there is no file 'missing.png'": ("Tell", ("--image", "missing.png")),
    "there is no file 'aaaaaaa": ("Tell", ("--image", "a" * 9999)),
    "'notes.txt' is no readable picture (UnidentifiedImageError": (
        "Tell",
        ("--image", "notes.txt"),
    ),
    "--output: story.pdf ends in '.pdf'; a run is kept in": ("Tell", ("--output", "story.pdf")),
    "'page.html' cannot be written (it is a folder)": ("Tell", ("--output", "page.html")),
    "'plain' cannot be written": ("Tell", ("--output", "plain")),
    "'notes.txt/a.html' cannot be written": ("Tell", ("--output", "notes.txt/a.html")),
    "cannot be written (File name too long)": ("Tell", ("--output", "a" * 999 + ".html")),
    "--device: 'gpu' cannot be used here (Expected one of": ("Tell", ("--device", "gpu")),
    "--device: 'cpu:5' cannot be used here (device='cpu:5': the": ("Tell", ("--device", "cpu:5")),
    "--device: 'meta' cannot be used here (device='meta' keeps": ("Tell", ("--device", "meta")),
    "--dtype: invalid choice: 'int8'": ("Tell", ("--dtype", "int8")),
    "--model: no checkpoint directory at nowhere": ("Tell", ()),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_told_in_one_line_before_anything_is_done(ran: Run, message: str) -> None:
    """There is no model of that name, so whatever else is told was told before loading."""
    prompt, words = BAD[message]
    for name in ("notes.txt", "plain"):
        Path(name).write_text("no picture")
    Path("page.html").mkdir()
    before = sorted(Path().rglob("*"))
    done = ran(*filter(None, (prompt,)), *words, "--model", "nowhere")
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("auto-interleaved: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert sorted(Path().rglob("*")) == before


def test_without_a_model_the_one_that_comes_with_the_library_is_taken() -> None:
    assert read_request(["Tell me."]).model == str(BUNDLED_MODEL)
    assert (BUNDLED_MODEL / "ema.safetensors").is_file()


def test_a_size_that_the_model_cannot_draw_is_a_bad_argument(model: str, ran: Run) -> None:
    done = ran("Tell me.", "--model", model, "--image-shape", "50", "64")
    assert (done.code, done.out) == (2, "")
    assert (
        done.err == "auto-interleaved: height must be a positive multiple of 16, got 50; try 48\n"
    )
    assert not Path("story.html").exists()


def test_a_folder_without_weights_is_a_bad_argument(ran: Run, tmp_path: Path) -> None:
    done = ran("Tell me.", "--model", str(tmp_path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "holds no weights" in done.err


def test_bytes_that_are_no_text_are_refused_as_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(ArgumentError, match="standard input is not utf-8"):
        read_request(["-", "--model", "nowhere"])


class Unreadable(io.StringIO):
    def read(self, size: int | None = -1) -> str:
        raise IsADirectoryError(21, "Is a directory")


@pytest.mark.parametrize(
    ("stdin", "reason"),
    [(None, "it is closed"), (Unreadable(), "Is a directory"), ("closed", "closed file")],
)
def test_a_standard_input_that_cannot_be_read_is_told(
    monkeypatch: pytest.MonkeyPatch, stdin: Any, reason: str
) -> None:
    if stdin == "closed":
        stdin = io.StringIO()
        stdin.close()
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(ArgumentError, match=f"cannot be read from standard input .*{reason}"):
        read_request(["-", "--model", "nowhere"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("top_k must be at least 0", "--top-k must be at least 0"),
        ("with do_sample=True", "with --do-sample"),
        ("set do_sample=False", "leave --do-sample out"),
        ("try protocol='every-block', which", "try --protocol every-block, which"),
        ("unknown protocol; a seed; on_errors", "unknown protocol; a seed; on_errors"),
    ],
)
def test_messages_name_options_as_they_are_typed(ours: str, theirs: str) -> None:
    assert in_flags(ours) == theirs
