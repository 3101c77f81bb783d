"""Whether a run that ended without a picture has missed one, and what to say then."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from data.prompts import ImageInput, PromptPart, TextInput
from data.protocols import Protocol

logger = logging.getLogger("auto_interleaved")

_QUESTION_MARKS = "?\u037e\u055e\u061f\u1367\u2047\u2048\u2049\ufe56\uff1f"  # of many scripts
_CLOSING = " \t\r\n\"'`)]}*_\u00a0\u00bb\u2019\u201d\u300d\u300f\u3000\uff09"
_TO_TRY = {
    "native": "for weights that were trained to write <|vision_start|>",
    "bagel": "for the published weights",
    "every-block": "which asks nothing of the weights",
}


def expects_pictures(parts: Sequence[PromptPart]) -> bool:
    """Say whether an answer to a prompt is incomplete without a picture, as far as one can tell.

    What is said about a picture of the caller's, and an answer to a question, is complete.
    """
    if any(isinstance(part, ImageInput) for part in parts):
        return False
    texts = [part.text.rstrip(_CLOSING) for part in parts if isinstance(part, TextInput)]
    return not (texts and texts[-1].endswith(tuple(_QUESTION_MARKS)))


def warn_of_no_image(protocol: Protocol) -> None:
    """Say in the log why there may be no picture, and what to try."""
    others = ((name, why) for name, why in _TO_TRY.items() if name != protocol.name)
    logger.warning(
        "the model never asked for a picture: the protocol %r may not be the one that this "
        "checkpoint was taught; try %s",
        protocol.name,
        ", or ".join(f"protocol={name!r} {why}" for name, why in others),
    )
