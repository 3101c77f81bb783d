"""A loop of one's own over the inferencer's calls, as fine-tunes write it: a story by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from PIL import Image

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from inferencer import InterleaveInferencer
from modeling.checkpoint import BUNDLED_MODEL


def tell(
    inferencer: InterleaveInferencer,
    prompt: str,
    size: tuple[int, int],
    *,
    rounds: int = 2,
    num_timesteps: int = 25,
) -> list[str | Image.Image]:
    """Write a text and draw it, several times, each time after everything before.

    Calls change the context they are given. A guidance branch is a deep copy, which shares the keys
    and values that were read: it costs nothing, however long the story is.
    """
    full = inferencer.init_gen_context()
    without_images = deepcopy(full)
    for context in (full, without_images):
        inferencer.update_context_text(prompt, context)
    story: list[str | Image.Image] = []
    for _ in range(rounds):
        text = inferencer.gen_text(full, max_length=60, do_sample=False)
        without_text = deepcopy(full)
        for context in (full, without_images):
            inferencer.update_context_text(text, context)
        picture = inferencer.gen_image(
            size,
            full,
            cfg_text_precontext=without_text,
            cfg_img_precontext=without_images,
            num_timesteps=num_timesteps,
        )
        inferencer.update_context_image(picture, full)
        story += [text, picture]
    print(f"{full['kv_lens'][0]} tokens in the context, the next at position {full['ropes'][0]}")
    return story


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell a short story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="own_loop", help="a folder for the pictures")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, device=device)
    torch.manual_seed(0)
    folder = Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(tell(inferencer, "A red circle rolls.", inferencer.image_shape)):
        if isinstance(item, str):
            print(item)
        else:
            item.save(folder / f"{number}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
