"""How a checkpoint is asked whether a picture shows a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from data.wording import shown

_TEXT = "{text}"


@dataclass(frozen=True, kw_only=True)
class Understanding:
    """The words of a yes-or-no question about a picture.

    Attributes:
        question: with `{text}` where the text goes.
        about: a regular expression; each part of a text that it finds is asked about by itself, for
            checkpoints that were taught to answer about single things. None asks about the text as
            it is, as does a text in which nothing is found.
        yes, no: how an answer begins.
    """

    question: str = 'Does this picture show the following? "{text}" Answer yes or no.'
    about: str | None = None
    yes: tuple[str, ...] = ("Yes", "yes")
    no: tuple[str, ...] = ("No", "no")

    def __post_init__(self) -> None:
        if _TEXT not in self.question:
            raise ValueError(
                f"the question about a picture must hold {_TEXT}, got {shown(self.question)}"
            )
        if self.about is not None:
            try:
                re.compile(self.about)
            except re.error as error:
                raise ValueError(
                    "what a picture is asked about must be a regular expression, "
                    f"got {shown(self.about)} ({error})"
                ) from None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Understanding:
        """Return what a checkpoint's settings say; what they leave out is as by default."""
        return cls(**settings)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return None if self.about is None else re.compile(self.about)

    def questions(self, text: str) -> list[str]:
        """Return what to ask about a text, one question at least."""
        found = [] if self._pattern is None else [m[0] for m in self._pattern.finditer(text)]
        # Within a sentence a phrase that began one is small.
        phrases = [phrase[:1].lower() + phrase[1:] for phrase in dict.fromkeys(found)]
        return [self.question.replace(_TEXT, phrase) for phrase in phrases or [text.strip()]]
