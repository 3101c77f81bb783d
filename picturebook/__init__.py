"""A small world of illustrated stories: a generator, a renderer and a judge of what a model makes.

Pure Python with numpy and Pillow; every sample depends on nothing but its random generator.
"""

from picturebook.judge import (
    StoryJudgement,
    Verdict,
    judge_answer,
    judge_plan,
    judge_story,
    rates,
)
from picturebook.language import caption, parse_text
from picturebook.picture_judge import PictureJudgement, judge_edit, judge_picture
from picturebook.reading import Seen, read_picture
from picturebook.records import IMAGE_REQUEST, Request, Step, Story, Wish
from picturebook.render import render
from picturebook.split import is_held_out, novelties
from picturebook.stories import STORY_KINDS, illustrated, sample_story
from picturebook.tasks import (
    BINDINGS,
    DESCRIPTIONS,
    DETAILS,
    Caption,
    Edit,
    Question,
    ask_about,
    sample_caption,
    sample_edit,
    sample_question,
)
from picturebook.world import Scene, Thing, Traits

__all__ = [
    "BINDINGS",
    "DESCRIPTIONS",
    "DETAILS",
    "IMAGE_REQUEST",
    "STORY_KINDS",
    "Caption",
    "Edit",
    "PictureJudgement",
    "Question",
    "Request",
    "Scene",
    "Seen",
    "Step",
    "Story",
    "StoryJudgement",
    "Thing",
    "Traits",
    "Verdict",
    "Wish",
    "ask_about",
    "caption",
    "illustrated",
    "is_held_out",
    "judge_answer",
    "judge_edit",
    "judge_picture",
    "judge_plan",
    "judge_story",
    "novelties",
    "parse_text",
    "rates",
    "read_picture",
    "render",
    "sample_caption",
    "sample_edit",
    "sample_question",
    "sample_story",
]
