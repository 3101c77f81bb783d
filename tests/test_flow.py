"""Times, guidance, Euler steps and TaylorSeer equal closed forms."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.flow import FlowStep, ImageOptions, TaylorSeer, guide, integrate, schedule

FULL, WITHOUT_TEXT, WITHOUT_IMAGES = torch.randn(
    3, 6, 4, generator=torch.Generator().manual_seed(0)
)


def float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def norms(velocity: Tensor, *dims: int) -> Tensor:
    return torch.linalg.vector_norm(velocity, dim=dims, keepdim=True)


# Times.


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_timesteps", [2, 3, 50])
def test_times_follow_the_closed_form(num_timesteps: int, shift: float) -> None:
    times = schedule(num_timesteps, shift)
    even = [1 - i / (num_timesteps - 1) for i in range(num_timesteps)]
    expected = [shift * t / (1 + (shift - 1) * t) for t in even]
    assert times == pytest.approx(expected, abs=1e-6)
    assert (times[0], times[-1]) == (1.0, 0.0)


def test_times_are_float32_values() -> None:
    assert all(time == float32(time) for time in schedule(50, 3.0))


def test_a_larger_shift_keeps_times_nearer_to_the_noise() -> None:
    assert all(a > b for a, b in zip(schedule(9, 3.0)[1:-1], schedule(9, 1.0)[1:-1], strict=True))


# Euler steps.


def test_a_constant_velocity_is_followed_for_a_time_of_one() -> None:
    *_, last = integrate(lambda x, t: FULL, WITHOUT_TEXT, schedule(7, 3.0))
    torch.testing.assert_close(last.latent, WITHOUT_TEXT - FULL)


def test_a_velocity_linear_in_the_state_multiplies_it_step_by_step() -> None:
    times = schedule(7, 3.0)
    *_, last = integrate(lambda x, t: 0.5 * x, FULL, times)
    factor = math.prod(1 - 0.5 * (a - b) for a, b in zip(times[:-1], times[1:], strict=True))
    torch.testing.assert_close(last.latent, factor * FULL)


def test_a_velocity_linear_in_time_is_summed_at_the_beginning_of_each_step() -> None:
    times = schedule(7, 3.0)
    *_, last = integrate(lambda x, t: t * FULL, WITHOUT_TEXT, times)
    total = sum(a * (a - b) for a, b in zip(times[:-1], times[1:], strict=True))
    torch.testing.assert_close(last.latent, WITHOUT_TEXT - total * FULL)


def test_along_a_straight_line_every_step_sees_the_finished_latent() -> None:
    noise, data = FULL, WITHOUT_TEXT
    steps = list(integrate(lambda x, t: (x - data) / t, noise, schedule(5, 3.0)))
    for step in steps:
        torch.testing.assert_close(step.clean, data)
        torch.testing.assert_close(step.latent, data + step.time * (noise - data))
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert {step.num_steps for step in steps} == {4}
    assert [step.time for step in steps] == schedule(5, 3.0)[1:]


def test_each_velocity_is_asked_at_the_time_before_its_step() -> None:
    asked = []

    def velocity(state: Tensor, time: float) -> Tensor:
        asked.append(time)
        return state

    list(integrate(velocity, FULL, schedule(4, 3.0)))
    assert asked == schedule(4, 3.0)[:-1]


def test_the_state_is_float32_and_the_noise_is_left_alone() -> None:
    noise = torch.ones(2, 3, dtype=torch.bfloat16)
    steps = list(integrate(lambda x, t: x.bfloat16() / 3, noise, schedule(4, 1.0)))
    assert {step.latent.dtype for step in steps} == {torch.float32}
    assert torch.equal(noise, torch.ones(2, 3, dtype=torch.bfloat16))


def test_a_state_that_is_sent_back_takes_its_place() -> None:
    steps = integrate(lambda x, t: x, FULL, [1.0, 0.5, 0.0])
    next(steps)
    step = steps.send(WITHOUT_TEXT)
    assert isinstance(step, FlowStep)
    torch.testing.assert_close(step.latent, WITHOUT_TEXT * 0.5)


def test_steps_are_not_taken_before_they_are_asked_for() -> None:
    asked = []
    steps = integrate(lambda x, t: asked.append(t) or x, FULL, schedule(9, 1.0))
    assert asked == []
    next(steps)
    assert asked == [1.0]


# Guidance.


def test_text_guidance_pushes_away_from_the_velocity_without_text() -> None:
    options = ImageOptions(cfg_text_scale=4.0, cfg_img_scale=1.0, cfg_renorm_min=1.0)
    expected = WITHOUT_TEXT + 4 * (FULL - WITHOUT_TEXT)
    torch.testing.assert_close(guide(FULL, WITHOUT_TEXT, None, options), expected)


def test_image_guidance_comes_on_top_of_text_guidance() -> None:
    options = ImageOptions(cfg_text_scale=4.0, cfg_img_scale=1.5, cfg_renorm_min=1.0)
    text = WITHOUT_TEXT + 4 * (FULL - WITHOUT_TEXT)
    expected = WITHOUT_IMAGES + 1.5 * (text - WITHOUT_IMAGES)
    torch.testing.assert_close(guide(FULL, WITHOUT_TEXT, WITHOUT_IMAGES, options), expected)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_a_scale_of_one_changes_nothing(renorm: Any) -> None:
    options = ImageOptions(cfg_text_scale=1.0, cfg_img_scale=1.0, cfg_renorm_type=renorm)
    torch.testing.assert_close(guide(FULL, WITHOUT_TEXT, WITHOUT_IMAGES, options), FULL)


@pytest.mark.parametrize(("renorm", "dims"), [("global", (0, 1)), ("channel", (1,))])
def test_renorm_brings_back_the_norm_of_the_full_velocity(
    renorm: Any, dims: tuple[int, ...]
) -> None:
    plain = ImageOptions(cfg_renorm_min=1.0)
    raw = guide(FULL, WITHOUT_TEXT, WITHOUT_IMAGES, plain)
    renormed = guide(
        FULL, WITHOUT_TEXT, WITHOUT_IMAGES, ImageOptions(cfg_renorm_type=renorm, cfg_renorm_min=0)
    )
    factor = torch.minimum(norms(FULL, *dims) / norms(raw, *dims), torch.tensor(1.0))
    torch.testing.assert_close(renormed, raw * factor)
    assert (factor < 1).any()


def test_text_channel_renorm_comes_before_the_image_step() -> None:
    options = ImageOptions(cfg_renorm_type="text_channel", cfg_text_scale=4.0, cfg_img_scale=2.0)
    text = WITHOUT_TEXT + 4 * (FULL - WITHOUT_TEXT)
    text = text * torch.minimum(norms(FULL, 1) / norms(text, 1), torch.tensor(1.0))
    expected = WITHOUT_IMAGES + 2 * (text - WITHOUT_IMAGES)
    torch.testing.assert_close(guide(FULL, WITHOUT_TEXT, WITHOUT_IMAGES, options), expected)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_renorm_never_enlarges(renorm: Any) -> None:
    options = ImageOptions(cfg_text_scale=1.5, cfg_img_scale=1.0, cfg_renorm_type=renorm)
    shrunk = guide(FULL, 2 * FULL, None, options)  # 2 full + 1.5 (full - 2 full)
    torch.testing.assert_close(shrunk, 0.5 * FULL)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_renorm_stops_at_its_minimum(renorm: Any) -> None:
    scales = {"cfg_text_scale": 9.0, "cfg_img_scale": 1.0, "cfg_renorm_type": renorm}
    raw = guide(FULL, WITHOUT_TEXT, None, ImageOptions(**scales, cfg_renorm_min=1.0))
    floored = guide(FULL, WITHOUT_TEXT, None, ImageOptions(**scales, cfg_renorm_min=0.7))
    assert (floored / raw).min() == pytest.approx(0.7)


@pytest.mark.parametrize("renorm", ["global", "channel", "text_channel"])
def test_a_batch_is_renormalised_sample_by_sample(renorm: Any) -> None:
    """A norm over the batch would let one sample dim another."""
    options = ImageOptions(cfg_renorm_type=renorm)
    loud, quiet = 100 * FULL, WITHOUT_IMAGES
    batch = [torch.stack(pair) for pair in ((loud, quiet), (FULL, quiet / 2), (quiet, FULL))]
    singles = [guide(*(part[i] for part in batch), options) for i in range(2)]
    torch.testing.assert_close(guide(*batch, options), torch.stack(singles))


def test_nothing_is_divided_by_zero() -> None:
    zero = torch.zeros(2, 3)
    for renorm in ("global", "channel", "text_channel"):
        options = ImageOptions(cfg_renorm_type=renorm)
        assert torch.equal(guide(zero, zero, zero, options), zero)


# Where guidance holds.


@pytest.mark.parametrize("low", [0.0, 0.1, 0.4, 0.6, 0.7])
def test_guidance_begins_just_above_the_lower_border(low: float) -> None:
    """Times are float32; compared with a float64 border, one of them fell on the wrong side."""
    options = ImageOptions(cfg_interval=(low, 1.0))
    border = torch.tensor(low, dtype=torch.float32)
    assert not options.guided(border.item())
    assert options.guided(torch.nextafter(border, torch.tensor(1.0)).item())


@pytest.mark.parametrize("high", [0.3, 0.6, 0.7, 0.9, 1.0])
def test_guidance_holds_at_the_upper_border_and_not_above(high: float) -> None:
    options = ImageOptions(cfg_interval=(0.0, high))
    border = torch.tensor(high, dtype=torch.float32)
    assert options.guided(border.item())
    assert not options.guided(torch.nextafter(border, torch.tensor(2.0)).item())


def test_an_empty_interval_never_guides() -> None:
    options = ImageOptions(cfg_interval=(0.5, 0.5))
    assert not any(options.guided(time) for time in (0.0, 0.4, 0.5, 0.6, 1.0))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_text_scale_of_at_most_one_never_guides(scale: float) -> None:
    assert not ImageOptions(cfg_text_scale=scale).guided(0.9)


# TaylorSeer.


def run(values: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Run TaylorSeer over a function of the call; return what came, and which calls were full."""
    full: list[int] = []
    now = 0

    def evaluate(latent: Tensor, time: float) -> Tensor:
        full.append(now)
        return values[now]

    seer, outputs = TaylorSeer(evaluate), []
    for now in range(len(values)):  # noqa: B007 - `evaluate` reads it
        outputs.append(seer(torch.zeros(1), 0.5))
    return outputs, full


