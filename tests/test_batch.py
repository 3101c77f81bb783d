"""Many prompts at once: each gets what it gets alone, and none pays for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from auto_interleaved.drivers.batch import Batch
from auto_interleaved.drivers.beginnings import Beginnings
from auto_interleaved.run.asks import ReadIds, ReadLatent
from auto_interleaved_inference import AutoInterleavedInferencer, GenerationError
from data.output import InterleavedOutput
from data.output.events import Event, Finished, ImageStep, TextDelta
from data.protocols import PROTOCOLS
from tests.builders import picture
from tests.scripted import SHORT, counted, layout, toy_writer
from tests.stores import living_stores

PROMPTS: list[Any] = [
    "Go.",
    "A much longer prompt, to be read in more tokens than the others.",
    [picture(24, 16), "What now?"],
    "Draw.<|vision_start|> And on.",
    ["Look.", picture(8, 8, 3), "Again."],
]
OPTIONS: dict[str, Any] = SHORT | {
    "protocol": "every-block",
    "max_text_length": 6,
    "max_interleaved_blocks": 2,
}
SEEDS = [11, 12, 13, 14, 15]


def alone(
    inferencer: AutoInterleavedInferencer, prompts: Sequence[Any] = PROMPTS, **options: Any
) -> list[InterleavedOutput]:
    return [
        inferencer.auto_interleaved_generation(prompt, seed=seed, **OPTIONS | options)
        for prompt, seed in zip(prompts, SEEDS, strict=False)
    ]


def together(
    inferencer: AutoInterleavedInferencer, prompts: Sequence[Any] = PROMPTS, **options: Any
) -> list[InterleavedOutput]:
    seeds = SEEDS[: len(prompts)]
    return inferencer.generate_batch(list(prompts), seeds, **OPTIONS | options)


def assert_alike(batch: Sequence[InterleavedOutput], singles: Sequence[InterleavedOutput]) -> None:
    """Texts are equal. Pictures lie within a level: products over more rows sum in another order,
    and levels are truncated, so that one that lies on a border may fall on either side."""
    assert len(batch) == len(singles)
    for one, other in zip(batch, singles, strict=True):
        assert one.error is other.error is None
        assert layout(one) == layout(other)
        assert one.finish_reason == other.finish_reason
        assert one.seeds == other.seeds
        assert [s.token_ids for s in one.segments] == [s.token_ids for s in other.segments]
        for ours, theirs in zip(one.images, other.images, strict=True):
            assert ours.size == theirs.size
            difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
            assert abs(difference).max() <= 1


VARIATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "sampled": {"do_sample": True, "text_temperature": 2.0, "repetition_penalty": 1.2},
    "thinking": {"think": True, "max_think_token_n": 5},
    "pixels fed back": {"image_feedback": "pixels"},
    "older images forgotten": {"image_memory": "text"},
    "TaylorSeer": {"enable_taylorseer": True, "num_timesteps": 9},
    "no guidance": {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0},
    "text alone": {"max_images": 0},
}


@pytest.mark.parametrize("options", VARIATIONS.values(), ids=list(VARIATIONS))
def test_each_prompt_gets_what_it_gets_alone(options: dict[str, Any]) -> None:
    inferencer = toy_writer()
    assert_alike(together(inferencer, **options), alone(inferencer, **options))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_protocol_runs_as_alone(name: str) -> None:
    inferencer = toy_writer()
    prompts = PROMPTS[:3]
    assert_alike(
        together(inferencer, prompts, protocol=name), alone(inferencer, prompts, protocol=name)
    )


def test_large_images_come_one_after_another_and_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inferencer = toy_writer()
    singles = alone(inferencer)
    monkeypatch.setattr("modeling.bagel.drawing._PACKED_TOKENS_ON_CPU", 0)
    steps: list[int] = []
    events = inferencer.stream_batch(PROMPTS, SEEDS, **OPTIONS)
    steps = [index for index, event in events if isinstance(event, ImageStep)]
    assert_alike([output for output in inferencer.last_outputs if output is not None], singles)
    turns = [index for place, index in enumerate(steps) if steps[place - 1 : place] != [index]]
    images = sum(len(output.images) for output in singles)
    assert len(turns) <= images, "an image that was begun is finished before the next one"


def test_prompts_share_the_forwards_of_their_tokens_and_steps() -> None:
    inferencer = toy_writer()
    with counted(inferencer.model) as one_by_one:
        alone(inferencer)
    with counted(inferencer.model) as at_once:
        together(inferencer)
    assert at_once["tokens"] == one_by_one["tokens"]
    assert at_once["calls"] < one_by_one["calls"] / 3


def test_no_more_prompts_are_under_way_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    inferencer, sizes = toy_writer(), list[int]()
    go = Batch.round

    def watched(batch: Batch) -> Any:
        sizes.append(batch.size)
        return go(batch)

    monkeypatch.setattr(Batch, "round", watched)
    outputs = together(inferencer, max_batch_size=2)
    assert max(sizes) == 2
    assert_alike(outputs, alone(inferencer))


# Events.


def test_events_come_with_the_number_of_their_prompt() -> None:
    inferencer = toy_writer()
    events: dict[int, list[Event]] = {index: [] for index in range(len(PROMPTS))}
    for index, event in inferencer.stream_batch(PROMPTS, SEEDS, **OPTIONS):
        events[index].append(event)
    for index, output in enumerate(alone(inferencer)):
        *told, last = events[index]
        assert isinstance(last, Finished)
        assert layout(last.output) == layout(output)
        assert not any(isinstance(event, Finished) for event in told)
        text = "".join(event.text for event in told if isinstance(event, TextDelta))
        assert text == output.text


def test_one_bar_tells_of_all_prompts_and_what_they_are_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inferencer = toy_writer()
    inferencer.set_progress_bar_config(mininterval=0, miniters=1)
    together(inferencer)
    shown = capsys.readouterr().err
    assert "prompts: 100%" in shown
    assert "5/5" in shown
    assert "image 1" not in shown
    assert "writing" in shown or "drawing" in shown


# Failures.


def failing(*_: Any) -> None:
    raise RuntimeError("my own callback")


def test_a_prompt_that_fails_or_is_refused_costs_nobody_else_anything() -> None:
    inferencer = toy_writer()
    prompts = [*PROMPTS[:2], "", 5, PROMPTS[2]]
    each = [{}, {"callback_on_step_end": failing}, {}, {}, {"num_timesteps": 4}]
    outputs = inferencer.generate_batch(prompts, SEEDS, each=each, **OPTIONS)
    assert [type(output.error) for output in outputs] == [
        type(None),
        RuntimeError,
        ValueError,
        TypeError,
        type(None),
    ]
    assert "prompt is empty" in str(outputs[2].error)
    assert outputs[1].text, "what it had made is kept"
    assert_alike([outputs[0]], alone(inferencer, PROMPTS[:1]))
    single = inferencer.auto_interleaved_generation(
        PROMPTS[2], seed=SEEDS[4], **OPTIONS | {"num_timesteps": 4}
    )
    assert_alike([outputs[4]], [single])


def writing_into_it(*told: Any) -> None:
    told[-1]["latents"].mul_(0.5)


def test_a_callback_may_write_into_what_it_is_shown_as_alone() -> None:
    inferencer = toy_writer()
    options = {"callback_on_step_end": writing_into_it}
    changed = together(inferencer, PROMPTS[:2], **options)
    assert_alike(changed, alone(inferencer, PROMPTS[:2], **options))


def test_a_failure_of_what_is_computed_together_finds_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where rows fail together each is tried alone."""
    inferencer = toy_writer()
    singles = alone(inferencer)
    read = inferencer.model.vit_block

    def vit_block(pixels: torch.Tensor, markers: Any) -> Any:
        if tuple(pixels.shape[-2:]) == (16, 24):
            raise RuntimeError("not this picture")
        return read(pixels, markers)

    monkeypatch.setattr(inferencer.model, "vit_block", vit_block)
    outputs = together(inferencer)
    assert str(outputs[2].error) == "not this picture"
    others = [0, 1, 3, 4]
    assert_alike([outputs[i] for i in others], [singles[i] for i in others])


