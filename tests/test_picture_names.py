"""A string that names a picture is refused where words are expected, in every entry point.

A model that was given the words "photos/v.png" answered with confidence about a picture that it had
never seen.
"""

import os
from pathlib import Path

import pytest

from auto_interleaved.terminal.arguments import ArgumentError
from auto_interleaved.terminal.request import read_request
from data.prompts import TextInput, parse_prompt
from inferencer import InterleaveInferencer
from tests.builders import toy_inferencer
from tests.prompt_samples import data_url, encoded, in_base64, message, read, sample_image
from tests.scripted import ScriptedInferencer

PICTURES = [
    "v.png",
    "photos/v.png",
    " photos/V.JPEG\n",
    "'photos/v.webp'",
    "photos/*.png",
    "a.png b.jpg",
    "a.png,\nb.png",
    "IMG_1234.HEIC",
    r"C:\pictures\v.jpg",
    r"C:\Users\Jane Doe\v.jpg",
    r"\\server\share\my picture.bmp",
    "/home/jane doe/v.png",
    "./my picture.png",
    "~/my picture.gif",
    "https://a.b/c.png",
    "https://a.b/c.png?width=3&height=4#top",
    "https://a.b/image?file=c.png",
    "https://a.b/p-1?fm=jpg&w=3",
    "<https://a.b/c.png>",
    "s3://bucket/c.tiff",
    "file:///home/me/v.png",
    "file:///home/me/my%20picture",
    "data:image/png;base64,iVBORw0KGgo=",
    "DATA:;base64,iVBORw0KGgo=",
    "data:image/svg+xml,<svg/>",
    data_url(sample_image()),
    f"Look at this: {data_url(sample_image())} What is it?",
    in_base64(sample_image()),
    in_base64(sample_image(), "JPEG"),
    in_base64(sample_image(), "GIF"),
]

WORDS = [
    "What is in v.png",
    "What is in photos/v.png?",
    "Compare a.png and b.png",
    "v.png shows a cat",
    "Describe /home/me/v.png",
    "/imagine a cat, saved as v.png",
    "png",
    ".png",
    "...",
    "main.py",
    "1.5",
    "Is it a .png or a .jpg?",
    "https://example.com",
    "https://a.b/c.html shows v.png",
    "file:/ is how such URLs begin",
    "data: the new oil",
    "data:image/png;base64,... is a data URL",
    "The base64 of a PNG begins iVBORw0KGgo",
    "iVBORw0KGgo",
    "/",
    "Draw a red circle.",
]


@pytest.mark.parametrize("text", PICTURES, ids=range(len(PICTURES)))
def test_a_text_that_names_or_holds_a_picture_is_refused(text: str) -> None:
    for prompt, place in [
        (text, "prompt"),
        ([text, "What is in the picture?"], r"prompt\[0\]"),
        (({"type": "text", "text": "a"}, text), r"prompt\[1\]"),
        ([{"role": "user", "content": text}], r'prompt\[0\]\["content"\]'),
    ]:
        with pytest.raises(ValueError, match=f"^{place} names a picture, .*if words are meant"):
            parse_prompt(prompt)


@pytest.mark.parametrize("text", WORDS)
def test_prose_is_words_whatever_it_mentions(text: str) -> None:
    assert parse_prompt([text]) == (TextInput(text),)


@pytest.mark.parametrize("name", ["my photo.png", "a picture without a suffix"])
def test_the_name_of_a_picture_that_exists_is_refused_whatever_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read([name]) == [name]
    Path(name).write_bytes(encoded(sample_image()))
    with pytest.raises(ValueError, match=r"names a picture, .*write pathlib.Path\('"):
        parse_prompt([name])


def test_the_name_of_another_file_that_exists_is_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README").write_text("no picture")
    assert read(["README"]) == ["README"]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("photos/v.png", r"write pathlib.Path\('photos/v.png'\)"),
        ("~/v.png", r"write pathlib.Path\('~/v.png'\).expanduser\(\)"),
        ("https://a.b/c.png", "no URL is fetched: load the picture yourself"),
        ("file:///v.png", r'write \{"type": "image", "url": \'file:///v.png\'\}'),
        (data_url(sample_image()), r'write \{"type": "image", "url": "data:..."\}'),
        (in_base64(sample_image()), r'write \{"type": "image", "base64": ...\}'),
    ],
)
def test_what_to_write_instead_is_said(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy + r'.*put \{"type": "text", "text": ...\} into'):
        parse_prompt(text)


@pytest.mark.parametrize("text", PICTURES[::5])
def test_a_text_part_and_what_an_assistant_said_are_words(text: str) -> None:
    part = {"type": "text", "text": text}
    assert read([part]) == [text]
    assert read([message(part)]) == [text]
    assert read([{"role": "assistant", "content": text}]) == [text]


# The published calls.


@pytest.fixture(scope="module")
def inferencer() -> InterleaveInferencer:
    return toy_inferencer()


ANSWER = {"understanding_output": True, "max_think_token_n": 4}


@pytest.mark.parametrize("text", ["photos/v.png", "https://a.b/c.png", "data:;base64,iVBORw=="])
def test_the_published_list_refuses_names_and_takes_paths_and_parts(
    inferencer: InterleaveInferencer, text: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="input 0 names a picture"):
        inferencer.interleave_inference([text, "What is it?"], **ANSWER)
    path = tmp_path / "v.png"
    sample_image().save(path)
    words = {"type": "text", "text": text}
    wanted = inferencer.interleave_inference([sample_image(), words], **ANSWER)
    for picture in (path, {"type": "image", "path": str(path)}):
        assert inferencer.interleave_inference([picture, words], **ANSWER) == wanted


def test_a_call_takes_an_image_by_its_path_url_data_or_bytes(
    inferencer: InterleaveInferencer, tmp_path: Path
) -> None:
    """A string was read as words: a call answered about the name of a picture."""
    path = tmp_path / "v.png"
    sample_image().save(path)
    wanted = inferencer(image=sample_image(), text="v.png", **ANSWER)
    pictures = [path, str(path), path.as_uri(), data_url(sample_image()), encoded(sample_image())]
    for picture in pictures:
        assert inferencer(image=picture, text="v.png", **ANSWER) == wanted
    assert inferencer(text="v.png", **ANSWER) != wanted


@pytest.mark.parametrize("wrong", ["none.png", "https://a.b/c.png", "What is in the picture?", ""])
def test_a_call_refuses_an_image_that_cannot_be_read(
    inferencer: InterleaveInferencer, wrong: str
) -> None:
    with pytest.raises(ValueError, match="image must be a readable image, got "):
        inferencer(image=wrong, text="x", **ANSWER)


@pytest.mark.parametrize("text", ["photos/v.png", data_url(sample_image())])
def test_the_command_line_says_where_pictures_go(text: str) -> None:
    with pytest.raises(
        ArgumentError, match="must be words, got .*; pictures go after --image"
    ) as e:
        read_request([text])
    assert len(str(e.value)) < 300


def test_the_command_line_refuses_a_pipe_as_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.png")
    with pytest.raises(ArgumentError, match="--image: there is no file"):
        read_request(["What is it?", "--image", str(tmp_path / "v.png")])


def test_the_loop_refuses_a_name_before_anything_is_computed() -> None:
    inferencer = ScriptedInferencer([])
    for call in (inferencer.auto_interleaved_generation, inferencer.stream):
        with pytest.raises(ValueError, match=r"prompt\[0\] names a picture"):
            call(["photos/v.png", "What is in the picture?"])
