"""The stream is the engine: its events in order, and everything else a fold of them."""

from __future__ import annotations

import io
import itertools
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from data.output.events import (
    Event,
    Finished,
    ImageDone,
    ImagePreview,
    ImageStarted,
    ImageStep,
    TextDelta,
    TextDone,
    ThoughtDelta,
)
from data.protocols import PROTOCOLS
from tests.builders import BOS, EOS, picture
from tests.scripted import (
    SHAPE,
    SHORT,
    Said,
    ScriptedInferencer,
    asks,
    counted,
    encoded,
    events_of,
    generate,
    layout,
    pixels,
    says,
    toy_writer,
)

SCRIPT = (asks("One"), asks("Two"), says("Three"))
EMOJI = "\N{GRINNING FACE}"


def kinds(events: Sequence[Event]) -> list[str]:
    """Return the events' names, repeated ones once."""
    return [name for name, _ in itertools.groupby(type(event).__name__ for event in events)]


def texts_of(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


def test_what_sets_a_text_apart_from_a_picture_is_no_part_of_the_text() -> None:
    script = (asks("One"), asks("\nTwo"), says("Three"))
    events, output = events_of(ScriptedInferencer(*script), "Go.")
    deltas = [event for event in events if isinstance(event, TextDelta)]
    for block, whole in enumerate(("One", "\nTwo", "Three")):
        assert "".join(delta.own for delta in deltas if delta.block == block) == whole
    assert [delta.apart for delta in deltas if delta.apart] == ["\n"], "Two has its own"
    assert "".join(delta.text for delta in deltas) == output.text


def test_events_come_in_the_order_of_what_they_tell() -> None:
    events, _ = events_of(ScriptedInferencer(*SCRIPT), "Go.")
    image = ["ImageStarted", "ImageStep", "ImageDone"]
    text = ["TextDelta", "TextDone"]
    assert kinds(events) == [*text, *image, *text, *image, *text, "Finished"]


def test_blocks_and_images_are_numbered_from_zero() -> None:
    events, _ = events_of(ScriptedInferencer(*SCRIPT), "Go.<|vision_start|>")
    assert [e.block for e in events if isinstance(e, TextDone)] == [0, 1, 2]
    assert [e.index for e in events if isinstance(e, ImageStarted)] == [0, 1, 2]
    assert [e.index for e in events if isinstance(e, ImageDone)] == [0, 1, 2]
    assert {e.block for e in events if isinstance(e, TextDelta)} == {0, 1, 2}


def test_every_step_of_an_image_is_told() -> None:
    events, _ = events_of(ScriptedInferencer(*SCRIPT), "Go.", num_timesteps=4)
    steps = [(e.index, e.step, e.num_steps) for e in events if isinstance(e, ImageStep)]
    assert steps == [(image, step, 3) for image in (0, 1) for step in (1, 2, 3)]


def test_a_started_image_tells_its_size_and_seed() -> None:
    events, output = events_of(ScriptedInferencer(*SCRIPT), "Go.", image_shape=(8, 12), seed=3)
    started = [event for event in events if isinstance(event, ImageStarted)]
    assert {(event.height, event.width) for event in started} == {(8, 12)}
    assert [event.seed for event in started] == output.seeds


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_was_streamed_is_what_is_returned(name: str) -> None:
    options: dict[str, Any] = {"protocol": name, "seed": 2, "do_sample": True}
    options |= {"max_text_length": 4, "max_interleaved_blocks": 2, "text_temperature": 2.0}
    events, output = events_of(toy_writer(), ["Go.<|vision_start|>", picture()], **options)
    assert "".join(texts_of(events)) == output.text
    assert [e.image for e in events if isinstance(e, ImageDone)] == output.images
    folded = generate(toy_writer(), ["Go.<|vision_start|>", picture()], **options)
    assert layout(folded) == layout(output)
    assert pixels(folded) == pixels(output)


def test_images_are_the_very_same_objects_in_events_and_output() -> None:
    events, output = events_of(ScriptedInferencer(*SCRIPT), "Go.")
    done = [event.image for event in events if isinstance(event, ImageDone)]
    assert all(a is b for a, b in zip(done, output.images, strict=True))


def test_a_finished_text_is_the_sum_of_its_deltas() -> None:
    """But for the line break that sets it off from the text before an image."""
    script = (says("One", then=BOS), asks("Two"), says("Three"))
    events, output = events_of(ScriptedInferencer(*script), "Go.")
    for done in (event for event in events if isinstance(event, TextDone)):
        deltas = [e for e in events if isinstance(e, TextDelta) and e.block == done.block]
        behind_image = "\n" if done.text == "Three" else ""
        assert "".join(delta.text for delta in deltas) == behind_image + done.text
        assert sum((delta.token_ids for delta in deltas), ()) == done.token_ids
        assert done.segment in output.segments


def test_texts_with_an_image_between_them_do_not_touch() -> None:
    """They read "...snowy field.Now a blue square...", streamed and in the output's text."""
    script = (asks("One"), asks("Two "), asks("Three"), asks(""), asks("\nFour"), says("Five"))
    events, output = events_of(ScriptedInferencer(*script), "Go.")
    assert layout(output) == ["One", "*", "Two ", "*", "Three", "*", "*", "\nFour", "*", "Five"]
    assert output.text == "One\nTwo Three\nFour\nFive"
    assert "".join(texts_of(events)) == output.text


def test_the_first_text_is_set_off_from_nothing() -> None:
    _, output = events_of(ScriptedInferencer(says("One")), "<|vision_start|>Go.<|vision_start|>")
    assert (layout(output), output.text) == (["*", "*", "One"], "One")


def test_the_loop_of_the_readme_prints_what_the_output_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = (part for part in readme.split("```python\n") if "inferencer.stream(" in part)
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), says("Three"))
    inferencer.image_shape = SHAPE
    exec(block.partition("```")[0], {"inferencer": inferencer})  # noqa: S102
    assert inferencer.last_output is not None
    assert capsys.readouterr().out == inferencer.last_output.text == "One\nTwo\nThree"
    assert (tmp_path / "preview.png").is_file()


