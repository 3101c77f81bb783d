"""An evaluation in fixed memory, and its recording, compute what they always computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling import cuda_graph
from modeling.bagel import flow_graph
from modeling.bagel.drawing import draw
from modeling.bagel.flow_graph import SMALL_IMAGE_TOKENS, StaticEvaluation, steady
from modeling.cuda_graph import Work, can_repeat, captured, is_hooked
from modeling.flow import ImageOptions
from tests.builders import BOS, MARKERS, noise_of, read_ids, toy_bagel

NOISE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def evaluate(latent: Tensor, time: Tensor) -> Tensor:
    return latent.sin() * time


def recorder(work: Work, device: torch.device) -> Work:
    """Repeat work into one tensor, as a graph does."""
    result = work().clone()
    return lambda: result.copy_(work())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Pretend that a recording is possible here; gets an entry for every one."""
    devices: list[torch.device] = []

    def capture(work: Work, device: torch.device) -> Work:
        devices.append(device)
        return recorder(work, device)

    monkeypatch.setattr(flow_graph, "can_repeat", lambda model: True)
    monkeypatch.setattr(flow_graph, "captured", capture)
    return devices


def test_an_evaluation_in_fixed_memory_computes_the_same() -> None:
    static = StaticEvaluation(evaluate, NOISE)
    for latent, time in ((NOISE, 1.0), (NOISE + 1, 0.25)):
        assert torch.equal(static(latent, time), evaluate(latent, torch.tensor([time])))


def test_inputs_are_left_as_they_were() -> None:
    noise, latent = NOISE.clone(), NOISE + 1
    static = StaticEvaluation(evaluate, noise)
    static(latent, 0.5)
    assert torch.equal(noise, NOISE)
    assert torch.equal(latent, NOISE + 1)


def test_inputs_lie_in_the_same_memory_at_every_call() -> None:
    places = []

    def look(latent: Tensor, time: Tensor) -> Tensor:
        places.append((latent.data_ptr(), time.data_ptr()))
        return latent

    static = StaticEvaluation(look, NOISE)
    static(NOISE, 1.0)
    static(NOISE + 1, 0.5)
    assert places[0] == places[1]


def test_a_recording_computes_the_same_and_its_results_are_kept_apart() -> None:
    static = StaticEvaluation(evaluate, NOISE)
    static.record(recorder)
    first, second = static(NOISE, 1.0), static(NOISE + 1, 0.25)
    assert torch.equal(first, NOISE.sin())
    assert torch.equal(second, (NOISE + 1).sin() * 0.25)


def test_a_call_under_inference_mode_may_be_followed_by_one_outside() -> None:
    with torch.inference_mode():
        static = StaticEvaluation(evaluate, NOISE)
        static(NOISE, 1.0)
    assert torch.equal(static(NOISE, 0.5), NOISE.sin() * 0.5)


def test_many_calls_of_a_small_image_are_recorded(recorded: list[torch.device]) -> None:
    static = steady(nn.Identity(), evaluate, NOISE, 40)
    assert recorded == [torch.device("cpu")]
    assert torch.equal(static(NOISE + 1, 0.25), (NOISE + 1).sin() * 0.25)


@pytest.mark.parametrize(("tokens", "num_calls"), [(6, 11), (6, 0), (SMALL_IMAGE_TOKENS + 1, 40)])
def test_few_calls_and_large_images_are_not(
    recorded: list[torch.device], tokens: int, num_calls: int
) -> None:
    steady(nn.Identity(), evaluate, torch.zeros(tokens, 4), num_calls)
    assert not recorded


def test_guided_and_unguided_steps_have_a_recording_each(recorded: list[torch.device]) -> None:
    draw_some(num_timesteps=30, cfg_interval=(0.8, 1.0))  # 13 of the 29 steps are guided
    assert len(recorded) == 2


def test_taylorseer_counts_its_calls_and_is_not_recorded(recorded: list[torch.device]) -> None:
    draw_some(num_timesteps=30, enable_taylorseer=True)
    assert not recorded


def test_a_recorded_drawing_is_the_same(recorded: list[torch.device]) -> None:
    drawn = draw_some(num_timesteps=30)
    assert recorded
    assert torch.equal(drawn, draw_some(num_timesteps=30, may_record=False))
    assert len(recorded) == 1


def draw_some(*, may_record: bool = True, device: str = "cpu", **options: Any) -> Tensor:
    model = toy_bagel().to(device)
    without_text = read_ids(model, model.new_context(), [BOS, 10, 11])
    full = read_ids(model, without_text, [BOS, 20, 21])
    with pytest.MonkeyPatch.context() as patch:
        if not may_record:
            patch.setattr(flow_graph, "can_repeat", lambda model: False)
        *_, last = draw(
            model,
            full=full,
            without_text=without_text,
            without_images=full,
            noise=noise_of((2, 3)),
            grid=(2, 3),
            markers=MARKERS,
            options=ImageOptions(**options),
        )
    return last.latent.cpu()


def test_what_cannot_be_recorded_runs_as_before_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(work: Work, device: torch.device) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")

    cuda_graph._tell.cache_clear()
    monkeypatch.setattr(flow_graph, "can_repeat", lambda model: True)
    monkeypatch.setattr(flow_graph, "captured", fail)
    for _ in range(2):
        static = steady(nn.Identity(), evaluate, NOISE, 40)
        assert torch.equal(static(NOISE, 0.5), NOISE.sin() * 0.5)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("images are drawn the slow way: RuntimeError")
    assert "operation not permitted" in message


# What may be recorded at all.


def listen(model: nn.Module) -> None:
    model[0].register_forward_hook(lambda *_: None)


def listen_before(model: nn.Module) -> None:
    model[0].register_forward_pre_hook(lambda *_: None)


def replace_forward(model: nn.Module) -> None:
    model[0].forward = model[0].forward


@pytest.mark.parametrize("hook", [listen, listen_before, replace_forward])
def test_a_module_that_something_hangs_on_is_known(hook: Callable[[nn.Module], None]) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert not is_hooked(model[0])
    hook(model)
    assert is_hooked(model[0])


def test_nothing_on_the_cpu_may_be_recorded() -> None:
    assert not can_repeat(nn.Linear(2, 2))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("hook", [None, listen, listen_before, replace_forward])
def test_a_model_on_one_device_that_nothing_hangs_on_may_be_recorded(
    hook: Callable[[nn.Module], None] | None,
) -> None:
    model = nn.Sequential(nn.Linear(2, 2)).cuda()
    if hook is not None:
        hook(model)
    assert can_repeat(model) == (hook is None)


@pytest.mark.gpu
@needs_cuda
def test_a_captured_evaluation_equals_the_eager_one() -> None:
    static = StaticEvaluation(evaluate, NOISE.cuda())
    static.record(captured)
    for latent, time in ((NOISE.cuda(), 1.0), (NOISE.cuda() + 1, 0.25)):
        expected = evaluate(latent, torch.tensor([time], device="cuda"))
        torch.testing.assert_close(static(latent, time), expected)


@pytest.mark.gpu
@needs_cuda
def test_an_image_drawn_by_graphs_equals_the_eager_one(caplog: pytest.LogCaptureFixture) -> None:
    drawn = draw_some(num_timesteps=30, device="cuda")
    assert not caplog.records
    eager = draw_some(num_timesteps=30, device="cuda", may_record=False)
    torch.testing.assert_close(drawn, eager, atol=1e-4, rtol=0)
