"""Whether a run that ended has missed something, and what to say then."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from auto_interleaved.run.draft import Ending
from data.output import FinishReason
from data.prompts import ImageInput, PromptPart, TextInput
from data.protocols import Protocol

logger = logging.getLogger("auto_interleaved")

TEXT_POSITIONS = 3  # the least that a text takes: bos, one token, eos
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


def reason_of_end(
    ending: Ending, parts: Sequence[PromptPart], protocol: Protocol, *, is_illustrated: bool
) -> FinishReason:
    """Return why a run ended, and say so in the log where it has missed a picture.

    Args:
        ending: why its last text did.
        parts: the prompt.
        protocol: that it went by.
        is_illustrated: whether there are pictures, or none were wanted.
    """
    if ending != "stop":
        return ending
    if is_illustrated or not expects_pictures(parts):
        return "stop"
    warn_of_no_image(protocol)
    return "no_image"


def warn_of_long_prompt(taken: int, limit: int) -> None:
    """Say in the log why nothing was made, if a prompt takes all of the model's positions."""
    left = limit - taken
    if left < TEXT_POSITIONS:
        logger.warning(
            "the prompt leaves %d of the model's %d positions, too few for a text", left, limit
        )


def warn_of_no_image(protocol: Protocol) -> None:
    """Say in the log why there may be no picture, and what to try."""
    others = ((name, why) for name, why in _TO_TRY.items() if name != protocol.name)
    logger.warning(
        "the model never asked for a picture: the protocol %r may not be the one that this "
        "checkpoint was taught; try %s",
        protocol.name,
        ", or ".join(f"protocol={name!r} {why}" for name, why in others),
    )
