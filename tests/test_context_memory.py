"""The limit on keys and values: it is foretold exactly, never exceeded, and ends a run clearly."""

import logging
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch

from auto_interleaved.options.generation import GenerationOptions, ImageMemory
from auto_interleaved.options.seeds import Randomness
from auto_interleaved.run.contexts import Contexts, Reader, ReadImage, empty_contexts
from auto_interleaved.run.memory import Budget
from auto_interleaved.run.painter import Painter
from auto_interleaved.run.progress import Progress
from auto_interleaved.run.record import RunRecord
from data.output import InterleavedOutput
from data.output.events import ImageStarted
from data.protocols import PROTOCOLS, Protocol
from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from modeling.flow import ImageOptions
from tests.builders import STRIDE, picture, toy_bagel, toy_inferencer
from tests.driving import done
from tests.scripted import (
    Said,
    ScriptedInferencer,
    asks,
    counted,
    encoded,
    events_of,
    frame,
    generate,
    layout,
    pixels,
    says,
    toy_parts,
    toy_writer,
)
from tests.stores import living_stores
from tests.test_guidance_contexts import asking

policies = pytest.mark.parametrize("image_memory", get_args(ImageMemory))
BIG = (32, 32)  # 66 latent tokens; the vision encoder sees 24 x 24 pixels, 38 tokens
SCRIPT = (asks("a"), asks("b"), asks("c"), says("d"))
LONGEST: dict[str, Any] = {"max_text_length": 2, "image_shape": BIG, "num_timesteps": 2}
NO_LIMIT = 10**12


def run(
    limit: int | None,
    prompt: Any = "abc",
    *,
    script: Sequence[Said] = SCRIPT,
    parts: InterleaveInferencer | None = None,
    **options: Any,
) -> InterleavedOutput:
    inferencer = ScriptedInferencer(*script, parts=parts)
    return generate(inferencer, prompt, max_context_memory=limit, seed=1, **LONGEST | options)


def foretold(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> list[int]:
    """Run without a limit that matters; return what each step was foretold to need."""
    numbers, needed = [], Budget.needed

    def remembered(*step: Any) -> int:
        numbers.append(needed(*step))
        return numbers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Budget, "needed", remembered)
        run(NO_LIMIT, *arguments, **options)
    return numbers


# Bytes.


def test_a_token_of_the_7b_takes_56_kib() -> None:
    model = toy_bagel(
        num_hidden_layers=28, hidden_size=56, num_attention_heads=28, num_key_value_heads=4
    ).bfloat16()
    wide = model.language_model.config
    wide.hidden_size = 3584  # a head is 128 wide
    assert model.bytes_per_token == 57344


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_token_are_those_that_it_takes(dtype: torch.dtype) -> None:
    parts = toy_inferencer(toy_bagel(num_key_value_heads=1, num_hidden_layers=3).to(dtype))
    inferencer = ScriptedInferencer(parts=parts)
    store = parts.update_context_text("abc", parts.new_context()).store
    assert store.nbytes == store.capacity * inferencer.bytes_per_token


# What is foretold.


class Story:
    """Takes contexts through a story, once for real and once as a forecast."""

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        self.verbs: InterleaveInferencer = toy_parts()
        self.options = GenerationOptions(protocol=protocol, **LONGEST | options)
        self.reader = Reader(protocol, self.options.image_memory)
        painter = Painter(self.verbs, self.options, Randomness(), Progress({}), RunRecord({}))
        self.budget = Budget(self.verbs, self.options, self.reader, painter)
        self.nothing = empty_contexts(self.verbs.model.new_context())
        self.contexts = self.nothing

    def steps(self) -> list[tuple[Any, Any]]:
        """Return pairs: a step of a forecast, and what really does it."""
        system, text = frame(encoded("be nice")), frame(encoded("Look at this."))
        reader, budget = self.reader, self.budget
        image = budget.image((24, 16)), lambda c: self._see(c, picture(24, 16), drawn=False)
        drawing = budget.drawing(BIG), self._draw
        return [
            (budget.instruction(system), lambda c: self._done(reader.instruct(c, system))),
            (budget.text(text), lambda c: self._done(reader.read_text(c, text))),
            image,
            (budget.plan(), lambda c: self._write(c, 7, reader.keep_thought)),
            image,
            (budget.text(text), lambda c: self._done(reader.read_text(c, text))),
            *[(budget.writing(), lambda c: self._write(c, 4, reader.keep_text)), drawing] * 3,
        ]

    def _done(self, work: Any) -> list[Contexts]:
        return [done(self.verbs, work)]

    def _write(self, contexts: Contexts, count: int, keep: Any) -> list[Contexts]:
        ids = [1] * count
        return self._done(keep(contexts, ids, self.verbs.read_ids(ids, contexts.view)[0]))

    def _draw(self, contexts: Contexts) -> list[Contexts]:
        three = contexts.full, contexts.without_text, contexts.without_images
        list(self.verbs.draw_latent(BIG, *three, ImageOptions(num_timesteps=2)))
        return self._see(contexts, picture(*BIG), drawn=True)

    def _see(self, contexts: Contexts, image: Any, *, drawn: bool) -> list[Contexts]:
        latent, grid = self.verbs.encode_image(image)
        seen = ReadImage(picture=image, latent=latent, grid=grid, drawn=drawn)
        [read] = self._done(self.reader.read_image(contexts, seen))
        return [read, *self._done(self.reader.forget_images(read))]


