"""The list that a run gives back, its segments and the events that lead to it."""

import copy
import logging
import pickle
import subprocess
import sys
import types
from dataclasses import FrozenInstanceError, dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from output_samples import image, picture, story, text
from PIL import Image

from data.output import InterleavedOutput, RecordedError, Segment, Usage, events
from data.output.captions import ALT_LIMIT, alt_text, shorten
from data.output.records import plain

ROOT = Path(__file__).resolve().parents[1]


def knowledge(output):
    return {
        **vars(output),
        "error": output.error and (type(output.error), output.error.args),
    }


def test_an_output_is_equal_to_the_plain_list_of_its_items():
    output = story()
    plain_list = ["Once upon a time.", picture(10), "And then the end.", picture(20)]
    assert output == plain_list
    assert plain_list == output
    assert isinstance(output, list)
    assert output != plain_list[:-1]


def test_slices_and_sums_are_plain_lists():
    output = story()
    assert output[:2] == ["Once upon a time.", picture(10)]
    assert type(output[:2]) is list
    assert output + ["more"] == [*output, "more"]
    assert type(output + ["more"]) is list


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_keeps_the_items_and_what_is_known_of_the_run(protocol):
    output = story()
    again = pickle.loads(pickle.dumps(output, protocol))
    assert type(again) is InterleavedOutput
    assert again == output
    assert knowledge(again) == knowledge(output)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, InterleavedOutput.copy])
def test_a_copy_keeps_everything_and_does_not_follow_its_original(duplicate):
    output = story()
    again = duplicate(output)
    assert type(again) is InterleavedOutput
    assert knowledge(again) == knowledge(output)
    output.append("later")
    assert again == output[:-1]


def test_an_error_that_carries_its_output_can_be_pickled():
    output = story()
    output.error.partial = output
    again = pickle.loads(pickle.dumps(output))
    assert again.error.partial is again


def test_neither_prompt_nor_thoughts_nor_empty_texts_nor_failed_images_are_items():
    output = InterleavedOutput.from_segments(
        [
            text("prompt", "prompt"),
            image(1, "prompt"),
            text("", "generated"),
            text("plan", "thought"),
            text("", "thought"),
            Segment(kind="image", role="generated", error="failed"),
        ],
        finish_reason="no_image",
    )
    assert output == []
    assert output.thoughts == ["plan"]
    assert len(output.segments) == 6


def test_texts_with_nothing_visible_between_them_are_one_item():
    output = InterleavedOutput.from_segments(
        [text("a"), text("b", "thought"), text(""), text("c"), image(1), text("d"), text("e")],
        finish_reason="stop",
    )
    assert output == ["ac", picture(1), "de"]


segment_lists = st.lists(
    st.one_of(
        st.builds(text, st.text(max_size=3), st.sampled_from(["prompt", "generated", "thought"])),
        st.builds(image, st.integers(0, 9), st.sampled_from(["prompt", "generated"])),
    ),
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(segment_lists)
def test_the_list_holds_all_generated_text_and_images_in_order_and_no_two_texts_touch(segments):
    output = InterleavedOutput.from_segments(segments, finish_reason="stop")
    generated = [segment for segment in segments if segment.role == "generated"]
    assert output.text.replace("\n", "") == "".join(segment.text or "" for segment in generated)
    assert output.images == [segment.image for segment in generated if segment.image]
    assert "" not in output
    kinds = [type(item) for item in output]
    assert (str, str) not in zip(kinds, kinds[1:], strict=False)


def test_text_and_images_follow_changes_to_the_list():
    output = story()
    output.insert(0, "First. ")
    output.pop()
    assert output.text == "First. Once upon a time.\nAnd then the end."
    assert output.images == [picture(10)]


def test_seeds_are_those_of_the_images_that_were_drawn():
    assert story().seeds == [2**63 - 1, 8]


def test_an_unknown_finish_reason_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"finish_reason must be one of stop, .*'done'"):
        InterleavedOutput.from_segments([], finish_reason="done")


def test_an_item_of_another_type_is_refused():
    with pytest.raises(TypeError, match="a str or a PIL image, got int"):
        InterleavedOutput([3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sound", "role": "prompt"}, "kind must be one of text, image, got 'sound'"),
        ({"kind": "text", "role": "system", "text": ""}, "role must be one of prompt, generated"),
        ({"kind": "text", "role": "prompt"}, "a text segment takes text"),
        ({"kind": "text", "role": "prompt", "text": "a", "image": picture(1)}, "and no image"),
        ({"kind": "image", "role": "generated"}, "an image segment takes an image"),
        ({"kind": "image", "role": "generated", "image": "a.png"}, "takes an image"),
        ({"kind": "image", "role": "prompt", "image": picture(1), "text": ""}, "and no text"),
    ],
)
def test_a_segment_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Segment(**fields)