def test_the_first_failure_is_raised_once_all_are_done_where_that_is_wanted() -> None:
    inferencer = toy_writer()
    with pytest.raises(GenerationError, match="prompt is empty") as raised:
        together(inferencer, ["Go.", "", "Draw."], on_error="raise")
    outputs = inferencer.last_outputs
    assert raised.value.partial is outputs[1]
    assert [output.finish_reason for output in outputs if output is not None] == [
        "max_blocks",
        "error",
        "max_blocks",
    ]


@pytest.mark.parametrize("way", ["closed", "Ctrl-C"])
def test_what_was_made_for_everybody_is_kept_when_it_is_stopped(way: str) -> None:
    inferencer = toy_writer()

    def stop(*_: Any) -> None:
        if way == "Ctrl-C":
            raise KeyboardInterrupt

    each = [{}, {}, {"callback_on_step_end": stop}]
    events = inferencer.stream_batch(PROMPTS[:3], SEEDS[:3], each=each, **OPTIONS)
    if way == "closed":
        next(event for _, event in events if isinstance(event, ImageStep))
        events.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            list(events)
    outputs = [output for output in inferencer.last_outputs if output is not None]
    assert [output.finish_reason for output in outputs] == ["interrupted"] * 3
    assert all(output.text for output in outputs)
    assert_alike(together(inferencer), alone(inferencer))


