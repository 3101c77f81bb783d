"""A broken file beside the weights is named before anything is built."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling.checkpoint import load_checkpoint
from modeling.qwen2 import Qwen2Tokenizer
from tests.checkpoints import GOLDEN_CHECKPOINT, change_json

Change = Callable[[Path], object]

JSON_FILES = ("llm_config.json", "vit_config.json", "bagel_config.json", "tokenizer_config.json")
SMALL_FILES = (*JSON_FILES, "vocab.json", "merges.txt", "tokenizer.json", "added_tokens.json")
WEIGHTS = ("ema.safetensors", "ae.safetensors")
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a copy with links in place of the large files, which nothing here writes to."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for path in GOLDEN_CHECKPOINT.iterdir():
        if path.name in WEIGHTS:
            (directory / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, directory / path.name)
    return directory


def refuses(directory: Path, *parts: str, **options: Any) -> None:
    """Check that loading says all parts, in this order and within a few lines."""
    with pytest.raises((ValueError, FileNotFoundError)) as info:
        load_checkpoint(directory, **options)
    message = str(info.value)
    assert re.search(".*".join(map(re.escape, parts)), message, re.DOTALL), message
    assert type(info.value) in (ValueError, FileNotFoundError)  # none of their own kinds
    assert len(message) < 2000


BROKEN = {
    "empty": (b"", "is empty"),
    "cut short": (b'{"a": ', "is not valid JSON"),
    "a list": (b"[]", "must hold a JSON object, got list"),
    "not a number": (b"NaN", "must hold a JSON object, got float"),
    "very deep": (DEEP.encode(), "nested thousands of levels deep"),
    "another encoding": ('{"ä": 1}'.encode("utf-16"), "is not text in UTF-8"),
    "a number of many digits": (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "a page": (b"<!DOCTYPE html><html></html>", "is a web page"),
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("name", [name for name in SMALL_FILES if name.endswith(".json")])
def test_what_is_no_json_object_is_named(directory: Path, name: str, content: str) -> None:
    written, said = BROKEN[content]
    (directory / name).write_bytes(written)
    refuses(directory, f"{directory / name} ", said)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/blob")


IN_PLACE_OF_A_FILE = {
    "a directory": make_directory,
    "a named pipe": os.mkfifo,  # opening one waits for a writer, for ever
    "a link to /nowhere/blob": make_dangling_link,
}


@pytest.mark.parametrize("kind", IN_PLACE_OF_A_FILE)
@pytest.mark.parametrize("name", [*SMALL_FILES, *WEIGHTS])
def test_what_is_no_file_is_named_and_never_opened(directory: Path, name: str, kind: str) -> None:
    path = directory / name
    path.unlink(missing_ok=True)
    IN_PLACE_OF_A_FILE[kind](path)
    refuses(directory, f"{path} is {kind}")


IMPOSSIBLE: dict[str, dict[str, tuple[Any, ...]]] = {
    "llm_config.json": {
        "hidden_size": ("64", 0, -1, 10**9, 1.5, None, True, [64], 10**400, 62, 66),
        "num_hidden_layers": ("3", 0, -1, 10**6, 2.0),
        "num_attention_heads": (0, -4, 3, 64, 10**9, {}),
        "num_key_value_heads": (0, -2, 3, 8, "2"),
        "vocab_size": (0, 503, 10**9, "504"),
        "intermediate_size": (0, 10**12, None),
        "rope_theta": ("x", 0, -1, None, float("nan"), float("inf")),
        "rms_norm_eps": ("x", 0, -1e-6, None),
        "max_position_embeddings": (0, -1, 1.5, None, 10**12),
        "hidden_act": ("gelu", 3),
        "head_dim": (32, "x"),
        "rope_scaling": ({"type": "yarn", "factor": 4}, "x", 3),
        "layer_types": (3,),
        "id2label": (3,),
    },
    "vit_config.json": {
        "hidden_size": ("48", 0, -1, 10**9, 1.5, 50, 96),
        "num_hidden_layers": ("3", 0, -1, 10**6),
        "num_attention_heads": (0, 5, "4"),
        "patch_size": (0, -14, 10**9, "14", 113),
        "image_size": (0, -1, 10**9, "112", 13, 65_000),
        "layer_norm_eps": (0, "x"),
        "hidden_act": ("glue", 3),
        "num_channels": (0, "3"),
    },
}


@pytest.mark.parametrize(
    ("file", "key"), [(file, key) for file, keys in IMPOSSIBLE.items() for key in keys]
)
def test_an_impossible_value_is_named_with_its_file(directory: Path, file: str, key: str) -> None:
    for value in IMPOSSIBLE[file][key]:
        change_json(directory / file, **{key: value})
        refuses(directory, str(directory / file))


@pytest.mark.parametrize("file", IMPOSSIBLE)
def test_a_value_that_is_not_there_is_named(directory: Path, file: str) -> None:
    """transformers would take another model's, and the tensors be blamed."""
    content = json.loads((directory / file).read_text())
    del content["num_attention_heads"]
    (directory / file).write_text(json.dumps(content))
    refuses(directory, f"{directory / file} does not say num_attention_heads")


