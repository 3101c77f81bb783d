"""Runs of the command line: what they show, what they leave behind, how they may end."""

import io
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from auto_interleaved_inference import AutoInterleavedInferencer, main
from data.output import InterleavedOutput
from tests.command_lines import SHORT, SHORT_FLAGS, Run, drawing_checkpoint, runner
from tests.output_samples import picture


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell that starts a job in the background makes it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return drawing_checkpoint(tmp_path_factory.mktemp("model") / "golden")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


# Good runs.


def test_a_run_streams_its_text_and_leaves_a_page(model: str, ran: Run) -> None:
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 0
    page = InterleavedOutput.load("story.html")
    assert done.out == "".join(f"{text}\n" for text in page if isinstance(text, str))
    assert "[picture 2: 48 x 32, " in done.err
    assert "2 texts, 2 pictures in " in done.err
    assert done.err.endswith(f"saved {Path('story.html').absolute()}\n")


def test_a_run_gives_what_the_library_gives(model: str, ran: Run) -> None:
    assert ran("Tell me.", "--model", model, *SHORT_FLAGS).code == 0
    inferencer = AutoInterleavedInferencer.from_pretrained(model)
    expected = inferencer.auto_interleaved_generation("Tell me.", **SHORT)
    page = InterleavedOutput.load("story.html")
    assert len(page.images) == 2
    assert list(page) == list(expected)


@pytest.mark.parametrize("output", ["a/story.html", "story.md", "story.json", "folder"])
def test_the_suffix_of_the_output_chooses_its_format(model: str, ran: Run, output: str) -> None:
    done = ran("Tell me.", "--model", model, "--output", output, *SHORT_FLAGS)
    assert done.code == 0
    assert len(InterleavedOutput.load(output).images) == 2


def test_pictures_are_read_before_the_prompt(model: str, ran: Run) -> None:
    for name in ("one", "two"):
        picture(len(name), (64, 48)).save(f"{name}.png")
    images = ("--image", "one.png", "two.png", "--image", "one.png")
    assert ran("And now?", "--model", model, *images, *SHORT_FLAGS).code == 0
    page = InterleavedOutput.load("story.html")
    given = [segment for segment in page.segments if segment.role == "prompt"]
    assert [segment.kind for segment in given] == ["image", "image", "image", "text"]
    assert page.images[0].size == (64, 48)


