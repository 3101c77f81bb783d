"""Every line and every picture's header is read before the first step, and told by its place."""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.conversations import examine, read_conversations
from training.samples import Picture, Text

USER = {"role": "user", "content": "Draw."}
IMAGE = {"type": "image", "path": "red.png"}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "Red:"}, IMAGE]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    Image.new("RGB", (32, 16), "red").save(directory / "red.png")
    (directory / "words.png").write_text("hello")
    (directory / "half.png").write_bytes((directory / "red.png").read_bytes()[:20])
    (directory / "folder.png").mkdir()
    return directory


def line(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": messages, **more})


def answer(content: Any) -> str:
    return line(USER, {"role": "assistant", "content": content})


def picture(**keys: Any) -> str:
    return answer([{"type": "image", **keys}])


def read(folder: Path, content: str | bytes) -> list[Any]:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / "a.jsonl").write_bytes(raw)
    return read_conversations(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(USER, ANSWER)[:-5], r"not JSON \(Expecting .*, column \d+\)"),
        (line(USER, ANSWER) * 2, "something follows the object"),
        (str({"messages": [USER]}), "a single quote at column 2"),
        ('{"messages": ' + "[" * 99999 + "]" * 99999 + "}", "nested too deeply"),
        ('{"messages": [], "n": ' + "9" * 5000 + "}", "not readable JSON"),
        ('{"messages": [], "messages": []}', 'the key "messages" stands twice'),
        (line(USER, ANSWER, score=float("nan")), "NaN is no JSON number"),
        (answer("a\x0bb").replace("\\u000b", "\x0b"), r"raw control character U\+000B"),
        (answer("a\x0cb").replace("\\f", "\x0c"), r"raw control character U\+000C"),
        (line(USER).replace("Draw", "Grüße").encode("latin-1"), "not UTF-8 .byte 0xfc at column"),
        (json.dumps([USER, ANSWER]), "wrap the list"),
        (json.dumps({"conversations": []}), 'rename "conversations"'),
        (json.dumps({"messages": USER}), "messages must be a list"),
        (line("hello", ANSWER), r"messages\[0\]: must be .*got \"hello\""),
        (line({"role": "human", "content": "x"}, ANSWER), r'\[0\]\["role"\]: .*write "user"'),
        (line({"role": ["user"], "content": "x"}, ANSWER), r'\["role"\]: must be a role'),
        (line({"content": "x"}, ANSWER), '"role" is missing'),
        (line({"role": "user"}, ANSWER), '"content" is missing'),
        (line(USER, {**ANSWER, "weight": 0}), r'messages\[1\]: .*"weight" is not known'),
        (line({"role": "user", "content": " \n"}, ANSWER), r'\["content"\]: must say something'),
        (answer([]), "must say something, got"),
        (answer(None), "must be a string or a list of parts, got null"),
        (answer({"type": "text", "text": "x"}), "put it into a list"),
        (answer(["x"]), r'messages\[1\]\["content"\]\[0\]: must be \{"type"'),
        (answer([{"type": "video", "path": "x"}]), r"must be \{.*video"),
        (answer([{"type": "text", "text": 5}]), r'\["text"\]: must be a string, got 5'),
        (answer("a\ud800b"), r"half a character, \\ud800 at 1"),
        (answer("red.png"), "names a picture and would be read as words"),
        (picture(), '"path" is missing'),
        (picture(path=5), "must be a path or a data: URL, got 5"),
        (picture(path="red.png", url="red.png"), "must name one picture"),
        (picture(path=" "), "must name a file"),
        (picture(path="a\0b.png"), "must name a file"),
        (picture(path="folder.png"), "is a directory"),
        (picture(path="words.png"), "Pillow knows no such format"),
        (picture(path="half.png"), "must be a readable picture"),
        (picture(path="a" * 9999), r"must be a path .*File name too long"),
        (picture(url="https://a.org/b.png"), "no URL is fetched"),
        (picture(url="data:image/png;base64,@@"), "not base64"),
        (picture(url="data:image/png,x"), "must begin like"),
    ],
)
def test_a_bad_line_is_told_by_its_place_and_in_a_line(
    folder: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: .*{message}") as caught:
        read(folder, content)
    assert max(map(len, str(caught.value).splitlines())) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(USER).encode("utf-16"), "in UTF-16; save it as UTF-8"),
        (line(USER).encode("utf-16-le"), "no text in UTF-8"),
        (b"\x1f\x8b\x08\0", "compressed; unpack it first"),
        (json.dumps([{"messages": []}], indent=1), "JSON over several lines"),
        (b"\xef\xbb\xbf", "are empty"),
    ],
)
def test_a_file_that_is_not_one_of_lines_is_refused_as_a_whole(
    folder: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{message}|a\.jsonl.*{message}"):
        read(folder, content)


@pytest.mark.parametrize("role", ["assistant", "user"])
def test_what_json_allows_in_a_string_ends_no_line(folder: Path, role: str) -> None:
    words = "a\u2028b\u2029c\u0085d\x1ce"
    content = json.dumps({"messages": [{"role": role, "content": words}, ANSWER]}).encode()
    raw = json.dumps(json.loads(content), ensure_ascii=False)
    for text in (content, raw, f"\ufeff{raw}\r\n", f"\n\n{raw}\n\ufeff{raw}"):
        for conversation in read(folder, text):
            assert conversation.messages[0].parts == (words,)


def test_pictures_are_found_by_every_form_that_json_can_write(folder: Path) -> None:
    data = base64.encodebytes((folder / "red.png").read_bytes()).decode()
    url = f"data:image/png;base64,{data}"
    parts = [
        IMAGE,
        {"type": "image", "image": str(folder / "red.png"), "alt": "red"},
        {"type": "image", "url": (folder / "red.png").as_uri()},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "input_image", "image_url": url},
    ]
    [conversation] = read(folder, line({"role": "developer", "content": parts}, ANSWER))
    assert [source.size for source in conversation.pictures()] == [(32, 16)] * 6
    seen = [item for item in conversation.outline() if isinstance(item, Picture)]
    assert [item.image.getpixel((0, 0)) for item in seen] == [(255, 0, 0)] * 6


