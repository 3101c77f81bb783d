"""Interleaved conversations in JSONL, the form in which users bring their own data.

A line is `{"messages": [...]}`, messages as in prompts: what "user" and "system" say is read, what
"assistant" says is learnt, its texts to be written and its images to be drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.jsonl import Line, read_lines
from training.bars import bar
from training.lines import Data, find_files, one_line
from training.messages import Message, read_messages
from training.pictures import PictureSource
from training.samples import Outline, Picture, Text

logger = logging.getLogger("auto_interleaved.training")

_SHOWN = 10  # bad lines


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One line of a JSONL file, checked, its images not yet decoded.

    Attributes:
        messages: who says what, in order.
        place: file and line, for errors.
    """

    messages: tuple[Message, ...]
    place: str

    def outline(self) -> Outline:
        """Decode the images and return the conversation as the loop would live through it.

        Raises:
            ValueError: if an image cannot be decoded.
        """
        try:
            return self.laid_out(PictureSource.open)
        except ValueError as error:
            raise ValueError(f"{self.place}: {error}") from error

    def laid_out(self, image_of: Callable[[PictureSource], Any]) -> Outline:
        """Return the conversation as the loop would live through it.

        Args:
            image_of: what stands for an image.
        """
        items: list[Text | Picture] = []
        for message in self.messages:
            learnt = message.role == "assistant"
            read = [
                Text(text=part, learnt=False)
                if isinstance(part, str)
                else Picture(image=image_of(part), drawn=learnt)
                for part in message.parts
            ]
            items += _answer(read) if learnt else read
        return tuple(items)

    def pictures(self) -> Iterator[PictureSource]:
        """Yield the images."""
        for message in self.messages:
            yield from (part for part in message.parts if isinstance(part, PictureSource))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the files hold.

    Attributes:
        conversations: the good lines, in order.
        faults: one error for each of the others; its message begins with file and line.
        lines: how many were read.
    """

    conversations: list[Conversation]
    faults: Sequence[Exception]
    lines: int

    def good(self, *, skip_bad: bool = False) -> list[Conversation]:
        """Return the conversations.

        Args:
            skip_bad: leave bad lines out and log them, instead of raising.

        Raises:
            ValueError: a line is bad, or there is none. It is a FileNotFoundError instead if what
                is wrong with the first of them is a file that is not there.
        """
        if self.faults and not skip_bad:
            remedy = "mend them, or leave them out with --skip-bad"
            raise type(self.faults[0])(f"{self._told()}; {remedy}:{_listed(self.faults)}")
        if self.faults:
            logger.warning("left out: %s:%s", self._told(), _listed(self.faults))
        if not self.conversations:
            raise ValueError(f"no line is left of {self.lines}; mend some")
        return self.conversations

    def _told(self) -> str:
        bad = len(self.faults)
        return f"{bad} of {self.lines} lines {'is' if bad == 1 else 'are'} bad"


def read_conversations(
    data: Data | Iterable[Data], *, skip_bad: bool = False
) -> list[Conversation]:
    """Read and check every line, and the header of every image.

    Args:
        data: files, directories of `*.jsonl`, patterns; see `find_files`.
        skip_bad: leave bad lines out and log them, instead of raising.

    Raises:
        FileNotFoundError: if there is no file, or an image's file is not there.
        ValueError: if a line is not a conversation with something to learn.
    """
    return examine(data).good(skip_bad=skip_bad)


def examine(data: Data | Iterable[Data]) -> Reading:
    """Read every line and look at every image's header; see `read_conversations`.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if a file is not one of lines, or all are empty.
    """
    files = find_files(data)
    lines = [line for file in files for line in read_lines(file)]
    if not lines:
        names = ", ".join(str(file) for file in files[:3])
        raise ValueError(f"there is nothing to learn from, as these files are empty: {names}")
    conversations: list[Conversation] = []
    faults: list[Exception] = []
    for line in bar(lines, "checking the data", "line"):
        try:
            conversations.append(_conversation(line))
        except (OSError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            faults.append(kind(f"{line.place}: {one_line(error)}"))
    return Reading(conversations=conversations, faults=faults, lines=len(lines))


def _conversation(line: Line) -> Conversation:
    messages = read_messages(line.value(), line.file.parent)
    return Conversation(messages=messages, place=line.place)


def _answer(read: list[Text | Picture]) -> list[Text | Picture]:
    """Return an assistant's texts and images as things to be learnt, as the loop makes them.

    The loop writes a text, if only an empty one, before every image and after the last.
    """
    items: list[Text | Picture] = []
    words = ""
    for item in read:
        if isinstance(item, Text):
            words = f"{words}\n{item.text}" if words else item.text
            continue
        items += [Text(text=words, following="image"), Picture(image=item.image, drawn=True)]
        words = ""
    return [*items, Text(text=words, following="end")]


def _listed(faults: Sequence[Exception]) -> str:
    shown = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
    more = len(faults) - _SHOWN
    return shown if more <= 0 else f"{shown}\n  and {more} more: python -m training.check FILE..."