def test_calls_0_to_4_are_full_and_then_every_third() -> None:
    _, full = run([FULL] * 24)
    assert full == [0, 1, 2, 3, 4, 7, 10, 13, 16, 19, 22]


def test_a_constant_is_predicted_exactly() -> None:
    outputs, _ = run([FULL] * 24)
    assert all(torch.equal(output, FULL) for output in outputs)


def test_a_straight_line_is_predicted_exactly() -> None:
    values = [FULL + call * WITHOUT_TEXT for call in range(24)]
    outputs, _ = run(values)
    for output, value in zip(outputs, values, strict=True):
        torch.testing.assert_close(output, value, atol=1e-4, rtol=1e-5)


def test_squares_are_predicted_from_finite_differences() -> None:
    outputs, _ = run([torch.tensor([float(call) ** 2]) for call in range(12)])
    by_hand = [0, 1, 4, 9, 16]
    by_hand += [16 + 7, 16 + 7 * 2, 49]
    by_hand += [49 + 11 + 4 / 3 / 2, 49 + 11 * 2 + 4 / 3 * 4 / 2, 100]
    by_hand += [100 + 17 + 2 / 2 + 2 / 9 / 6]
    assert torch.cat(outputs).tolist() == pytest.approx(by_hand)


def test_predictions_use_differences_up_to_the_sixth_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = list(torch.randn(40, 1, dtype=torch.float64, generator=generator))
    outputs, full = run(values)

    @cache
    def derivative(order: int, step: int) -> Tensor | None:
        """Define order by order what exists at the full call number `step`."""
        if order == 0:
            return values[full[step]]
        if order > 6 or full[step] <= 3 or step == 0:
            return None
        here, before = derivative(order - 1, step), derivative(order - 1, step - 1)
        if here is None or before is None:
            return None
        return (here - before) / (full[step] - full[step - 1])

    for call, output in enumerate(outputs):
        step = max(i for i, at in enumerate(full) if at <= call)
        distance = call - full[step]
        terms = [derivative(order, step) for order in range(8)]
        expected = sum(
            term * distance**order / math.factorial(order)
            for order, term in enumerate(terms)
            if term is not None
        )
        torch.testing.assert_close(output, expected)


