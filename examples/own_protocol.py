"""A protocol of one's own: a function decides when to draw and when to stop."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer, Protocol
from data.protocols import Decision, Written
from modeling.checkpoint import BUNDLED_MODEL

LONGEST_SCENE = 40  # tokens


def after_each_sentence(written: Written) -> Decision:
    """Say what comes next; asked after every token, and again when a text has ended."""
    scene_is_over = (
        written.ended
        or written.text.rstrip().endswith((".", "!", "?"))
        or len(written.token_ids) >= LONGEST_SCENE
    )
    if not scene_is_over:
        return "write"
    return "draw" if written.num_images < 2 else "stop"


# The trigger may also be a preset's kind: Marker("<draw>"), EveryText(), Sampled(). To change one
# thing about a preset: dataclasses.replace(PROTOCOLS["bagel"], max_images=1).
PICTURE_BOOK = Protocol(
    name="picture-book",
    trigger=after_each_sentence,
    system_prompt="You write picture books: short sentences, each of which can be drawn.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a picture book: one picture a sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="picture_book.html", help="where the page goes")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)
    outputs = inferencer.auto_interleaved_generation(
        "A mouse looks for a place to sleep.", protocol=PICTURE_BOOK, num_timesteps=25, seed=0
    )
    print(f"{outputs.text}\n{len(outputs.images)} pictures, saved {outputs.save(given.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
