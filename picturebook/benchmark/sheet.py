"""Draws a page of sample stories, captions, edits and questions for a person to look at.

Usage: python -m picturebook.benchmark.sheet sheet.html [--seed 0] [--stories 12] [--held-out]

The suffix decides: one HTML file with everything in it, or a PNG of the pictures with their texts.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from picturebook import (
    STORY_KINDS,
    Story,
    render,
    sample_caption,
    sample_edit,
    sample_question,
    sample_story,
)

SCALE = 4
TILE = 64 * SCALE
GAP, LINE, MARGIN = 16, 16, 24


@dataclass(frozen=True)
class Row:
    """A heading and pictures, each with the words under it."""

    heading: str
    tiles: tuple[tuple[Image.Image, str], ...]


def story_row(story: Story) -> Row:
    """A story from its prompt to its closing words."""
    tiles = [(render(step.scene), step.text) for step in story.steps]
    picture, text = tiles[-1]
    tiles[-1] = (picture, f"{text} ... {story.closing}")
    marks = f" [held out: {', '.join(sorted(story.novelties))}]" if story.held_out else ""
    return Row(f"{story.kind}: {story.prompt}{marks}", tuple(tiles))


def sample_rows(rng: Random, num_stories: int, held_out: bool) -> list[Row]:
    """Stories of every family in turn, then captions, edits and questions."""
    kinds = ("composition",) if held_out else tuple(STORY_KINDS)
    rows = [
        story_row(sample_story(rng, kinds[index % len(kinds)], held_out=held_out))
        for index in range(num_stories)
    ]
    captions = [sample_caption(rng, held_out=held_out) for _ in range(4)]
    rows.append(Row("Captions", tuple((render(each.scene), each.text) for each in captions)))
    for edit in [sample_edit(rng, held_out=held_out) for _ in range(3)]:
        rows.append(
            Row("Edit", ((render(edit.before), edit.instruction), (render(edit.after), "")))
        )
    questions = [sample_question(rng, held_out=held_out) for _ in range(4)]
    tiles = [(render(each.scene), f"{each.question} {each.answer}") for each in questions]
    return [*rows, Row("Questions", tuple(tiles))]


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture four times as large, its pixels sharp."""
    return picture.resize((TILE, TILE), Image.Resampling.NEAREST)


def to_html(rows: Sequence[Row]) -> str:
    """One page that needs nothing beside it."""
    parts = ["<!doctype html><meta charset=utf-8><title>Picture book</title>"]
    parts.append(
        "<style>body{font:15px sans-serif;margin:2em}"
        "figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top;width:256px}"
        "img{width:256px;image-rendering:pixelated}</style>"
    )
    for row in rows:
        parts.append(f"<h3>{html.escape(row.heading)}</h3>")
        for picture, words in row.tiles:
            file = io.BytesIO()
            picture.save(file, "PNG")
            data = base64.b64encode(file.getvalue()).decode()
            words = html.escape(words)
            parts.append(
                f'<figure><img alt="{words}" src="data:image/png;base64,{data}">'
                f"<figcaption>{words}</figcaption></figure>"
            )
    return "\n".join(parts)


def to_image(rows: Sequence[Row]) -> Image.Image:
    """The same as one picture."""
    row_height = TILE + 7 * LINE
    width = 2 * MARGIN + max(len(row.tiles) for row in rows) * (TILE + GAP)
    sheet = Image.new("RGB", (width, MARGIN + len(rows) * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, row in enumerate(rows):
        top = MARGIN + index * row_height
        draw.text((MARGIN, top), row.heading.replace("\n", " "), "black", font)
        for column, (picture, words) in enumerate(row.tiles):
            left = MARGIN + column * (TILE + GAP)
            sheet.paste(enlarged(picture), (left, top + LINE + 4))
            for line, text in enumerate(textwrap.wrap(words, 40)):
                position = (left, top + TILE + (line + 1.4) * LINE)
                draw.text(position, text, "dimgray", font)
    return sheet


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="sheet.html or sheet.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stories", type=int, default=12)
    parser.add_argument("--held-out", action="store_true", help="combinations kept from training")
    options = parser.parse_args()
    if options.output.suffix not in (".html", ".png"):
        parser.error(f"the output must end in .html or .png, got {options.output.name!r}")
    rows = sample_rows(Random(options.seed), options.stories, options.held_out)
    if options.output.suffix == ".html":
        options.output.write_text(to_html(rows), encoding="utf-8")
    else:
        to_image(rows).save(options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
