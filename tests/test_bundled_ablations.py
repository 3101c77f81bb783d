"""What a story loses when a context loses something: a silent loss is the worst bug there is.

Each ablation is run on the stories and seeds of the whole, through the public interface.
"""

import numpy
import pytest

from auto_interleaved.run.contexts import Reader
from auto_interleaved_inference import AutoInterleavedInferencer
from picturebook import Story
from picturebook.benchmark.measures import evaluate_stories
from picturebook.benchmark.rates import Counts
from tests.bundled import SAMPLING, bundled, drawn_stories
from tests.sabotages import image_unread, no_text_is_full, prompt_unread, text_in_view_only


@pytest.fixture(scope="module")
def inferencer() -> AutoInterleavedInferencer:
    return bundled()


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return drawn_stories("ablations", 4, "composition")


def told(inferencer: AutoInterleavedInferencer, stories: list[Story]) -> Counts:
    return evaluate_stories(inferencer, stories, max_images=4, **SAMPLING)


@pytest.fixture(scope="module")
def whole(inferencer: AutoInterleavedInferencer, stories: list[Story]) -> Counts:
    return told(inferencer, stories)


def pixels(inferencer: AutoInterleavedInferencer, story: Story, scale: float) -> numpy.ndarray:
    """The first picture that a story's prompt leads to, guided at all times and not renormed."""
    strong = {"cfg_text_scale": scale, "cfg_interval": (0.0, 1.0), "cfg_renorm_min": 1.0}
    output = inferencer.auto_interleaved_generation(
        story.prompt, seed=0, max_images=1, **{**SAMPLING, **strong}
    )
    return numpy.asarray(output.images[0], dtype=int)


@pytest.mark.parametrize(
    ("method", "instead", "figure", "most", "least"),
    [
        # A drawn picture that does not enter the context: one in twelve is right by chance.
        pytest.param("read_image", image_unread, "traits kept", 0.4, 0.7, id="pictures"),
        # A context of writing that lost the caller's words.
        pytest.param("read_text", prompt_unread, "text does what was asked", 0.2, 0.6, id="prompt"),
        # A context of drawing that lacks what was just written.
        pytest.param(
            "keep_text", text_in_view_only, "picture matches its text", 0.5, 0.85, id="text"
        ),
    ],
)
def test_a_figure_is_lost_with_what_it_needs(  # noqa: PLR0913 - a row, and what it is tried on
    inferencer: AutoInterleavedInferencer,
    stories: list[Story],
    whole: Counts,
    method: str,
    instead: object,
    figure: str,
    most: float,
    least: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it the figure is at most one number, with it at least another."""
    monkeypatch.setattr(Reader, method, instead)
    lost = told(inferencer, stories)[figure]
    assert lost.share <= most, str(lost)
    assert whole[figure].share >= least, str(whole[figure])


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