def test_ids_of_text_that_is_held_back_come_with_the_text() -> None:
    """They were lost: a delta told the id that released it, and no other."""
    ids = encoded(f"a{EMOJI}b STOp")
    events, _ = events_of(
        ScriptedInferencer(Said((*ids, EOS))), "Go.", stop_strings=("STOP",), max_images=0
    )
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert sum((delta.token_ids for delta in deltas), ()) == ids


def test_no_delta_is_empty_and_no_character_is_halved() -> None:
    text = f"a{EMOJI}{EMOJI}b\N{LATIN SMALL LETTER E WITH ACUTE}"
    events, output = events_of(ScriptedInferencer(says(text)), "Go.", max_images=0)
    assert all(texts_of(events))
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts_of(events))
    assert output == [text]


def test_a_character_that_stays_unfinished_is_shown_as_such_at_the_end() -> None:
    ids = encoded(EMOJI)[:2]
    events, output = events_of(ScriptedInferencer(Said((*ids, EOS))), "Go.", max_images=0)
    assert output.text == "".join(texts_of(events))
    assert set(output.text) == {"\N{REPLACEMENT CHARACTER}"}


def test_nothing_of_a_marker_is_ever_shown() -> None:
    script = (says("a <image>"), says("b <imagine> c <image>"), says("d"))
    events, _ = events_of(ScriptedInferencer(*script, protocol="bagel"), "Go.")
    assert "".join(texts_of(events)) == "a b <imagine> c d"
    assert not any("<image" in text and "<imagine" not in text for text in texts_of(events))


def test_nothing_of_a_stop_string_is_ever_shown() -> None:
    events, _ = events_of(ScriptedInferencer(says("a STALE STOP b")), "Go.", stop_strings="STOP")
    assert "".join(texts_of(events)) == "a STALE "


def test_a_plan_is_told_apart_from_the_text() -> None:
    unfinished = Said((*encoded("I shall"), *encoded(EMOJI)[:2], EOS))
    events, output = events_of(ScriptedInferencer(unfinished, *SCRIPT), "Go.", think=True)
    thought = [event for event in events if isinstance(event, ThoughtDelta)]
    assert kinds(events)[:2] == ["ThoughtDelta", "TextDelta"]
    assert ["".join(event.text for event in thought)] == output.thoughts
    assert sum((event.token_ids for event in thought), ()) == unfinished.ids[:-1]
    assert output.thoughts[0].startswith("I shall")
    assert "I shall" not in output.text


