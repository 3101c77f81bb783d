"""Chat messages and parts as other programs write them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.output import InterleavedOutput
from data.prompts import parse_prompt
from tests.prompt_samples import data_url, encoded, in_base64, message, read, sample_image

IMAGE = sample_image()
PIXELS = IMAGE.tobytes()
URL, BASE64 = data_url(IMAGE), in_base64(IMAGE)


IMAGE_PARTS = {
    "of OpenAI": {"type": "image_url", "image_url": {"url": URL, "detail": "high"}},
    "as a string": {"type": "image_url", "image_url": URL},
    "with url beside": {"type": "image_url", "url": URL},
    "of OpenAI's responses": {"type": "input_image", "image_url": URL, "detail": "auto"},
    "of Anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": BASE64},
        "cache_control": {"type": "ephemeral"},
    },
    "of Anthropic by URL": {"type": "image", "source": {"type": "url", "url": URL}},
    "of Hugging Face": {"type": "image", "image": IMAGE},
    "by url": {"type": "image", "url": URL},
    "by base64": {"type": "image", "base64": BASE64},
    "by a data URL as base64": {"type": "image", "base64": URL},
    "by value": {"type": "image", "value": IMAGE},
    "by content": {"type": "image", "content": URL},
    "by data": {"type": "image", "data": BASE64, "mimeType": "image/png"},
    "of langchain": {"type": "image", "source_type": "base64", "data": BASE64, "mime_type": "x"},
    "by bytes": {"type": "image", "image": encoded(IMAGE)},
    "of datasets": {"type": "image", "image": {"bytes": encoded(IMAGE), "path": "gone.png"}},
    "with empty columns": {
        "type": "image",
        "image": IMAGE,
        "text": None,
        "url": None,
        "path": None,
    },
    "by bare base64": {"type": "image", "image": BASE64},
    "with a name": {"type": "image", "image": IMAGE, "name": "v.png", "id": 3},
}


@pytest.mark.parametrize("part", IMAGE_PARTS.values(), ids=IMAGE_PARTS)
def test_an_image_part_of_any_usual_form_is_read(part: dict) -> None:
    assert read([message(part)]) == [PIXELS]
    assert read([part, "What is it?"]) == [PIXELS, "What is it?"]


@pytest.mark.parametrize(
    "form",
    [
        lambda path: {"type": "image", "path": path},
        lambda path: {"type": "image", "path": str(path)},
        lambda path: {"type": "image", "value": str(path)},
        lambda path: {"type": "image", "url": path.as_uri()},
        lambda path: {"type": "image_url", "image_url": {"url": str(path)}},
        lambda path: {"type": "image", "image": {"bytes": None, "path": str(path)}},
        lambda path: {"type": "image", "source": path},
    ],
    ids=range(7),
)
def test_a_path_string_is_a_path_in_every_image_part(form, tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "v 1.png")
    assert read([form(tmp_path / "v 1.png")]) == [PIXELS]


@pytest.mark.parametrize("key", ["base64", "data"])
def test_what_is_said_to_be_base64_is_never_a_path(key: str, tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "v", "PNG")
    with pytest.raises(ValueError, match="must be a readable image"):
        parse_prompt([{"type": "image", key: str(tmp_path / "v")}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "a", "annotations": [{}], "logprobs": []},
        {"type": "text", "value": "a"},
        {"type": "text", "content": "a"},
        {"type": "text", "text": "a", "image": None, "video": None},
    ],
)
def test_a_text_part_of_any_usual_form_is_read(part: dict) -> None:
    assert read([part]) == ["a"]
    assert read([message(part)]) == ["a"]


@pytest.mark.parametrize(
    "entry",
    [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": "a", "name": "me", "cache_control": {"type": "ephemeral"}},
        {"type": "message", "role": "user", "content": "a", "id": "m1", "status": "completed"},
        {"role": "assistant", "content": "a", "refusal": None, "tool_calls": [], "audio": None},
    ],
)
def test_a_message_of_any_usual_form_is_read(entry: dict) -> None:
    assert read([entry]) == ["a"]


def test_parts_may_stand_among_strings_images_and_paths(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "v.png")
    part = {"type": "text", "text": "v.png"}
    wanted = ["a", "v.png", PIXELS, PIXELS]
    assert read(["a", part, IMAGE, tmp_path / "v.png"]) == wanted
    assert read((part,)) == ["v.png"]


def test_an_output_of_a_run_is_its_texts_and_images_in_order() -> None:
    output = InterleavedOutput(["photos/v.png", IMAGE, "It ends."])
    chat = [
        {"role": "user", "content": "a story"},
        {"role": "assistant", "content": output},
        message({"type": "text", "text": "go on"}),
    ]
    made = ["photos/v.png", PIXELS, "It ends."]
    assert read(chat) == ["a story", *made, "go on"]
    assert read(["a story", output, "go on"]) == ["a story", *made, "go on"]
    assert read(output) == made


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"role": "User", "content": "a"}, r"got 'User'; did you mean \"user\"\?"),
        ({"role": "gpt", "content": "a"}, r"got 'gpt'; did you mean \"assistant\"\?"),
        ({"role": ["user"], "content": "a"}, r"a role of .*; got \['user'\]"),
        ({"from": "human", "value": "a"}, r'"from", "value"; did you mean "role"\?'),
        (
            {"role": "user", "contents": "a"},
            r'keys "role" and "content"; got "role", "contents"; did you mean "content"\?',
        ),
        ({"role": "user", "content": "a", "": "b"}, 'got "role", "content", ""'),
        (
            {"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]},
            'got "role", "content", "tool_calls"',
        ),
        (message({"type": "img_url", "url": URL}), r'"image_url"\?'),
        (message({"type": ["text"], "text": "a"}), r"a type of .* got \['text'\]"),
        (
            message({"type": "text", "txt": "a"}),
            r'"type" and "text"; got "type", "txt"; did you mean "text"\?',
        ),
        (message({"type": "image", "imgae": IMAGE}), r'did you mean "image"\?'),
        (message({"type": "input_image", "file_id": "x"}), 'got "type", "file_id"'),
        (message({"type": "image", "source": {"type": "file", "file_id": 1}}), '"file_id"'),
        (message({"type": "image", "image": IMAGE, "min_pixels": 9}), '"min_pixels"'),
        (message({"type": "image_url", "image_url": {"url": "https://a.b/c"}}), "are not fetched"),
    ],
)
def test_what_is_not_understood_is_named_with_the_nearest(entry: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_prompt([entry])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"type": "text", "text": "a"}, "got dict; put the part into a list"),
        ([SimpleNamespace(role="user", content="a")], "got SimpleNamespace; open an image"),
        ([type("M", (), {"model_dump": None})()], r"got M; .* a dictionary with .model_dump\(\)"),
        ((text for text in "ab"), "got generator; make a list of it"),
        (["a", b"\x89PNG"], r'got bytes; write \{"type": "image", "image": ...\}'),
        ([{"type": "image", "image": {"url": {"url": URL}}}], r'\["image"\]\["url"\] .*got dict'),
        ([{"type": "image", "image": np.zeros((2, 2, 3))}], r'\["image"\] .*Image.fromarray'),
        ([{"type": "image", "image": None}], r'\["image"\] must be a PIL image, .*got NoneType'),
        ([{"role": "user", "content": {"type": "text"}}], "a string or a list of parts, got dict"),
    ],
)
def test_a_wrong_type_is_refused_with_what_to_write(prompt: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        parse_prompt(prompt)


MILLIONS = "x" * 1_900_000


@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": MILLIONS, "content": "a"}],
        [{"role": "user", "content": "a", MILLIONS: 1}],
        [{"role": "user", "content": "a", **{f"key{n}": 1 for n in range(9999)}}],
        [message({"type": MILLIONS})],
        [{"type": "image", "path": MILLIONS}],
        f"data:image/png;base64,{MILLIONS}",
        MILLIONS + "\ud800",
        [" " * 1_900_000],
    ],
    ids=range(8),
)
def test_no_message_repeats_a_long_prompt(prompt: object) -> None:
    with pytest.raises(ValueError, match="prompt") as raised:
        parse_prompt(prompt)
    assert len(str(raised.value)) < 500
