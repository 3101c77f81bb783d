"""Transcripts: a whole chat in one string, as chat templates write it (ChatML)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from data.data_utils import MARKERS
from data.wording import listed, shown

logger = logging.getLogger("auto_interleaved")

_START, _END = MARKERS["bos_token_id"], MARKERS["eos_token_id"]
_ROLE = re.compile(r"\s*(system|developer|user|assistant)(\s+|\Z)")
_MARKERS = (_START, _END, "<|endoftext|>", "<|image_pad|>")


def messages_of(text: str) -> list[str]:
    """Return what the messages of a transcript say; of a text that is none, the text itself.

    A transcript is one or more of `<|im_start|>role`, a line break, words, `<|im_end|>`, with
    nothing between them. Roles may be missing, as the model reads none, and so may the last end,
    which templates leave open for the answer.
    """
    before, *blocks = text.split(_START)
    if before.strip() or not blocks:
        return [text]
    messages = []
    for number, block in enumerate(blocks, start=1):
        words, end, after = block.partition(_END)
        role = _ROLE.match(words)
        if after.strip() or not (end or (role and number == len(blocks))):
            return [text]
        messages.append(words[role.end() :] if role else words)
    return messages


def warn_of_markers(texts: Iterable[str]) -> None:
    """Log a warning for each text that holds a special token as mere characters."""
    for text in texts:
        found = [marker for marker in _MARKERS if marker in text]
        if found:
            logger.warning(
                "%s holds %s and is no transcript of a chat: they are read as plain characters; "
                "give chat messages instead, or split_special_tokens=True if this is meant",
                shown(text),
                listed(found),
            )