def test_previews_come_after_so_many_steps() -> None:
    events, _ = events_of(
        ScriptedInferencer(asks("One"), says("x")), "Go.", num_timesteps=6, preview_every=2
    )
    previews = [event for event in events if isinstance(event, ImagePreview)]
    assert [(event.index, event.step) for event in previews] == [(0, 2), (0, 4)]
    assert {event.image.size for event in previews} == {(8, 8)}
    before = events[events.index(previews[0]) - 1]
    assert isinstance(before, ImageStep)
    assert before.step == 2


def test_the_last_preview_is_close_to_the_image() -> None:
    """At the last step the estimate of the clean image is the image."""
    events, output = events_of(ScriptedInferencer(asks("One"), says("x")), "Go.", preview_every=2)
    last = [event for event in events if isinstance(event, ImagePreview)][-1]
    assert last.image.tobytes() == output.images[0].tobytes()


def test_without_being_asked_for_there_are_no_previews() -> None:
    events, _ = events_of(ScriptedInferencer(*SCRIPT), "Go.")
    assert not any(isinstance(event, ImagePreview) for event in events)


def test_finished_comes_once_and_last() -> None:
    events, output = events_of(ScriptedInferencer(*SCRIPT), "Go.")
    assert [event for event in events if isinstance(event, Finished)] == [events[-1]]
    assert events[-1].output is output  # type: ignore[union-attr]


# One stream among others.


def test_nothing_is_computed_before_the_first_event_is_asked_for() -> None:
    inferencer = ScriptedInferencer(*SCRIPT)
    with counted(inferencer.model) as counts:
        stream = inferencer.stream("Go.", **SHORT)
        assert not counts
        stream.close()  # type: ignore[attr-defined]
        assert not counts
    assert inferencer.last_output is None


def test_an_image_is_drawn_step_by_step_as_it_is_asked_for() -> None:
    inferencer = ScriptedInferencer(asks("One"))
    stream = inferencer.stream("Go.", **SHORT)
    branches = 2  # without an image there is no third one
    with counted(inferencer.model) as counts:
        for steps in (1, 2):
            next(event for event in stream if isinstance(event, ImageStep))
            assert counts["image rows"] == steps * branches
        stream.close()  # type: ignore[attr-defined]
        assert counts["image rows"] == 2 * branches


def test_after_an_iterator_was_closed_the_next_run_is_as_if_nothing_had_been() -> None:
    reference = generate(ScriptedInferencer(*SCRIPT), "Go.", seed=1)
    for stop_at in (TextDelta, ImageStarted, ImageStep, ImageDone):
        inferencer = ScriptedInferencer(*SCRIPT)
        stream = inferencer.stream("Go.", **SHORT)
        next(event for event in stream if isinstance(event, stop_at))
        stream.close()  # type: ignore[attr-defined]
        inferencer.script = iter(SCRIPT)
        output = generate(inferencer, "Go.", seed=1)
        assert layout(output) == layout(reference)
        assert pixels(output) == pixels(reference)


def test_streams_that_take_turns_do_not_see_each_other() -> None:
    options = {"protocol": "every-block", "max_text_length": 4, "max_interleaved_blocks": 2}
    prompts = (["Go.", picture()], "Another.")
    alone = [
        generate(toy_writer(), prompt, seed=seed, **options) for seed, prompt in enumerate(prompts)
    ]
    inferencer = toy_writer()
    streams = [
        inferencer.stream(prompt, seed=seed, **SHORT | options)
        for seed, prompt in enumerate(prompts)
    ]
    turns = list(itertools.zip_longest(*streams))
    for expected, events in zip(alone, zip(*turns, strict=True), strict=True):
        [finished] = [event for event in events if isinstance(event, Finished)]
        assert layout(finished.output) == layout(expected)
        assert pixels(finished.output) == pixels(expected)


def test_a_run_may_begin_in_the_middle_of_another_ones_image() -> None:
    """A callback may ask the same inferencer for something else."""
    inner: list[Any] = []
    options: dict[str, Any] = {"protocol": "every-block", "max_text_length": 4, "seed": 1}
    options |= {"max_interleaved_blocks": 1}
    inferencer = toy_writer()
    alone = generate(inferencer, "Go.", **options)

    def callback(given: object, step: int, time: float, state: object) -> None:
        if step == 0:
            inner.append(generate(inferencer, "Go.", **options))

    outer = generate(inferencer, "Go.", callback_on_step_end=callback, **options)
    assert pixels(outer) == pixels(inner[0]) == pixels(alone)
    assert inferencer.last_output is outer


