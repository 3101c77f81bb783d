"""What is asked for to be faster: the same tensors and nearly the same numbers, or a clear no."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from modeling.bagel import Bagel
from modeling.decode_graph import GraphFeed
from modeling.decoding import decode, greedy
from modeling.speed import check_fp8, compile_layers, quantize_fp8
from tests.builders import BOS, MARKERS, noise_of, read_ids, toy_bagel
from tests.checkpoints import load_golden_checkpoint

CUDA = torch.device("cuda")


def answer(model: Bagel) -> Tensor:
    """Say what the model makes of an image, which both sets of weights read."""
    block = model.latent_block(noise_of((2, 3)), (2, 3), MARKERS)
    return model.logits(model.read(model.new_context(), block)[1])


# Compiled layers.


def test_compiling_keeps_names_classes_and_hooks() -> None:
    model = toy_bagel()
    heard: list[int] = []
    layers = model.language_model.model.layers
    names, kinds = list(model.state_dict()), [type(layer) for layer in layers]
    layers[1].register_forward_hook(lambda *_: heard.append(1))
    assert not model.language_model.compiled
    compile_layers(model, backend="eager", disable=True)
    assert model.language_model.compiled, "texts would be written step by step"
    assert list(model.state_dict()) == names
    assert [type(layer) for layer in layers] == kinds
    read_ids(model, model.new_context(), [BOS, 10])
    assert heard == [1]


def test_a_checkpoint_is_compiled_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Bagel] = []
    monkeypatch.setattr("modeling.speed.compile_layers", compiled.append)
    assert load_golden_checkpoint().model not in compiled
    model = load_golden_checkpoint(compile_layers=True).model
    assert [found is model for found in compiled] == [True]


@pytest.mark.slow
def test_layers_share_their_code_and_compute_the_same() -> None:
    """Code of its own for every layer's number soon met the compiler's limit."""
    frames = []
    for num_layers in (2, 4):
        torch._dynamo.reset()
        counter, model = CompileCounter(), toy_bagel(num_hidden_layers=num_layers)
        expected = answer(model)
        compile_layers(model, backend=counter)
        assert torch.equal(answer(model), expected)
        frames.append(counter.frame_count)
    assert frames[0] == frames[1] > 0


@pytest.mark.slow
def test_layers_share_their_code_in_recorded_steps_as_well() -> None:
    frames = []
    for num_layers in (2, 4):
        torch._dynamo.reset()
        counter, model = CompileCounter(), toy_bagel(num_hidden_layers=num_layers)
        compile_layers(model, backend=counter)
        feed = GraphFeed(model, lambda work, device: work, patience=0)
        start = read_ids(model, model.new_context(), [BOS, 10])
        list(decode(model, start, BOS, greedy, at_most=4, feed=feed))
        assert feed._repeats
        frames.append(counter.frame_count)
    assert frames[0] == frames[1] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_layers_compute_nearly_the_same() -> None:
    model = toy_bagel(num_hidden_layers=1)
    expected = answer(model)
    compile_layers(model)
    # Fused kernels round in another order.
    torch.testing.assert_close(answer(model), expected, atol=2e-5, rtol=1e-5)


# fp8.


@pytest.fixture
def torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that torchao is installed; nothing in it can be used."""
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))


@pytest.fixture
def no_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)


@pytest.mark.usefixtures("no_torchao")
def test_fp8_without_torchao_says_how_to_get_it() -> None:
    with pytest.raises(ImportError, match=r"pip install 'auto-interleaved-bagel\[fp8\]', or leave"):
        quantize_fp8(toy_bagel().bfloat16())


@pytest.mark.usefixtures("torchao")
def test_fp8_needs_one_cuda_device() -> None:
    with pytest.raises(ValueError, match="fp8 needs a model on one CUDA device, got cpu; or leave"):
        quantize_fp8(toy_bagel().bfloat16())
    with pytest.raises(ValueError, match="one CUDA device, got cuda:0, cuda:1; or leave fp8=False"):
        check_fp8({torch.device("cuda:0"), torch.device("cuda:1")})


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize(("capability", "fits"), [((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_needs_a_device_that_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if fits:
        check_fp8({CUDA})
        return
    with pytest.raises(ValueError, match=r"capability 8.9 or above .*, and cuda has 8.6; leave"):
        check_fp8({CUDA})


def test_fp8_needs_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.speed.check_fp8", lambda devices: None)
    with pytest.raises(ValueError, match="weights in bfloat16, got torch.float32; load the model"):
        quantize_fp8(toy_bagel())


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("options", [{}, {"device": "cpu"}, {"device_map": {"": "cpu"}}])
def test_fp8_is_refused_before_any_weight_is_read(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("modeling.checkpoint.load.open_weights", pytest.fail)
    with pytest.raises(ValueError, match="on one CUDA device, got cpu"):
        load_golden_checkpoint(fp8=True, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp8_layers_compute_roughly_the_same() -> None:
    pytest.importorskip("torchao")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs Ada or Hopper")
    model = toy_bagel(hidden_size=64, intermediate_size=128).cuda().bfloat16()
    exact, names = answer(model), list(model.state_dict())
    quantize_fp8(model)
    assert list(model.state_dict()) == names
    assert 0 < (answer(model) - exact).norm() < 0.3 * exact.norm()
