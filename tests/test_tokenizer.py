import json
import pickle
from copy import deepcopy
from unicodedata import normalize

import pytest
import torch
import transformers
from hypothesis import given

from data.data_utils import add_special_tokens
from modeling.qwen2 import Qwen2Tokenizer
from tests.tokenizer_samples import (
    CHECKPOINT,
    MARKERS,
    QUOTED,
    SAMPLE,
    copy_checkpoint,
    law,
    mixtures,
    texts,
)

# What transformers 4.49's own Python tokenizer gives for the golden vocabulary.
GOLDEN_IDS = {
    "a red circle, then a blue square": [64, 489, 436, 303, 11, 434, 256, 450, 68, 424, 347],
    "Create a robot": [336, 256, 337],
    " it's  12\n\n x , . !": [
        *(220, 364, 339, 220, 220, 16, 17, 198, 198, 220, 87, 220, 11, 220, 13, 220, 0)
    ],
    "e\u0301 한": [127, 102, 220, 169, 243, 250],
    "hi <|vision_start|> there<|im_end|>": [292, 220, 502, 262, 260, 501],
}


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return Qwen2Tokenizer.from_pretrained(CHECKPOINT)


def without_special_flags(config: dict) -> None:
    """As a checkpoint looks whose markers were added as plain strings during training."""
    config["additional_special_tokens"] = []
    for entry in config["added_tokens_decoder"].values():
        entry["special"] = False


def test_ids_are_the_same_under_every_transformers(tokenizer):
    assert {text: tokenizer.encode(text) for text in GOLDEN_IDS} == GOLDEN_IDS


@pytest.mark.parametrize("text", SAMPLE)
def test_ids_equal_those_of_transformers_own_class(tokenizer, text):
    theirs = transformers.Qwen2Tokenizer.from_pretrained(CHECKPOINT)
    assert tokenizer.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("text", SAMPLE)
def test_decoding_gives_back_the_composed_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == normalize("NFC", text)


@law
@given(text=texts | mixtures)
def test_any_text_comes_back_composed(tokenizer, text):
    ids = tokenizer.encode(text, split_special_tokens=True)
    assert tokenizer.decode(ids) == normalize("NFC", text)


def test_each_marker_is_one_id(tokenizer):
    for token, number in zip(MARKERS, (500, 501, 502, 503), strict=True):
        assert tokenizer.encode(token) == [number]
        assert tokenizer.decode([number]) == token
        assert tokenizer.decode([number, 83], skip_special_tokens=True) == "t"


def test_no_marker_is_added_by_itself(tokenizer):
    assert not {499, 500, 501, 502, 503} & set(tokenizer.encode("Create a robot"))


def test_markers_can_be_read_as_plain_characters(tokenizer):
    ids = tokenizer.encode(QUOTED, split_special_tokens=True)
    assert max(ids) < 499
    assert tokenizer.decode(ids) == QUOTED
    assert tokenizer(QUOTED, split_special_tokens=True).input_ids == ids


def test_markers_in_a_list_of_texts_can_be_read_as_plain_characters(tokenizer):
    """transformers 4's Python tokenizer forgets split_special_tokens for a list."""
    ids = tokenizer.encode(QUOTED, split_special_tokens=True)
    assert tokenizer([QUOTED, QUOTED], split_special_tokens=True).input_ids == [ids, ids]


def test_reading_one_text_plainly_does_not_change_the_next(tokenizer):
    tokenizer.encode(QUOTED, split_special_tokens=True)
    assert {501, 502} <= set(tokenizer.encode(QUOTED))


@pytest.mark.parametrize("clean", [True, False, None])
def test_no_space_is_removed_before_punctuation(tmp_path, clean):
    """transformers 4 obeys a configuration that asks for it."""
    copy_checkpoint(tmp_path, edit=lambda config: config.update(clean_up_tokenization_spaces=clean))
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    text = "a , b . don 't ! ?"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.batch_decode([ids]) == [text]


def test_an_id_past_the_vocabulary_decodes_to_nothing(tokenizer):
    """A model has more rows than its tokenizer has tokens, and may sample one of them."""
    assert tokenizer.decode([83, 600, 83]) == "tt"


def test_half_a_character_decodes_to_the_replacement_character(tokenizer):
    first, *rest = tokenizer.encode("한")
    assert tokenizer.decode([first]) == "\ufffd"
    assert tokenizer.decode([first, *rest]) == "한"


def test_ids_may_come_as_a_tensor(tokenizer):
    assert tokenizer.decode(torch.tensor([336, 256, 337])) == "Create a robot"


