"""How much right pictures gain from candidates, on the bundled picture-book model.

python -m benchmarks.candidates --captions 100

Captions hold combinations that training never saw; each is drawn with 1, 2 and 4 candidates from
the same seed, so that fewer are among more. "The model's choice" is `choose="understanding"`, "the
judge's" a function that looks at the pixels: it shows what there was to choose from. The settings
were looked for: at the usual ones this model is hardly ever wrong, and nothing could be told apart.
"""

from __future__ import annotations

import argparse
import logging
import time
from random import Random
from typing import Any

from PIL import Image

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.table import head, show
from picturebook import Caption, judge_picture, sample_caption
from picturebook.benchmark.rates import Rate

COUNTS = (1, 2, 4)
BASE: dict[str, Any] = {"cfg_img_scale": 1.0, "timestep_shift": 2.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "1 step, scale 2.5": {"num_timesteps": 2, "cfg_text_scale": 2.5},
    "1 step, scale 6": {"num_timesteps": 2, "cfg_text_scale": 6.0},
    "1 step, unguided": {"num_timesteps": 2, "cfg_text_scale": 1.0},
}


def is_right(picture: Image.Image, caption: Caption) -> bool:
    """Say whether a picture shows what its caption says."""
    return judge_picture(picture, caption.scene).matches_text


def draw(inferencer: AutoInterleavedInferencer, caption: Caption, **options: Any) -> Image.Image:
    """Draw a caption in the loop, and write as little as can be afterwards."""
    output = inferencer.auto_interleaved_generation(
        f"{caption.text}<|vision_start|>",
        max_images=1,
        max_text_length=1,
        max_interleaved_blocks=1,
        on_error="raise",
        **BASE | options,
    )
    return output.images[0]


def measured(
    inferencer: AutoInterleavedInferencer, captions: list[Caption], **options: Any
) -> tuple[Rate, Rate, float]:
    """Return how often the model's choice is right, and the judge's, and seconds a picture."""
    own, best, seconds = [], [], 0.0
    for seed, caption in enumerate(captions):

        def judge(images: list[Image.Image], _: str, caption: Caption = caption) -> int:
            return max(range(len(images)), key=lambda number: is_right(images[number], caption))

        started = time.perf_counter()
        picture = draw(inferencer, caption, seed=seed, **options)
        seconds += time.perf_counter() - started
        own.append([is_right(picture, caption)])
        chosen = draw(inferencer, caption, seed=seed, choose=judge, **options)
        best.append([is_right(chosen, caption)])
    return Rate.of(own), Rate.of(best), seconds / len(captions)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=100)
    given = parser.parse_args(arguments)
    logging.getLogger("auto_interleaved").setLevel(logging.ERROR)
    inferencer = AutoInterleavedInferencer.from_pretrained()
    inferencer.set_progress_bar_config(disable=True)
    rng = Random("evaluation candidates")
    captions = [sample_caption(rng, held_out=True) for _ in range(given.captions)]
    rows = []
    for name, setting in SETTINGS.items():
        for count in COUNTS:
            own, best, seconds = measured(inferencer, captions, num_candidates=count, **setting)
            rows.append([name, count, str(own), str(best), f"{seconds:.3f}"])
    print(head("Candidates", inferencer.model.device, inferencer.model.dtype))
    columns = ("setting", "candidates", "the model's choice", "the judge's", "seconds a picture")
    show("Right pictures:", columns, rows)


if __name__ == "__main__":
    main()
