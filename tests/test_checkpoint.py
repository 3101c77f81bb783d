"""A directory or hub id becomes a model with all around it, whatever its files are called."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn

from modeling.autoencoder import AutoEncoder, AutoEncoderParams
from modeling.bagel import BagelConfig, Qwen2Config, SiglipVisionConfig
from modeling.checkpoint import load_checkpoint
from modeling.checkpoint.files import locate
from modeling.checkpoint.model import empty_model
from modeling.checkpoint.settings import SETTINGS_FILE
from modeling.checkpoint.weights import open_weights
from tests.builders import toy_bagel
from tests.checkpoints import (
    GOLDEN_CHECKPOINT,
    assert_golden_answers,
    change_json,
    copy_checkpoint,
    golden_settings,
    golden_weights,
    inferencer_of,
    load_golden_checkpoint,
    save,
    save_shards,
)
from tests.conftest import golden_json, golden_tensors


def assert_same_weights(model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    assert parameters.keys() == golden_weights().keys()
    for name, weight in golden_weights().items():
        assert torch.equal(parameters[name], weight)


def in_bfloat16() -> dict[str, torch.Tensor]:
    return {name: weight.bfloat16() for name, weight in golden_weights().items()}


def test_the_golden_checkpoint_gives_the_golden_answers() -> None:
    checkpoint = load_golden_checkpoint()
    assert checkpoint.new_token_ids == golden_json("config")["new_token_ids"]
    assert not checkpoint.model.training
    assert not checkpoint.vae_model.training
    assert_golden_answers(inferencer_of(checkpoint))


@pytest.mark.parametrize(
    "name",
    ["ema.safetensors", "model.safetensors", "model_bf16.safetensors", "step_100.safetensors"],
)
def test_weights_are_found_under_any_of_the_usual_names(tmp_path: Path, name: str) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    (directory / "ema.safetensors").rename(directory / name)
    assert_same_weights(load_checkpoint(directory).model)


def test_shards_are_put_together_by_their_index(tmp_path: Path) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    index = save_shards(golden_weights(), directory)
    assert_same_weights(load_checkpoint(directory).model)
    assert_same_weights(load_checkpoint(index).model)


def test_averaged_weights_go_before_others_unless_a_file_is_named(tmp_path: Path) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    save(in_bfloat16(), directory / "model.safetensors")
    assert load_checkpoint(directory).model.dtype == torch.float32
    assert load_checkpoint(directory / "model.safetensors").model.dtype == torch.bfloat16


def test_a_hub_id_is_looked_up_in_what_was_downloaded(tmp_path: Path) -> None:
    repository = tmp_path / "models--somebody--tiny-bagel"
    copy_checkpoint(repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    checkpoint = load_checkpoint("somebody/tiny-bagel", local_files_only=True, cache_dir=tmp_path)
    assert_same_weights(checkpoint.model)


def test_each_part_keeps_the_dtype_it_is_stored_in(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(copy_checkpoint(tmp_path / "checkpoint", in_bfloat16()))
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.bfloat16}
    assert checkpoint.vae_model.dtype == torch.float32


def test_a_wanted_dtype_goes_for_model_and_autoencoder() -> None:
    checkpoint = load_checkpoint(GOLDEN_CHECKPOINT, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in checkpoint.vae_model.parameters()} == {torch.bfloat16}


def test_a_file_of_two_dtypes_loads_in_the_one_of_most_bytes(tmp_path: Path) -> None:
    norms = {n: weight for n, weight in golden_weights().items() if "norm" in n}
    directory = copy_checkpoint(tmp_path / "checkpoint", {**in_bfloat16(), **norms})
    model = load_checkpoint(directory).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_absent_position_tables_are_computed() -> None:
    model = load_golden_checkpoint().model
    golden = golden_tensors("position_embeddings")
    for name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"):
        torch.testing.assert_close(model.get_buffer(name), golden[name], atol=2e-6, rtol=0)


def test_stored_position_tables_are_used_and_tell_their_size(tmp_path: Path) -> None:
    tables = {
        "latent_pos_embed.pos_embed": torch.randn(12 * 12, 64),
        "vit_pos_embed.pos_embed": torch.randn(8 * 8, 64),
    }
    directory = copy_checkpoint(tmp_path / "checkpoint", {**golden_weights(), **tables})
    model = load_checkpoint(directory).model
    assert model.config.max_latent_size == model.max_latent_size == 12
    for name, table in tables.items():
        assert torch.equal(model.get_buffer(name), table)
    assert torch.equal(
        model.latent_pos_embed(torch.tensor([7])), tables["latent_pos_embed.pos_embed"][[7]]
    )


@pytest.mark.parametrize("configured", [2, 3])
def test_the_configuration_may_count_one_vision_layer_too_many(
    tmp_path: Path, configured: int
) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    change_json(directory / "vit_config.json", num_hidden_layers=configured)
    model = load_checkpoint(directory).model
    assert len(model.vit_model.vision_model.encoder.layers) == 2


def test_an_autoencoder_of_another_size_is_read_off_its_tensors(tmp_path: Path) -> None:
    """Four times the channels in patches of half the side: tokens are as wide as before."""
    directory = copy_checkpoint(tmp_path / "checkpoint")
    params = AutoEncoderParams(
        ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=16, downsample=4
    )
    save(AutoEncoder(params).state_dict(), directory / "ae.safetensors")
    checkpoint = load_checkpoint(directory)
    assert checkpoint.vae_model.params == params
    assert checkpoint.model.config.latent_patch_size == 1
    assert checkpoint.model.latent_downsample == 4
    assert checkpoint.vae_transform.stride == 4


def test_without_settings_the_published_values_hold_as_far_as_the_tables_reach() -> None:
    checkpoint = load_checkpoint(GOLDEN_CHECKPOINT)
    config = checkpoint.model.config
    assert (config.latent_patch_size, config.max_latent_size) == (2, 64)
    assert config.vit_max_num_patch_per_side == 8  # 112 pixels of image, 14 a patch
    assert config.connector_act == "gelu_pytorch_tanh"
    vae, vit = checkpoint.vae_transform.resize_transform, checkpoint.vit_transform.resize_transform
    assert (vae.max_image_size, vae.min_image_size, vae.image_stride) == (1024, 512, 16)
    assert (vit.max_image_size, vit.min_image_size, vit.image_stride) == (112, 112, 14)
    assert checkpoint.settings == {}


def test_the_file_beside_the_weights_is_obeyed_and_the_caller_before_it(tmp_path: Path) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    stored = {
        **golden_settings(),
        "autoencoder": {"scale_factor": 0.5},
        "protocol": "native",
        "image_shape": [48, 80],
    }
    (directory / SETTINGS_FILE).write_text(json.dumps(stored))
    given = {"vae_transform": (64, 32, 16), "bagel": {"interpolate_pos": True}}
    checkpoint = load_checkpoint(directory, settings=given)
    assert checkpoint.model.config.max_latent_size == 16
    assert checkpoint.model.config.interpolate_pos
    assert checkpoint.vae_transform.resize_transform.max_image_size == 64
    assert checkpoint.vit_transform.resize_transform.max_image_size == 112
    assert checkpoint.vae_model.params.scale_factor == 0.5
    assert checkpoint.vae_model.params.shift_factor == 0.1159
    assert checkpoint.settings["protocol"] == "native"
    assert checkpoint.settings["image_shape"] == [48, 80]


def test_the_settings_name_the_dtype_unless_the_caller_does() -> None:
    settings = {"dtype": "bfloat16"}
    assert load_checkpoint(GOLDEN_CHECKPOINT, settings=settings).model.dtype == torch.bfloat16
    given = load_checkpoint(GOLDEN_CHECKPOINT, settings=settings, dtype=torch.float16)
    assert (given.model.dtype, given.vae_model.dtype) == (torch.float16, torch.float16)


def test_the_published_model_has_exactly_the_published_tensors() -> None:
    llm_config = Qwen2Config(
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
    )
    vit_config = SiglipVisionConfig(
        hidden_size=1152,
        num_hidden_layers=26,
        num_attention_heads=16,
        intermediate_size=4304,
        patch_size=14,
        image_size=980,
    )
    model = empty_model(
        BagelConfig(
            llm_config=llm_config,
            vit_config=vit_config,
            vae_config=AutoEncoderParams(),
            max_latent_size=64,
        )
    )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == golden_json("manifest_7b")["bagel"]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(table.is_meta for table in model.buffers())


def test_position_tables_are_real_where_all_else_is_on_meta() -> None:
    """Published scripts left them on meta with files that do not store them, and failed later."""
    with init_empty_weights(include_buffers=True):
        model = toy_bagel()
    assert all(parameter.is_meta for parameter in model.parameters())
    expected = toy_bagel().get_buffer("vit_pos_embed.pos_embed")
    assert torch.equal(model.get_buffer("vit_pos_embed.pos_embed"), expected)


def test_a_large_file_is_mapped_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "modeling.checkpoint.weights._PIECE_BYTES", 50_000
    )  # the largest tensor has 129,024
    assert_same_weights(load_checkpoint(GOLDEN_CHECKPOINT).model)


def test_training_a_loaded_model_leaves_its_file_as_it_is(tmp_path: Path) -> None:
    directory = copy_checkpoint(tmp_path / "checkpoint")
    before = (directory / "ema.safetensors").read_bytes()
    model = load_checkpoint(directory).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (directory / "ema.safetensors").read_bytes() == before


def test_a_state_dict_with_tables_loads_strictly_and_one_without_too(tmp_path: Path) -> None:
    model = load_golden_checkpoint().model
    table = torch.randn(16 * 16, 64)
    model.load_state_dict(golden_weights(), strict=True)
    model.load_state_dict({**golden_weights(), "latent_pos_embed.pos_embed": table}, strict=True)
    assert torch.equal(model.latent_pos_embed.pos_embed, table)
    with pytest.raises(ValueError, match=r"latent_pos_embed\.pos_embed must be \(256, 64\)"):
        model.load_state_dict(
            {**golden_weights(), "latent_pos_embed.pos_embed": table[:9]}, strict=True
        )


def test_only_wanted_tensors_are_mapped() -> None:
    weights = open_weights(locate(GOLDEN_CHECKPOINT).weights)
    wanted = ["llm2vae.bias", "language_model.model.embed_tokens.weight"]
    assert sorted(weights.read(wanted)) == sorted(wanted)
