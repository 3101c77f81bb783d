"""Saving and loading: every format gives back what it was given, or says what is wrong."""

import json
import random
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from output_samples import NASTY, image, picture, story, text
from PIL import Image

from data.output import InterleavedOutput, RecordedError, Segment, Usage, loading
from data.output.pictures import (
    check_decoded_size,
    decode_png,
    encode_png,
    png_of_uri,
    png_uri,
)

NAMES = ["story", "story.html", "story.md", "story.json"]
every_format = pytest.mark.parametrize("name", NAMES)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@every_format
@pytest.mark.parametrize("words", ["Once upon a time.", NASTY])
def test_what_is_saved_comes_back_exactly(tmp_path, name, words):
    output = story(words)
    path = output.save(tmp_path / name)
    assert path == tmp_path / name
    again = InterleavedOutput.load(path)
    assert type(again) is InterleavedOutput
    assert again == output
    assert again.segments == output.segments
    assert again.seeds == output.seeds
    assert again.usage == output.usage
    assert again.finish_reason == output.finish_reason
    assert again.config == output.config
    assert isinstance(again.error, RecordedError)
    assert (again.error.type_name, again.error.message) == ("MemoryError", f"no room: {words}")
    assert all(item.mode == "RGB" for item in again.images)


@every_format
def test_what_came_back_can_be_saved_again_to_the_same_bytes(tmp_path, name):
    first, second = tmp_path / "first" / name, tmp_path / "second" / name
    story(NASTY).save(first)
    InterleavedOutput.load(first).save(second)
    assert files_below(first.parent) == files_below(second.parent)


@every_format
def test_an_empty_output_and_a_changed_list_come_back(tmp_path, name):
    for items in ([], ["", ""], [picture(1), picture(1)], [picture(3), "a", "b"]):
        output = story()
        output[:] = items
        output.save(tmp_path / name)
        again = InterleavedOutput.load(tmp_path / name)
        assert again == items
        assert again.segments == output.segments
    empty = InterleavedOutput()
    empty.save(tmp_path / name)
    assert InterleavedOutput.load(tmp_path / name) == []


@every_format
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.text(st.characters(), max_size=40), value=st.floats(allow_nan=False))
def test_any_text_and_any_number_come_back(tmp_path, name, words, value):
    output = InterleavedOutput.from_segments(
        [text(words), image(1), text(words, "prompt"), text(words, "thought")],
        finish_reason="stop",
        usage=Usage(seconds=value),
        config={words: [words, value]},
    )
    output.save(tmp_path / name)
    again = InterleavedOutput.load(tmp_path / name)
    assert again == output
    assert again.segments == output.segments
    assert (again.usage, again.config) == (output.usage, output.config)


@every_format
def test_a_picture_in_the_list_is_the_picture_of_its_segment_also_after_loading(tmp_path, name):
    story().save(tmp_path / name)
    again = InterleavedOutput.load(tmp_path / name)
    drawn = [s.image for s in again.segments if s.role == "generated" and s.image is not None]
    assert [id(item) for item in again.images] == [id(item) for item in drawn]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_a_png_gives_back_the_mode_and_pixels_of_its_image(mode):
    original = picture(40).convert(mode)
    assert decode_png(encode_png(original)) == original


def test_an_image_in_a_mode_that_png_lacks_is_kept_as_rgb():
    assert decode_png(encode_png(picture(40).convert("CMYK"))).mode == "RGB"


def test_a_folder_holds_each_item_in_a_file_of_its_own(tmp_path):
    story(NASTY).save(tmp_path / "story")
    files = files_below(tmp_path / "story")
    assert sorted(files) == [
        "000_text.txt",
        "001_image.png",
        "002_text.txt",
        "003_image.png",
        "extra_000_image.png",
        "result.json",
    ]
    assert files["002_text.txt"] == b"And then the end."
    assert files["000_text.txt"].decode() == NASTY.replace("\ud800", "\\ud800")
    with Image.open(tmp_path / "story" / "001_image.png") as first:
        assert first.tobytes() == picture(10).tobytes()


def test_a_markdown_page_has_its_pictures_in_a_folder_named_after_it(tmp_path):
    story().save(tmp_path / "a story (1).md")
    assert sorted(files_below(tmp_path)) == [
        "a story (1).md",
        "a story (1)_images/001_image.png",
        "a story (1)_images/003_image.png",
        "a story (1)_images/extra_000_image.png",
        "a story (1)_images/result.json",
    ]


def test_parents_are_made_and_the_suffix_may_be_in_capitals(tmp_path):
    path = story().save(str(tmp_path / "new" / "deep" / "STORY.JSON"))
    assert InterleavedOutput.load(path) == story()


