"""Browser tabs without a browser: talks with the bundled model, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

from auto_interleaved.page.desk import Desk, Shown
from auto_interleaved.page.notes import Note, asked, notes_on
from auto_interleaved.page.tabs import Exchange, Tab
from auto_interleaved.page.turns import Turns
from auto_interleaved.serving.limits import Limits
from data.output import InterleavedOutput
from data.output.views import Drawn, Written
from data.prompts import parse_prompt
from tests.builders import picture
from tests.bundled import bundled

STORY = "Draw a red circle, then add a blue square to its right."
LONG = "A red circle at the top left.<|vision_start|>"
FEW: dict[str, Any] = {"num_timesteps": 4, "seed": 3}
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def new_tab() -> Tab:
    return Tab(bundled(), Turns())


async def say(tab: Tab, message: Any = STORY, **options: Any) -> Exchange:
    last = None
    async for exchange in tab.say(message, {**FEW, **options}):
        last = exchange
    assert last is not None
    return last


async def stopped(tab: Tab, after: int = 3) -> Exchange:
    """Send a message that is drawn for long, and stop its answer after so many states."""
    last, count = None, 0
    async for exchange in tab.say(LONG, {**FEW, "num_timesteps": 1000}):
        last, count = exchange, count + 1
        if count == after:
            tab.stop()
    assert last is not None
    assert last.output is not None
    assert last.output.finish_reason == "interrupted"
    return last


def test_a_talk_on_the_page_is_the_librarys_session() -> None:
    async def talk() -> list[Any]:
        tab = new_tab()
        return [(await say(tab, message)).output for message in (STORY, "Make it winter.")]

    session = bundled().start_session()
    alone = [session.send(message, **FEW) for message in (STORY, "Make it winter.")]
    assert run(talk()) == alone


def test_the_answer_grows_and_its_last_state_is_the_output() -> None:
    async def talk() -> list[Exchange]:
        return [exchange async for exchange in new_tab().say(STORY, {**FEW, "preview_every": 1})]

    states = run(talk())
    assert states[0].answer == ()
    assert states[0].message == (Written(text=STORY),)
    assert all(state.output is None for state in states[:-1])
    items = [
        part.text if isinstance(part, Written) else part.image
        for part in states[-1].answer
        if isinstance(part, Written | Drawn)
    ]
    assert items == states[-1].output
    assert len(states) > 4


def test_stop_keeps_what_exists_and_the_model_does_not_remember_it() -> None:
    async def talk() -> tuple[Exchange, int, Exchange, Exchange]:
        tab, fresh = new_tab(), new_tab()
        cut = await stopped(tab)
        tokens = tab.session.num_tokens
        return cut, tokens, await say(tab), await say(fresh)

    cut, tokens, after, fresh = run(talk())
    assert cut.notes[0].text.startswith("Stopped. What exists is kept here")
    assert tokens == 0
    assert after.output == fresh.output


def test_a_message_that_is_taken_back_comes_back_to_be_said_otherwise() -> None:
    async def talk() -> None:
        tab, image = new_tab(), Image.new("RGB", (64, 64), "green")
        first = await say(tab)
        await say(tab, [image, "Put a heart on it.<|vision_start|>"])
        text, pictures = tab.rewind()
        assert text == "Put a heart on it.<|vision_start|>"
        assert [picture.getpixel((0, 0)) for picture in pictures] == [(0, 128, 0)]
        assert [exchange.output for exchange in tab.exchanges()] == [first.output]
        tab.rewind()
        assert tab.exchanges() == []
        assert tab.session.num_tokens == 0
        with pytest.raises(ValueError, match="there is no message to take back"):
            tab.rewind()

    run(talk())


def test_taking_back_a_stopped_answer_leaves_the_one_before() -> None:
    """A session knows no turn that failed, so one step back in it took a good answer as well."""

    async def talk() -> None:
        tab = new_tab()
        first = await say(tab)
        await stopped(tab)
        assert len(tab.exchanges()) == 2
        assert tab.rewind() == (LONG, [])
        assert [exchange.output for exchange in tab.exchanges()] == [first.output]

    run(talk())


def test_forks_go_their_own_ways() -> None:
    async def talk() -> None:
        tab = new_tab()
        await say(tab)
        tab.fork()
        assert list(tab.talks) == ["talk", "fork of talk"]
        await say(tab, "Make it winter.")
        assert len(tab.exchanges()) == 2
        tab.turn_to("talk")
        assert len(tab.exchanges()) == 1
        tab.fork()
        assert tab.current == "fork of talk (2)"
        tab.begin()
        assert tab.exchanges() == []
        assert len(tab.answers) == 2

    run(talk())


def test_an_answer_that_was_taken_back_can_still_be_saved() -> None:
    async def talk() -> None:
        tab = new_tab()
        first = await say(tab)
        tab.rewind()
        assert first.number == 0
        assert tab.answers[0] is first.output

    run(talk())


def test_several_tabs_see_their_answers_grow_at_the_same_time() -> None:
    async def talk() -> tuple[list[str], list[Exchange]]:
        turns, order = Turns(), []

        async def visit(name: str, seed: int) -> Exchange:
            last = None
            options = {**FEW, "seed": seed, "preview_every": 1}
            async for exchange in Tab(bundled(), turns).say(STORY, options):
                order.append(name)
                last = exchange
            assert last is not None
            return last

        ends = await asyncio.gather(visit("a", 3), visit("b", 4))
        return order, list(ends)

    order, ends = run(talk())
    assert "aba" in "".join(order)
    for exchange, seed in zip(ends, (3, 4), strict=True):
        assert exchange.output == bundled().auto_interleaved_generation(
            STORY, num_timesteps=4, seed=seed
        )


def test_a_visitor_who_goes_away_ends_the_answer_and_nothing_else() -> None:
    async def talk() -> None:
        turns = Turns()
        tab, other = Tab(bundled(), turns), Tab(bundled(), turns)
        task = asyncio.create_task(say(tab, num_timesteps=1000))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not tab.is_running
        assert (await say(other)).output == (await say(tab)).output
        assert tab.session.history[0].failed

    run(talk())


def test_one_answer_at_a_time_in_a_tab() -> None:
    async def talk() -> None:
        tab = new_tab()
        async with aclosing(tab.say(STORY, FEW)) as answer:  # type: ignore[type-var]
            await anext(answer)
            for doing in (tab.rewind, tab.fork, tab.begin, lambda: tab.turn_to("talk")):
                with pytest.raises(RuntimeError, match="an answer is under way; stop it"):
                    doing()  # type: ignore[operator]
        tab.begin()

    run(talk())


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("length", "It ended here because a text reached max_text_length."),
        ("context_full", "take messages back"),
        ("no_image", "no picture had been asked for"),
    ],
)
def test_an_ending_that_nobody_expects_is_told(reason: Any, said: str) -> None:
    [note] = notes_on(InterleavedOutput(finish_reason=reason))
    assert said in note.text
    assert not note.is_error


def test_an_error_is_told_in_the_librarys_words() -> None:
    output = InterleavedOutput(finish_reason="error", error=RuntimeError("it broke"))
    [note] = notes_on(output)
    assert note.text.startswith("This run ended early: RuntimeError: it broke.")
    assert note.is_error
    assert list(notes_on(InterleavedOutput())) == []


def test_a_message_is_shown_as_it_was_written() -> None:
    image = picture()
    parts = list(asked(parse_prompt(["See:", image, "A boat.<|vision_start|> And more."])))
    assert [type(part) for part in parts] == [Written, Drawn, Written]
    assert parts[2] == Written(text="A boat.<|vision_start|> And more.")


# The desk: what visitors send.


def new_desk(folder: Path, **limits: Any) -> Desk:
    return Desk(bundled(), Limits(**limits), folder)


async def send(desk: Desk, tab: Tab, *arguments: Any, **options: Any) -> Shown:
    text, paths = (*arguments, [])[:2]
    last = None
    async for shown in desk.send(tab, text, paths, {**FEW, **options}):
        last = shown
    assert last is not None
    return last


def uploaded(folder: Path, name: str = "a.png", size: tuple[int, int] = (64, 64)) -> str:
    Image.new("RGB", size, "green").save(folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_timesteps": 1},
            "num_timesteps must be at least 2 (n points are n - 1 steps), got 1",
        ),
        ({"num_timesteps": 500}, "num_timesteps must be at most 200 on this server, got 500"),
        ({"height": 63, "width": 64}, "height must be a positive multiple of 16"),
        ({"height": 64}, "width"),
        ({"height": 8192, "width": 8192}, "pixels"),
        ({"seed": "x"}, "seed must be"),
        ({"protocol": "nativ"}, "native"),
        ({"max_images": 99}, "max_images must be at most 16"),
    ],
)
def test_an_option_that_cannot_be_is_told_and_the_message_is_kept(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    async def talk() -> None:
        desk = new_desk(tmp_path)
        tab = desk.enter()
        shown = await send(desk, tab, STORY, **options)
        assert shown.notice is not None
        assert words in shown.notice
        assert shown.unsent == (STORY, [])
        assert not tab.is_running
        assert (await send(desk, tab, STORY)).exchanges[0].output

    run(talk())


def test_only_what_was_uploaded_is_opened(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    outside = uploaded(tmp_path)
    (uploads / "link.png").symlink_to(outside)

    async def talk() -> None:
        desk = new_desk(uploads)
        for path in (outside, str(uploads / "../a.png"), str(uploads / "link.png"), "/etc/passwd"):
            shown = await send(desk, desk.enter(), STORY, [path])
            assert shown.notice is not None
            assert "no other file is opened" in shown.notice
        shown = await send(desk, desk.enter(), STORY, [uploaded(uploads)])
        assert shown.notice is None
        assert isinstance(shown.exchanges[0].message[0], Drawn)

    run(talk())


@pytest.mark.parametrize(
    ("limits", "count", "words"),
    [
        ({"max_pixels": 4000}, 1, "more than 4000 pixels"),
        ({"max_pictures": 1}, 2, "at most 1 pictures, got 2"),
        ({"max_characters": 5}, 0, "at most 5 characters"),
    ],
)
def test_what_is_too_much_is_refused(
    tmp_path: Path, limits: dict[str, int], count: int, words: str
) -> None:
    async def talk() -> None:
        desk = new_desk(tmp_path, **limits)
        paths = [uploaded(tmp_path, f"{number}.png") for number in range(count)]
        shown = await send(desk, desk.enter(), STORY, paths)
        assert shown.notice is not None
        assert words in shown.notice

    run(talk())


def test_what_is_no_picture_is_refused_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")

    async def talk() -> None:
        desk = new_desk(tmp_path)
        shown = await send(desk, desk.enter(), "", [str(tmp_path / "a.png")])
        assert shown.notice is not None
        assert shown.notice.startswith("picture 1 must be a readable image")
        shown = await send(desk, desk.enter(), "  ")
        assert shown.notice == "there is nothing to answer: no text and no picture"

    run(talk())


def test_answers_and_pictures_are_found_by_their_tabs_token_alone(tmp_path: Path) -> None:
    async def talk() -> None:
        desk = new_desk(tmp_path)
        tab = desk.enter()
        await send(desk, tab, STORY)
        assert desk.answer(tab.token, 0) is tab.answers[0]
        assert desk.answer(tab.token, 1) is None
        assert desk.answer("", 0) is None
        image = tab.answers[0].images[0]
        name = tab.pictures.url(image).rpartition("/")[2].removesuffix(".png")
        assert tab.pictures.url(image).endswith(f"{name}.png")
        assert desk.picture(tab.token, name) is image
        assert desk.picture(tab.token, "0") is None
        assert desk.picture(desk.enter().token, name) is None

    run(talk())


def test_a_fault_is_told_and_the_page_stays_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk() -> None:
        desk = new_desk(tmp_path)
        tab = desk.enter()
        with monkeypatch.context() as broken:
            broken.setattr(type(bundled()), "read_ids", _fail)
            shown = await send(desk, tab, STORY)
        [exchange] = shown.exchanges
        assert exchange.notes == (
            Note(
                text="This run ended early: RuntimeError: no memory. What exists is kept here; to "
                "the model it is as if the message had not been sent.",
                is_error=True,
            ),
        )
        assert (await send(desk, tab, STORY)).exchanges[1].output

    run(talk())


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no memory")
