"""A story told the slow way: before every text and every picture, everything is read anew.

This is how published scripts make a loop of the published inferencer: the story so far is a list of
strings and pictures. For each text and for each picture the whole list is tokenised, encoded and
read into three contexts, and what was written or drawn goes to the end of the list as a string or
as pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import torch
from PIL import Image

from auto_interleaved.options.seeds import Randomness
from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import naive
from benchmarks.naive import NaiveContext
from benchmarks.table import Clock
from data.data_utils import pil_img2rgb
from modeling.flow import ImageOptions

Item = str | Image.Image


@dataclass(kw_only=True)
class NaiveContexts:
    """The three contexts of the published inferencer."""

    full: NaiveContext = field(default_factory=NaiveContext)
    without_text: NaiveContext = field(default_factory=NaiveContext)
    without_images: NaiveContext = field(default_factory=NaiveContext)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is told: the prompt, then a text before each picture and a last one."""

    prompt: str
    num_images: int
    text_length: int
    image_options: ImageOptions
    seed: int


@torch.inference_mode()
def read_picture(
    inferencer: AutoInterleavedInferencer, picture: Image.Image, context: NaiveContext
) -> None:
    """Encode a picture from its pixels and append its latent and its vision block."""
    model = inferencer.model
    picture = inferencer.vae_transform.resize_transform(pil_img2rgb(picture))
    latent, grid = inferencer.encode_image(picture)
    naive.extend(model, context, model.latent_block(latent, grid, inferencer.markers))
    pixels = inferencer.vit_transform(picture)
    naive.extend(model, context, model.vit_block(pixels, inferencer.markers))


def read_all(inferencer: AutoInterleavedInferencer, items: list[Item]) -> NaiveContexts:
    """Read a story so far into new contexts."""
    contexts, model = NaiveContexts(), inferencer.model
    for item in items:
        if isinstance(item, str):
            ids = [inferencer.bos, *inferencer.encode_text(item), inferencer.eos]
            contexts.without_text = contexts.full.fork()
            for context in (contexts.full, contexts.without_images):
                naive.extend(model, context, model.text_block(ids))
        else:
            read_picture(inferencer, item, contexts.full)
            contexts.without_text = contexts.full.fork()
    return contexts


def write(inferencer: AutoInterleavedInferencer, context: NaiveContext, limit: int) -> list[int]:
    """Write a text of at most `limit` tokens over a copy of a context."""
    ends = {inferencer.bos, inferencer.eos, inferencer.tokenizer.eos_token_id}
    written: list[int] = []
    tokens = naive.tokens(inferencer.model, context.fork(), inferencer.bos)
    for token in islice(tokens, limit):
        if token in ends:
            break
        written.append(token)
    return written


def draw(
    inferencer: AutoInterleavedInferencer,
    contexts: NaiveContexts,
    options: ImageOptions,
    seed: int,
) -> torch.Tensor:
    """Draw the latents of an image of the checkpoint's usual size, with the noise of its seed."""
    model = inferencer.model
    grid = model.latent_grid(*inferencer.image_shape)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(grid[0] * grid[1], model.patch_latent_dim, generator=generator)
    branches = (contexts.full, contexts.without_text, contexts.without_images)
    return naive.draw(model, branches, noise, grid, inferencer.markers, options)


def tell(
    inferencer: AutoInterleavedInferencer, plan: Plan, clock: Clock
) -> tuple[list[Item], list[int]]:
    """Tell a story.

    Returns:
        Texts and pictures in turn, and the number of tokens of each text.
    """
    items: list[Item] = [plan.prompt]
    counts: list[int] = []
    randomness = Randomness(plan.seed)
    for index in range(plan.num_images + 1):
        with clock("reading"):
            contexts = read_all(inferencer, items)
        with clock("writing"):
            ids = write(inferencer, contexts.full, plan.text_length)
        items.append(inferencer.tokenizer.decode(ids))
        counts.append(len(ids))
        if index == plan.num_images:
            break
        with clock("reading"):
            contexts = read_all(inferencer, items)
        seed = randomness.image_seed(index)
        assert seed is not None
        with clock("drawing"):
            latent = draw(inferencer, contexts, plan.image_options, seed)
        with clock("decoding pixels"):
            items.append(inferencer.decode_image(latent, inferencer.image_shape))
    return items[1:], counts