# Memory.


def test_what_does_not_fit_beside_others_waits_and_what_never_can_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inferencer = toy_writer()
    size = inferencer.bytes_per_token
    limit = 400 * size  # two of the short ones
    prompts = ["a", "b", "x" * 350, "c"]
    short = {"max_text_length": 4, "image_shape": (8, 8)}
    singles = [
        inferencer.auto_interleaved_generation(p, seed=s, **OPTIONS | short)
        for p, s in zip(["a", "b", "c"], [11, 12, 14], strict=True)
    ]
    with living_stores(monkeypatch) as living:
        outputs = together(inferencer, prompts, max_context_memory=limit, **short)
    assert 0 < living.peak <= limit
    assert "max_context_memory must be at least" in str(outputs[2].error)
    assert_alike([outputs[i] for i in (0, 1, 3)], singles)


def test_a_batch_leaves_no_keys_and_values_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    inferencer = toy_writer()
    with living_stores(monkeypatch) as living:
        together(inferencer)
        assert living.nbytes == 0


# Shared beginnings.

LONG = "The same beginning for all, which is long enough to matter. " * 3


def read_tokens(prompts: list[Any], **options: Any) -> int:
    inferencer = toy_writer()
    with counted(inferencer.model) as counts:
        together(inferencer, prompts, max_interleaved_blocks=1, max_images=1, **options)
    return counts["tokens"]


@pytest.mark.parametrize("beginning", [[LONG], [picture(32, 32)], [LONG, picture(32, 32)]], ids=len)
@pytest.mark.parametrize("size", [1, 16])
def test_what_prompts_begin_with_is_read_once_a_batch(beginning: list[Any], size: int) -> None:
    """Whether they are under way together or one after another."""
    own = [[*beginning, text] for text in "abc"]
    assert_alike(
        together(toy_writer(), own, max_batch_size=size),
        alone(toy_writer(), own),
    )
    one, three = (read_tokens(own[:n], max_batch_size=size) for n in (1, 3))
    apart = read_tokens([[text] for text in "abc"], max_batch_size=size)
    read = one - read_tokens([["a"]])
    assert three < apart + 2 * read, "three beginnings were read"


def test_what_the_model_wrote_or_drew_is_no_beginning() -> None:
    beginnings, inferencer = Beginnings(10**9), toy_writer()
    read = ReadIds(ids=[1, 2, 3], context=inferencer.new_context())
    context, _ = inferencer.read_ids(read.ids, read.context)
    assert beginnings.name(ReadIds(ids=[4], context=context)) is None, "nobody knows what it read"
    beginnings.keep(beginnings.name(read), (context, 0))
    assert beginnings.find(beginnings.name(read))[0] is context
    further = ReadIds(ids=[4], context=context)
    assert beginnings.name(further) not in (None, beginnings.name(read))
    drawn = ReadLatent(latent=torch.zeros(1, 16), grid=(1, 1), context=context)
    assert beginnings.name(drawn) is None


def test_the_least_recently_used_beginnings_leave_first_under_a_limit_in_bytes() -> None:
    inferencer = toy_writer()
    reads = [ReadIds(ids=[n] * 20, context=inferencer.new_context()) for n in range(3)]
    beginnings = Beginnings(10**9)
    for read in reads[:2]:
        beginnings.keep(beginnings.name(read), inferencer.read_ids(read.ids, read.context))
    beginnings.allow(beginnings.nbytes)
    assert beginnings.find(beginnings.name(reads[0]))
    beginnings.keep(beginnings.name(reads[2]), inferencer.read_ids(reads[2].ids, reads[2].context))
    assert [bool(beginnings.find(beginnings.name(read))) for read in reads] == [True, False, True]
    beginnings.allow(0)
    assert beginnings.nbytes == 0