@pytest.mark.parametrize(
    "settings",
    [
        {"bagel": {"max_latent_size": 10**9}},
        {"bagel": {"latent_patch_size": 10**9}},
        {"bagel": {"vit_max_num_patch_per_side": 10**5}},
        {"bagel": {"connector_act": "glue"}},
        {"vae_transform": [4096, 512, 16]},
        {"vit_transform": [980, 224, 14]},
        {"vae_transform": [10**9, 512, 16]},
        {"image_shape": [20, 20]},
        {"image_shape": [2048, 2048]},
        {"image_shape": [10**12, 16]},
        {"protocol": "nope"},
        {"protocol": 3},
        {"dtype": "int8"},
    ],
)
def test_settings_that_cannot_be_are_named_with_their_file(
    directory: Path, settings: dict[str, Any]
) -> None:
    (directory / "bagel_config.json").write_text(json.dumps(settings))
    refuses(directory, f"{directory / 'bagel_config.json'}: ")


def changed_vocabulary(change: Callable[[dict[str, int]], dict[str, Any]]) -> Change:
    def write(directory: Path) -> None:
        path = directory / "vocab.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return write


def added(text: str) -> Change:
    def write(directory: Path) -> None:
        path = directory / "merges.txt"
        path.write_text(path.read_text() + text)

    return write


def half_of_the_merges(directory: Path) -> None:
    lines = (directory / "merges.txt").read_text().splitlines(keepends=True)
    (directory / "merges.txt").write_text("".join(lines[:120]))


