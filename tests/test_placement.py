"""Weights on several devices, on disk or quantised compute what they always computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modeling.bagel import Bagel
from modeling.bagel.bagel import execution_device
from modeling.bagel.drawing import draw
from modeling.checkpoint import Checkpoint
from modeling.flow import ImageOptions
from tests.checkpoints import (
    assert_golden_answers,
    copy_checkpoint,
    golden_weights,
    inferencer_of,
    load_golden_checkpoint,
)
from tests.conftest import golden_tensors

LAYERS = "language_model.model.layers"
MARKERS = (502, 503)
MIXED = {"": "cpu", f"{LAYERS}.1": "disk", f"{LAYERS}.2.mlp": "disk", "vit_model": "disk"}


def resident_bytes(model: Bagel) -> int:
    """Count the parameters that are not left elsewhere."""
    parameters = (p for p in model.parameters() if not p.is_meta)
    return sum(p.numel() * p.element_size() for p in parameters)


@pytest.mark.parametrize(
    "device_map",
    [{"": "cpu"}, {"": torch.device("cpu")}, {"": "disk"}, MIXED, "auto", "sequential"],
    ids=["cpu", "device", "disk", "mixed", "auto", "sequential"],
)
def test_every_device_map_gives_the_golden_answers(device_map: Any) -> None:
    checkpoint = load_golden_checkpoint(device_map=device_map)
    assert checkpoint.model.device.type == "cpu"
    assert_golden_answers(inferencer_of(checkpoint), "edit", "think")


def test_what_is_left_on_disk_may_be_copied_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "offload"
    checkpoint = load_golden_checkpoint(device_map=MIXED, offload_folder=folder)
    copied = {path.stem for path in folder.glob("*.dat")}
    assert copied == {
        name
        for name in golden_weights()
        if name.startswith((f"{LAYERS}.1.", f"{LAYERS}.2.mlp.", "vit_model."))
    }
    assert_golden_answers(inferencer_of(checkpoint), "understand")


def test_what_is_left_on_disk_is_not_in_memory() -> None:
    assert resident_bytes(load_golden_checkpoint(device_map={"": "disk"}).model) == 0
    mixed, whole = (
        resident_bytes(load_golden_checkpoint(**o).model) for o in ({"device_map": MIXED}, {})
    )
    assert 0 < mixed < whole


def test_an_automatic_map_keeps_to_the_memory_it_is_given() -> None:
    memory = {"cpu": 600_000}
    checkpoint = load_golden_checkpoint(device_map="auto", max_memory=memory)
    assert "disk" in checkpoint.model.hf_device_map.values()
    assert 0 < resident_bytes(checkpoint.model) < 600_000
    assert_golden_answers(inferencer_of(checkpoint), "text_to_image")


def test_another_dtype_reaches_what_is_left_on_disk(tmp_path: Path) -> None:
    whole = load_golden_checkpoint(dtype=torch.bfloat16)
    for options in ({}, {"offload_folder": tmp_path}):
        left = load_golden_checkpoint(dtype=torch.bfloat16, device_map={"": "disk"}, **options)
        assert left.model.dtype == torch.bfloat16
        assert torch.equal(prompt_logits(left.model), prompt_logits(whole.model))
    copied = sum(path.stat().st_size for path in tmp_path.glob("*.dat"))
    assert copied == 2 * sum(weight.numel() for weight in golden_weights().values())


def test_stored_position_tables_are_used_under_a_device_map(tmp_path: Path) -> None:
    table = torch.randn(16 * 16, 64)
    weights = {**golden_weights(), "latent_pos_embed.pos_embed": table}
    directory = copy_checkpoint(tmp_path / "checkpoint", weights)
    model = load_golden_checkpoint(directory, device_map={"": "disk"}).model
    assert torch.equal(model.latent_pos_embed(torch.tensor([3])), table[[3]])


def prompt_logits(model: Bagel) -> Tensor:
    ids = golden_tensors("text_prefill")["prompt_ids"].tolist()
    _, hidden = model.read(model.new_context(), model.text_block([500, *ids, 501]))
    return model.logits(hidden)


class TestAMainDevice:
    """The meta device stands for an accelerator: it has no values, but minds where operands are."""

    @pytest.fixture
    def checkpoint(self) -> Checkpoint:
        kept = torch.device("cpu")
        device_map = {"": "meta", "vit_model": kept, f"{LAYERS}.1": "cpu", f"{LAYERS}.2": "disk"}
        return load_golden_checkpoint(device_map=device_map)

    def test_is_where_tokens_enter_and_the_autoencoder_is(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.model.device.type == checkpoint.vae_model.device.type == "meta"
        assert (
            execution_device(checkpoint.model.vit_model.vision_model.post_layernorm).type == "meta"
        )

    def test_reads_and_draws_with_weights_from_cpu_and_disk(self, checkpoint: Checkpoint) -> None:
        model = checkpoint.model
        text, hidden = model.read(model.new_context(), model.text_block([500, 1, 2, 501]))
        seen, _ = model.read(text, model.vit_block(torch.zeros(3, 28, 42), MARKERS))
        full, _ = model.read(seen, model.latent_block(torch.zeros(15, 16), (3, 5), MARKERS))
        *_, last = draw(
            model,
            full=full,
            without_text=text,
            without_images=seen,
            noise=torch.zeros(15, 16),
            grid=(3, 5),
            markers=MARKERS,
            options=ImageOptions(num_timesteps=3, cfg_text_scale=4.0, cfg_img_scale=1.5),
        )
        assert model.logits(hidden).device.type == last.latent.device.type == "meta"
        for layer in range(3):
            keys, values = full.rows(layer)
            assert keys.device.type == values.device.type == "meta"

    def test_keeps_together_what_is_added_up(self) -> None:
        device_map = {"": "cpu", "language_model.model.embed_tokens": "meta"}
        model = load_golden_checkpoint(device_map=device_map).model
        moved = {name for name, device in model.hf_device_map.items() if device == "meta"}
        assert moved == {
            "language_model.model.embed_tokens",
            "time_embedder",
            "latent_pos_embed",
            "vae2llm",
            "llm2vae",
            "connector",
            "vit_pos_embed",
        }


class EightBitLinear(nn.Module):
    """A linear layer as quantisers leave it: no floating point weight to take a dtype from."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        quantised = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(quantised, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, (self.weight * self.scale).to(x.dtype), self.bias)


