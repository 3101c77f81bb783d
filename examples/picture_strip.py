"""A story as one strip of pictures with their texts below, such as `docs/story.png`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer, InterleavedOutput
from modeling.checkpoint import BUNDLED_MODEL

PROMPT = "Write a short story about a robot's adventure in space with illustrations."
PICTURE, MARGIN, LINE = 192, 16, 18  # pixels


def strip(output: InterleavedOutput) -> Image.Image:
    """Put each picture above the text that led to it; a text without one stands alone."""
    texts, pictures = [], []
    for item in output:
        if isinstance(item, str):
            texts.append(textwrap.wrap(item, width=26))
        else:
            pictures.append(item.resize((PICTURE, PICTURE), Image.Resampling.NEAREST))
    step = PICTURE + MARGIN
    height = PICTURE + 3 * MARGIN + LINE * max(map(len, texts))
    page = Image.new("RGB", (MARGIN + step * max(len(texts), len(pictures)), height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for place, lines in enumerate(texts):
        left = MARGIN + step * place
        top = 2 * MARGIN + PICTURE if place < len(pictures) else MARGIN
        draw.multiline_text((left, top), "\n".join(lines), "black", font)
    for place, picture in enumerate(pictures):
        page.paste(picture, (MARGIN + step * place, MARGIN))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the story and draw its strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="story.png", help="where the strip goes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model)
    strip(inferencer.auto_interleaved_generation(given.prompt, seed=given.seed)).save(given.output)
    print("saved", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
