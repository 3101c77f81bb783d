"""Training makes a checkpoint that loads and runs, and goes on where it was stopped."""

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from auto_interleaved_inference import AutoInterleavedInferencer
from data.packing import LatentPart, TextPart
from modeling.autoencoder import AutoEncoder
from modeling.checkpoint import BUNDLED_MODEL
from picturebook import sample_story
from picturebook.training.autoencoder import PARAMS
from picturebook.training.outlines import (
    encode_pictures,
    question_outline,
    sample_outline,
    story_outline,
)
from train import main
from training.decoder import Plan
from training.samples import EncodedPicture, FollowingIds, Outline, Picture, Recipe, Text, parts_of

SMALL = [
    "--device=cpu",
    "--tokenizer-stories=100",
    "--autoencoder-steps=1",
    "--autoencoder-batch=2",
    "--caption-steps=2",
    "--pool=4",
    "--batch-tokens=512",
]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch 2.9 or later")
def test_one_command_makes_a_checkpoint_that_tells_a_story(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path), "--story-steps", "1", *SMALL]) == 0
    first = torch.load(tmp_path / "state" / "decoder" / "custom_checkpoint_0.pkl")
    assert main(["--output", str(tmp_path), "--story-steps", "2", *SMALL]) == 0
    second = torch.load(tmp_path / "state" / "decoder" / "custom_checkpoint_0.pkl")
    assert (first["step"], second["step"]) == (3, 4)  # it went on, and did not begin again
    inferencer = AutoInterleavedInferencer.from_pretrained(tmp_path, dtype=torch.float32)
    inferencer.set_progress_bar_config(disable=True)
    output = inferencer.auto_interleaved_generation(
        "Draw a red circle: <|vision_start|>", num_timesteps=3, max_text_length=3, seed=1
    )
    assert [image.size for image in output.images] == [(64, 64)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch 2.9 or later")
def test_training_goes_on_from_a_finished_checkpoint(tmp_path: Path) -> None:
    more = ["--caption-steps=0", "--story-steps=1", f"--start-from={BUNDLED_MODEL}"]
    assert main(["--output", str(tmp_path), *SMALL, *more]) == 0
    for name in ("vocab.json", "ae.safetensors"):
        assert (tmp_path / name).read_bytes() == (BUNDLED_MODEL / name).read_bytes()
    before, after = (load_file(d / "ema.safetensors") for d in (BUNDLED_MODEL, tmp_path))
    moved = [(before[name].float() - after[name].float()).abs().max() for name in before]
    assert 0 < max(moved) < 0.01  # one step at the rate of a warm-up


def outline() -> tuple[Outline, dict[int, EncodedPicture]]:
    encoded = EncodedPicture(
        latent=torch.zeros(16, 64), grid=(4, 4), patches=torch.zeros(16, 768), patch_grid=(4, 4)
    )
    image = next(i for i in sample_outline(Random(0), "captions") if isinstance(i, Picture)).image
    items = (
        Text(text="draw", learnt=False),
        Text(text="here", following="image"),
        Picture(image=image, drawn=True),
        Text(text="end", following="end"),
    )
    return items, {2: encoded}


def parts(recipe: Recipe) -> list[object]:
    items, encoded = outline()
    following = FollowingIds(image=7, end=8)
    return list(parts_of(items, encoded, lambda text: [len(text)], following, recipe, Random(1)))


def test_a_text_learns_what_follows_it_and_a_prompt_is_not_learnt() -> None:
    texts = [p for p in parts(Recipe()) if isinstance(p, TextPart)]
    assert [(t.loss, t.following) for t in texts] == [(False, None), (True, 7), (True, 8)]


def test_a_copy_without_the_text_stands_before_the_text() -> None:
    kinds = [type(p).__name__ for p in parts(Recipe(drop_text=1.0, drop_images=0.0, copies=1))]
    assert kinds == [
        "TextPart",
        "LatentPart",  # the noised copy that does not see "here"
        "TextPart",
        "LatentPart",  # the noised copy that does
        "LatentPart",
        "VisionPart",
        "TextPart",
    ]


def test_a_sequence_without_images_keeps_only_noised_copies() -> None:
    kept = parts(Recipe(drop_images=1.0, copies=2))
    latents = [p for p in kept if isinstance(p, LatentPart)]
    assert len(latents) == 2
    assert all(p.time is not None for p in latents)
    assert not any(p.loss for p in kept if isinstance(p, TextPart))


@pytest.mark.parametrize(("drop_images", "texts"), [(0.0, 4), (1.0, 3)])
def test_a_plan_is_not_in_the_context_without_images(drop_images: float, texts: int) -> None:
    items, encoded = outline()
    plan = Text(text="plan", thought=True)
    given = (items[0], plan, *items[1:])
    recipe, following = Recipe(drop_images=drop_images), FollowingIds(image=7, end=8)
    shifted = {place + 1: picture for place, picture in encoded.items()}
    packed = parts_of(given, shifted, lambda text: [len(text)], following, recipe, Random(1))
    assert sum(isinstance(part, TextPart) for part in packed) == texts


def test_pictures_are_asked_about_by_their_latents_and_by_vision_alone() -> None:
    outlines = [question_outline(Random(seed)) for seed in range(40)]
    pictures = [items[0] for items in outlines]
    assert {p.latent for p in pictures if isinstance(p, Picture)} == {True, False}
    for items in outlines:
        texts = [item for item in items[1:] if isinstance(item, Text)]
        assert [text.learnt for text in texts] == [False, True] * (len(texts) // 2)
        assert all(text.following == "end" for text in texts if text.learnt)


def test_no_answer_can_be_read_off_a_description() -> None:
    numbers = set()
    for seed in range(60):
        items = question_outline(Random(seed))
        asked = [item.text for item in items if isinstance(item, Text) and not item.learnt]
        described = {"Describe the picture.", "What is in the picture?"} & set(asked)
        assert len(asked) == (1 if described else 6)
        numbers.add(len(asked))
    assert numbers == {1, 6}


def test_times_lie_between_picture_and_noise() -> None:
    times = [Recipe().draw_time(Random(seed)) for seed in range(300)]
    assert min(times) > 0
    assert max(times) <= 1
    assert sum(times) / len(times) > 0.5  # they lean towards noise


def test_the_rate_warms_up_holds_and_falls() -> None:
    plan = Plan(steps=1000, learning_rate=1.0, warm_up=10, decay=0.4)
    assert [plan.rate(step) for step in (0, 9, 500, 800, 999)] == pytest.approx(
        [0.1, 1.0, 1.0, 0.5, 0.01]
    )


def test_every_stage_and_story_gives_outlines_whose_pictures_encode() -> None:
    rng = Random(3)
    outlines = [sample_outline(rng, stage) for stage in ("captions", "stories")]
    outlines.append(story_outline(sample_story(rng, "composition"), think=True))
    encoded = encode_pictures(outlines, AutoEncoder(PARAMS).eval())
    for items, pictures in zip(outlines, encoded, strict=True):
        places = {place for place, item in enumerate(items) if isinstance(item, Picture)}
        assert set(pictures) == places
        assert all(p.latent.shape == (16, 64) for p in pictures.values())