def test_a_minus_reads_the_prompt_from_standard_input(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tell me.\nAll of it.\n"))
    assert ran("-", "--model", model, *SHORT_FLAGS).code == 0
    segments = InterleavedOutput.load("story.html").segments
    assert segments[0].text == "Tell me.\nAll of it."


def test_a_run_without_a_seed_tells_the_one_that_repeats_it(model: str, ran: Run) -> None:
    flags = ("Tell me.", "--model", model, *SHORT_FLAGS[:-2], "--do-sample", "--temperature", "2")
    first = ran(*flags)
    seed = re.search(r"--seed (\d+)", first.err)
    assert seed is not None
    again = ran(*flags, "--output", "again.html", "--seed", seed[1])
    assert again.out == first.out
    assert InterleavedOutput.load("again.html") == InterleavedOutput.load("story.html")
    assert ran(*flags).out != first.out


def test_a_plan_goes_to_the_terminal_and_not_into_the_story(model: str, ran: Run) -> None:
    flags = ("--think", "--max-think-token-n", "4")
    done = ran("Tell me.", "--model", model, *flags, *SHORT_FLAGS)
    page = InterleavedOutput.load("story.html")
    assert done.err.startswith(f"plan: {page.thoughts[0]}\n")
    assert done.out == "".join(f"{text}\n" for text in page if isinstance(text, str))


def test_messages_of_the_library_come_in_the_command_lines_words(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = AutoInterleavedInferencer.decode_image

    def warn_and_decode(self: Any, *arguments: Any) -> Image.Image:
        logging.getLogger("auto_interleaved").warning("try protocol='bagel', or a lower top_k")
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", warn_and_decode)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.err.count("auto-interleaved: try --protocol bagel, or a lower --top-k\n") == 2
    assert not logging.getLogger("auto_interleaved").handlers


def test_bars_are_not_written_to_files(model: str, ran: Run) -> None:
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert "\r" not in done.out + done.err
    assert "step/s" not in done.err


def test_the_script_is_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: auto-interleaved PROMPT")


# Runs that end early.


def test_an_interrupted_run_saves_what_exists(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = AutoInterleavedInferencer.decode_image
    decoded: list[Image.Image] = []

    def press_ctrl_c_at_the_second(self: Any, *arguments: Any) -> Image.Image:
        if decoded:
            signal.raise_signal(signal.SIGINT)
        decoded.append(decode(self, *arguments))
        return decoded[-1]

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", press_ctrl_c_at_the_second)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "2 texts, 1 picture in " in done.err
    assert "; it was interrupted\n" in done.err
    page = InterleavedOutput.load("story.html")
    assert page.finish_reason == "interrupted"
    assert [type(item) for item in page][:2] == [str, Image.Image]
    assert len(page.images) == 1


class Pipe(io.StringIO):
    """Standard output to whose second write something happens."""

    def __init__(self, happens: Any) -> None:
        super().__init__()
        self._happens = happens
        self._writes = 0

    def write(self, text: str) -> int:
        self._writes += 1
        if self._writes == 2:
            self._happens()
        return super().write(text)


def reader_is_gone() -> None:
    raise BrokenPipeError


@pytest.mark.parametrize("happens", [lambda: signal.raise_signal(signal.SIGINT), reader_is_gone])
def test_what_happens_between_two_steps_costs_nothing_that_exists(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch, happens: Any
) -> None:
    pipe = Pipe(happens)
    monkeypatch.setattr(sys, "stdout", pipe)
    assert ran("Tell me.", "--model", model, *SHORT_FLAGS).code == 1
    page = InterleavedOutput.load("story.html")
    assert page.finish_reason == "interrupted"
    shown = pipe.getvalue().rstrip("\n")
    assert page.text.startswith(shown)
    assert len(page.text) > len(shown) > 0


def test_a_failed_run_saves_what_exists_and_says_why(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", out_of_memory)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "1 text, 0 pictures in " in done.err
    assert "; it failed: MemoryError: none is left\n" in done.err
    assert "Traceback" not in done.err
    assert InterleavedOutput.load("story.html").text == done.out.removesuffix("\n")


def test_a_traceback_is_shown_to_those_who_ask(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", out_of_memory)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS, "--on-error", "raise")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "in out_of_memory" in done.err
    assert InterleavedOutput.load("story.html").finish_reason == "error"


def test_a_run_that_made_nothing_leaves_an_earlier_page_alone(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("story.html").write_text("an earlier one")
    monkeypatch.setattr(AutoInterleavedInferencer, "read_ids", out_of_memory)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "none is left; nothing was made, so nothing is saved\n" in done.err
    assert Path("story.html").read_text() == "an earlier one"


def test_an_interruption_while_loading_is_no_traceback(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(*arguments: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(AutoInterleavedInferencer, "from_pretrained", press_ctrl_c)
    done = ran("Tell me.", "--model", model)
    assert (done.code, done.err) == (1, "auto-interleaved: interrupted\n")


def test_a_model_that_does_not_fit_is_told_in_one_line(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_too_large(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 29 GB")

    monkeypatch.setattr(AutoInterleavedInferencer, "from_pretrained", is_too_large)
    done = ran("Tell me.", "--model", model)
    assert done.code == 2
    assert done.err == (
        "auto-interleaved: --device: the model does not fit there (tried to allocate 29 GB)\n"
    )


def test_a_disk_that_fails_at_the_end_is_told(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*arguments: Any) -> None:
        raise OSError(28, os.strerror(28))

    decode = AutoInterleavedInferencer.decode_image

    def fill_the_disk_and_decode(self: Any, *arguments: Any) -> Image.Image:
        monkeypatch.setattr(os, "replace", is_full)
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", fill_the_disk_and_decode)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "story.html could not be written ([Errno 28] No space left on device)\n" in done.err


def out_of_memory(*arguments: Any, **named: Any) -> None:
    raise MemoryError("none is left")
