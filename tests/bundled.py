"""The bundled model, loaded once a test session, and what it is tested on."""

from functools import cache
from random import Random

import torch

from auto_interleaved_inference import AutoInterleavedInferencer
from picturebook import Story, sample_story

# How the bundled model is sampled here: fewer points than anybody would choose, guidance alike.
SAMPLING = {
    "cfg_text_scale": 2.5,
    "cfg_img_scale": 1.0,
    "num_timesteps": 10,
    "timestep_shift": 2.0,
}


@cache
def bundled(dtype: torch.dtype | None = None) -> AutoInterleavedInferencer:
    inferencer = AutoInterleavedInferencer.from_pretrained(dtype=dtype)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def drawn_stories(
    name: str, count: int, kind: str | None = None, *, held_out: bool = False
) -> list[Story]:
    """Draw stories of at least three steps, from a generator that training never uses."""
    rng = Random(f"tests {name}")
    stories: list[Story] = []
    while len(stories) < count:
        story = sample_story(rng, kind, held_out=held_out)
        if len(story.steps) >= 3:
            stories.append(story)
    return stories
