"""A story as it comes: text at once, pictures while they are drawn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output.events import Finished, ImageDone, ImagePreview, TextDelta
from modeling.checkpoint import BUNDLED_MODEL

PROMPT = "Tell a story about a red cat who finds a yellow star. Use three pictures."


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the story while it is made, and keep each picture's way from noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="streamed", help="the folder for pictures and page")
    given = parser.parse_args(arguments)
    folder = Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)
    inferencer.set_progress_bar_config(disable=True)  # the events below tell all there is to tell

    # `stream` takes what `auto_interleaved_generation` takes. To stop early, leave the loop.
    events = inferencer.stream(
        PROMPT,
        max_interleaved_blocks=2,
        max_text_length=100,
        num_timesteps=25,
        seed=0,
        preview_every=6,  # steps; a preview is small and costs little
    )
    for event in events:
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, ImagePreview):
            event.image.save(folder / f"picture_{event.index}_step_{event.step:02d}.png")
        elif isinstance(event, ImageDone):
            event.image.save(folder / f"picture_{event.index}.png")
            print(f"\n[picture {event.index}]", end="")  # a text that follows begins a line
        elif isinstance(event, Finished):  # always the last one; it holds the whole result
            print("\nsaved", event.output.save(folder / "story.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
