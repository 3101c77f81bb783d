"""A picture goes in, and a text with new pictures comes out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from modeling.checkpoint import BUNDLED_MODEL


def draw_ball() -> Image.Image:
    """Return a picture to start from; `Image.open("photo.jpg")` does as well."""
    picture = Image.new("RGB", (96, 64), "skyblue")
    ImageDraw.Draw(picture).ellipse((33, 17, 63, 47), fill="crimson")
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Go on from a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="continued.html", help="where the page goes")
    given = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)

    # A prompt is a text, a picture, or a list of both in any order. New pictures take the size at
    # which the last one was read, unless `image_shape=(height, width)` says otherwise.
    outputs = inferencer.auto_interleaved_generation(
        [draw_ball(), "What happens next? Describe it, and draw it."],
        max_interleaved_blocks=1,
        max_text_length=100,
        num_timesteps=25,
        cfg_img_scale=2.0,  # above the default: stay closer to the picture that was given
        seed=0,
    )

    print(outputs.text)
    for image in outputs.images:
        print(f"[a picture of {image.width} x {image.height} pixels]")
    # The page also shows what went in.
    print("saved", outputs.save(given.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
