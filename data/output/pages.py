"""Runs as HTML: a page that stands alone in one file, and a fragment for notebooks.

Whatever a model or a caller wrote is escaped text here, never markup; pictures are embedded; and
the page forbids itself scripts and the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from html.parser import HTMLParser

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
from data.output.pictures import Pictures, jpeg_uri, png_uri, thumbnail
from data.output.records import Record
from data.output.segments import describe_error

# A picture whose longer side is at most half of this is shown enlarged by a whole factor.
_ENLARGED_SIDE = 384
_DOCUMENT_ID = "result"
_REFERENCE = "#picture-"

_STYLE = """
:root { color-scheme: light dark; --ink: #22201d; --soft: #6d675f; --paper: #fbfaf8;
  --line: #e3dfd8; --wash: #f3f0eb; --alarm: #a3341f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e4de; --soft: #9d968c; --paper: #191816;
  --line: #34312d; --wash: #23211e; --alarm: #f09a85; } }
* { box-sizing: border-box; }
body { margin: 0; padding: clamp(1.5rem, 6vw, 4.5rem) clamp(1.1rem, 5vw, 2rem) 3rem;
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1.125rem/1.65 Charter, "Iowan Old Style", "Noto Serif", Georgia, Cambria, serif; }
main { max-width: 42rem; margin: 0 auto; }
h1 { margin: 0 0 1.6rem; font-size: clamp(1.5rem, 1.1rem + 2vw, 2.15rem); line-height: 1.22;
  font-weight: 600; letter-spacing: -0.012em; text-wrap: balance; }
p { margin: 0 0 1.05em; white-space: pre-wrap; }
figure { margin: 1.9rem 0; text-align: center; break-inside: avoid; }
img { display: block; margin: 0 auto; border-radius: 6px; box-shadow: 0 0 0 1px var(--line); }
details { margin: 0 0 1.6rem; padding: 0.55rem 0.95rem; border-radius: 8px;
  background: var(--wash); color: var(--soft); font-size: 0.875rem; }
details p:last-child, details figure:last-child { margin-bottom: 0.3rem; }
details figure { margin: 1rem 0; }
details img { max-width: min(100%, 22rem) !important; }
summary { cursor: pointer; font: 500 0.8125rem/1.6 system-ui, sans-serif; }
details[open] > summary { margin-bottom: 0.6rem; }
article { margin-bottom: 3rem; }
.alarm { padding-left: 0.95rem; border-left: 3px solid var(--alarm); color: var(--alarm);
  font-size: 0.95rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.2rem; margin: 0;
  font: 0.8125rem/1.55 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dd { margin: 0; color: var(--ink); }
@media (max-width: 32rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.4rem; } }
"""

_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1 dir="auto">{title}</h1>
{body}
</main>
<script type="application/json" id="{identity}">{document}</script>
</body>
</html>
"""


def references(pictures: Pictures) -> tuple[str, ...]:
    """Return how a page's document refers to each of its pictures."""
    return tuple(f"{_REFERENCE}{number}" for number in range(len(pictures)))


def page(record: Record, pictures: Pictures, document: str) -> str:
    """Return a run as a page that needs nothing beside it.

    Args:
        record: What is shown.
        pictures: The record's pictures; all of them are in the page, seen or not.
        document: The record as JSON, for reading the page back; refers to `references(pictures)`.
    """
    seen: set[int] = set()

    def source(image: Image.Image) -> str:
        number = pictures.number(image)
        seen.add(number)
        return f'src="{png_uri(pictures.pngs[number])}" data-picture="{_REFERENCE}{number}"'

    blocks = [_prompt(record, source), *_folded_thoughts(record)]
    blocks += ["<article>", *_blocks(record.items, source, title_of(record)), "</article>"]
    blocks += [*alarm(record.error), _facts(record)]
    unseen = (number for number in range(len(pictures)) if number not in seen)
    blocks += [
        f'<img hidden alt="" src="{png_uri(pictures.pngs[number])}" '
        f'data-picture="{_REFERENCE}{number}">'
        for number in unseen
    ]
    return _PAGE.format(
        title=escape(title_of(record)),
        style=_STYLE,
        body="\n".join(block for block in blocks if block),
        identity=_DOCUMENT_ID,
        document=_script_safe(document),
    )


def fragment(record: Record) -> str:
    """Return a run as a piece of HTML for notebooks, with small pictures."""

    def source(image: Image.Image) -> str:
        return f'src="{jpeg_uri(image)}"'

    items = [item if isinstance(item, str) else thumbnail(item) for item in record.items]
    blocks = [*_blocks(items, source, title_of(record)), *alarm(record.error)]
    return '<div style="max-width:42rem">\n' + "\n".join(blocks) + "\n</div>"


def read_page(text: str) -> tuple[str, dict[str, str]]:
    """Return the JSON document of a page and the data URIs of its pictures by reference.

    Raises:
        ValueError: The text is not a page of this library.
    """
    reader = _PageReader()
    try:
        reader.feed(text)
        reader.close()
    except AssertionError as error:  # Python's parser, where a declaration makes no sense
        raise ValueError(f"its HTML is damaged ({error})") from error
    if not reader.document:
        raise ValueError(f'it has no <script id="{_DOCUMENT_ID}"> with a saved run')
    return "".join(reader.document), reader.pictures


class _PageReader(HTMLParser):
    """Collects the document and the pictures of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.document: list[str] = []
        self.pictures: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        reference, source = attributes.get("data-picture"), attributes.get("src")
        if tag == "img" and reference and source:
            self.pictures.setdefault(reference, source)
        self._inside = tag == "script" and attributes.get("id") == _DOCUMENT_ID

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.document.append(data)


def _script_safe(document: str) -> str:
    """Escape JSON so that nothing in it can end or open a script; it stays the same JSON."""
    for character in "<>&":
        document = document.replace(character, f"\\u{ord(character):04x}")
    return document


def _blocks(
    items: Sequence[str | Image.Image], source: Callable[[Image.Image], str], fallback: str
) -> list[str]:
    """Return one block of HTML an item; `source` gives the src attribute of a picture."""
    return [
        paragraphs(item)
        if isinstance(item, str)
        else figure(item, source(item), alt_text(items, place, fallback))
        for place, item in enumerate(items)
    ]


def paragraphs(text: str) -> str:
    """Return a text as paragraphs, its own line breaks kept."""
    # Lines end in <br>, so that a notebook, which has no style of ours, keeps them too.
    return "\n".join(
        f'<p dir="auto">{escape(paragraph).replace(chr(10), "<br>")}</p>'
        for paragraph in paragraphs_of(text)
    )


def figure(image: Image.Image, source: str, alt: str, size: tuple[int, int] | None = None) -> str:
    """Return a picture as HTML; a tiny one is shown enlarged by a whole factor.

    Args:
        image: The picture.
        source: Its `src` attribute, and others if need be.
        alt: Words for who does not see it.
        size: (width, height) of what it stands for, where it is a preview.
    """
    width, height = size or image.size
    factor = max(1, _ENLARGED_SIDE // max(width, height))
    style = f"width:{width * factor}px;max-width:100%;height:auto"
    if factor > 1:
        style += ";image-rendering:pixelated"
    told = f'width="{width * factor}" height="{height * factor}"'
    return f'<figure><img {source} alt="{escape(alt)}" {told} style="{style}"></figure>'


def folded(summary: str, blocks: Iterable[str], *, unfolded: bool = False) -> str:
    """Return blocks of HTML that fold away under a word."""
    opening = "<details open>" if unfolded else "<details>"
    return "\n".join([f"{opening}<summary>{summary}</summary>", *blocks, "</details>"])


def _prompt(record: Record, source: Callable[[Image.Image], str]) -> str:
    if title_says_all(record):
        return ""
    items = prompt_items(record)
    # A reader who is shown what became of a picture wants to see that picture first.
    unfolded = any(not isinstance(item, str) for item in items)
    return folded("Prompt", _blocks(items, source, "Image in the prompt"), unfolded=unfolded)


def _folded_thoughts(record: Record) -> list[str]:
    return [
        folded("Thoughts", [paragraphs(without_tags(thought))])
        for thought in thoughts_of(record.segments)
    ]


def alarm(error: BaseException | None) -> list[str]:
    """Return one block of HTML that tells of an error; none where there is none."""
    if error is None:
        return []
    return [f'<p class="alarm">This run ended early: {_inline(describe_error(error))}</p>']


def _facts(record: Record) -> str:
    rows = (f"<dt>{_inline(name)}</dt><dd>{_inline(text)}</dd>" for name, text in facts_of(record))
    return folded("About this run", ["<dl>", *rows, "</dl>"])


def _inline(text: str) -> str:
    return escape(printable(text))