@pytest.mark.parametrize("name", ["story.pdf", "story.htm", "story.TXT", "story.tar.gz"])
def test_another_suffix_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"a file ending in \.html, \.md or \.json, or in a folder.*write '.*/'"
    ):
        story().save(tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"a file ending in \.html, \.md or \.json"):
        InterleavedOutput.load(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["run_0.7", "v1.2", "2026.11.26", "a.final", "b..", ".c", "d.pdf/"]
)
def test_a_folder_may_have_a_dot_in_its_name(tmp_path, name):
    """It was refused, when all the work was done."""
    path = story().save(f"{tmp_path}/{name}")
    assert path.is_dir()
    assert InterleavedOutput.load(path) == story()
    assert story("again").save(path) == path  # with or without the slash, once it is there
    with pytest.raises(FileNotFoundError, match="there is no saved run at"):
        InterleavedOutput.load(tmp_path / "other_0.7")


def test_a_shorter_run_leaves_nothing_of_the_longer_one_before_it(tmp_path):
    for name in ("story", "story.md"):
        story().save(tmp_path / name)
        InterleavedOutput(["short"]).save(tmp_path / name)
        assert InterleavedOutput.load(tmp_path / name) == ["short"]
    assert sorted(files_below(tmp_path)) == [
        "story.md",
        "story/000_text.txt",
        "story/result.json",
        "story_images/result.json",
    ]


def test_files_of_others_stay_where_they_are(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "005_text.txt").write_text("also mine: nothing was saved here yet")
    story().save(tmp_path)
    assert (tmp_path / "005_text.txt").exists()
    story().save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    story().save(tmp_path / "result.json")
    assert (tmp_path / "001_image.png").exists()