def test_state_dies_with_the_object() -> None:
    """State left on the model made the next image run on the last one's predictions."""
    values = [FULL * math.sin(call) for call in range(9)]
    first, _ = run(values)
    second, full = run(values)
    assert full == [0, 1, 2, 3, 4, 7]
    assert all(map(torch.equal, first, second))


# Options.


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("cfg_text_scale", -0.1, "cfg_text_scale must be a finite number of at least 0, got -0.1"),
        ("cfg_text_scale", math.nan, "cfg_text_scale must be .* got nan"),
        ("cfg_img_scale", math.inf, "cfg_img_scale must be .* got inf"),
        ("cfg_interval", (0.5, 0.4), r"0 <= low <= high <= 1, got \(0.5, 0.4\)"),
        ("cfg_interval", (-0.1, 1.0), r"0 <= low <= high <= 1, got \(-0.1, 1.0\)"),
        ("cfg_interval", (0.0, 1.1), r"0 <= low <= high <= 1, got \(0.0, 1.1\)"),
        ("cfg_interval", (math.nan, 1.0), "low of cfg_interval must be a finite number, got nan"),
        ("cfg_renorm_min", 1.1, r"cfg_renorm_min must lie in \[0, 1\], got 1.1"),
        ("cfg_renorm_min", -0.1, r"cfg_renorm_min must lie in \[0, 1\], got -0.1"),
        ("cfg_renorm_type", "none", "one of global, channel, text_channel; got 'none'"),
        ("num_timesteps", 1, r"num_timesteps must be at least 2 .*, got 1"),
        ("timestep_shift", 0.0, "timestep_shift must be a finite number above 0, got 0.0"),
        ("timestep_shift", math.inf, "timestep_shift must be .* got inf"),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageOptions(**{option: value})


def test_borders_of_the_options_are_allowed() -> None:
    ImageOptions(
        cfg_text_scale=0, cfg_img_scale=0, cfg_interval=(0, 0), cfg_renorm_min=1, num_timesteps=2
    )
