"""Drawing leaves contexts alone, computes equal branches once, and listens to its guidance."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.bagel import Bagel, drawing
from modeling.bagel.drawing import draw
from modeling.context import Context
from modeling.decoding import decode, greedy
from modeling.flow import FlowStep, ImageOptions, integrate, schedule
from tests.builders import BOS, MARKERS, noise_of, read_ids, toy_bagel

GRID = (2, 3)
OPTIONS = ImageOptions(num_timesteps=5, cfg_interval=(0.0, 1.0))


@pytest.fixture
def model() -> Bagel:
    return toy_bagel()


@pytest.fixture
def contexts(model: Bagel) -> dict[str, Context]:
    """A text, an image, a text; what is without the last text is a prefix of it."""
    prompt = read_ids(model, model.new_context(), [BOS, 10, 11, 12])
    without_text, _ = model.read(prompt, model.latent_block(noise_of((2, 2), 7), (2, 2), MARKERS))
    return {
        "full": read_ids(model, without_text, [BOS, 20, 21]),
        "without_text": without_text,
        "without_images": read_ids(model, prompt, [BOS, 20, 21]),
    }


def start(
    model: Bagel, contexts: dict[str, Context], options: ImageOptions = OPTIONS, **changes: Any
) -> Any:
    settings = {"noise": noise_of(GRID), "grid": GRID, "markers": MARKERS, **contexts, **changes}
    return draw(model, options=options, **settings)


def draw_latent(model: Bagel, contexts: dict[str, Context], *args: Any, **changes: Any) -> Tensor:
    *_, last = start(model, contexts, *args, **changes)
    return last.latent


def snapshot(contexts: dict[str, Context]) -> list[Tensor]:
    pairs = [context.rows(layer) for context in contexts.values() for layer in range(2)]
    return [rows.clone() for pair in pairs if pair is not None for rows in pair]


@pytest.fixture
def forwards(model: Bagel) -> list[int]:
    """Gets the number of rows of every run of the decoder."""
    rows: list[int] = []
    model.language_model.model.register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0]) // len(MARKERS))
    )
    return rows


@pytest.fixture
def count(model: Bagel, contexts: dict[str, Context], forwards: list[int]) -> Callable[..., int]:
    """Count the rows that one drawing runs through the decoder."""

    def count_rows(**changes: Any) -> int:
        forwards.clear()
        options = {name: changes.pop(name) for name in list(changes) if name not in contexts}
        draw_latent(model, contexts | changes, replace(OPTIONS, **options))
        return sum(forwards)

    return count_rows


@pytest.fixture
def separate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no image be small enough for packed branches."""
    monkeypatch.setattr(drawing, "_PACKED_TOKENS_ON_CPU", 0)


# Contexts stay as they were.


def test_drawing_leaves_contexts_as_they_were(model: Bagel, contexts: dict[str, Context]) -> None:
    before = snapshot(contexts)
    draw_latent(model, contexts)
    assert all(map(torch.equal, before, snapshot(contexts)))
    assert not any(context.store.busy for context in contexts.values())


def test_contexts_are_right_between_steps(model: Bagel, contexts: dict[str, Context]) -> None:
    before = snapshot(contexts)
    for _ in start(model, contexts):
        assert all(map(torch.equal, before, snapshot(contexts)))