def test_the_size_is_that_of_the_upright_picture(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16)).save(folder / "turned.jpg", exif=exif)
    [conversation] = read(folder, picture(path="turned.jpg"))
    [source] = conversation.pictures()
    assert source.size == source.open().size == (16, 32)


def test_all_bad_lines_are_told_at_once_or_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = line(USER, ANSWER), picture(path="blue.png")
    (folder / "a.jsonl").write_text("\n".join([good, bad, "{", good]))
    with pytest.raises(FileNotFoundError, match="2 of 4 lines are bad") as caught:
        read_conversations(folder)
    assert "line 2: " in str(caught.value)
    assert "line 3: not JSON" in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="auto_interleaved.training"):
        assert len(read_conversations(folder, skip_bad=True)) == 2
    assert "line 2: " in caplog.text
    (folder / "a.jsonl").write_text(bad)
    with pytest.raises(ValueError, match="no line is left of 1"):
        read_conversations(folder, skip_bad=True)


def test_files_folders_and_patterns_are_taken_and_each_file_once(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "deep/c.jsonl", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(line(USER, {"role": "assistant", "content": name}))

    def read_texts(*data: str) -> list[str]:
        conversations = read_conversations([f"{tmp_path}/{name}" for name in data])
        texts = [c.outline()[-1] for c in conversations]
        return [text.text for text in texts if isinstance(text, Text)]

    assert read_texts("") == ["a.jsonl", "b.jsonl"]
    assert read_texts("d.txt") == ["d.txt"]
    assert read_texts("**/*.jsonl", "a.jsonl") == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]


def test_what_is_no_file_of_lines_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x\.jsonl is a directory"):
        examine(tmp_path)
    (tmp_path / "x.jsonl" / "deep").mkdir()
    (tmp_path / "x.jsonl" / "deep" / "y.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match=r"those further down write .*\*\*"):
        examine(tmp_path / "x.jsonl")
    for data, message in (("", "must name a file"), (tmp_path / "*.json", "no file matches")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            examine(data)
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        examine(tmp_path / "nowhere.jsonl")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="no ordinary file"):
            examine(tmp_path / "pipe")
