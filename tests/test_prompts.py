import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.prompts import ImageInput, ImageRequest, TextInput, parse_prompt
from tests.prompt_samples import END, START, data_url, described, encoded, message, sample_image

law = settings(deadline=None, database=None)  # neither a timed assertion nor a file left behind
pieces = st.lists(st.sampled_from(["a", " b ", "\n", "", START, END, "<|vision", "_start|>"]))


@pytest.fixture
def image() -> Image.Image:
    return sample_image()


@pytest.fixture
def image_file(image, tmp_path) -> Path:
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_a_string_is_one_text_with_its_whitespace():
    assert parse_prompt("  a cat\n") == (TextInput("  a cat\n"),)


def test_an_image_is_one_input(image):
    (part,) = parse_prompt(image)
    assert isinstance(part, ImageInput)
    assert part.image == image


def test_a_path_is_an_image_that_needs_its_file_no_longer(image, image_file):
    (part,) = parse_prompt(image_file)
    image_file.unlink()
    assert part.image == image


@pytest.mark.parametrize("container", [list, tuple])
def test_a_list_keeps_its_order(container, image, image_file):
    parts = parse_prompt(container(["a", image, "b", image_file]))
    assert described(parts) == ["a", image.tobytes(), "b", image.tobytes()]


def test_a_list_of_texts_is_as_many_blocks():
    assert parse_prompt(["a", "b"]) == (TextInput("a"), TextInput("b"))


def test_an_image_input_is_upright_rgb(image):
    image.putalpha(Image.new("L", image.size, 0))
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees
    (part,) = parse_prompt(image)
    assert part.image.mode == "RGB"
    assert part.image.size == (16, 24)
    assert part.image.getpixel((0, 0)) == (255, 255, 255)


def test_painting_over_an_image_later_changes_no_prompt(image):
    before = image.tobytes()
    (part,) = parse_prompt(image)
    image.paste((0, 0, 0), (0, 0, 24, 16))
    assert part.image.tobytes() == before


def test_two_inputs_of_one_image_are_two_inputs(image):
    first, second = parse_prompt([image, image])
    assert first != second


def test_a_marker_splits_a_text_into_text_request_text():
    assert described(parse_prompt(f"a cat{START} and a dog")) == ["a cat", None, " and a dog"]


def test_a_marker_alone_is_a_prompt():
    assert parse_prompt(START) == (ImageRequest(),)


def test_markers_in_a_row_are_as_many_requests():
    assert described(parse_prompt(f"a{START}{START}")) == ["a", None, None]


def test_an_end_marker_right_behind_a_request_is_dropped():
    assert described(parse_prompt(f"a{START}{END} b")) == ["a", None, " b"]


def test_an_end_marker_elsewhere_is_text():
    prompt = f"{END}a{START}b{END}{END}"
    assert described(parse_prompt(prompt)) == [f"{END}a", None, f"b{END}{END}"]


@pytest.mark.parametrize("prompt", [f"{START}\n{START}\n", f" {START}{END} {START}"])
def test_blank_text_around_requests_is_dropped(prompt):
    assert described(parse_prompt(prompt)) == [None, None]


def test_blank_texts_of_a_list_are_dropped(image):
    assert described(parse_prompt(["", image, " \n", "a"])) == [image.tobytes(), "a"]


def test_a_marker_is_split_out_wherever_a_text_stands(image):
    chat = [{"role": "system", "content": f"a{START}"}, message({"type": "text", "text": START})]
    assert described(parse_prompt(chat)) == ["a", None, None]
    assert described(parse_prompt([image, f"{START}b"])) == [image.tobytes(), None, "b"]


def test_another_marker_can_be_named():
    assert described(parse_prompt(f"a<image>{START}", vision_start="<image>")) == ["a", None, START]


def test_split_special_tokens_keeps_markers_as_text():
    prompt = f"a{START}{END}b"
    assert parse_prompt(prompt, split_special_tokens=True) == (TextInput(prompt),)


@law
@given(pieces)
@example([START, END, END])
@example([START, "\n", END])
def test_splitting_loses_only_blanks_and_end_markers(given_pieces):
    prompt = "." + "".join(given_pieces)
    parts = parse_prompt(prompt)
    assert parts.count(ImageRequest()) == prompt.count(START)
    kept = "".join(START if isinstance(part, ImageRequest) else part.text for part in parts)
    wanted = prompt.replace(START + END, START)
    assert re.sub(r"\s", "", kept) == re.sub(r"\s", "", wanted)


@law
@given(pieces)
def test_no_text_is_blank_or_holds_a_marker(given_pieces):
    for part in parse_prompt("." + "".join(given_pieces)):
        if isinstance(part, TextInput):
            assert part.text.strip()
            assert START not in part.text


def test_messages_are_flattened_in_order(image):
    chat = [
        {"role": "system", "content": "be brief"},
        message({"type": "image", "image": image}, {"type": "text", "text": "what?"}),
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    ]
    assert described(parse_prompt(chat)) == ["be brief", image.tobytes(), "what?", "a cat"]


def test_messages_and_their_contents_may_be_tuples():
    chat = ({"role": "user", "content": ({"type": "text", "text": "a"},)},)
    assert parse_prompt(chat) == (TextInput("a"),)


@pytest.mark.parametrize("key", ["image", "path", "url"])
@pytest.mark.parametrize("form", ["path", "name", "data"])
def test_an_image_of_a_message_may_be_a_file_or_a_data_url(key, form, image, image_file):
    source = {"path": image_file, "name": str(image_file), "data": data_url(image)}[form]
    chat = [message({"type": "image", key: source})]
    assert described(parse_prompt(chat)) == [image.tobytes()]


