"""Pictures that need not see each other: several for one place, and those that a prompt names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.run.choosing import Chooser
from auto_interleaved.run.memory import Budget
from data.output import InterleavedOutput, Segment
from data.output.events import ImageDone, ImagePreview, ImageStarted, ImageStep
from data.understanding import Understanding
from modeling.kv_store import KVStore
from picturebook import Scene, Thing, Traits, render
from tests.builders import picture
from tests.bundled import bundled
from tests.driving import done
from tests.scripted import (
    SHORT,
    ScriptedInferencer,
    asks,
    events_of,
    generate,
    layout,
    says,
    toy_writer,
)
from tests.stores import living_stores
from tests.test_context_memory import LONGEST, NO_LIMIT

SCRIPT = (asks("a red one"), says("the end"))
MARKED = "One.<|vision_start|>Two.<|vision_start|>Three.<|vision_start|>"
WAYS: dict[str, dict[str, Any]] = {
    "small": {},
    "large": {},
    "TaylorSeer": {"enable_taylorseer": True, "num_timesteps": 9},
    "unguided": {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0},
}
ways = pytest.mark.parametrize("way", WAYS)


def number(wanted: int) -> Callable[[list[Image.Image], str], int]:
    return lambda images, text: wanted


@pytest.fixture
def options(way: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a way to draw; large images are those that a device draws one by one."""
    if way == "large":
        monkeypatch.setattr("modeling.bagel.drawing._PACKED_TOKENS_ON_CPU", 0)
    return WAYS[way]


def told(*script: Any, prompt: Any = "Go.", **options: Any) -> InterleavedOutput:
    inferencer = ScriptedInferencer(*(script or SCRIPT))
    return generate(inferencer, prompt, **{"seed": 3} | options)


def images_of(output: InterleavedOutput, role: str) -> list[Segment]:
    return [s for s in output.segments if (s.kind, s.role) == ("image", role)]


def assert_near(ours: Image.Image | None, theirs: Image.Image | None) -> None:
    """Within a level: products over more rows sum in another order, and levels are truncated."""
    assert ours is not None
    assert theirs is not None
    difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
    assert abs(difference).max() <= 1


# Candidates.


@ways
def test_the_first_candidate_is_the_picture_that_comes_without_others(
    way: str, options: dict[str, Any]
) -> None:
    alone = told(**options)
    output = told(num_candidates=3, choose=number(0), **options)
    assert layout(output) == layout(alone)
    assert output.seeds == alone.seeds
    assert_near(output.images[0], alone.images[0])


@ways
def test_each_candidate_is_what_its_seed_draws_alone(way: str, options: dict[str, Any]) -> None:
    output = told(num_candidates=3, choose=number(1), **options)
    segments = [*images_of(output, "generated"), *images_of(output, "candidate")]
    assert len({segment.seed for segment in segments}) == 3
    for segment in segments:
        again = told(**{**options, "seed": segment.seed})
        assert_near(segment.image, again.images[0])


