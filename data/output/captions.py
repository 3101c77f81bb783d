"""The few words that stand for a run or a picture: its title, its facts, alternative texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from data.output.records import Record
from data.output.segments import Segment
from data.output.strangers import plain

TITLE_LIMIT = 90
ALT_LIMIT = 120
FACT_LIMIT = 200
UNTITLED = "Text and images"
PLAN_START, PLAN_END = "<think>", "</think>"
_BLANK_LINES = re.compile(r"(?:\A|\n)(?:[ \t]*\n)+")
# What no page can show: control characters, halves of surrogate pairs, noncharacters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Return a text as a page can show it: line feeds for line ends, U+FFFD for control codes."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def paragraphs_of(text: str) -> list[str]:
    """Return the printable paragraphs of a text, which are what blank lines part."""
    paragraphs = _BLANK_LINES.split(printable(text))
    return [paragraph.rstrip() for paragraph in paragraphs if paragraph.strip()]


def shorten(text: str, limit: int) -> str:
    """Return a text in one line of at most `limit` characters, cut between words if it can be."""
    line = " ".join(printable(text).split())
    if len(line) <= limit:
        return line
    head = line[: limit - 1]
    words = head.rsplit(" ", 1)[0]
    return (words if len(words) > limit // 2 else head) + "…"


def prompt_of(record: Record) -> tuple[Segment, ...]:
    """Return what the caller gave, without empty texts."""
    return tuple(
        segment for segment in record.segments if segment.role == "prompt" and segment.text != ""
    )


def thoughts_of(segments: Iterable[Segment]) -> list[str]:
    """Return what the model planned, one text a thought, without empty ones."""
    return [segment.text for segment in segments if segment.role == "thought" and segment.text]


def without_tags(thought: str) -> str:
    """Return a plan without the tags that models are told to write it in."""
    return thought.strip().removeprefix(PLAN_START).removesuffix(PLAN_END).strip()


def seeds_of(segments: Iterable[Segment]) -> list[int | None]:
    """Return the seed of each image that was drawn, None for one that was drawn without."""
    return [
        segment.seed
        for segment in segments
        if segment.role == "generated" and segment.image is not None
    ]


def title_of(record: Record) -> str:
    """Return a title for a run: the beginning of its prompt's first text."""
    texts = (segment.text for segment in prompt_of(record) if segment.text)
    return shorten(next(texts, ""), TITLE_LIMIT) or UNTITLED


def title_says_all(record: Record) -> bool:
    """Tell whether the prompt is one short text that the title repeats word for word."""
    prompt = prompt_of(record)
    return not prompt or (len(prompt) == 1 and (prompt[0].text or "").strip() == title_of(record))


def alt_text(items: Sequence[str | Image.Image], place: int, fallback: str = "") -> str:
    """Return words for the picture at `items[place]`: the nearest text before it, shortened."""
    before = (item for item in reversed(items[:place]) if isinstance(item, str))
    nearest = (words for words in (shorten(text, ALT_LIMIT) for text in before) if words)
    return next(nearest, "") or shorten(fallback, ALT_LIMIT) or "Image"


def prompt_items(record: Record) -> tuple[str | Image.Image, ...]:
    """Return the texts and pictures of the prompt; a picture that is missing is left out."""
    items = (
        segment.image if segment.text is None else segment.text for segment in prompt_of(record)
    )
    return tuple(item for item in items if item is not None)


def facts_of(record: Record) -> tuple[tuple[str, str], ...]:
    """Return what a reader may want to know of a run, as (name, value) pairs without empty ones."""
    usage = record.usage
    seeds = (seed for seed in seeds_of(record.segments) if seed is not None)
    tokens = {
        "prompt": usage.prompt_tokens,
        "thought": usage.thought_tokens,
        "text": usage.text_tokens,
        "image": usage.image_tokens,
    }
    facts: dict[str, Any] = {
        "finish reason": record.finish_reason,
        "seeds": ", ".join(map(str, seeds)),
        "tokens": ", ".join(f"{count} {name}" for name, count in tokens.items() if count),
        "images": usage.images or "",
        "seconds": f"{usage.seconds:.1f}" if usage.seconds else "",
    }
    facts |= plain(record.config)  # which the caller may have added to
    told = ((name, str(value)) for name, value in facts.items() if value != "")
    return tuple((name, shorten(text, FACT_LIMIT)) for name, text in told)
