"""Text to token ids and back: Qwen2's tokenizer, the same under transformers 4 and 5."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

# transformers 4 has two tokenizers; the one called Qwen2Tokenizer there reads markers in a list of
# texts as real tokens whatever split_special_tokens says, and cannot decode an id past its
# vocabulary. The fast one has neither fault and is what transformers 5 kept, under both names.
from transformers import Qwen2TokenizerFast

from data.wording import shown
from modeling.qwen2.files import (
    MERGES,
    NUM_BYTES,
    REMEDY,
    SETTINGS,
    VOCABULARY,
    WHOLE,
    added_tokens,
    check_files,
)
from modeling.small_files import exists, is_directory

__all__ = ["Qwen2Tokenizer"]

# The tokenizers library has no argument for split_special_tokens: transformers sets it on the
# tokenizer before each text, where another thread sets it otherwise meanwhile.
one_text_at_a_time = threading.RLock()


class Qwen2Tokenizer(Qwen2TokenizerFast):
    """Turns text into token ids and back; see `from_pretrained`.

    Markers such as `<|vision_start|>` in a text become their single id, or plain characters with
    `split_special_tokens=True`. Decoding gives back the encoded text in Unicode's composed form
    (NFC), every space included.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # transformers 5 saves the list of markers under this name, which transformers 4 expects
        # to be a dictionary; the older name is understood by both.
        if isinstance(kwargs.get("extra_special_tokens"), (list, tuple)):
            kwargs["additional_special_tokens"] = kwargs.pop("extra_special_tokens")
        super().__init__(*args, **kwargs)

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        with one_text_at_a_time:
            return super()._encode_plus(*args, **kwargs)

    def _batch_encode_plus(self, *args: Any, **kwargs: Any) -> Any:  # transformers 4 alone has it
        with one_text_at_a_time:
            return super()._batch_encode_plus(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Qwen2Tokenizer:
        """Read a tokenizer from a checkpoint directory or a hub id.

        Args:
            pretrained_model_name_or_path: a directory with `vocab.json` and `merges.txt` or with
                `tokenizer.json`, as a rule beside a `tokenizer_config.json`; or a hub id.
            *args: passed on to transformers.
            **kwargs: passed on to transformers.

        Returns:
            The tokenizer. It never "cleans up" spaces in what it decodes.

        Raises:
            FileNotFoundError: the directory lacks a vocabulary file.
            ValueError: a file is broken, they contradict one another, or the vocabulary does not
                cover the 256 bytes.
        """
        directory = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if not is_directory(directory):  # a hub id
            return cls._settled(
                super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs), directory
            )
        check_files(directory)
        try:
            tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except Exception as error:  # its type depends on the fault and on transformers' version
            raise ValueError(
                f"the tokenizer files in {directory} ({_listed(directory)}) cannot be read "
                f"together ({type(error).__name__}: {shown(str(error))}); {REMEDY}"
            ) from error
        _check_added(tokenizer, directory)
        return cls._settled(tokenizer, directory)

    @staticmethod
    def _settled(tokenizer: Qwen2Tokenizer, source: Path) -> Qwen2Tokenizer:
        if tokenizer.vocab_size < NUM_BYTES:
            raise ValueError(
                f"a byte-level vocabulary has at least {NUM_BYTES} tokens, got "
                f"{tokenizer.vocab_size} from {source}; {REMEDY}"
            )
        # transformers 4 obeys a tokenizer_config.json that asks for the clean-up, and then drops
        # spaces before punctuation that are part of the tokens themselves.
        tokenizer.clean_up_tokenization_spaces = False
        return tokenizer


def _listed(directory: Path) -> str:
    names = (WHOLE, VOCABULARY, MERGES, *SETTINGS)
    return ", ".join(name for name in names if exists(directory / name))


def _check_added(tokenizer: Qwen2Tokenizer, directory: Path) -> None:
    """Compare the ids that a file gives to markers with those that they got.

    transformers numbers them anew after a vocabulary of another length, without a word.
    """
    known = tokenizer.get_vocab()
    for token, index in added_tokens(directory).items():
        if known.get(token) != index:
            raise ValueError(
                f"{directory / SETTINGS[0]} gives {token!r} the id {index}, but with the "
                f"vocabulary beside it, it has {known.get(token)}: the files are of different "
                f"tokenizers, or the vocabulary is not whole; {REMEDY}"
            )