def tokenizer_settings(**changes: Any) -> Change:
    return lambda directory: change_json(directory / "tokenizer_config.json", **changes)


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "ids as text": (changed_vocabulary(lambda v: {t: str(i) for t, i in v.items()}), "vocab.json"),
    "ids below 0": (changed_vocabulary(lambda v: {t: -i for t, i in v.items()}), "vocab.json"),
    "huge ids": (changed_vocabulary(lambda v: {t: i + 10**12 for t, i in v.items()}), "vocab.json"),
    "one id for all": (changed_vocabulary(lambda v: dict.fromkeys(v, 0)), "vocab.json"),
    "a byte is missing": (
        changed_vocabulary(lambda v: {t: i for t, i in v.items() if t != "A"}),
        "vocab.json lacks the tokens of 1 of the 256 bytes, such as 'A'",
    ),
    "a smaller vocabulary": (
        changed_vocabulary(lambda v: {t: i for t, i in v.items() if i < 300}),
        "merges.txt, line 46: 'ag' is not in vocab.json",
    ),
    "another vocabulary": (
        changed_vocabulary(lambda v: {**v, "zzz": 499}),
        "gives '<|endoftext|>' the id 499, but",
    ),
    "one part": (added("abc\n"), "merges.txt, line 245: a merge is two tokens"),
    "three parts": (added("a b c\n"), "merges.txt, line 245: a merge is two tokens"),
    "unknown parts": (added("zz qq\n"), "merges.txt, line 245: 'zz' is not in vocab.json"),
    "merges cut short": (half_of_the_merges, "merges.txt is not whole"),
    "a list of markers": (tokenizer_settings(added_tokens_decoder=3), "tokenizer_config.json: "),
    "a marker is no text": (
        tokenizer_settings(added_tokens_decoder={"499": {"content": 3}}),
        "tokenizer_config.json: ",
    ),
    "an end that is a number": (tokenizer_settings(eos_token=3), "tokenizer_config.json"),
    "markers in a number": (
        tokenizer_settings(additional_special_tokens=3),
        "tokenizer_config.json",
    ),
    "a length in words": (
        tokenizer_settings(model_max_length="long"),
        "tokenizer_config.json: model_max_length must be a number above 0, got 'long'",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_broken_tokenizer_files_are_named(directory: Path, name: str) -> None:
    change, said = TOKENIZERS[name]
    change(directory)
    with pytest.raises(ValueError, match=re.escape(said)) as info:
        Qwen2Tokenizer.from_pretrained(directory)
    assert str(directory) in str(info.value)


def test_markers_that_no_file_names_are_told_of(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They get new ids then, which may be others than those that the model was trained with."""
    (directory / "tokenizer_config.json").unlink()
    load_checkpoint(directory)
    assert "do not name all of <|im_start|>" in caplog.text


def test_a_byte_order_mark_before_a_configuration_is_passed_over(directory: Path) -> None:
    for name in ("llm_config.json", "vit_config.json"):
        path = directory / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_checkpoint(directory).model.config.llm_config.hidden_size == 64


@pytest.mark.parametrize(
    "shard",
    [
        "/etc/passwd",
        "../other.safetensors",
        "sub/../../other.safetensors",
        "C:\\other.safetensors",
        "..\\other.safetensors",
        "\\\\host\\share\\other.safetensors",
        "",
        ".",
    ],
)
def test_an_index_names_nothing_outside_its_directory(directory: Path, shard: str) -> None:
    (directory / "ema.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"llm2vae.bias": shard}}))
    refuses(directory, f"{index} names a shard outside its directory: {shard!r}")


@pytest.mark.parametrize(
    ("shard", "said"),
    [
        ("model.bin", "is no safetensors file: 'model.bin'; convert"),
        ("x" * 5000 + ".safetensors", "names shards that are not there: 'xxx"),
        ("a\0b.safetensors", "names shards that are not there: 'a\\x00b"),
    ],
)
def test_an_index_of_impossible_names_is_refused_within_a_line(
    directory: Path, shard: str, said: str
) -> None:
    (directory / "ema.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"llm2vae.bias": shard}}))
    refuses(directory, said)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("", ValueError, "is empty"),
        (None, TypeError, "got None"),
        (b"checkpoint", TypeError, "got b'checkpoint'"),
        ("a\0b", FileNotFoundError, "no checkpoint directory at 'a"),
        ("x" * 5000, FileNotFoundError, "no checkpoint directory at 'xxx"),
        ("~nobody_at_all/x", FileNotFoundError, "no home directory is known"),
        ("/dev/null", ValueError, "/dev/null is a device"),
        ("https://huggingface.co/a/b/tree/main", ValueError, "write its hub id alone: 'a/b'"),
        (GOLDEN_CHECKPOINT / "llm_config.json", ValueError, "give the checkpoint's directory"),
        (GOLDEN_CHECKPOINT / "ae.safetensors", ValueError, "it is an autoencoder alone"),
    ],
)
def test_a_path_that_leads_to_no_checkpoint_says_what_it_is(
    given: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)) as info:
        load_checkpoint(given)
    assert len(str(info.value)) < 500
