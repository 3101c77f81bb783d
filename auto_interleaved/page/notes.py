"""What a chat says about an answer, and what it shows of a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data.data_utils import MARKERS
from data.output import FinishReason, InterleavedOutput
from data.output.segments import describe_error
from data.output.views import Drawn, Written
from data.prompts import ImageInput, ImageRequest, PromptPart, TextInput

# How an ending is put where a reader would not expect it; a story that is over needs no words.
_ENDINGS: dict[FinishReason, str] = {
    "length": "a text reached max_text_length",
    "max_blocks": "it reached max_interleaved_blocks",
    "max_images": "no more pictures were allowed",
    "context_full": "the model can read no further: take messages back, or begin a new talk",
    "no_image": "the text was over, and no picture had been asked for",
}
_FORGOTTEN = "What exists is kept here; to the model it is as if the message had not been sent."


@dataclass(frozen=True, kw_only=True)
class Note:
    """A word about the answer, which is no part of it.

    Attributes:
        text: the words.
        is_error: whether something went wrong.
    """

    text: str
    is_error: bool = False


def notes_on(output: InterleavedOutput) -> Iterator[Note]:
    """Yield what is to be said about an answer that is over: nothing where it ended by itself."""
    if output.finish_reason == "interrupted":
        yield Note(text=f"Stopped. {_FORGOTTEN}")
    elif output.finish_reason == "error":
        reason = "no reason was kept" if output.error is None else describe_error(output.error)
        yield Note(text=f"This run ended early: {reason}. {_FORGOTTEN}", is_error=True)
    elif output.finish_reason in _ENDINGS:
        yield Note(text=f"It ended here because {_ENDINGS[output.finish_reason]}.")


def asked(parts: Iterable[PromptPart]) -> Iterator[Written | Drawn]:
    """Yield what a chat shows of a message, as it was written."""
    text = ""
    for part in parts:
        match part:
            case ImageInput(image=image):
                if text:
                    yield Written(text=text)
                text = ""
                yield Drawn(image=image)
            case TextInput(text=more):
                text += more
            case ImageRequest():
                text += MARKERS["start_of_image"]
    if text:
        yield Written(text=text)
