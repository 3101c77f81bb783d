"""What a story loses when a context loses something: a silent loss is the worst bug there is.

Each ablation is run on the stories and seeds of the whole, through the public interface.
"""

import numpy
import pytest

from auto_interleaved.contexts import Reader
from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.picturebook_measures import evaluate_stories
from benchmarks.picturebook_rates import Counts
from data.picturebook import Story
from tests.bundled import SAMPLING, bundled, drawn_stories
from tests.sabotages import image_unread, no_text_is_full, prompt_unread, text_in_view_only


@pytest.fixture(scope="module")
def inferencer() -> AutoInterleavedInferencer:
    return bundled()


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return drawn_stories("ablations", 4, "composition")


@pytest.fixture(scope="module")
def whole(inferencer: AutoInterleavedInferencer, stories: list[Story]) -> Counts:
    return evaluate_stories(inferencer, stories, max_images=4, **SAMPLING)


def pixels(inferencer: AutoInterleavedInferencer, story: Story, scale: float) -> numpy.ndarray:
    """The first picture that a story's prompt leads to, guided at all times and not renormed."""
    strong = {"cfg_text_scale": scale, "cfg_interval": (0.0, 1.0), "cfg_renorm_min": 1.0}
    output = inferencer.auto_interleaved_generation(
        story.prompt, seed=0, max_images=1, **{**SAMPLING, **strong}
    )
    return numpy.asarray(output.images[0], dtype=int)


def test_traits_are_lost_with_the_pictures(
    inferencer: AutoInterleavedInferencer,
    stories: list[Story],
    whole: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a drawn picture that does not enter the context: one in twelve is right by chance."""
    monkeypatch.setattr(Reader, "read_image", image_unread)
    counts = evaluate_stories(inferencer, stories, max_images=4, **SAMPLING)
    assert counts["traits kept"].share <= 0.4, str(counts["traits kept"])
    assert whole["traits kept"].share >= 0.7, str(whole["traits kept"])


def test_wishes_are_lost_with_the_prompt(
    inferencer: AutoInterleavedInferencer,
    stories: list[Story],
    whole: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a context of writing that lost the caller's words."""
    monkeypatch.setattr(Reader, "read_text", prompt_unread)
    counts = evaluate_stories(inferencer, stories, max_images=4, **SAMPLING)
    assert counts["text does what was asked"].share <= 0.2
    assert whole["text does what was asked"].share >= 0.6


def test_pictures_are_lost_with_their_text(
    inferencer: AutoInterleavedInferencer,
    stories: list[Story],
    whole: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a context of drawing that lacks what was just written."""
    monkeypatch.setattr(Reader, "keep_text", text_in_view_only)
    counts = evaluate_stories(inferencer, stories, max_images=4, **SAMPLING)
    assert counts["picture matches its text"].share <= 0.5, str(counts["picture matches its text"])
    assert whole["picture matches its text"].share >= 0.85


def test_guidance_is_lost_with_its_context(
    inferencer: AutoInterleavedInferencer, stories: list[Story], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a context without text that has the text: guidance then has no effect at all.

    The model draws as well without guidance, so that no rate tells; pixels do, and velocities, see
    `test_bundled_bugs`.
    """
    guided, unguided = (pixels(inferencer, stories[0], scale) for scale in (8.0, 1.0))
    monkeypatch.setattr(Reader, "_with_text", no_text_is_full)
    lost = pixels(inferencer, stories[0], 8.0)
    assert numpy.abs(guided - unguided).mean() > 1  # of 255 levels
    assert numpy.abs(lost - unguided).mean() < 0.1
