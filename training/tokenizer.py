"""The picture book's tokenizer, byte-level BPE in the Qwen2 layout, and the ids of any such one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data.packing import SpecialIds
from modeling.qwen2 import Qwen2Tokenizer
from training.samples import FollowingIds

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
# Qwen2's rule for cutting a text into words before merging.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(directory: Path, texts: list[str], vocab_size: int) -> None:
    """Learn merges from texts and write vocab.json, merges.txt and tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    beside = directory / "tokenizer.partial"
    beside.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(beside))
    first = tokenizer.get_vocab_size()
    added = {
        str(first + offset): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for offset, token in enumerate(SPECIAL_TOKENS)
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 2048,
        "split_special_tokens": False,
        "clean_up_tokenization_spaces": False,
    }
    (beside / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in TOKENIZER_FILES:
        os.replace(beside / name, directory / name)
    beside.rmdir()


def special_ids(tokenizer: Qwen2Tokenizer) -> tuple[SpecialIds, FollowingIds]:
    """Return the ids that frame texts and images, and those that follow a text."""
    end, bos, eos, start_of_image, end_of_image = (
        tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS
    )
    special = SpecialIds(bos=bos, eos=eos, start_of_image=start_of_image, end_of_image=end_of_image)
    return special, FollowingIds(image=start_of_image, end=end)