def test_a_segment_knows_the_size_of_its_image_as_height_and_width():
    assert image(1).size == (16, 24)
    assert Segment(kind="image", role="generated", size=(5, 7), error="failed").size == (5, 7)


def test_a_segment_keeps_the_pixels_of_a_photograph_but_not_where_it_was_taken(tmp_path):
    exif = Image.Exif()
    exif[0x8825] = {1: "N"}
    picture(1).save(tmp_path / "photo.png", exif=exif, dpi=(72, 72))
    with Image.open(tmp_path / "photo.png") as photo:
        segment = Segment(kind="image", role="prompt", image=photo)
    assert segment.image == picture(1)
    assert segment.image.info == {}


def test_settings_become_plain_values_that_json_can_hold():
    @dataclass
    class Options:
        scale: float
        parts: list

    class Mode(Enum):
        FAST = "fast"

    settings = {
        "options": Options(1.5, [1, [2]]),
        "mode": Mode.FAST,
        "words": {"b", "a"},
        3: None,
        "function": test_settings_become_plain_values_that_json_can_hold,
        "path": Path("a"),
        "bytes": b"x",
    }
    assert InterleavedOutput([], config=settings).config == {
        "options": {"scale": 1.5, "parts": (1, (2,))},
        "mode": "fast",
        "words": ("a", "b"),
        "3": None,
        "function": "test_settings_become_plain_values_that_json_can_hold",
        "path": repr(Path("a")),
        "bytes": "b'x'",
    }
    assert plain(plain(settings)) == plain(settings)


def test_usage_and_segments_and_events_cannot_be_changed():
    step = events.ImageStep(index=0, step=1, num_steps=4)
    for value, name in [(Usage(), "images"), (text("a"), "text"), (step, "step")]:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 3)


def test_events_that_end_a_block_show_their_segment():
    done = events.TextDone(block=0, segment=text("a", token_ids=(1, 2)), requested_image=True)
    assert (done.text, done.token_ids) == ("a", (1, 2))
    drawn = events.ImageDone(index=0, segment=image(5))
    assert drawn.image is drawn.segment.image
    assert events.Finished(output=story()).reason == "error"


def test_an_error_that_was_read_back_says_what_the_original_said():
    error = RecordedError("OutOfMemoryError", "no room")
    assert str(error) == "OutOfMemoryError: no room"
    assert str(RecordedError("KeyboardInterrupt", "")) == "KeyboardInterrupt"
    assert pickle.loads(pickle.dumps(error)).args == error.args


def test_alt_text_is_the_nearest_text_before_the_picture_in_one_line():
    items = ["far", "near\n  and   dear", " \n", picture(1), "after", picture(2)]
    assert alt_text(items, 3) == "near and dear"
    assert alt_text(items, 5) == "after"
    assert alt_text([picture(1)], 0, "the prompt") == "the prompt"
    assert alt_text([picture(1)], 0) == "Image"


@given(st.text(), st.integers(2, 40))
def test_shortened_text_is_one_line_within_its_limit_and_begins_like_the_text(words, limit):
    line = shorten(words, limit)
    assert len(line) <= limit
    assert "\n" not in line
    assert " ".join(shorten(words, 10**9).split()).startswith(line.removesuffix("…"))


def test_long_text_is_cut_between_words_and_a_long_word_inside():
    assert shorten("one two three four", 12) == "one two…"
    assert shorten("x" * 500, ALT_LIMIT) == "x" * (ALT_LIMIT - 1) + "…"


def test_showing_outside_of_a_notebook_opens_a_page_that_holds_the_run(monkeypatch, caplog):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with caplog.at_level(logging.INFO, "auto_interleaved"):
        path = story().show()
    assert opened == [path.as_uri()]
    assert InterleavedOutput.load(path) == story()
    assert str(path) in caplog.text


def test_showing_in_a_notebook_displays_the_output_itself(monkeypatch):
    shown = []
    package, submodule = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython, submodule.display = object, shown.append
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", submodule)
    output = story()
    assert output.show() is None
    assert shown == [output]


def test_outputs_and_events_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; import data.output, data.output.events"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