@pytest.mark.parametrize("duplicate", [deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_reads_like_the_original(tokenizer, duplicate):
    assert duplicate(tokenizer).encode(QUOTED) == tokenizer.encode(QUOTED)


def test_a_saved_tokenizer_reads_like_the_original(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = Qwen2Tokenizer.from_pretrained(tmp_path)
    assert [again.encode(text) for text in (*SAMPLE, QUOTED)] == [
        tokenizer.encode(text) for text in (*SAMPLE, QUOTED)
    ]
    assert again.all_special_ids == tokenizer.all_special_ids


def test_what_transformers_5_saves_is_understood(tokenizer, tmp_path):
    """transformers 4 expects a dictionary of markers and asks for the protobuf library instead."""
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = config.pop("additional_special_tokens")
    del config["added_tokens_decoder"]
    for file in tmp_path.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    again = Qwen2Tokenizer.from_pretrained(tmp_path)
    assert [again.encode(token) for token in MARKERS] == [[500], [501], [502], [503]]
    assert set(again.all_special_tokens) == {"<|endoftext|>", *MARKERS}


def test_a_tokenizer_in_a_subfolder_is_found(tmp_path):
    (tmp_path / "text").mkdir()
    copy_checkpoint(tmp_path / "text")
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path, subfolder="text")
    assert tokenizer.encode("Create a robot") == [336, 256, 337]


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "has no vocab.json and no merges.txt"),
        (("tokenizer_config.json",), "has no vocab.json and no merges.txt"),
        (("vocab.json", "tokenizer_config.json"), "has no merges.txt"),
        (("merges.txt", "tokenizer_config.json"), r"has no vocab.json \(nor a tokenizer.json\)"),
    ],
)
def test_missing_vocabulary_files_are_named(tmp_path, present, message):
    """transformers 5 makes a tokenizer of an empty folder, which reads every text as nothing."""
    copy_checkpoint(tmp_path, present)
    with pytest.raises(FileNotFoundError, match=message):
        Qwen2Tokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_that_lacks_bytes_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="at least 256 tokens, got 2 from"):
        Qwen2Tokenizer.from_pretrained(tmp_path)


TOKENIZERS = pytest.mark.parametrize("kind", [Qwen2Tokenizer, transformers.Qwen2Tokenizer])


@TOKENIZERS
def test_known_markers_are_looked_up_and_nothing_is_added(kind):
    tokenizer = kind.from_pretrained(CHECKPOINT)
    same, ids, num_new_tokens = add_special_tokens(tokenizer)
    assert same is tokenizer
    assert num_new_tokens == 0
    assert ids == {
        "bos_token_id": 500,
        "eos_token_id": 501,
        "start_of_image": 502,
        "end_of_image": 503,
    }


@TOKENIZERS
def test_missing_markers_are_added_once(kind, tmp_path):
    tokenizer = kind.from_pretrained(copy_checkpoint(tmp_path, ("vocab.json", "merges.txt")))
    size = len(tokenizer)
    tokenizer, ids, num_new_tokens = add_special_tokens(tokenizer)
    assert num_new_tokens == 4
    assert list(ids.values()) == [size, size + 1, size + 2, size + 3]
    assert len(tokenizer) == size + 4
    assert add_special_tokens(tokenizer)[1:] == (ids, 0)
    assert [tokenizer.encode(token) for token in MARKERS] == [[number] for number in ids.values()]


@TOKENIZERS
def test_one_missing_marker_is_the_only_one_added(kind, tmp_path):
    def forget_vision_end(config: dict) -> None:
        del config["added_tokens_decoder"]["503"]
        config["additional_special_tokens"].remove("<|vision_end|>")

    tokenizer = kind.from_pretrained(copy_checkpoint(tmp_path, edit=forget_vision_end))
    before = set(tokenizer.all_special_tokens)
    tokenizer, ids, num_new_tokens = add_special_tokens(tokenizer)
    assert num_new_tokens == 1
    assert ids["end_of_image"] == 503
    assert set(tokenizer.all_special_tokens) == before | {"<|vision_end|>"}


@TOKENIZERS
def test_a_marker_that_was_no_special_token_becomes_one_and_keeps_its_id(kind, tmp_path):
    """Else a prompt that quotes it would be read as the real token."""
    tokenizer = kind.from_pretrained(copy_checkpoint(tmp_path, edit=without_special_flags))
    tokenizer, ids, num_new_tokens = add_special_tokens(tokenizer)
    assert num_new_tokens == 0
    assert list(ids.values()) == [500, 501, 502, 503]
    assert max(tokenizer.encode(QUOTED, split_special_tokens=True)) < 499
    assert tokenizer.decode([502, 83], skip_special_tokens=True) == "t"