# Progress bars.


def bars(capsys: pytest.CaptureFixture[str], **config: Any) -> str:
    inferencer = ScriptedInferencer(*SCRIPT)
    inferencer.set_progress_bar_config(**config)
    generate(inferencer, "Go.")
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_progress_shows_images_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    shown = bars(capsys, mininterval=0)
    assert "images: 2image" in shown
    assert "image 1: 100%" in shown
    assert "image 2: 100%" in shown
    assert "2/2" in shown


def test_progress_may_be_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    assert bars(capsys, disable=True) == ""


def test_bars_take_whatever_tqdm_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A description of the caller's own collided with ours."""
    assert "mine: 100%" in bars(capsys, desc="mine", unit="it", leave=True, position=0)


def test_without_an_image_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    inferencer = ScriptedInferencer(says("One"))
    inferencer.set_progress_bar_config()
    generate(inferencer, "Go.", max_images=0)
    assert capsys.readouterr().err == ""


class Lost(io.StringIO):
    """A stream that nobody reads any more, in one of the ways that happens."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error

    def flush(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "stream",
    [None, Lost(BrokenPipeError()), Lost(OSError(28, "full")), Lost(RuntimeError()), object()],
    ids=["none", "broken pipe", "full disk", "anything", "no stream"],
)
def test_a_broken_standard_error_costs_no_picture(
    monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    """A bar's exception ended a run whose program had no standard error, or a closed one."""
    monkeypatch.setattr(sys, "stderr", stream)
    inferencer = ScriptedInferencer(*SCRIPT)
    inferencer.set_progress_bar_config()
    assert len(generate(inferencer, "Go.").images) == 2


def test_a_bar_that_fails_half_way_costs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("__init__", "update", "close", "refresh", "display"):
        inferencer = ScriptedInferencer(*SCRIPT)
        inferencer.set_progress_bar_config(mininterval=0)
        with monkeypatch.context() as patch:
            patch.setattr(tqdm, verb, lambda *arguments, **named: 1 / 0)
            assert len(generate(inferencer, "Go.").images) == 2
        assert others_may_show_bars(), verb


def test_bars_that_are_refused_leave_those_of_other_threads_alone() -> None:
    with pytest.raises(ValueError, match="bar_format"):
        ScriptedInferencer(*SCRIPT).set_progress_bar_config(bar_format="{nope}")
    assert others_may_show_bars()


def others_may_show_bars() -> bool:
    """Tell whether the lock that all bars share is free for another thread."""
    taken = threading.Event()

    def take() -> None:
        with tqdm.get_lock():
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    return taken.wait(5)


class Kernel:
    """What a notebook's output is shown by."""

    def __init__(self) -> None:
        self.outputs: list[list[str]] = []

    def display(self, data: dict[str, str], raw: bool, display_id: bool = False) -> Kernel:
        self.outputs.append([data["text/plain"]])
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.outputs[-1].append(data["text/plain"])


def kernel_around(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    package, submodule = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(kernel=kernel)
    package.get_ipython, submodule.display = lambda: shell, kernel.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", submodule)
    return kernel


@pytest.mark.parametrize(("delay", "shown"), [(0, 1), (60, 0)])
def test_a_notebook_gets_one_output_a_run_and_none_for_a_short_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], delay: float, shown: int
) -> None:
    kernel = kernel_around(monkeypatch)
    assert bars(capsys, delay=delay, mininterval=0) == ""
    assert len(kernel.outputs) == shown
    for texts in kernel.outputs:
        assert any("image 2:  50%" in text for text in texts)
        assert texts[-1] == ""


def test_a_batch_has_one_output_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A saved notebook kept every line of its bar."""
    kernel = kernel_around(monkeypatch)
    inferencer = toy_writer()
    inferencer.set_progress_bar_config(delay=0, mininterval=0)
    inferencer.generate_batch(["a", "b"], 5, **SHORT, max_images=0)
    assert capsys.readouterr().err == ""
    assert len(kernel.outputs) == 1
    assert any("prompts" in text for text in kernel.outputs[0])
