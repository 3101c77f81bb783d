"""A tokenizer's files: broken ones are refused by name, where transformers would only fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.wording import shown
from modeling.small_files import exists, read_object, read_text

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
NUM_BYTES = 256

_MAX_OUT_OF_REACH = 0.05

REMEDY = "copy the tokenizer files of the base checkpoint there"


def check_files(directory: Path) -> None:
    """Check what can be told without a tokenizer.

    Args:
        directory: where the files are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken, or contradicts another.
    """
    for name in SETTINGS:
        if exists(directory / name):
            _check_settings(directory / name)
    for name in TEMPLATES:
        if exists(directory / name):
            read_text(directory / name, REMEDY)
    if exists(directory / WHOLE):
        _check_whole(directory / WHOLE)
        return
    # Without this transformers 5 builds a tokenizer that reads every text as nothing at all.
    missing = [name for name in (VOCABULARY, MERGES) if not exists(directory / name)]
    if missing:
        raise FileNotFoundError(
            f"{directory} has no {' and no '.join(missing)} (nor a {WHOLE}); {REMEDY}"
        )
    vocabulary = read_object(directory / VOCABULARY, REMEDY)
    _check_vocabulary(vocabulary, directory / VOCABULARY)
    _check_merges(directory / MERGES, vocabulary)


def added_tokens(directory: Path) -> dict[str, int]:
    """Return the tokens to which `tokenizer_config.json` gives an id, and that id."""
    path = directory / SETTINGS[0]
    declared = read_object(path).get("added_tokens_decoder", {}) if exists(path) else {}
    return {entry["content"]: int(index) for index, entry in declared.items()}


def _check_settings(path: Path) -> None:
    content = read_object(path, REMEDY)
    length = content.get("model_max_length", 1)
    if isinstance(length, bool) or not isinstance(length, int | float) or not length > 0:
        raise ValueError(
            f"{path}: model_max_length must be a number above 0, got {shown(length)}; {REMEDY}"
        )
    if path.name == "added_tokens.json":
        _check_ids(content, path)
    declared = content.get("added_tokens_decoder", {})
    whole = isinstance(declared, Mapping) and all(
        index.isdecimal() and isinstance(entry, Mapping) and isinstance(entry.get("content"), str)
        for index, entry in declared.items()
    )
    if not whole:
        raise ValueError(
            f"{path}: added_tokens_decoder must map ids to objects with a content, such as "
            f'{{"151645": {{"content": "<|im_end|>"}}}}, got {shown(declared)}; {REMEDY}'
        )


def _check_whole(path: Path) -> None:
    model = read_object(path, REMEDY).get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if not isinstance(vocabulary, Mapping):
        raise ValueError(f"{path} holds no byte-level tokenizer (no model with a vocab); {REMEDY}")
    _check_vocabulary(vocabulary, path)


def _check_vocabulary(vocabulary: Mapping[str, Any], path: Path) -> None:
    _check_ids(vocabulary, path)
    if len(vocabulary) < NUM_BYTES:
        raise ValueError(
            f"a byte-level vocabulary has at least {NUM_BYTES} tokens, got {len(vocabulary)} from "
            f"{path}; {REMEDY}"
        )
    absent = [symbol for symbol in _byte_symbols() if symbol not in vocabulary]
    if absent:
        raise ValueError(
            f"{path} lacks the tokens of {len(absent)} of the {NUM_BYTES} bytes, such as "
            f"{absent[0]!r}: some texts could not be read; {REMEDY}"
        )
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError(f"{path} gives two tokens the same id; {REMEDY}")


def _check_ids(vocabulary: Mapping[str, Any], path: Path) -> None:
    for token, index in vocabulary.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**31:
            raise ValueError(
                f"{path}: an id must be a whole number from 0, got {shown(index)} for "
                f"{shown(token)}; {REMEDY}"
            )


def _check_merges(path: Path, vocabulary: Mapping[str, int]) -> None:
    made = set(_byte_symbols())
    for number, line in enumerate(read_text(path, REMEDY).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.removesuffix("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(
                f"{path}, line {number}: a merge is two tokens with a space between, got "
                f"{shown(line)}; {REMEDY}"
            )
        absent = [token for token in (*pair, "".join(pair)) if token not in vocabulary]
        if absent:
            raise ValueError(
                f"{path}, line {number}: {shown(absent[0])} is not in {VOCABULARY}; the two are "
                f"of different tokenizers, or one is not whole; {REMEDY}"
            )
        made.add("".join(pair))
    out_of_reach = vocabulary.keys() - made
    # Some vocabularies hold their special tokens, which no merge makes.
    if len(out_of_reach) > len(vocabulary) * _MAX_OUT_OF_REACH:
        raise ValueError(
            f"{path} is not whole: it makes only {len(made & vocabulary.keys()):,} of the "
            f"{len(vocabulary):,} tokens in {VOCABULARY}; {REMEDY}"
        )


def _byte_symbols() -> Iterator[str]:
    """Yield what stands for each byte in a byte-level vocabulary, GPT-2's printable characters."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = 0
    for byte in range(NUM_BYTES):
        if byte in printable:
            yield chr(byte)
        else:
            yield chr(256 + others)
            others += 1
