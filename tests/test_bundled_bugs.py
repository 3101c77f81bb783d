"""The suite can see bugs: each of `sabotages` changes what the bundled model makes of a lesson.

Without a bug the loop gives training's own numbers (see `test_bundled_training`), so whatever is
off by more than rounding is a bug. Where the model minds much, its losses say so as well.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from tests.bundled import bundled, drawn_stories
from tests.sabotages import SABOTAGES, Sabotage
from tests.teacher import Lesson, lesson_of, taught

# All three contexts count, at all times, and renorm hides nothing.
GUIDED: dict[str, Any] = {
    "cfg_text_scale": 2.5,
    "cfg_img_scale": 1.5,
    "cfg_interval": (0.0, 1.0),
    "cfg_renorm_min": 1.0,
}
VISIBLE = 0.01  # thousands of times what rounding does


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the model thinks of a lesson: of every token, and at every time of every picture."""

    text: Tensor
    guided: Tensor

    def off(self, other: "Findings") -> float:
        pairs = (self.text, other.text), (self.guided, other.guided)
        return max(float((mine - theirs).abs().mean()) for mine, theirs in pairs)


def findings(inferencer: AutoInterleavedInferencer, lesson: Lesson) -> Findings:
    heard, _ = taught(inferencer, lesson, **GUIDED)
    guided = torch.stack([torch.stack(drawn) for drawn in heard.velocities])
    return Findings(text=torch.tensor(heard.text), guided=guided)


def loss(inferencer: AutoInterleavedInferencer, lesson: Lesson, of: str) -> float:
    heard, _ = taught(inferencer, lesson)
    return heard.text_loss() if of == "text" else heard.picture_loss(lesson)


@pytest.fixture(scope="module")
def inferencer() -> AutoInterleavedInferencer:
    return bundled(torch.float32)


@pytest.fixture(scope="module")
def lesson(inferencer: AutoInterleavedInferencer) -> Lesson:
    return lesson_of(inferencer, drawn_stories("bugs", 1, "composition")[0])


@pytest.fixture(scope="module")
def sound(inferencer: AutoInterleavedInferencer, lesson: Lesson) -> Findings:
    return findings(inferencer, lesson)


def test_the_lesson_is_as_it_was(
    inferencer: AutoInterleavedInferencer, lesson: Lesson, sound: Findings
) -> None:
    assert findings(inferencer, lesson).off(sound) == 0


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_a_bug_is_seen(
    inferencer: AutoInterleavedInferencer,
    lesson: Lesson,
    sound: Findings,
    sabotage: Sabotage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = loss(inferencer, lesson, sabotage.harms) if sabotage.harms else 1.0
    sabotage.apply(monkeypatch)
    off = findings(inferencer, lesson).off(sound)
    assert off > VISIBLE, off
    if sabotage.harms:
        harm = loss(inferencer, lesson, sabotage.harms) / before
        assert harm > sabotage.by, f"{sabotage.harms} loss times {harm:.2f}"
