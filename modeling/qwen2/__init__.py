"""Text to token ids and back: Qwen2's tokenizer, the same under transformers 4 and 5."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# transformers 4 has two tokenizers; the one called Qwen2Tokenizer there reads markers in a list of
# texts as real tokens whatever split_special_tokens says, and cannot decode an id past its
# vocabulary. The fast one has neither fault and is what transformers 5 kept, under both names.
from transformers import Qwen2TokenizerFast

__all__ = ["Qwen2Tokenizer"]

NUM_BYTES = 256


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
            ValueError: the vocabulary does not cover the 256 bytes.
        """
        _require_files(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if tokenizer.vocab_size < NUM_BYTES:
            raise ValueError(
                f"a byte-level vocabulary has at least {NUM_BYTES} tokens, got "
                f"{tokenizer.vocab_size} from {pretrained_model_name_or_path}; "
                "copy the tokenizer files of the base checkpoint there"
            )
        # transformers 4 obeys a tokenizer_config.json that asks for the clean-up, and then drops
        # spaces before punctuation that are part of the tokens themselves.
        tokenizer.clean_up_tokenization_spaces = False
        return tokenizer


def _require_files(directory: Path) -> None:
    # Without this transformers 5 builds a tokenizer that reads every text as nothing at all.
    if not directory.is_dir() or (directory / "tokenizer.json").is_file():
        return
    missing = [name for name in ("vocab.json", "merges.txt") if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory} has no {' and no '.join(missing)} (nor a tokenizer.json); "
            "copy the tokenizer files of the base checkpoint there"
        )
