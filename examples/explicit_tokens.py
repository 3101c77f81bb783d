"""Pictures where the caller wants them: `<|vision_start|>` in the prompt."""

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

# Each marker asks for a picture of what was said up to there. Each later picture is drawn by a
# model that has seen those before it. Markers work with every checkpoint, whatever its protocol.
PROMPT = (
    "Describe three scenes:\n1. A sunset over mountains <|vision_start|>\n"
    "2. A busy city street <|vision_start|>\n3. A quiet forest path <|vision_start|>"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw three pictures on request, then let the model go on by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="scenes.md", help="where the page goes")
    given = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)

    # A document that merely quotes the marker is read with split_special_tokens=True.
    outputs = inferencer.auto_interleaved_generation(
        PROMPT, max_images=3, max_text_length=100, num_timesteps=25, seed=0
    )

    for output in outputs:
        print(output if isinstance(output, str) else f"[a picture of {output.size} pixels]")
    # Each picture has a seed of its own, which follows from the run's.
    print("seeds of the pictures:", outputs.seeds)
    print("saved", outputs.save(given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