@pytest.mark.parametrize(
    "prompt",
    ["", " \n\t", [], (), [""], ["", " "], [{"role": "user", "content": " "}], [message()]],
)
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="the prompt is empty, got .*; give an image or a text"):
        parse_prompt(prompt)


def test_a_blank_prompt_is_refused_without_splitting_too():
    with pytest.raises(ValueError, match="the prompt is empty"):
        parse_prompt(" ", split_special_tokens=True)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (7, "prompt must be a string, a PIL image .*, got int; open an image file"),
        (None, "prompt must be .*, got NoneType"),
        (b"a", "prompt must be .*, got bytes"),
        (iter("ab"), "prompt must be .*, got str_\\w*iterator"),
        (["a", None], r"prompt\[1\] must be .*, got NoneType"),
        (["a", ["b"]], r"prompt\[1\] must be .*, got list; a list holds no further lists"),
        ({"role": "user", "content": "a"}, "prompt must be .*, got dict; write .*a list of mess"),
        (np.zeros((2, 2, 3)), "prompt must be .*, got ndarray; wrap .*PIL.Image.fromarray"),
        (["a", "b", torch.zeros(3, 2, 2)], r"prompt\[2\] .*, got Tensor; wrap .*Image.fromarray"),
        ([message(), "a"], r"prompt\[1\] must be a message like the others .*, got str; write"),
        (["a", message()], r"prompt\[0\] must be a message like the others .*, got str"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(prompt, words):
    with pytest.raises(TypeError, match=words):
        parse_prompt(prompt)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r'prompt\[0\]\["content"\] must be a string or a list of parts, got NoneType'),
        (["a"], r'prompt\[0\]\["content"\]\[0\] must be \{"type": .*got str'),
        ([{"type": "text", "text": 1}], r'\["content"\]\[0\]\["text"\] must be a string, got int'),
        (
            [{"type": "text", "text": "a"}, {"type": "image", "image": np.zeros((2, 2, 3))}],
            r'\["content"\]\[1\]\["image"\] must be a PIL image, .*, got ndarray; wrap .*fromarray',
        ),
        ([{"type": "image", "path": 3}], r'\["path"\] must be a PIL image, a path .*, got int'),
    ],
)
def test_a_wrong_type_inside_a_message_is_named_with_its_place(content, words):
    with pytest.raises(TypeError, match=words):
        parse_prompt([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (message(role="tool"), 'a role of "system", "user", "assistant"; got \'tool\''),
        ({"content": "a"}, r'prompt\[0\] must have the keys "role" and "content"; got "content"'),
        ({"role": "user"}, 'must have the keys "role" and "content"; got "role"'),
        ({}, 'must have the keys "role" and "content"; got none'),
        (message() | {"mood": "x"}, 'keys "role" and "content"; got "role", "content", "mood"'),
        (message({"text": "a"}), 'must have a type of "text", "image"; got None'),
        (message({"type": "video"}), 'must have a type of "text", "image"; got \'video\''),
        (message({"type": "text"}), 'must have the keys "type" and "text"; got "type"'),
        (message({"type": "text", "text": "a", "x": 1}), 'got "type", "text", "x"'),
        (
            message({"type": "image"}),
            'keys "type" and one of "image", "path", "url"; got "type"',
        ),
        (
            message({"type": "image", "path": "a", "url": "b"}),
            'keys "type" and one of "image", "path", "url"; got "type", "path", "url"',
        ),
    ],
)
def test_an_unknown_role_type_or_key_is_refused_with_those_allowed(entry, words):
    with pytest.raises(ValueError, match=words):
        parse_prompt([entry])


@pytest.mark.parametrize("url", ["http://a.b/c.png", "https://a.b/c.png", "s3://a/b.png"])
@pytest.mark.parametrize("key", ["image", "path", "url"])
def test_a_url_is_not_fetched(url, key):
    with pytest.raises(ValueError, match="URLs are not fetched: load it yourself"):
        parse_prompt([message({"type": "image", key: url})])


def test_a_data_url_must_be_base64():
    with pytest.raises(ValueError, match="a data: URL must hold base64"):
        parse_prompt([message({"type": "image", "url": "data:image/svg+xml,<svg/>"})])


def test_a_data_url_of_damaged_base64_is_refused(image):
    with pytest.raises(ValueError, match=r'\["url"\] must be a readable image'):
        parse_prompt([message({"type": "image", "url": data_url(image) + "*"})])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"prompt\[1\] must be a readable image, .*NotFoundError"):
        parse_prompt(["a", tmp_path / "none.png"])


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="prompt must be a readable image.*UnidentifiedImageError"):
        parse_prompt(tmp_path / "a.png")


def test_a_truncated_file_fails_as_a_path_and_as_an_opened_image(image, tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encoded(image)[:600])
    words = r"must be a readable image, .*truncated.*must be whole"
    with pytest.raises(ValueError, match=r"prompt " + words):
        parse_prompt(path)
    with Image.open(path) as opened, pytest.raises(ValueError, match=r"prompt\[0\] " + words):
        parse_prompt([opened, "a"])


def test_an_image_whose_file_was_closed_too_early_is_refused(image_file):
    with Image.open(image_file) as opened:
        pass
    with pytest.raises(ValueError, match="must be a readable image, .*open until it is loaded"):
        parse_prompt(opened)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"prompt\[0\] must have pixels, got .*\(0, 5\)"):
        parse_prompt([Image.new("RGB", (0, 5))])


@pytest.mark.parametrize(
    "prompt", [["a", "b\ud800"], [message({"type": "text", "text": "\ud800"})]]
)
def test_half_a_character_is_refused(prompt):
    with pytest.raises(ValueError, match="holds half a character at .*; decode its bytes as UTF-8"):
        parse_prompt(prompt)
