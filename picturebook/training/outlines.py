"""The picture book as outlines: what share of what, and how its pictures are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

from inferencer import GEN_THINK_SYSTEM_PROMPT
from modeling.autoencoder import AutoEncoder
from modeling.bagel.blocks import patchify
from picturebook import (
    BINDINGS,
    DESCRIPTIONS,
    DETAILS,
    IMAGE_REQUEST,
    Scene,
    Story,
    ask_about,
    render,
    sample_caption,
    sample_edit,
    sample_story,
)
from picturebook.training.autoencoder import to_pixels
from training.samples import EncodedPicture, Outline, Picture, Text

LATENT_PATCH, VISION_PATCH = 2, 16
# Some pictures are seen as they will be: decoded from latents that are a little off. All would be
# better and cost as much time as the training itself.
_DECODED, _DECODE_NOISE = 0.25, 0.3


def caption_outline(rng: Random) -> Outline:
    """Return a prompt and its one picture, every pixel fixed by the words."""
    caption = sample_caption(rng)
    return (
        Text(text=caption.text, learnt=False),
        Picture(image=render(caption.scene), drawn=True),
    )


def story_outline(story: Story, think: bool) -> Outline:
    """Return a story as the loop meets it."""
    items: list[Text | Picture] = []
    if story.request.in_place:
        for step in story.steps:
            items += [Text(text=step.text, learnt=False), _drawn(step.scene)]
    else:
        if think and story.thought is not None:
            items.append(Text(text=GEN_THINK_SYSTEM_PROMPT, learnt=False))
        items.append(Text(text=story.prompt, learnt=False))
        if think and story.thought is not None:
            items.append(Text(text=f"<think>{story.thought}</think>", thought=True))
        for step in story.steps:
            items += [Text(text=step.text, following="image"), _drawn(step.scene)]
    return (*items, Text(text=story.closing, following="end"))


def question_outline(rng: Random) -> Outline:
    """Return a picture, some questions and their answers; most pictures by vision alone.

    A description stands alone: beside it, other answers could be read off it instead of the
    picture.
    """
    scene = sample_caption(rng, traits=None).scene
    kinds = [DESCRIPTIONS] if rng.random() < 0.3 else [DETAILS, BINDINGS] * 3
    items: list[Text | Picture] = [
        Picture(image=render(scene), drawn=False, latent=rng.random() < 0.4)
    ]
    for asked in [ask_about(rng, scene, kind) for kind in kinds]:
        items += [Text(text=asked.question, learnt=False), Text(text=asked.answer, following="end")]
    return tuple(items)


def edit_outline(rng: Random) -> Outline:
    """Return a picture, an instruction and what becomes of the picture."""
    sample = sample_edit(rng)
    request: tuple[Text, ...] = (Text(text=sample.instruction, learnt=False),)
    if rng.random() < 0.5:  # through the loop, which writes first; otherwise drawn at once
        request = (*request, Text(text="Here it is.", following="image"))
    return (
        Picture(image=render(sample.before), drawn=False),
        *request,
        _drawn(sample.after),
        Text(text="Done.", following="end"),
    )


def sample_outline(rng: Random, stage: str) -> Outline:
    """Draw an outline for a stage: "captions" first, "stories" after.

    Most of the tokens are in stories all the same, which are much longer.
    """
    lot = rng.random()
    if stage == "captions":
        return caption_outline(rng) if lot < 0.85 else question_outline(rng)
    if lot < 0.03:
        return caption_outline(rng)
    if lot < 0.53:
        return question_outline(rng)
    if lot < 0.85:
        return edit_outline(rng)
    return story_outline(sample_story(rng), think=rng.random() < 0.15)


def texts_for_tokenizer(num_stories: int) -> list[str]:
    """Return what the tokenizer learns its merges from."""
    rng = Random(0)
    outlines = [sample_outline(rng, "stories") for _ in range(num_stories)]
    texts = [item.text for outline in outlines for item in outline if isinstance(item, Text)]
    return [part for text in texts for part in text.split(IMAGE_REQUEST)]


@torch.inference_mode()
def encode_pictures(
    outlines: Sequence[Outline], autoencoder: AutoEncoder, batch_size: int = 32
) -> list[dict[int, EncodedPicture]]:
    """Encode the pictures of many outlines at once; one dictionary each, by place."""
    pictures = [
        (number, place, item)
        for number, outline in enumerate(outlines)
        for place, item in enumerate(outline)
        if isinstance(item, Picture)
    ]
    encoded: list[dict[int, EncodedPicture]] = [{} for _ in outlines]
    for start in range(0, len(pictures), batch_size):
        chosen = pictures[start : start + batch_size]
        pixels = to_pixels([item.image for _, _, item in chosen])
        with torch.autocast(autoencoder.device.type, dtype=torch.bfloat16):
            latents = autoencoder.encode(pixels.to(autoencoder.device)).float()
        seen = _seen_again(pixels, latents, [item.drawn for _, _, item in chosen], autoencoder)
        for (number, place, _), latent, image in zip(chosen, latents.cpu(), seen, strict=True):
            encoded[number][place] = _encoded(latent, image)
    return encoded


def _seen_again(
    pixels: torch.Tensor, latents: torch.Tensor, drawn: list[bool], autoencoder: AutoEncoder
) -> torch.Tensor:
    """Return pictures as the vision encoder sees them, some of the drawn ones decoded."""
    places = torch.nonzero(torch.tensor(drawn) & (torch.rand(len(drawn)) < _DECODED))[:, 0]
    if not len(places):
        return pixels
    latents = latents[places.to(latents.device)]
    off = torch.rand(len(latents), 1, 1, 1, device=latents.device) * _DECODE_NOISE
    with torch.autocast(latents.device.type, dtype=torch.bfloat16):
        decoded = autoencoder.decode(latents + off * torch.randn_like(latents))
    return pixels.index_copy(0, places, decoded.float().clamp(-1, 1).cpu())


def _encoded(latent: torch.Tensor, pixels: torch.Tensor) -> EncodedPicture:
    def grid(image: torch.Tensor, patch: int) -> tuple[int, int]:
        return image.shape[1] // patch, image.shape[2] // patch

    return EncodedPicture(
        latent=patchify(latent, LATENT_PATCH).clone(),
        grid=grid(latent, LATENT_PATCH),
        patches=patchify(pixels, VISION_PATCH).clone(),
        patch_grid=grid(pixels, VISION_PATCH),
    )


def _drawn(scene: Scene) -> Picture:
    return Picture(image=render(scene), drawn=True)