@ways
def test_candidates_copy_no_keys(
    way: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[int] = []
    gather = KVStore.gather

    def counted(store: KVStore, *arguments: Any) -> KVStore:
        copies[-1] += 1
        return gather(store, *arguments)

    monkeypatch.setattr(KVStore, "gather", counted)
    for count in (1, 4):
        copies.append(0)
        told(num_candidates=count, choose=number(0), **options)
    assert copies[0] == copies[1]


def test_the_chosen_one_is_the_image_and_the_others_are_kept_beside_it(tmp_path: Path) -> None:
    shown: list[Any] = []

    def choose(images: list[Image.Image], text: str) -> int:
        shown.append((images, text))
        return np.int64(2)

    events, output = events_of(
        ScriptedInferencer(*SCRIPT), "Go.", seed=3, num_candidates=3, choose=choose, preview_every=1
    )
    [(images, text)] = shown
    assert text == "a red one"
    assert layout(output) == ["a red one", "*", "the end"]
    [image], others = images_of(output, "generated"), images_of(output, "candidate")
    assert [i.tobytes() for i in images] == [
        segment.image.tobytes() for segment in (*others, image) if segment.image is not None
    ]
    place = output.segments.index(image)
    assert list(output.segments[place + 1 : place + 3]) == others
    assert output.usage.images == 1
    assert output.seeds == [image.seed]
    # Events are those of one image: its steps are counted once, and it is the chosen one.
    steps = SHORT["num_timesteps"] - 1
    kinds = [type(event) for event in events]
    assert [kinds.count(kind) for kind in (ImageStarted, ImageStep, ImagePreview, ImageDone)] == [
        1,
        steps,
        steps,
        1,
    ]
    assert [e.segment for e in events if isinstance(e, ImageDone)] == [image]
    for name in ("run", "run.json", "run.html", "run.md"):
        output.save(tmp_path / name)
        assert InterleavedOutput.load(tmp_path / name).segments == output.segments


def test_what_follows_is_written_over_the_chosen_one() -> None:
    chosen, other = (
        ScriptedInferencer(*SCRIPT),
        ScriptedInferencer(*SCRIPT),
    )
    output = generate(chosen, "Go.", seed=3, num_candidates=3, choose=number(2))
    generate(other, "Go.", seed=images_of(output, "generated")[0].seed)
    torch.testing.assert_close(chosen.views[-1].keys, other.views[-1].keys, atol=1e-3, rtol=0)


def scribble(images: list[Image.Image], text: str) -> int:
    images[0].paste(0, (0, 0, *images[0].size))
    images.clear()
    return 0


def test_what_a_function_does_to_its_pictures_does_not_reach_the_run() -> None:
    assert_near(told(num_candidates=2, choose=scribble).images[0], told().images[0])


def failing(images: list[Image.Image], text: str) -> int:
    raise RuntimeError("none is good enough")


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (number(2), "choose.* must be from 0 to 1, got 2"),
        (number(-1), "choose.* must be from 0 to 1, got -1"),
        (lambda images, text: True, "choose.* must be an integer, got True"),
        (lambda images, text: "0", "choose.* must be an integer, got '0'"),
        (lambda images, text: None, "choose.* must be an integer, got None"),
        (failing, "none is good enough"),
    ],
)
def test_a_wrong_answer_is_an_error_of_the_run_and_the_candidates_are_kept(
    choose: Any, message: str
) -> None:
    output = ScriptedInferencer(*SCRIPT).auto_interleaved_generation(
        "Go.", seed=3, num_candidates=2, choose=choose, **SHORT
    )
    with pytest.raises(type(output.error), match=message):  # type: ignore[arg-type]
        raise output.error  # type: ignore[misc]
    [image], others = images_of(output, "generated"), images_of(output, "candidate")
    assert image.image is None
    assert image.error is not None
    assert [other.image is not None for other in others] == [True, True]
    assert layout(output) == ["a red one"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_candidates": 0}, ValueError, "num_candidates must be at least 1, got 0"),
        ({"num_candidates": 2.0}, TypeError, "num_candidates must be an integer"),
        ({"choose": "best"}, TypeError, "choose must be callable, got 'best'.*understanding"),
        ({"choose": lambda images: 0}, TypeError, "choose must be callable with 2 arguments"),
        ({"independent_images": 1}, TypeError, "independent_images must be True or False"),
        (
            {"num_candidates": 2, "callback_on_step_end": lambda *_: None},
            ValueError,
            "callback_on_step_end must not be given with num_candidates=2",
        ),
        (
            {"independent_images": True, "callback_on_step_end": lambda *_: None},
            ValueError,
            "callback_on_step_end must not be given with independent_images=True",
        ),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_computed(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        toy_writer().stream("Go.", **given)


# Understanding.


def test_a_candidate_is_scored_by_the_models_own_yes_over_no() -> None:
    """By hand: the picture by vision alone, the question, and the logits of an answer."""
    inferencer = toy_writer()
    words = Understanding(yes=("Yes", "yes"), no=("No",))
    chooser = Chooser(inferencer, "understanding", words)
    pictures = [picture(8, 8, seed) for seed in range(3)]
    questions = ["Is it red?", "Is it blue?"]
    expected = []
    for each in pictures:
        seen, scores = inferencer.read_vision(each, inferencer.new_context()), []
        for question in questions:
            ids = [inferencer.bos, *inferencer.encode_text(question), inferencer.eos]
            context, _ = inferencer.read_ids(ids, seen)
            _, hidden = inferencer.model.read(
                context, inferencer.model.text_block([inferencer.bos])
            )
            chances = inferencer.model.logits(hidden)[0].softmax(-1)
            yes, no = (
                sum(chances[inferencer.encode_text(word)[0]] for word in kind)
                for kind in (words.yes, words.no)
            )
            scores.append(torch.log(yes / no).item())
        expected.append(min(scores))
    found = done(inferencer, chooser.scores(pictures, questions))
    assert found == pytest.approx(expected, abs=1e-4)
    text = "Is it red? Is it blue?"
    about = Understanding(question="{text}", about=r"Is it \w+\?", yes=words.yes, no=words.no)
    chosen = done(inferencer, Chooser(inferencer, "understanding", about).chosen(pictures, text))
    asked = done(inferencer, chooser.scores(pictures, about.questions(text)))
    assert chosen == max(range(3), key=asked.__getitem__)


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_bundled_model_tells_the_picture_that_shows_the_text(right: int) -> None:
    text = "Then a red cat comes above it, and the yellow sun shines."
    scenes = [
        Scene("meadow", (Thing(kind, colour, "top left"),), Traits())
        for kind, colour in (("cat", "blue"), ("house", "red"))
    ]
    scenes.insert(right, Scene("meadow", (Thing("cat", "red", "top left"),), Traits()))
    inferencer = bundled()
    chooser = Chooser(inferencer, "understanding", inferencer.understanding)
    assert inferencer.understanding.questions(text) == ["Is there a red cat?"]
    assert done(inferencer, chooser.chosen([render(scene) for scene in scenes], text)) == right


def test_a_text_without_what_is_asked_about_is_asked_about_as_a_whole() -> None:
    words = Understanding(question="Is there {text}?", about=r"a \w+ cat")
    assert words.questions(" a red cat, a red cat and a blue cat ") == [
        "Is there a red cat?",
        "Is there a blue cat?",
    ]
    assert words.questions(" nothing ") == ["Is there nothing?"]


@pytest.mark.parametrize(
    ("words", "message"),
    [({"question": "Yes?"}, "must hold {text}"), ({"about": "("}, "must be a regular expression")],
)
def test_words_that_cannot_be_asked_are_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Understanding(**words)


def test_a_text_longer_than_the_model_has_positions_for_can_be_asked_about() -> None:
    inferencer = toy_writer()
    chooser = Chooser(inferencer, "understanding", Understanding())
    pictures = [picture(8, 8, seed) for seed in range(2)]
    assert done(inferencer, chooser.chosen(pictures, "word " * 1000)) in (0, 1)


# Images that need not see one another.


def test_each_sees_the_prompt_alone() -> None:
    output = told(says("end"), prompt=MARKED, independent_images=True)
    assert len(output.images) == 3
    parts = [part for part in MARKED.split("<|vision_start|>") if part]
    for place, (image, seed) in enumerate(zip(output.images, output.seeds, strict=True)):
        before = [*parts[:place], parts[place] + "<|vision_start|>"]
        alone = told(says("end"), prompt=before, seed=seed)
        assert_near(image, alone.images[0])


def test_the_first_is_as_ever_and_the_next_one_is_not() -> None:
    chained = told(says("end"), prompt=MARKED)
    output = told(says("end"), prompt=MARKED, independent_images=True)
    assert output.seeds == chained.seeds
    assert_near(output.images[0], chained.images[0])
    assert output.images[1].tobytes() != chained.images[1].tobytes()


def test_the_prompt_and_its_images_stand_in_order_and_are_read_in_order() -> None:
    chained, apart = ScriptedInferencer(says("end")), ScriptedInferencer(says("end"))
    first = generate(chained, MARKED, seed=3)
    events, output = events_of(apart, MARKED, seed=3, independent_images=True)
    assert [(s.kind, s.role, s.text) for s in output.segments] == [
        (s.kind, s.role, s.text) for s in first.segments
    ]
    assert apart.views[0].length == chained.views[0].length
    assert output.usage.prompt_tokens == first.usage.prompt_tokens
    assert output.usage.image_tokens == first.usage.image_tokens
    started = [i for i, event in enumerate(events) if isinstance(event, ImageStarted)]
    stepped = [event.index for event in events if isinstance(event, ImageStep)]
    assert started == [0, 1, 2], "all begin before the first step"
    assert stepped == [0, 1, 2] * (SHORT["num_timesteps"] - 1)
    assert [e.index for e in events if isinstance(e, ImageDone)] == [0, 1, 2]


@ways
def test_all_of_them_share_one_draft_and_copy_no_keys(
    way: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    copy = KVStore.copy
    monkeypatch.setattr(
        KVStore, "copy", lambda s, length, room: copied.append(length) or copy(s, length, room)
    )
    told(says("end"), prompt=MARKED, **options)
    chained = copied[:]
    copied.clear()
    given = {"num_candidates": 2, "choose": number(0), **options}
    output = told(says("end"), prompt=MARKED, independent_images=True, **given)
    assert len(output.images) == 3
    assert len(copied) <= len(chained) + 1, "texts are read once more, without images"


def test_images_of_several_sizes_are_drawn_size_by_size() -> None:
    prompt = [
        picture(16, 8),
        "a<|vision_start|>",
        picture(8, 16),
        "b<|vision_start|>c<|vision_start|>",
    ]
    options = {"image_shape": None, "independent_images": True}
    inferencer = ScriptedInferencer(says("end"), image_shape=(8, 8))
    output = generate(inferencer, prompt, seed=3, **options)
    assert [image.size for image in output.images] == [(16, 8), (8, 16), (8, 16)]
    given = told(says("end"), prompt=prompt, independent_images=True, image_shape="input")
    assert [image.size for image in given.images] == [(16, 8), (8, 16), (8, 16)]


def test_no_more_are_drawn_than_are_allowed() -> None:
    output = told(says("end"), prompt=MARKED, independent_images=True, max_images=2)
    assert output.finish_reason == "max_images"
    assert len(output.images) == 2
    none = told(says("end"), prompt=MARKED, independent_images=True, max_images=0)
    assert none.images == []


def test_with_one_request_nothing_changes() -> None:
    prompt = "Draw.<|vision_start|>On."
    output, ever = (
        told(says("end"), prompt=prompt, independent_images=apart) for apart in (True, False)
    )
    assert output.segments[1].image == ever.segments[1].image


@pytest.mark.parametrize("way", ["a failure", "Ctrl-C", "closed"])
def test_what_was_drawn_is_kept_however_the_run_ends(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inferencer = ScriptedInferencer(says("end"))
    decode, count = inferencer.decode_image, iter(range(9))

    def decoding(*arguments: Any) -> Image.Image:
        if next(count) == 1 and way != "closed":
            raise RuntimeError("no memory") if way == "a failure" else KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(inferencer, "decode_image", decoding)
    events = inferencer.stream(MARKED, seed=3, independent_images=True, **SHORT)
    with pytest.MonkeyPatch.context():
        try:
            for event in events:
                if isinstance(event, ImageDone):
                    break
        except KeyboardInterrupt:
            assert way == "Ctrl-C"
    events.close()  # type: ignore[attr-defined]
    output = inferencer.last_output
    assert output is not None
    made = [segment.error is None for segment in images_of(output, "generated")]
    assert made == ([True] * 3 if way == "closed" else [True, False, False])


# Together with the rest.


@pytest.mark.parametrize("large", [False, True])
def test_prompts_of_a_batch_get_what_they_get_alone(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("modeling.bagel.drawing._PACKED_TOKENS_ON_CPU", 0)
    inferencer = toy_writer(protocol="every-block")
    prompts = ["Go.", MARKED, [picture(8, 8), "What now?<|vision_start|>"]]
    options: dict[str, Any] = SHORT | {
        "max_text_length": 3,
        "max_interleaved_blocks": 1,
        "num_candidates": 3,
        "independent_images": True,
    }
    singles = [
        inferencer.auto_interleaved_generation(prompt, seed=5, **options) for prompt in prompts
    ]
    batch = inferencer.generate_batch(prompts, 5, **options)
    for one, other in zip(batch, singles, strict=True):
        assert one.error is other.error is None
        assert [(s.role, s.text, s.seed) for s in one.segments] == [
            (s.role, s.text, s.seed) for s in other.segments
        ]
        for ours, theirs in zip(one.segments, other.segments, strict=True):
            if ours.kind == "image":
                assert_near(ours.image, theirs.image)


def test_a_batch_keeps_nothing_of_the_questions_about_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[bytes] = []
    keep = Beginnings.keep

    def watched(beginnings: Beginnings, name: bytes | None, answer: Any) -> None:
        kept.extend([] if name is None else [name])
        keep(beginnings, name, answer)

    monkeypatch.setattr(Beginnings, "keep", watched)
    options = SHORT | {"max_text_length": 3, "max_interleaved_blocks": 1}
    numbers = []
    for count in (1, 3):
        kept.clear()
        toy_writer().generate_batch(["One.<|vision_start|>"], 5, num_candidates=count, **options)
        numbers.append(len(kept))
    assert numbers[0] == numbers[1] > 0


EACH = {
    "candidates": {"num_candidates": 3, "choose": number(1)},
    "independent images": {"independent_images": True},
    "both": {"num_candidates": 2, "choose": number(1), "independent_images": True},
}
each = pytest.mark.parametrize("options", EACH.values(), ids=list(EACH))


@each
def test_a_turn_of_a_session_draws_as_one_long_prompt_would(options: dict[str, Any]) -> None:
    inferencer = ScriptedInferencer(says("four"), says("five"))
    session = inferencer.start_session(**SHORT | {"seed": 5, **options})
    first, second = session.send(MARKED), session.send("Six.<|vision_start|>", seed=9)
    assert first.error is second.error is None
    alone = told(says("four"), prompt=MARKED, seed=5, **options)
    assert [(s.role, s.text, s.seed) for s in first.segments] == [
        (s.role, s.text, s.seed) for s in alone.segments
    ]
    for ours, theirs in zip(first.images, alone.images, strict=True):
        assert_near(ours, theirs)
    # The pictures that were not chosen are nowhere in what the next turn is drawn over.
    chosen = ScriptedInferencer(says("five"))
    parts: list[Any] = ["One.", "Two.", "Three.", "four", "Six.<|vision_start|>"]
    taken = generate(chosen, parts, seed=9, **options).usage.prompt_tokens
    images = first.usage.image_tokens + second.usage.image_tokens
    assert session.num_tokens == taken + images + second.usage.text_tokens + 2


def test_the_model_chooses_in_a_turn_as_it_does_alone() -> None:
    options = SHORT | {"num_candidates": 3, "max_text_length": 3, "max_interleaved_blocks": 1}
    alone = toy_writer().auto_interleaved_generation(MARKED, seed=5, **options)
    output = toy_writer().start_session(seed=5, **options).send(MARKED)
    assert output.error is alone.error is None
    assert (layout(output), output.seeds) == (layout(alone), alone.seeds)


def test_a_session_with_candidates_is_kept_and_asks_for_the_function(tmp_path: Path) -> None:
    inferencer = ScriptedInferencer(says("two"))
    given: dict[str, Any] = {"num_candidates": 2, "independent_images": True}
    session = inferencer.start_session(**SHORT, seed=5, choose=number(1), **given)
    output = session.send("One.<|vision_start|>")
    session.save(tmp_path / "talk.json")
    with pytest.raises(ValueError, match="saved with choose, .* or 'understanding'"):
        inferencer.load_session(tmp_path / "talk.json")
    again = ScriptedInferencer().load_session(tmp_path / "talk.json", choose="understanding")
    loaded = again.history[0].output
    assert [(s.role, s.text, s.seed) for s in loaded.segments] == [
        (s.role, s.text, s.seed) for s in output.segments
    ]
    assert len(images_of(loaded, "candidate")) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"num_candidates": 3, "choose": number(2)},
        {"num_candidates": 2},
        {"independent_images": True},
        {"independent_images": True, "num_candidates": 2, "image_memory": "text"},
        {"independent_images": True, "image_feedback": "pixels"},
    ],
)
def test_memory_is_foretold_exactly(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    peaks: list[int] = []  # before each step that is foretold
    needed = Budget.needed
    prompt = [picture(24, 16), MARKED.removesuffix("Three.<|vision_start|>") + "And now?"]

    def run(limit: int) -> InterleavedOutput:
        given = {**LONGEST, "max_interleaved_blocks": 2, "seed": 3, **options}
        given["max_context_memory"] = limit
        return generate(toy_writer(protocol="every-block"), prompt, **given)

    with living_stores(monkeypatch) as living, monkeypatch.context() as patch:

        def remembered(*step: Any) -> int:
            peaks.append(living.peak)
            numbers.append(needed(*step))
            return numbers[-1]

        patch.setattr(Budget, "needed", remembered)
        free = run(NO_LIMIT)
    # The last image is drawn, and not read any more.
    assert peaks[-1] == max(numbers[:-1])
    assert living.peak <= max(numbers)
    assert layout(run(max(numbers))) == layout(free)
    limit = max(numbers[:-1]) - 1
    with living_stores(monkeypatch) as living:
        assert run(limit).finish_reason == "context_full"
    assert living.peak <= limit
