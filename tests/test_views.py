"""What there is to show of a run: while it goes on, and when it is over."""

from __future__ import annotations

from functools import cache

from data.output import InterleavedOutput, Segment
from data.output.events import Event, Finished, ImageDone, ImagePreview, TextDelta, ThoughtDelta
from data.output.views import Drawing, Drawn, Part, Thought, View, Written, made
from tests.builders import picture
from tests.bundled import bundled

STORY = "Draw a red circle, then add a blue square to its right."


@cache
def told() -> tuple[tuple[Event, ...], tuple[tuple[Part, ...], ...]]:
    """Return the events of a run with thoughts and previews, and what was shown after each."""
    view, shown = View(), []
    stream = bundled().stream(STORY, seed=3, num_timesteps=4, think=True, preview_every=1)
    events = tuple(stream)
    for event in events:
        view.hear(event)
        shown.append(view.parts)
    return events, tuple(shown)


def alike(one: tuple[Part, ...], other: tuple[Part, ...]) -> bool:
    def plain(part: Part) -> object:
        return id(part.image) if isinstance(part, Drawn) else part

    return [plain(part) for part in one] == [plain(part) for part in other]


def test_what_a_run_showed_last_is_what_there_is_when_it_is_over() -> None:
    events, shown = told()
    assert isinstance(events[-1], Finished)
    assert alike(shown[-2], tuple(made(events[-1].output)))
    assert {type(part) for part in shown[-1]} == {Thought, Written, Drawn}


def test_texts_and_pictures_are_in_the_order_of_the_output() -> None:
    events, shown = told()
    assert isinstance(events[-1], Finished)
    items = [
        part.text if isinstance(part, Written) else part.image
        for part in shown[-1]
        if isinstance(part, Written | Drawn)
    ]
    assert items == list(events[-1].output)


def test_a_thought_folds_away_when_the_answer_begins() -> None:
    events, shown = told()
    for event, parts in zip(events, shown, strict=True):
        if isinstance(event, ThoughtDelta):
            assert parts[0] == Thought(text=parts[0].text, open=True)  # type: ignore[union-attr]
        elif isinstance(event, TextDelta):
            assert isinstance(parts[0], Thought)
            assert not parts[0].open


def test_a_plan_is_read_without_the_tags_around_it() -> None:
    _, shown = told()
    thought = shown[-1][0]
    assert isinstance(thought, Thought)
    assert thought.text == f"<think>{thought.plan}</think>"


def test_a_picture_grows_from_its_previews_in_its_place() -> None:
    events, shown = told()
    before: tuple[Part, ...] = ()
    previews = 0
    for event, parts in zip(events, shown, strict=True):
        if isinstance(event, ImagePreview):
            drawing = parts[-1]
            assert isinstance(drawing, Drawing)
            assert drawing.preview is event.image
            assert drawing.size == (64, 64)
            assert drawing.told == f"drawing picture {event.index + 1}: step {event.step} of 3"
            previews += 1
        if isinstance(event, ImageDone):
            assert isinstance(before[-1], Drawing)
            assert len(parts) == len(before)
            assert isinstance(parts[-1], Drawn)
        before = parts
    assert previews >= 4


def test_a_picture_that_was_not_finished_is_gone_at_the_end() -> None:
    events, shown = told()
    cut = next(place for place, event in enumerate(events) if isinstance(event, ImagePreview))
    view = View()
    for event in events[: cut + 1]:
        view.hear(event)
    assert isinstance(view.parts[-1], Drawing)
    view.hear(Finished(output=InterleavedOutput(finish_reason="interrupted")))
    assert view.parts == ()


def test_texts_that_touch_are_one_and_prompts_are_not_shown() -> None:
    image = picture()
    segments = [
        Segment(kind="text", role="prompt", text="Go."),
        Segment(kind="text", role="generated", text="One "),
        Segment(kind="text", role="generated", text="text."),
        Segment(kind="image", role="generated", image=image),
        Segment(kind="image", role="candidate", image=picture()),
        Segment(kind="image", role="generated", error="it broke"),
        Segment(kind="text", role="generated", text="More."),
    ]
    output = InterleavedOutput.from_segments(segments, finish_reason="stop")
    shown = list(made(output))
    assert [type(part) for part in shown] == [Written, Drawn, Written]
    assert [part.text for part in shown if isinstance(part, Written)] == ["One text.", "More."]


def test_a_line_break_between_a_picture_and_a_text_is_not_shown() -> None:
    view = View()
    view.hear(TextDelta(block=0, text="Before."))
    view.hear(TextDelta(block=1, text="\nAfter.", apart="\n"))
    assert view.parts == (Written(text="Before.After."),)