def test_a_model_whose_linear_layers_were_replaced_still_answers() -> None:
    """bitsandbytes swaps every `nn.Linear`, the vocabulary head and the connector among them."""
    plain, checkpoint = load_golden_checkpoint(), load_golden_checkpoint()
    for module in list(checkpoint.model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, EightBitLinear(child))
    assert checkpoint.model.dtype == torch.float32
    close = functional.cosine_similarity(
        prompt_logits(checkpoint.model), prompt_logits(plain.model), dim=-1
    )
    assert close.min() > 0.99
    inferencer = inferencer_of(checkpoint)
    image = inferencer_of(plain).interleave_inference(
        ["a robot"], num_timesteps=4, image_shapes=(48, 80)
    )[0]
    assert inferencer.interleave_inference([image, "darker"], num_timesteps=4)[0].size == (80, 48)
    assert isinstance(
        inferencer.interleave_inference(
            [image, "what?"], understanding_output=True, max_think_token_n=4
        )[0],
        str,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_with_weights_from_cpu_and_disk_gives_the_golden_answers() -> None:
    device_map = {"": 0, "vit_model": "cpu", f"{LAYERS}.1": "cpu", f"{LAYERS}.2": "disk"}
    assert_golden_answers(inferencer_of(load_golden_checkpoint(device_map=device_map)), "edit")
    assert_golden_answers(inferencer_of(load_golden_checkpoint(device=0)), "edit")
