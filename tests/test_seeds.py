"""Randomness: what a seed fixes, and that without one the published draws come out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_interleaved.options.seeds import Randomness, RandomState, derive_seed
from data.output import InterleavedOutput
from inferencer import InterleaveInferencer
from tests.builders import picture
from tests.scripted import (
    SHAPE,
    SHORT,
    Drawn,
    ScriptedInferencer,
    asks,
    events_of,
    generate,
    layout,
    pixels,
    says,
    toy_parts,
    toy_writer,
)

BABBLE: dict[str, Any] = {
    "protocol": "every-block",
    "max_text_length": 6,
    "max_interleaved_blocks": 2,
    "do_sample": True,
    "text_temperature": 1.5,
}


class Noting(ScriptedInferencer):
    """Notes the noise that each image begins with."""

    def __init__(self, *script: Any, **named: Any) -> None:
        super().__init__(*script, **named)
        self.noise: list[Tensor] = []

    def draw_latent(self, image_shape: tuple[int, int], *arguments: Any) -> Any:
        rows, columns = self.model.latent_grid(*image_shape)
        generator = arguments[-1]
        if isinstance(generator, torch.Generator):
            twin = torch.Generator()
            twin.set_state(generator.get_state())
            self.noise.append(torch.randn(rows * columns, 16, generator=twin))
        return super().draw_latent(image_shape, *arguments)


def noise_of(*script: Any, **options: Any) -> list[Tensor]:
    inferencer = Noting(*script)
    generate(inferencer, "Go.", **{"seed": 4} | options)
    return inferencer.noise


# What a seed fixes.


def test_the_same_seed_gives_the_same_texts_and_pictures() -> None:
    first, second = (generate(toy_writer(), "Go.", seed=7, **BABBLE) for _ in range(2))
    assert layout(first) == layout(second)
    assert pixels(first) == pixels(second)


def test_another_seed_gives_other_texts_and_pictures() -> None:
    first, second = (generate(toy_writer(), "Go.", seed=seed, **BABBLE) for seed in (7, 8))
    assert layout(first) != layout(second)
    assert all(a != b for a, b in zip(pixels(first), pixels(second), strict=True))


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_a_seed_may_be_as_small_and_as_large_as_is_promised(seed: int) -> None:
    assert generate(ScriptedInferencer(says("One")), "Go.<|vision_start|>", seed=seed).images


def test_images_of_one_run_begin_with_noise_of_their_own() -> None:
    first, second = noise_of(asks("One"), asks("Two"), says("Three"))
    assert not torch.equal(first, second)


def test_a_longer_text_before_an_image_does_not_move_its_noise() -> None:
    short = noise_of(asks("a"), asks("b"), says("c"))
    long = noise_of(asks("a good deal longer"), says("b"), asks("c"), says("d"))
    assert torch.equal(short[0], long[0])


def test_sampled_texts_do_not_move_the_noise_of_images() -> None:
    """Greedy, sampled, short or long: texts have a generator of their own."""
    seeds = []
    for options in ({}, {"max_text_length": 3}, {"do_sample": False}):
        output = generate(toy_writer(), "Go.", seed=7, **BABBLE | options)
        seeds.append(output.seeds)
        assert len(output.seeds) == 2
    assert seeds[0] == seeds[1] == seeds[2]


def test_previews_callbacks_and_bars_do_not_move_a_picture(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = (asks("One"), asks("Two"), says("Three"))
    plain = generate(ScriptedInferencer(*script), "Go.", seed=4)
    watched = ScriptedInferencer(*script)
    watched.set_progress_bar_config(disable=False)
    _, output = events_of(
        watched,
        "Go.",
        seed=4,
        preview_every=1,
        callback_on_step_end=lambda *arguments: {"latents": None},
    )
    assert pixels(output) == pixels(plain)


def test_the_seed_of_an_image_is_recorded_and_draws_it_again() -> None:
    output = generate(ScriptedInferencer(asks("One"), asks("Two"), says("x")), "Go.", seed=4)
    made = [segment for segment in output.segments if segment.kind == "image"]
    assert [segment.seed for segment in made] == output.seeds
    assert len(set(output.seeds)) == 2
    generator = torch.Generator().manual_seed(output.seeds[0])
    again = generate(ScriptedInferencer(asks("One"), says("x")), "Go.", generator=generator)
    assert pixels(again) == pixels(output)[:1]


def test_the_seed_of_any_image_given_to_a_run_begins_its_first_image_with_the_same_noise() -> None:
    script = (asks("One"), asks("Two"), asks("Three"), says("x"))
    output = generate(ScriptedInferencer(*script), "Go.", seed=4)
    assert output.seeds[0] == 4
    for noise, seed in zip(noise_of(*script), output.seeds, strict=True):
        assert torch.equal(noise, noise_of(asks("One"), says("x"), seed=seed)[0])


def test_the_seed_of_a_single_picture_repeats_it() -> None:
    prompt = "A house.<|vision_start|>"
    first = generate(ScriptedInferencer(says("x")), prompt, seed=-1)
    again = generate(ScriptedInferencer(says("x")), prompt, seed=first.seeds[0])
    assert pixels(again) == pixels(first)


def test_a_single_picture_is_what_the_published_code_draws_after_the_same_manual_seed() -> None:
    torch.manual_seed(2**64 - 1)
    noise = torch.randn(4, 16)
    assert torch.equal(noise_of(asks("One"), says("x"), seed=2**64 - 1)[0], noise)


def test_a_requested_image_and_one_the_model_asked_for_are_counted_alike() -> None:
    requested = Noting(says("x"))
    generate(requested, "Go.<|vision_start|>", seed=4)
    assert torch.equal(requested.noise[0], noise_of(asks("One"), says("x"))[0])


def test_seeds_that_are_derived_differ_along_every_path() -> None:
    seeds = [derive_seed(seed, *path) for seed in (0, 1) for path in ((0, 0), (1, 0), (1, 1))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] == derive_seed(0, 0, 0)


def test_texts_and_images_share_no_generator() -> None:
    randomness = Randomness(seed=4)
    texts = randomness.for_texts(torch.device("cpu"))
    images = [randomness.for_image(index) for index in range(3)]
    given = [generator.initial_seed() for generator in (texts, *images) if generator is not None]
    assert len(set(given)) == 4


def test_without_a_seed_none_is_recorded() -> None:
    output = generate(ScriptedInferencer(asks("One"), says("x")), "Go.")
    assert Randomness().image_seed(0) is None
    assert output.segments[-2].seed is None


# What repeats a run.


SOURCES: dict[str, Any] = {
    "a seed": lambda: {"seed": 2**64 - 1},
    "any seed": lambda: {"seed": -1},
    "a generator": lambda: {"generator": torch.Generator().manual_seed(3)},
    "the global generator": dict,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_the_seed_of_an_output_repeats_its_run(source: Any) -> None:
    torch.manual_seed(3)
    torch.randn(5)  # somewhere in the middle of a process
    first = generate(toy_writer(), "Go.", **BABBLE, **source())
    torch.randn(5)
    before = torch.get_rng_state()
    seed = json.loads(json.dumps(first.seed))
    again = generate(toy_writer(), "Go.", **BABBLE, seed=seed)
    assert layout(again) == layout(first)
    assert pixels(again) == pixels(first)
    assert again.seed == first.seed == seed
    assert torch.equal(torch.get_rng_state(), before) or not isinstance(seed, str)


def test_what_repeats_a_run_is_saved_with_it(tmp_path: Path) -> None:
    output = generate(ScriptedInferencer(asks("One"), says("x")), "Go.")
    for name in ("story.json", "story.html", "story.md", "story"):
        assert InterleavedOutput.load(output.save(tmp_path / name)).seed == output.seed
    shown = (tmp_path / "story.md").read_text()
    assert str(output.seed)[:100] in shown
    assert str(output.seed) not in shown


def test_an_interrupted_run_knows_what_repeats_it() -> None:
    inferencer = ScriptedInferencer(asks("One"))
    stream = inferencer.stream("Go.", **SHORT)
    next(stream)
    assert inferencer.last_output is not None
    assert str(inferencer.last_output.seed).startswith("state:")


def test_what_is_no_run_has_no_seed() -> None:
    assert InterleavedOutput(["a"]).seed is None


def test_a_state_whose_texts_another_device_drew_is_refused() -> None:
    state = RandomState(torch.get_rng_state(), torch.zeros(16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="seed is the state of a run .*CUDA.*is on cpu"):
        toy_writer().stream("Go.", seed=str(state))


# Generators.


def test_a_generator_is_drawn_from_in_order() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = noise_of(asks("One"), asks("Two"), says("x"), seed=None, generator=generator)
    twin = torch.Generator().manual_seed(3)
    assert all(torch.equal(n, torch.randn(4, 16, generator=twin)) for n in noise)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_texts_are_drawn_from_a_generator_too() -> None:
    outputs = [
        generate(toy_writer(), "Go.", generator=torch.Generator().manual_seed(seed), **BABBLE)
        for seed in (3, 3, 4)
    ]
    assert layout(outputs[0]) == layout(outputs[1]) != layout(outputs[2])


@pytest.mark.parametrize(
    "options", [{"seed": 3}, {"generator": torch.Generator().manual_seed(3)}], ids=["seed", "given"]
)
def test_the_global_generator_is_left_alone_where_another_is_given(options: Any) -> None:
    before = torch.random.get_rng_state()
    generate(toy_writer(), "Go.", **BABBLE | options)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_seed_the_global_generator_decides() -> None:
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(generate(toy_writer(), "Go.", **BABBLE))
    assert layout(outputs[0]) == layout(outputs[1])
    assert outputs[0][0] == outputs[1][0] != outputs[2][0]  # the text before any image
    assert pixels(outputs[0]) == pixels(outputs[1]) != pixels(outputs[2])


# As published.

PROMPTS: dict[str, list[Any]] = {
    "text": ["A red house."],
    "image and text": [picture(24, 16), "Make it red."],
    "text, image, text": ["Look.", picture(8, 8), "Again."],
    "image alone": [picture(16, 8)],
}


@pytest.mark.parametrize("inputs", PROMPTS.values(), ids=list(PROMPTS))
@pytest.mark.parametrize(
    "options",
    [
        {"cfg_text_scale": 4.0},
        {"cfg_text_scale": 3.0, "cfg_img_scale": 2.0, "cfg_renorm_type": "text_channel"},
    ],
    ids=["defaults", "others"],
)
def test_a_requested_image_is_what_the_published_loop_draws(
    inputs: list[Any], options: dict[str, Any]
) -> None:
    torch.manual_seed(11)
    [expected] = toy_parts().interleave_inference(
        inputs, image_shapes=SHAPE, num_timesteps=4, **options
    )
    torch.manual_seed(11)
    output = generate(
        ScriptedInferencer(says("One")),
        [*inputs, "<|vision_start|>"],
        num_timesteps=4,
        image_shape=None if any(not isinstance(part, str) for part in inputs) else SHAPE,
        **options,
    )
    assert output.images[0].size == expected.size
    assert output.images[0].tobytes() == expected.tobytes()


def test_a_plan_before_a_requested_image_is_the_published_one() -> None:
    """Its own ids are kept where the published loop tokenises its text anew."""
    loop = InterleaveInferencer.interleave_inference
    torch.manual_seed(11)
    plan, _ = loop(
        toy_parts(),
        ["A house."],
        think=True,
        max_think_token_n=6,
        image_shapes=SHAPE,
        num_timesteps=2,
    )
    output = toy_writer().auto_interleaved_generation(
        "A house.<|vision_start|>",
        think=True,
        max_think_token_n=5,  # there the bos that is fed counts
        max_interleaved_blocks=1,
        **SHORT | {"max_text_length": 1},
    )
    assert output.thoughts == [plan]


def test_the_first_image_of_a_text_is_drawn_over_the_published_contexts() -> None:
    """Here the text is the model's own; there the same text is the last input."""
    inferencer = ScriptedInferencer(asks("One"), says("x"))
    torch.manual_seed(11)
    output = generate(inferencer, "Go.")
    torch.manual_seed(11)
    [expected] = toy_parts().interleave_inference(
        ["Go.", "One"], image_shapes=SHAPE, num_timesteps=SHORT["num_timesteps"], cfg_text_scale=4.0
    )
    drawn: Drawn = inferencer.drawn[0]
    assert drawn.without_text.length < drawn.full.length
    # One token at a time or all at once differs by float32's rounding, which may tip a level.
    levels = [torch.tensor(list(image.tobytes())) for image in (output.images[0], expected)]
    assert (levels[0] - levels[1]).abs().max() <= 1
