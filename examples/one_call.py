"""A story with pictures in one call, saved as a web page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from modeling.checkpoint import BUNDLED_MODEL

PROMPT = "Write a short story about a robot's adventure in space with illustrations."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the story and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="story.html", help="where the page goes")
    given = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)

    # The model decides itself when to draw. A round is a text and the picture it led to.
    outputs = inferencer.auto_interleaved_generation(
        PROMPT,
        max_interleaved_blocks=2,
        max_text_length=100,
        num_timesteps=25,  # half the default: twice as fast, a little coarser
        seed=0,  # the same seed gives the same story
    )

    # The result is a list of strings and PIL images, in order ...
    for output in outputs:
        print(output if isinstance(output, str) else f"[a picture of {output.size} pixels]")

    # ... that also knows how it came about, and how to become a file.
    print(f"It ended because of {outputs.finish_reason!r}, after {outputs.usage.seconds:.0f} s.")
    print("saved", outputs.save(given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