@every_format
@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_while_encoding_leaves_the_earlier_one(
    tmp_path, monkeypatch, name, interruption
):
    story("earlier").save(tmp_path / name)
    before = files_below(tmp_path)
    encode, calls = Image.Image.save, []

    def fail_on_the_second(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 2:
            raise interruption
        encode(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", fail_on_the_second)
    with pytest.raises(type(interruption)):
        story("later").save(tmp_path / name)
    assert files_below(tmp_path) == before


@every_format
def test_nothing_at_the_path_is_a_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="there is no saved run at .*story"):
        InterleavedOutput.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", r"a\.json is not a saved run, or is damaged: Expecting"),
        ("a.json", b"[" * 100_000, r"a\.json is not a saved run"),
        ("a.json", b"\xff\xfe", r"a\.json is not a saved run, or is damaged: 'utf-8'"),
        ("a.json", b"[1]", r'a\.json .* it has no "format": "auto-interleaved-output"'),
        ("a.json", b'{"format": "auto-interleaved-output"}', "its version is None, .* reads 1"),
        ("a.json", b'{"format": "auto-interleaved-output", "version": 1}', "'error' is missing"),
        ("a.html", b"<p>A page of someone else</p>", r"a\.html .* it has no <script"),
        ("a.md", b"# Title", r"a_images is not a saved run: it has no file result\.json"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        InterleavedOutput.load(tmp_path / name)


def test_a_folder_without_a_document_is_not_a_saved_run(tmp_path):
    with pytest.raises(ValueError, match=r"is not a saved run: it has no file result\.json"):
        InterleavedOutput.load(tmp_path)


def test_a_missing_or_damaged_picture_is_named(tmp_path):
    folder = story().save(tmp_path / "story")
    (folder / "001_image.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"result\.json .*001_image\.png is not a readable PNG"):
        InterleavedOutput.load(folder)
    (folder / "001_image.png").unlink()
    with pytest.raises(ValueError, match=r"result\.json .*'001_image\.png' is missing"):
        InterleavedOutput.load(folder)


@pytest.mark.parametrize("reference", ["../secret.png", "../story/001_image.png"])
def test_a_document_cannot_make_us_read_files_elsewhere(tmp_path, reference):
    Image.new("RGB", (1, 1)).save(tmp_path / "secret.png")
    folder = story().save(tmp_path / "story")
    document = (folder / "result.json").read_text(encoding="utf-8")
    (folder / "result.json").write_text(
        document.replace("001_image.png", reference), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="the picture .* is missing"):
        InterleavedOutput.load(folder)


def test_a_page_that_lost_a_picture_says_which(tmp_path):
    path = story().save(tmp_path / "story.html")
    path.write_text(path.read_text("utf-8").replace('data-picture="#picture-1"', ""), "utf-8")
    with pytest.raises(ValueError, match="the picture '#picture-1' is missing"):
        InterleavedOutput.load(path)


def test_a_picture_that_is_no_data_uri_or_no_base64_is_refused():
    with pytest.raises(ValueError, match="a picture must start with 'data:image/png;base64,'"):
        png_of_uri("data:text/html,x")
    with pytest.raises(ValueError, match="not valid base64"):
        png_of_uri("data:image/png;base64,????")


def test_a_picture_of_absurd_size_is_refused():
    whole = encode_png(picture(5))
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + whole[24:29]
    huge = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    with pytest.raises(ValueError, match="not a readable PNG picture .*decompression bomb"):
        decode_png(huge)


@pytest.mark.parametrize("number", [1, 8])
def test_pictures_that_would_fill_the_memory_are_refused_before_one_is_decoded(
    tmp_path, monkeypatch, number
):
    """Sixteen pictures of 13,000 squared in 14 MB of JSON took gigabytes."""
    whole = encode_png(picture(5))
    side = 30_000 // number
    header = b"IHDR" + struct.pack(">II", side, side) + whole[24:29]
    huge = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    path = InterleavedOutput([picture(n) for n in range(number**2)]).save(tmp_path / "a.json")
    document = json.loads(path.read_text("utf-8"))
    document["pictures"] = dict.fromkeys(document["pictures"], png_uri(huge))
    path.write_text(json.dumps(document), "utf-8")
    monkeypatch.setattr(loading, "decode_png", None)
    with pytest.raises(ValueError, match=r"a\.json .* bytes of memory; .* no more than"):
        InterleavedOutput.load(path)


def test_pictures_of_much_content_are_believed():
    noise = Image.frombytes("RGB", (300, 300), random.Random(0).randbytes(270_000))
    check_decoded_size([encode_png(noise)] * 4000)


@pytest.mark.parametrize("damage", ["<![foo[", "<![if x", "<!x[<", "<?", "<![CDATA[", "</script"])
def test_a_page_with_damaged_declarations_is_refused_or_read(tmp_path, damage):
    """Python's parser ends in an AssertionError at some of them."""
    path = story().save(tmp_path / "story.html")
    page = path.read_text("utf-8")
    for place in (0, page.index("<body>"), page.index('"format"'), len(page)):
        path.write_text(page[:place] + damage + page[place:], "utf-8")
        with suppress(ValueError):
            assert InterleavedOutput.load(path) == story()


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt_tokens", "3"), ("images", 1.5), ("seconds", "1"), ("text_tokens", True)],
)
def test_usage_of_a_wrong_type_is_refused_when_it_is_read(tmp_path, field, value):
    """It was taken, and the run could not be saved again."""
    path = story().save(tmp_path / "story.json")
    document = json.loads(path.read_text("utf-8"))
    document["usage"][field] = value
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(ValueError, match=f"{field} must be of type"):
        InterleavedOutput.load(path)


def test_no_damage_to_a_picture_raises_anything_but_a_value_error():
    whole = encode_png(picture(5))
    damage = random.Random(0)
    complaints = []
    for _ in range(3000):
        broken = bytearray(whole[: damage.randrange(20, len(whole) + 1)])
        broken[damage.randrange(len(broken))] ^= 1 << damage.randrange(8)
        try:
            decode_png(bytes(broken))
        except ValueError as error:
            complaints.append(str(error))
    assert len(complaints) > 100
    assert all("not a readable PNG picture" in complaint for complaint in complaints)


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries if isinstance(value, (dict, list)) else ():
        yield from (
            places(entry, (*path, key)) if isinstance(entry, (dict, list)) else [(*path, key)]
        )


def test_no_change_to_a_document_raises_anything_but_a_value_error(tmp_path):
    path = story().save(tmp_path / "story.json")
    whole = path.read_text("utf-8")
    complaints = []
    for place in places(json.loads(whole)):
        for value in (None, 7, "x", [], {}, [[]]):
            document = holder = {"root": json.loads(whole)}
            *parents, last = ("root", *place)
            for key in parents:
                holder = holder[key]
            holder[last] = value
            path.write_text(json.dumps(document["root"]), "utf-8")
            try:
                InterleavedOutput.load(path)
            except ValueError as error:
                complaints.append(str(error))
    assert len(complaints) > 100
    assert all(str(path) in complaint for complaint in complaints)


def test_numbers_of_other_libraries_do_not_cost_a_save(tmp_path):
    numpy = pytest.importorskip("numpy")
    output = InterleavedOutput.from_segments(
        [
            Segment(
                kind="image",
                role="generated",
                image=picture(1),
                seed=numpy.int64(5),
                token_ids=(numpy.int32(1),),
            )
        ],
        finish_reason="stop",
    )
    output.config["added later"] = {1, 2}
    again = InterleavedOutput.load(output.save(tmp_path / "a.json"))
    assert again.segments == output.segments
    assert again.config == {"added later": (1, 2)}
