"""Runs of the command line: what they show, what they leave behind, how they may end."""

import io
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
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
    def is_full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, os.strerror(28))

    decode = AutoInterleavedInferencer.decode_image

    def fill_the_disk_and_decode(self: Any, *arguments: Any) -> Image.Image:
        monkeypatch.setattr(os, "replace", is_full)
        monkeypatch.setattr(tempfile, "mkdtemp", is_full)
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", fill_the_disk_and_decode)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "story.html could not be written ([Errno 28] No space left on device)\n" in done.err
    assert "saved" not in done.err  # no other place had room either


def test_where_a_result_cannot_be_written_it_goes_to_a_second_place(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Four pictures were gone with a disk that was full at the end."""
    (tmp_path / "second").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "second"))
    decode = AutoInterleavedInferencer.decode_image

    def take_the_place_and_decode(self: Any, *arguments: Any) -> Image.Image:
        Path("taken").write_text("of somebody else")
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", take_the_place_and_decode)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS, "--output", "taken/story.json")
    assert done.code == 1
    assert "taken/story.json could not be written" in done.err
    [saved] = (tmp_path / "second").rglob("story.json")
    assert done.err.endswith(f"saved {saved}\n")
    assert len(InterleavedOutput.load(saved).images) == 2


# Told to stop.


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_to_stop_saves_what_exists_also_if_more_follow(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch, name: str, again: bool
) -> None:
    """Batch systems and terminals end programs by these, and nothing was saved."""
    number = getattr(signal, name)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    decode, save = AutoInterleavedInferencer.decode_image, InterleavedOutput.save
    decoded: list[Image.Image] = []

    def stop_at_the_second(self: Any, *arguments: Any) -> Image.Image:
        if decoded:
            signal.raise_signal(number)
        decoded.append(decode(self, *arguments))
        return decoded[-1]

    def impatient(self: Any, *arguments: Any) -> Path:
        if again and decoded:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(number)
        return save(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", stop_at_the_second)
    monkeypatch.setattr(InterleavedOutput, "save", impatient)
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert "2 texts, 1 picture in " in done.err
    assert done.err.endswith(f"saved {Path('story.html').absolute()}\n")
    assert InterleavedOutput.load("story.html").finish_reason == "interrupted"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_that_is_swallowed_on_its_way_is_heard_at_the_next_step(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python swallows what is raised in a destructor, and the run went on."""
    decode = AutoInterleavedInferencer.decode_image

    def swallow(self: Any, *arguments: Any) -> Image.Image:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", swallow)
    assert ran("Tell me.", "--model", model, *SHORT_FLAGS).code == 1
    page = InterleavedOutput.load("story.html")
    assert (page.finish_reason, len(page.images)) == ("interrupted", 1)


def test_signals_that_a_program_is_to_ignore_stay_ignored(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup."""
    decode = AutoInterleavedInferencer.decode_image

    def hang_up(self: Any, *arguments: Any) -> Image.Image:
        signal.raise_signal(signal.SIGHUP)
        return decode(self, *arguments)

    monkeypatch.setattr(AutoInterleavedInferencer, "decode_image", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ran("Tell me.", "--model", model, *SHORT_FLAGS).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# Streams.


def is_lost(kind: type[Exception]) -> Any:
    def lose() -> None:
        raise kind("gone")

    return lose


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError])
def test_a_story_that_can_be_written_no_more_is_saved(
    model: str, ran: Run, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    monkeypatch.setattr(sys, "stdout", Pipe(is_lost(kind)))
    done = ran("Tell me.", "--model", model, *SHORT_FLAGS)
    assert done.code == 1
    assert f"saved {Path('story.html').absolute()}\n" in done.err
    assert InterleavedOutput.load("story.html").finish_reason == "interrupted"


@pytest.mark.parametrize("err", [None, "lost"])
def test_without_a_standard_error_a_run_is_what_it_is_with_one(
    model: str, monkeypatch: pytest.MonkeyPatch, err: str | None
) -> None:
    """Programs without a window, and services, have none."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    if err is not None:
        monkeypatch.setattr(sys, "stderr", Pipe(is_lost(OSError)))
    assert main(["Tell me.", "--model", model, *SHORT_FLAGS]) == 0
    assert len(InterleavedOutput.load("story.html").images) == 2


@pytest.mark.parametrize("output", ["run_0.7", "run.html/"])
def test_a_folder_with_a_dot_in_its_name_is_a_place_for_a_result(
    model: str, ran: Run, output: str
) -> None:
    assert ran("Tell me.", "--model", model, *SHORT_FLAGS, "--output", output).code == 0
    assert Path(output).is_dir()
    assert len(InterleavedOutput.load(output).images) == 2


def out_of_memory(*arguments: Any, **named: Any) -> None:
    raise MemoryError("none is left")