@policies
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_bytes_that_are_foretold_are_those_that_are_then_held(
    name: str, image_memory: str
) -> None:
    story = Story(PROTOCOLS[name], image_memory=image_memory, max_think_token_n=5)
    for step, deed in story.steps():
        needed = story.budget.needed(story.contexts, step)
        passed = deed(story.contexts)
        stores = {c.store for contexts in (story.contexts, *passed) for c in contexts.each}
        assert needed == sum(store.nbytes for store in stores)
        story.contexts = passed[-1]


def test_a_chain_of_steps_is_foretold_from_its_beginning() -> None:
    story = Story(PROTOCOLS["native"], image_memory="text", max_think_token_n=5)
    steps = [step for step, _ in story.steps()[:6]]
    singly = []
    for step, deed in story.steps()[:6]:
        singly.append(story.budget.needed(story.contexts, step))
        story.contexts = deed(story.contexts)[-1]
    assert story.budget.needed(story.nothing, *steps) == max(singly)


@pytest.mark.parametrize(("text_scale", "img_scale"), [(1.0, 1.0), (4.0, 1.0), (4.0, 1.5)])
def test_a_branch_that_guidance_does_not_need_takes_nothing(
    text_scale: float, img_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cfg_text_scale": text_scale, "cfg_img_scale": img_scale}
    prompt = ["abc", picture(32, 32), "def"]
    numbers = foretold(monkeypatch, prompt, script=(asks("a"), says("b")), **options)
    with living_stores(monkeypatch) as living:
        run(None, prompt, script=(asks("a"), says("b")), **options)
    assert living.peak == max(numbers)


def test_nothing_is_computed_for_a_forecast() -> None:
    story = Story(PROTOCOLS["native"], max_think_token_n=5)
    with counted(story.verbs.model) as counts:
        story.budget.needed(story.nothing, *(step for step, _ in story.steps()))
    assert not counts


# The limit.


@policies
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_run_never_takes_more_than_its_limit(
    name: str, image_memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [asking(PROTOCOLS[name], text) for text in "abc"]
    for limit in (100_000, 180_000, 210_000):
        inferencer = ScriptedInferencer(*texts, protocol=PROTOCOLS[name])
        with living_stores(monkeypatch) as living:
            output = generate(
                inferencer,
                "abc",
                max_context_memory=limit,
                image_memory=image_memory,
                max_interleaved_blocks=3,
                **LONGEST | {"max_text_length": 20},
            )
        assert 0 < living.peak <= limit
    assert output.finish_reason in ("context_full", "max_blocks")


def test_a_limit_that_is_just_enough_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = foretold(monkeypatch)
    free = run(None)
    enough = run(max(numbers))
    assert layout(enough) == ["a", "*", "b", "*", "c", "*", "d"]
    assert (list(enough), enough.finish_reason) == (list(free), free.finish_reason)


@pytest.mark.parametrize("image", [1, 2, 3])
def test_an_image_that_is_one_byte_too_large_is_not_started(
    image: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = foretold(monkeypatch)  # the prompt's at the call, its text, then text and image
    needed = numbers[1 + 2 * image]
    assert max(numbers[: 1 + 2 * image]) < needed
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        events, output = events_of(
            ScriptedInferencer(*SCRIPT), "abc", max_context_memory=needed - 1, **LONGEST
        )
    assert output.finish_reason == "context_full"
    assert layout(output) == ["a", "*", "b", "*", "c"][: 2 * image - 1]
    assert sum(isinstance(event, ImageStarted) for event in events) == image - 1
    assert caplog.messages == [
        f"max_context_memory is used up: what comes next may need {needed} bytes, "
        f"and it is {needed - 1}"
    ]


def test_a_text_starts_only_where_it_fits_at_its_longest() -> None:
    limit = 512 * toy_writer().bytes_per_token
    script = [Said(encoded("x" * 9))]
    assert run(limit, max_text_length=30, script=[says("x")]).finish_reason == "no_image"
    output = run(limit, max_text_length=450, script=script)
    assert (output, output.finish_reason) == ([], "context_full")


def test_a_text_is_as_long_as_the_models_positions_let_it_be() -> None:
    """A large max_text_length does not ask for memory that could never be used."""
    parts = toy_inferencer(toy_bagel(max_position_embeddings=40))
    inferencer = ScriptedInferencer(says("x"), parts=parts)
    limit = 40 * 5 // 4 * inferencer.bytes_per_token + 64 * inferencer.bytes_per_token
    output = generate(inferencer, "abc", max_text_length=10**6, max_context_memory=limit)
    assert output.finish_reason == "no_image"


def test_a_plan_starts_only_where_it_fits_at_its_longest() -> None:
    limit = 512 * toy_writer().bytes_per_token
    options = {"think": True, "max_images": 0}
    short = run(limit, script=[says("plan"), says("x")], max_think_token_n=9, **options)
    assert short.thoughts == ["plan"]
    for prompt in ("abc", "abc<|vision_start|>"):
        output = run(limit, prompt, script=[], max_think_token_n=400, **options)
        assert (output, output.finish_reason) == ([], "context_full")


def test_a_requested_image_starts_only_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "abc<|vision_start|>"
    numbers = foretold(monkeypatch, prompt, script=[says("d")])
    assert layout(run(numbers[2], prompt, script=[says("d")], max_interleaved_blocks=1))[0] == "*"
    output = run(numbers[2] - 1, prompt)
    assert (output, output.finish_reason) == ([], "context_full")


def test_what_follows_a_requested_image_is_read_only_where_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = ["abc<|vision_start|>", picture(32, 32)]
    numbers = foretold(monkeypatch, prompt, script=[says("d")])
    output = run(numbers[3] - 1, prompt)
    assert layout(output) == ["*"]
    assert output.finish_reason == "context_full"


@pytest.mark.parametrize("prompt", ["x" * 200, ["abc", picture(32, 32)]], ids=["text", "image"])
def test_a_prompt_that_cannot_fit_is_refused_at_the_call(prompt: Any) -> None:
    inferencer = ScriptedInferencer(says("d"))
    with counted(inferencer.model) as counts:
        with pytest.raises(ValueError, match="max_context_memory must be at least") as refusal:
            inferencer.stream(prompt, max_context_memory=20_000, **LONGEST)
        assert not counts
    needed = int(str(refusal.value).split()[5])
    assert f"must be at least {needed} for this prompt, got 20000" in str(refusal.value)
    assert run(needed, prompt, script=[says("d")]).segments[0].role == "prompt"
    with pytest.raises(ValueError, match=f"at least {needed} for this prompt, got {needed - 1}"):
        inferencer.stream(prompt, max_context_memory=needed - 1, **LONGEST)


def test_what_is_said_before_the_prompt_counts() -> None:
    inferencer = ScriptedInferencer(says("d"), protocol="bagel")
    limit = 120 * inferencer.bytes_per_token
    inferencer.stream("abc", max_context_memory=limit, protocol="native")
    with pytest.raises(ValueError, match="max_context_memory must be at least"):
        inferencer.stream("abc", max_context_memory=limit)
    with pytest.raises(ValueError, match="max_context_memory must be at least"):
        inferencer.stream("abc", max_context_memory=limit, protocol="native", think=True)


def test_pixels_that_are_fed_back_are_counted_at_the_size_they_are_read_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = toy_inferencer(toy_parts().model)
    parts.vae_transform = ImageTransform(32, 32, STRIDE)
    options = {"image_feedback": "pixels", "image_shape": (4, 8), "parts": parts}
    numbers = foretold(monkeypatch, **options)  # what is drawn at 4 x 8 is read at 16 x 32 pixels
    for image in (1, 2, 3):
        limit = numbers[1 + 2 * image]
        with living_stores(monkeypatch) as living:
            output = run(limit, **options)
        assert len(output.images) >= image
        assert living.peak <= limit


def test_the_limit_and_the_policy_are_on_record() -> None:
    output = run(NO_LIMIT, image_memory="vision")
    assert output.config["max_context_memory"] == NO_LIMIT
    assert output.config["image_memory"] == "vision"
    assert pixels(output) != []