def test_closing_half_way_leaves_contexts_as_they_were(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    before = snapshot(contexts)
    steps = start(model, contexts)
    next(steps)
    steps.close()
    assert all(map(torch.equal, before, snapshot(contexts)))
    assert not any(context.store.busy for context in contexts.values())


def test_abandoning_half_way_leaves_contexts_as_they_were(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    before = snapshot(contexts)
    assert isinstance(next(start(model, contexts)), FlowStep)
    assert all(map(torch.equal, before, snapshot(contexts)))
    assert not any(context.store.busy for context in contexts.values())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_within_a_step_leaves_contexts_as_they_were(
    model: Bagel, contexts: dict[str, Context], error: type[BaseException]
) -> None:
    before = snapshot(contexts)
    steps = start(model, contexts)
    next(steps)

    def fail(*_: Any) -> None:
        raise error("within the last layer")

    handle = model.language_model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(error, match="within the last layer"):
        next(steps)
    handle.remove()
    assert all(map(torch.equal, before, snapshot(contexts)))
    assert not any(context.store.busy for context in contexts.values())
    draw_latent(model, contexts)


def test_texts_can_be_written_and_read_between_steps(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    def write(context: Context) -> list[int]:
        steps = decode(model, context, BOS, greedy)
        return [next(steps)[0] for _ in range(4)]

    undisturbed = draw_latent(model, contexts)
    written = {name: write(context) for name, context in contexts.items()}
    grown = {name: read_ids(model, context, [1, 2]) for name, context in contexts.items()}
    kept = {}
    for step in start(model, contexts):
        latent = step.latent
        for name, context in contexts.items():
            assert write(context) == written[name]
            kept[name] = read_ids(model, context, [1, 2])
    assert torch.equal(latent, undisturbed)
    for ours, theirs in zip(snapshot(kept), snapshot(grown), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_two_images_can_be_drawn_by_turns(model: Bagel, contexts: dict[str, Context]) -> None:
    alone = [draw_latent(model, contexts, noise=noise_of(GRID, seed)) for seed in (1, 2)]
    turns = [start(model, contexts, noise=noise_of(GRID, seed)) for seed in (1, 2)]
    for steps in zip(*turns, strict=True):
        latents = [step.latent for step in steps]
    for ours, theirs in zip(latents, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_a_draft_over_prefixes_costs_no_copy_of_them(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    full, without_text = contexts["full"], contexts["without_text"]
    assert full.store is without_text.store
    before = full.store.nbytes
    for _ in start(model, contexts, replace(OPTIONS, cfg_img_scale=1.0)):
        assert full.store.nbytes == before


# What is computed.


def test_an_unguided_velocity_is_the_model_over_the_full_context(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    """The noised block sits after the context in room of its own, and nobody keeps it."""

    def velocity(latent: Tensor, time: float) -> Tensor:
        block = model.latent_block(latent, GRID, MARKERS, time)
        with contexts["full"].room(block.length) as tail:
            [(_, drawn)] = model.extend([(tail, block)])
        assert drawn is not None
        return model.velocity(drawn)

    options = replace(OPTIONS, cfg_text_scale=1.0)
    *_, expected = integrate(velocity, noise_of(GRID), schedule(5, 3.0))
    found = draw_latent(model, contexts, options)
    torch.testing.assert_close(found, expected.latent, atol=2e-5, rtol=1e-5)


def test_the_same_noise_gives_the_same_image(model: Bagel, contexts: dict[str, Context]) -> None:
    first = draw_latent(model, contexts)
    assert torch.equal(draw_latent(model, contexts), first)
    assert not torch.equal(draw_latent(model, contexts, noise=noise_of(GRID, 1)), first)


def test_the_noise_is_left_as_it_was(model: Bagel, contexts: dict[str, Context]) -> None:
    noise = noise_of(GRID)
    draw_latent(model, contexts, noise=noise)
    assert torch.equal(noise, noise_of(GRID))


def test_a_latent_that_is_sent_back_takes_its_place(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    plain, changed = start(model, contexts), start(model, contexts)
    next(plain)
    next(changed)
    assert torch.equal(changed.send(None).latent, next(plain).latent)
    assert not torch.equal(changed.send(noise_of(GRID, 5)).latent, next(plain).latent)


@pytest.mark.parametrize("lost", ["without_text", "without_images"])
def test_a_lost_guidance_branch_changes_the_picture(
    model: Bagel, contexts: dict[str, Context], lost: str
) -> None:
    picture = draw_latent(model, contexts)
    other = draw_latent(model, contexts | {lost: contexts["full"]})
    assert (picture - other).abs().max() > 1e-2


def test_each_guidance_option_changes_the_picture(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    changes: list[dict[str, Any]] = [
        {"cfg_text_scale": 2.0},
        {"cfg_img_scale": 3.0},
        {"cfg_interval": (0.7, 1.0)},
        {"cfg_interval": (0.0, 0.9)},
        {"cfg_renorm_type": "channel"},
        {"cfg_renorm_type": "text_channel"},
        {"cfg_renorm_min": 1.0},
        {"timestep_shift": 1.0},
        {"num_timesteps": 6},
    ]
    pictures = [draw_latent(model, contexts, replace(OPTIONS, **change)) for change in changes]
    pictures.append(draw_latent(model, contexts))
    for index, picture in enumerate(pictures):
        assert all((picture - other).abs().max() > 1e-3 for other in pictures[:index])


# How often the model runs: four steps.


def test_three_different_branches_are_three_rows_a_step(count: Callable[..., int]) -> None:
    assert count() == 4 * 3


def test_branches_of_a_small_image_are_rows_of_one_forward(
    count: Callable[..., int], forwards: list[int]
) -> None:
    count(cfg_interval=(0.0, schedule(5, 3.0)[2]))
    assert forwards == [1, 1, 3, 3]


@pytest.mark.usefixtures("separate")
def test_branches_of_a_large_image_run_one_after_the_other(
    count: Callable[..., int], forwards: list[int]
) -> None:
    count()
    assert forwards == [1] * 12


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_packed_and_separate_branches_draw_the_same(
    model: Bagel, contexts: dict[str, Context], request: pytest.FixtureRequest, renorm: Any
) -> None:
    options = replace(OPTIONS, cfg_renorm_type=renorm, cfg_interval=(0.4, 0.9))
    packed = draw_latent(model, contexts, options)
    request.getfixturevalue("separate")
    # Sums over other numbers of rows round differently.
    torch.testing.assert_close(draw_latent(model, contexts, options), packed, atol=1e-5, rtol=0)


def test_branches_over_one_context_are_one_row(
    count: Callable[..., int], contexts: dict[str, Context]
) -> None:
    full, without_text = contexts["full"], contexts["without_text"]
    assert count(without_images=full) == 4 * 2
    assert count(without_images=without_text) == 4 * 2
    assert count(without_images=full, without_text=full) == 4


def test_a_scale_of_one_takes_its_branch_away(count: Callable[..., int]) -> None:
    assert count(cfg_img_scale=1.0) == 4 * 2
    assert count(cfg_text_scale=1.0) == 4
    assert count(cfg_text_scale=1.0, cfg_img_scale=1.0) == 4


def test_outside_the_interval_only_the_full_branch_runs(count: Callable[..., int]) -> None:
    times = schedule(5, 3.0)[:-1]
    assert count(cfg_interval=(times[2], 1.0)) == 4 + 2 * 2
    assert count(cfg_interval=(0.0, times[1])) == 4 + 3 * 2


def test_a_branch_that_is_off_needs_no_context(count: Callable[..., int]) -> None:
    assert count(cfg_img_scale=1.0, without_images=None) == 4 * 2
    assert count(cfg_text_scale=1.0, without_text=None, without_images=None) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("without_text", "cfg_text_scale=4.0 needs a context without the text; pass one, or set"),
        ("without_images", "cfg_img_scale=1.5 needs a context without the images; pass one, or"),
    ],
)
def test_a_branch_that_is_on_needs_its_context(
    model: Bagel, contexts: dict[str, Context], forwards: list[int], name: str, message: str
) -> None:
    steps = start(model, contexts | {name: None})
    with pytest.raises(ValueError, match=message):
        next(steps)
    assert not forwards


# TaylorSeer.


def test_taylorseer_runs_each_branch_at_steps_0_to_4_7_and_10(count: Callable[..., int]) -> None:
    assert count(enable_taylorseer=True, num_timesteps=13) == 3 * len((0, 1, 2, 3, 4, 7, 10))


def test_a_branch_that_begins_later_counts_its_own_steps(
    count: Callable[..., int], contexts: dict[str, Context]
) -> None:
    """Of 12 steps the last 9 are guided: the branches' full runs are their own 0 to 4 and 7."""
    times = schedule(13, 3.0)
    late = {"enable_taylorseer": True, "num_timesteps": 13, "cfg_interval": (0.0, times[3])}
    full, branch = len((0, 1, 2, 3, 4, 7, 10)), len((0, 1, 2, 3, 4, 7))
    assert count(**late) == full + 2 * branch
    # The same context needs runs of its own, because its predictions are others.
    assert count(**late, without_images=contexts["full"]) == full + 2 * branch


def test_the_first_five_steps_with_taylorseer_are_exact(
    model: Bagel, contexts: dict[str, Context]
) -> None:
    options = replace(OPTIONS, num_timesteps=12)
    exact = [step.latent for step in start(model, contexts, options)]
    fast = replace(options, enable_taylorseer=True)
    predicted = [step.latent for step in start(model, contexts, fast)]
    # Exact branches are packed, extrapolated ones are not.
    torch.testing.assert_close(predicted[:5], exact[:5], atol=1e-5, rtol=0)
    assert not torch.equal(exact[-1], predicted[-1])
    # The prediction is near, compared with how far the latent moves.
    moved = (exact[-1] - exact[4]).norm()
    assert (exact[-1] - predicted[-1]).norm() < 0.2 * moved


def test_taylorseer_leaves_nothing_behind(model: Bagel, contexts: dict[str, Context]) -> None:
    """State left on the model's layers made the next text or image run on stale predictions."""
    fast = replace(OPTIONS, num_timesteps=9, enable_taylorseer=True)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    plain, first = draw_latent(model, contexts), draw_latent(model, contexts, fast)
    assert torch.equal(draw_latent(model, contexts, fast), first)
    assert torch.equal(draw_latent(model, contexts), plain)
    other = noise_of((3, 2), 1)
    draw_latent(model, contexts, fast, noise=other, grid=(3, 2))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes


def test_branches_with_taylorseer_are_never_packed(
    count: Callable[..., int], forwards: list[int]
) -> None:
    count(enable_taylorseer=True)
    assert set(forwards) == {1}


def test_memory_of_a_context_goes_with_the_last_drawing_over_it(model: Bagel) -> None:
    """Without a garbage collection, which may come late: half a gigabyte for an image."""
    context = read_ids(model, model.new_context(), [BOS, 10])
    store = weakref.ref(context.store)
    branches = dict.fromkeys(("full", "without_text", "without_images"), context)
    gc.collect()
    gc.disable()
    try:
        draw_latent(model, branches)
        del branches, context
        assert store() is None
    finally:
        gc.enable()


# Sizes.


def test_a_latent_that_does_not_fit_its_grid_is_refused(model: Bagel) -> None:
    with pytest.raises(ValueError, match=r"must be \(6, 16\) for a grid of 2 x 3, got \(4, 16\)"):
        model.latent_block(noise_of((2, 2)), GRID, MARKERS)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((10, 8), "height must be a positive multiple of 4, got 10; try 8"),
        ((8, 11), "width must be a positive multiple of 4, got 11; try 12"),
        ((0, 8), "height must be a positive multiple of 4, got 0; try 4"),
        ((8, -4), "width must be a positive multiple of 4, got -4; try 4"),
        ((36, 8), "height must be at most 32 for this model, got 36"),
        ((8, 40), "width must be at most 32 for this model, got 40"),
    ],
)
def test_a_size_the_model_cannot_draw_is_refused(
    model: Bagel, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.latent_grid(*size)


def test_a_grid_counts_rows_of_the_height_and_columns_of_the_width(model: Bagel) -> None:
    assert model.latent_grid(8, 32) == (2, 8)
    assert toy_bagel(interpolate_pos=True).latent_grid(40, 4) == (10, 1)
