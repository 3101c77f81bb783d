"""A small world of illustrated stories: a generator, a renderer and a judge of what a model makes.

Pure Python with numpy and Pillow; every sample depends on nothing but its random generator.
"""

from data.picturebook.judge import (
    StoryJudgement,
    Verdict,
    judge_answer,
    judge_plan,
    judge_story,
    rates,
)
from data.picturebook.language import caption, parse_text
from data.picturebook.picture_judge import PictureJudgement, judge_edit, judge_picture
from data.picturebook.reading import Seen, read_picture
from data.picturebook.records import IMAGE_REQUEST, Request, Step, Story, Wish
from data.picturebook.render import render
from data.picturebook.split import is_held_out, novelties
from data.picturebook.stories import STORY_KINDS, illustrated, sample_story
from data.picturebook.tasks import (
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
from data.picturebook.world import Scene, Thing, Traits

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
