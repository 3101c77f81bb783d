"""Runs as Markdown: a page for documents and repositories, with its pictures in files beside it.

What a model or a caller wrote shows as it was written: nothing in it becomes markup or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote, unquote

from PIL import Image

from data.output.captions import (
    alt_text,
    facts_of,
    paragraphs_of,
    printable,
    prompt_items,
    thoughts_of,
    title_of,
    title_says_all,
    without_tags,
)
from data.output.pictures import Pictures
from data.output.records import Record
from data.output.segments import describe_error

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Prose stays readable in the file: a colon or a dot is escaped only where it would make a link.
_INLINE = re.compile(r"[&<>\\`*_{}\[\]|~$@^]|:(?=//)|(?<=www)\.|=(?==)", re.IGNORECASE)
# What starts a list, a heading, a rule or a definition, and only there.
_LINE_START = re.compile(r"[-+#=:]|\d+[.)](?=\s|$)", re.ASCII)


# A link definition, which no page shows. All brackets of texts are escaped, so it is ours alone.
_DOCUMENT = "[saved run]: "


def markdown(
    record: Record, pictures: Pictures, files: Sequence[str], documents: Sequence[str] = ()
) -> str:
    """Return a run as Markdown.

    Args:
        record: What is shown.
        pictures: The record's pictures.
        files: The path of each picture from the page, in the order of their numbers.
        documents: The path of the file that the run can be read back from, where it is not the
            usual one.
    """
    blocks = [f"# {_escape_line(title_of(record))}"]
    if not title_says_all(record):
        prompt = "\n\n".join(
            _blocks(prompt_items(record), pictures, files, fallback="Image in the prompt")
        )
        blocks.append("\n".join(f"> {line}" if line else ">" for line in prompt.split("\n")))
    for thought in thoughts_of(record.segments):
        plan = _paragraphs(without_tags(thought))
        folded = ["<details><summary>Thoughts</summary>", *plan, "</details>"]
        blocks.append("\n\n".join(folded))
    blocks += _blocks(record.items, pictures, files, fallback=title_of(record))
    if record.error is not None:
        blocks.append(f"**This run ended early:** {_escape_line(describe_error(record.error))}")
    facts = "\n".join(
        f"| {_escape_line(name)} | {_escape_line(text)} |" for name, text in facts_of(record)
    )
    blocks += ["---", "| About this run | |\n| --- | --- |\n" + facts]
    blocks += [_DOCUMENT + quote(path) for path in documents]
    return "\n\n".join(blocks) + "\n"


def document_of(page: str) -> str | None:
    """Return the name of the file that a page says it can be read back from, if it does."""
    last = page.rstrip("\n").rpartition("\n")[2]
    return unquote(last).rpartition("/")[2] if last.startswith(_DOCUMENT) else None


def _blocks(
    items: Sequence[str | Image.Image], pictures: Pictures, files: Sequence[str], *, fallback: str
) -> Iterator[str]:
    for place, item in enumerate(items):
        if isinstance(item, str):
            yield from _paragraphs(item)
        else:
            alt = _escape_line(alt_text(items, place, fallback))
            yield f"![{alt}]({quote(files[pictures.number(item)])})"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in paragraphs_of(text):
        # Two spaces at the end of a line are Markdown's line break.
        yield "  \n".join(_escape_line(line) for line in paragraph.split("\n"))


def _escape_line(text: str) -> str:
    """Escape one line: what could be markup anywhere, then what could be at its start."""
    line = " ".join(printable(text).split("\n"))
    body = line.lstrip(" \t")
    # Four spaces would make code of a line; spaces that are not ASCII keep it indented.
    indent = "\u00a0" * len(line[: len(line) - len(body)].expandtabs(4))
    escaped = _INLINE.sub(
        lambda found: _ENTITIES.get(found[0], "\\" + found[0]), body.rstrip(" \t")
    )
    marker = _LINE_START.match(escaped)
    if marker:
        end = marker.end() - 1
        escaped = f"{escaped[:end]}\\{escaped[end:]}"
    return indent + escaped