def test_there_are_never_more_beginnings_than_are_quickly_looked_through() -> None:
    beginnings, read = Beginnings(10**9), (toy_writer().new_context(), 0)
    for number in range(600):
        beginnings.keep(str(number).encode(), read)
    kept = [number for number in range(600) if beginnings.find(str(number).encode())]
    assert kept == list(range(600 - 512, 600))


# Seeds and arguments.


def test_one_seed_is_everybodys_and_without_one_each_gets_its_own() -> None:
    inferencer = toy_writer()
    outputs = inferencer.generate_batch(["a", "a"], 5, **OPTIONS)
    assert_alike(outputs[:1], outputs[1:])
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append([o.seed for o in inferencer.generate_batch(["a", "a"], **OPTIONS)])
    assert drawn[0] == drawn[1]
    assert len({*drawn[0]}) == 2
    again = inferencer.auto_interleaved_generation("a", seed=drawn[0][1], **OPTIONS)
    assert again.seed == drawn[0][1]


def test_a_prompt_may_bring_a_seed_of_its_own() -> None:
    each: list[dict[str, Any]] = [{"seed": 7}, {}]
    outputs = toy_writer().generate_batch(["a", "b"], 5, each=each, **OPTIONS)
    assert [output.seed for output in outputs] == [7, 5]


@pytest.mark.parametrize("failing", [False, True])
def test_a_batch_within_a_callback_takes_nothing_from_the_one_around_it(failing: bool) -> None:
    """The outer call returned what the inner one had made."""
    inferencer = toy_writer()
    inner: list[Any] = []

    def callback(*_: Any) -> None:
        inner[:] = inferencer.generate_batch(["c"], 9, **OPTIONS | {"max_images": 0})
        if failing:
            raise KeyboardInterrupt

    options = OPTIONS | {"callback_on_step_end": callback}
    if failing:
        with pytest.raises(KeyboardInterrupt):
            inferencer.generate_batch(["a", "b"], 5, **options)
    else:
        outputs = inferencer.generate_batch(["a", "b"], 5, **options)
        assert list(map(id, inferencer.last_outputs)) == list(map(id, outputs))
    assert len(inferencer.last_outputs) == 2
    assert not any(output is one for output in inferencer.last_outputs for one in inner)


def test_a_batch_that_is_refused_is_not_the_last() -> None:
    inferencer = toy_writer()
    outputs = inferencer.generate_batch(["a"], 5, **OPTIONS)
    with pytest.raises(ValueError, match="max_batch_size"):
        inferencer.stream_batch(["b", "c"], max_batch_size=0)
    assert inferencer.last_outputs == outputs


def test_previews_that_nobody_sees_are_not_made(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inferencer = toy_writer()
    monkeypatch.setattr(inferencer, "preview_image", None)
    options = OPTIONS | {"protocol": "every-block", "preview_every": 1}
    [output] = inferencer.generate_batch(["a"], 5, **options)
    assert output.error is None
    assert output.images
    assert "preview_every=1 has no effect outside of stream()" in caplog.text


def test_no_prompts_are_no_outputs() -> None:
    assert toy_writer().generate_batch([]) == []


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"prompts": "one"}, TypeError, "prompts must be a list of prompts, got 'one'"),
        ({"seed": [1]}, ValueError, "seed must be as long as prompts, which are 2, got 1"),
        ({"seed": [1, "x"]}, TypeError, r"seed\[1\] must be"),
        ({"each": [{}]}, ValueError, "each must be as long as prompts"),
        ({"each": [{}, None]}, TypeError, r"each\[1\] must be a dictionary of options, got None"),
        (
            {"each": [{"generator": torch.Generator()}, {}]},
            ValueError,
            r'each\[0\]\["generator"\] must not be given for a batch',
        ),
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be at least 1"),
        ({"num_timestep": 5}, TypeError, "num_timesteps"),
        ({"generator": torch.Generator()}, ValueError, "generator must not be given for a batch"),
    ],
)
def test_what_is_wrong_for_all_is_refused_at_the_call(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    inferencer = toy_writer()
    with counted(inferencer.model) as counts, pytest.raises(error, match=words):
        inferencer.stream_batch(**{"prompts": ["a", "b"], **arguments})
    assert not counts
