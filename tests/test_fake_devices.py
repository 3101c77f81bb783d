"""The 7B on devices that are not there: where everything lies, what crosses, what it would take.

Tensors without values: PyTorch works out shape, dtype and device of everything, and refuses what
meets across devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import roofline
from benchmarks.fake_devices import UnavailableError, fake_devices
from benchmarks.models import SHAPES, build_shape
from benchmarks.watch import Watch
from modeling.bagel import Bagel
from modeling.checkpoint.placement import _device_of
from modeling.choice import choice, greedy
from modeling.context import Context
from modeling.decode_graph import feed_token
from modeling.decoding import decode
from modeling.flow import ImageOptions
from modeling.kv_store import Tail

# accelerate asks where weights lie in memory, and these lie nowhere.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

PICTURE = Image.new("RGB", (1024, 1024))
PROMPT = list(range(64))
OPTIONS = ImageOptions(num_timesteps=6, cfg_interval=(0.0, 1.0))
TERA = 1e12


def build(device: str, layers: int) -> AutoInterleavedInferencer:
    shape = SHAPES["7b"]
    shape = replace(shape, decoder=shape.decoder | {"num_hidden_layers": layers})
    inferencer = build_shape(shape, device, torch.bfloat16)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def split(model: Bagel) -> None:
    """Put the second half of the layers, and what follows them, on a second device."""
    layers = len(model.language_model.model.layers)
    places = {"": "cuda:0", "language_model.lm_head": "cuda:1"}
    after = [f"layers.{index}" for index in range(layers // 2, layers)] + ["norm", "norm_moe_gen"]
    places |= {f"language_model.model.{name}": "cuda:1" for name in after}
    by_module = {name: _device_of(name, places) for name, _ in model.named_modules()}
    for name, module in model.named_modules():
        for key, weight in module.named_parameters(recurse=False):
            moved = nn.Parameter(weight.detach().to(by_module[name]), requires_grad=False)
            module._parameters[key] = moved  # not by `to`, which swaps values that are not there
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    blocks = [f"language_model.model.layers.{index}" for index in range(layers)]
    within = [name for name in leaves if not name.startswith(tuple(f"{b}." for b in blocks))]
    dispatch_model(model, {name: by_module[name] for name in [*blocks, *within]}, "cuda:0")


@dataclass
class Journey:
    """What one text, one image and a few steps do, by name.

    Attributes:
        counts: whether FLOPs are counted.
        watched: what the host had to do.
        flops: of some parts.
        homes: devices of the store's layers.
        dtypes: of what came out.
        length, nbytes: of the context and its store once the image is in it.
        weights: bytes that a token should read of them.
    """

    counts: bool
    watched: dict[str, Watch] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    homes: list[str] = field(default_factory=list)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    length: int = 0
    nbytes: int = 0
    weights: int = 0

    def watch(self, name: str, work: Callable[[], Any]) -> Any:
        with Watch() as self.watched[name]:
            return work()

    def count(self, name: str, work: Callable[[], Any]) -> None:
        if self.counts:
            with Watch(), FlopCounterMode(display=False) as counter:
                work()
            self.flops[name] = counter.get_total_flops() / TERA


def go(device: str, layers: int, *, halves: bool = False, counts: bool = False) -> Journey:
    journey = Journey(counts=counts)
    with fake_devices():
        inferencer = build(device, layers)
        if halves:
            split(inferencer.model)
        text, seen = _read(journey, inferencer)
        _draw(journey, inferencer, text, seen)
        _write(journey, inferencer.model, seen)
        journey.weights = roofline.token_bytes(inferencer.model, 0)
    return journey


def _read(journey: Journey, inferencer: AutoInterleavedInferencer) -> tuple[Context, Context]:
    model, watch = inferencer.model, journey.watch
    text, _ = watch("read", lambda: inferencer.read_ids(PROMPT, inferencer.new_context()))
    journey.count("encode", lambda: inferencer.encode_image(PICTURE))
    latent, grid = watch("encode", lambda: inferencer.encode_image(PICTURE))
    drawn = watch("latent", lambda: inferencer.read_latent(latent, grid, text))
    pixels = inferencer.vit_transform(PICTURE)
    journey.count("vision", lambda: model.vit_block(pixels, inferencer.markers))
    seen = watch("vision", lambda: inferencer.read_vision(PICTURE, drawn))
    journey.length, journey.nbytes = seen.length, seen.store.nbytes
    rows = [seen.rows(layer) for layer in range(seen.store.num_layers)]
    journey.homes = [str(keys.device) for keys, _ in rows]
    journey.dtypes["keys"] = rows[0][0].dtype
    return text, seen


def _draw(
    journey: Journey, inferencer: AutoInterleavedInferencer, text: Context, seen: Context
) -> None:
    shape = inferencer.image_shape
    three = inferencer.draw_latent(shape, seen, text, inferencer.new_context(), OPTIONS)
    journey.watch("first step", lambda: next(three))
    step = journey.watch("step", lambda: next(three))
    three.close()
    journey.dtypes["latent"] = step.latent.dtype
    alone = replace(OPTIONS, cfg_text_scale=1.0)
    one = inferencer.draw_latent(shape, text, None, None, alone)
    with Watch():
        next(one)
    journey.count("evaluation", lambda: next(one))
    one.close()
    journey.count("decode", lambda: inferencer.decode_image(step.latent, shape))
    picture = journey.watch("decode", lambda: inferencer.decode_image(step.latent, shape))
    assert picture.size == PICTURE.size


def _write(journey: Journey, model: Bagel, seen: Context) -> None:
    def feed(tail: Tail, token: torch.Tensor) -> torch.Tensor:
        logits = feed_token(model, tail, token)
        journey.dtypes["logits"] = logits.dtype
        return logits

    tokens = decode(model, seen, 1, greedy, feed=feed)
    journey.watch("first token", lambda: next(tokens))
    journey.watch("token", lambda: next(tokens))
    sampled = choice(do_sample=True, top_p=0.9, top_k=20, repetition_penalty=1.1, temperature=0.5)
    drawn = replace(sampled, generator=torch.Generator(str(model.device)))
    tokens = decode(model, seen, 1, drawn, feed=feed)
    journey.watch("first sampled token", lambda: next(tokens))
    journey.watch("sampled token", lambda: next(tokens))


LAYERS = 28  # of the 7B; each adds as much as the one before
JOURNEYS: dict[str, Callable[[], Journey]] = {
    "one layer": cache(lambda: go("cuda:0", 1, counts=True)),
    "cuda": cache(lambda: go("cuda:0", 2, counts=True)),
    "two": cache(lambda: go("cuda:0", 6, halves=True)),
    "mps": cache(lambda: go("mps:0", 2)),
}


@pytest.fixture(autouse=True)
def _possible() -> None:
    try:
        with fake_devices():
            pass
    except UnavailableError as error:
        pytest.skip(str(error))


def of_the_7b(amount: Callable[[Journey], float]) -> float:
    """Carry an amount on to all layers."""
    one, two = amount(JOURNEYS["one layer"]()), amount(JOURNEYS["cuda"]())
    return one + (LAYERS - 1) * (two - one)


@pytest.fixture(params=["cuda", "two", "mps"])
def journey(request: pytest.FixtureRequest) -> Journey:
    return JOURNEYS[request.param]()


def test_keys_lie_where_their_layer_does() -> None:
    assert JOURNEYS["cuda"]().homes == 2 * ["cuda:0"]
    assert JOURNEYS["two"]().homes == 3 * ["cuda:0"] + 3 * ["cuda:1"]
    assert JOURNEYS["mps"]().homes == 2 * ["mps:0"]


def test_dtypes_are_as_meant(journey: Journey) -> None:
    """The model computes in bfloat16; only the state of a picture is float32."""
    half, full = torch.bfloat16, torch.float32
    assert journey.dtypes == {"keys": half, "latent": full, "logits": half}
    for name, watch in journey.watched.items():
        assert set(watch.products) == {half}, name


@pytest.mark.parametrize("name", ["step"])
def test_nothing_is_copied_to_or_from_the_host_in_a_step(journey: Journey, name: str) -> None:
    watch = journey.watched[name]
    assert [c for c in watch.crossings if "cpu" in (c.source, c.target)] == []
    assert watch.waits == 0


@pytest.mark.parametrize("name", ["token", "sampled token"])
def test_a_tokens_id_alone_comes_to_the_host(journey: Journey, name: str) -> None:
    crossings = journey.watched[name].crossings
    of_the_host = [c for c in crossings if "cpu" in (c.source, c.target)]
    assert [(c.target, c.nbytes, c.waits) for c in of_the_host] == [("cpu", 8, True)]


def test_what_is_read_crosses_once_and_nothing_else_does(journey: Journey) -> None:
    sides = {"read": 1, "encode": 1, "latent": 2, "vision": 3, "first step": 3}
    for name, expected in sides.items():
        into = [c for c in journey.watched[name].crossings if c.source == "cpu"]
        assert len(into) == expected, (name, into)


def test_angles_are_fetched_once_by_a_second_device() -> None:
    """Hooks fetched them for every layer there: 28 copies a token of the 7B in two halves."""
    watch = JOURNEYS["two"]().watched["token"]
    between = [c for c in watch.crossings if (c.source, c.target) == ("cuda", "cuda")]
    # The hidden states, the angles for the hook of the first layer there and for those after it,
    # and the id that was picked.
    assert len(between) == 1 + 2 + 2 + 1
    assert not any(c.waits for c in between)


def test_the_7b_takes_the_flops_that_were_worked_out() -> None:
    expected = {"evaluation": 60.3, "decode": 10.5, "encode": 4.9, "vision": 6.9}
    assert set(JOURNEYS["cuda"]().flops) == set(expected)
    for name, tera in expected.items():
        assert round(of_the_7b(lambda journey, name=name: journey.flops[name]), 1) == tera


def test_the_7b_takes_the_memory_that_was_worked_out() -> None:
    journey = JOURNEYS["cuda"]()
    assert journey.length == 64 + 2 + 64 * 64 + 2 + 70 * 70
    nbytes = of_the_7b(lambda journey: journey.nbytes)
    assert journey.length * 57_344 <= nbytes <= (journey.length + 1088) * 57_344
    read = journey.watched["token"].product_bytes
    assert abs(read / journey.weights - 1) < 0.001, "a token reads each weight of the text once"
    assert round(of_the_7b(lambda journey: journey.weights) / 1e9, 2) == 14.14


LOOP = {
    "protocol": "every-block",
    "max_text_length": 3,
    "max_interleaved_blocks": 2,
    "num_timesteps": 3,
    "image_shape": (256, 256),
    "seed": 0,
}


@pytest.mark.parametrize("device", ["cuda:0", "mps:0"])
def test_the_whole_loop_runs_where_nothing_is_computed(device: str) -> None:
    with fake_devices(), Watch():
        inferencer = build(device, 1)
        prompt = [Image.new("RGB", (64, 64)), "A fox."]
        output = inferencer.auto_interleaved_generation(prompt, on_error="raise", **LOOP)
        batch = inferencer.generate_batch(["A fox.", "A bear."], **LOOP, do_sample=True)
    assert [type(item) for item in output] == [str, Image.Image] * 2
    assert [other.error for other in batch] == [None, None]
    assert [len(other.images) for other in batch] == [2, 2]


def test_what_meets_across_devices_is_refused() -> None:
    """The means of this file see what they are there for."""
    with fake_devices():
        inferencer = build("cuda:0", 1)
        inferencer.model.latent_pos_embed.to("cuda:1")
        layer = inferencer.model.language_model.model.layers[0].self_attn
        layer._modules["q_proj"] = nn.Linear(3584, 3584, device="cuda:1", dtype=torch.bfloat16)
        with Watch(), pytest.raises(RuntimeError, match="found at least two devices"):
            inferencer.read_ids(PROMPT, inferencer.new_context())


def test_afterwards_there_is_no_such_device() -> None:
    with fake_devices():
        torch.zeros(1, device="cuda:0")
    if not torch.version.cuda:
        with pytest.raises((RuntimeError, AssertionError), match="CUDA"):
            torch.zeros(1, device="cuda:0")
    assert torch.Generator("cpu").device.type == "cpu"
