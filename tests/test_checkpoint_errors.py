"""What is wrong with a checkpoint is said at once: which file, what about it, what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.checkpoint import load_checkpoint
from modeling.checkpoint.settings import SETTINGS_FILE
from tests.checkpoints import (
    GOLDEN_CHECKPOINT,
    change_json,
    copy_checkpoint,
    golden_weights,
    save,
    save_shards,
)

LAYERS = "language_model.model.layers"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path / "checkpoint")


def refuses(
    directory: Path, error: type[Exception], *parts: str, **options: Any
) -> pytest.ExceptionInfo[Exception]:
    """Check that loading says all parts, in this order."""
    pattern = "(?s)" + ".*".join(re.escape(part) for part in parts)
    with pytest.raises(error, match=pattern) as info:
        load_checkpoint(directory, **options)
    return info


@pytest.mark.parametrize(
    "name",
    ["llm_config.json", "vit_config.json", "ae.safetensors", "vocab.json", "merges.txt"],
)
def test_an_absent_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    refuses(directory, FileNotFoundError, name)


def test_an_absent_configuration_can_be_had_from_the_base_checkpoint(directory: Path) -> None:
    (directory / "llm_config.json").unlink()
    refuses(directory, FileNotFoundError, "copy it from", "BAGEL-7B-MoT")


def test_a_directory_without_weights_says_what_they_may_be_called(directory: Path) -> None:
    (directory / "ema.safetensors").unlink()
    refuses(directory, FileNotFoundError, "holds no weights", "ema.safetensors")


def test_several_files_that_may_be_the_weights_are_listed(directory: Path) -> None:
    (directory / "ema.safetensors").rename(directory / "first.safetensors")
    save(golden_weights(), directory / "second.safetensors")
    refuses(directory, ValueError, "first.safetensors, second.safetensors", "give the path")


def test_a_path_that_leads_nowhere_is_no_hub_id() -> None:
    for path in ("./nowhere/bagel", Path("nowhere/bagel")):
        refuses(path, FileNotFoundError, "no checkpoint directory at", "hub id")


def test_a_hub_id_that_was_never_downloaded_is_named(tmp_path: Path) -> None:
    options = {"local_files_only": True, "cache_dir": tmp_path}
    refuses("somebody/nothing", FileNotFoundError, "somebody/nothing", "download it", **options)


def test_broken_json_is_named(directory: Path) -> None:
    (directory / "vit_config.json").write_text("{")
    refuses(directory, ValueError, "vit_config.json is not valid JSON")
    (directory / "vit_config.json").write_text("[]")
    refuses(directory, ValueError, "vit_config.json must hold a JSON object, got list")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1000],
        lambda content: content[:5000],
        lambda content: b"version https://git-lfs.github.com/spec/v1\nsize 29214518752\n",
        lambda content: b"",
    ],
    ids=["cut short", "cut in its header", "a pointer", "empty"],
)
@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_damaged_file_is_named(
    directory: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = directory / name
    path.write_bytes(damage(path.read_bytes()))
    refuses(directory, ValueError, f"{path} is not a whole safetensors file", "again")


def test_a_file_of_another_kind_is_named(directory: Path) -> None:
    torch.save(golden_weights(), directory / "pytorch_model.bin")
    path = directory / "pytorch_model.bin"
    refuses(path, ValueError, "pytorch_model.bin is not a whole safetensors file")


def test_missing_tensors_are_listed(directory: Path) -> None:
    weights = golden_weights()
    del weights[f"{LAYERS}.1.mlp.up_proj.weight"], weights["llm2vae.bias"]
    save(weights, directory / "ema.safetensors")
    refuses(
        directory,
        ValueError,
        "ema.safetensors does not fit its model",
        f"are missing: {LAYERS}.1.mlp.up_proj.weight, llm2vae.bias",
    )


def test_a_file_without_vision_encoder_is_told_where_to_find_one(directory: Path) -> None:
    weights = {n: w for n, w in golden_weights().items() if not n.startswith("vit_model.")}
    save(weights, directory / "ema.safetensors")
    info = refuses(directory, ValueError, "vit_model.* (37 tensors)", "BAGEL-7B-MoT")
    assert "vision_model" not in str(info.value)


def test_a_vision_encoder_with_too_few_layers_is_not_whole(directory: Path) -> None:
    change_json(directory / "vit_config.json", num_hidden_layers=5)
    refuses(directory, ValueError, "are missing", "vision_model.encoder.layers.2.layer_norm1.bias")


def test_very_many_missing_tensors_are_counted(directory: Path) -> None:
    weights = {n: w for n, w in golden_weights().items() if f"{LAYERS}.2" not in n}
    save(weights, directory / "ema.safetensors")
    refuses(directory, ValueError, f"{LAYERS}.2.input_layernorm.weight", "and 8 more")


def test_unexpected_tensors_are_listed(directory: Path) -> None:
    strange = {"optimizer.step": torch.ones(2), "optimizer.mean": torch.ones(2)}
    weights = {**golden_weights(), **strange, f"{LAYERS}.9.extra": torch.ones(1)}
    save(weights, directory / "ema.safetensors")
    listed = f"are not the model's: {LAYERS}.9.extra, optimizer.* (2 tensors)"
    refuses(directory, ValueError, listed)


def test_wrong_shapes_are_listed_with_the_right_ones(directory: Path) -> None:
    change_json(directory / "llm_config.json", intermediate_size=96)
    refuses(
        directory,
        ValueError,
        f"{LAYERS}.0.mlp.down_proj.weight: found (64, 160), expected (64, 96)",
        "llm_config.json",
    )


def test_a_shard_with_a_wrong_tensor_is_named(directory: Path) -> None:
    weights = {**golden_weights(), "llm2vae.bias": torch.ones(3)}
    save_shards(weights, directory)
    refuses(directory, ValueError, "llm2vae.bias in model-0000", "found (3,), expected (16,)")


def test_a_stored_table_of_another_size_than_the_settings_is_named(directory: Path) -> None:
    weights = {**golden_weights(), "latent_pos_embed.pos_embed": torch.ones(64, 64)}
    save(weights, directory / "ema.safetensors")
    settings = {"bagel": {"max_latent_size": 16}}
    found = "latent_pos_embed.pos_embed: found (64, 64), expected (256, 64)"
    refuses(directory, ValueError, found, settings=settings)


def test_weights_that_are_quantised_already_are_refused(directory: Path) -> None:
    weights = {**golden_weights(), "llm2vae.bias": torch.ones(16, dtype=torch.int8)}
    save(weights, directory / "ema.safetensors")
    refuses(directory, ValueError, "cannot be loaded: llm2vae.bias: I8", "quantise")


def test_an_index_without_a_map_is_named(directory: Path) -> None:
    index = save_shards(golden_weights(), directory)
    index.write_text("{}")
    refuses(directory, ValueError, "model.safetensors.index.json has no weight_map")


def test_absent_shards_are_named(directory: Path) -> None:
    save_shards(golden_weights(), directory)
    (directory / "model-00002-of-00003.safetensors").unlink()
    refuses(directory, FileNotFoundError, "not there: model-00002-of-00003.safetensors")


def test_an_index_of_other_shards_is_named(directory: Path) -> None:
    index = save_shards(golden_weights(), directory)
    content = json.loads(index.read_text())
    content["weight_map"]["llm2vae.scale"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    refuses(directory, ValueError, "llm2vae.scale (model-00001-of-00003.safetensors)")


def test_a_tokenizer_that_outgrows_the_embedding_is_refused(directory: Path) -> None:
    for path in (directory / "tokenizer_config.json", directory / "merges.txt"):
        path.write_text(path.read_text().replace("<|vision_end|>", "<|never_seen|>"))
    refuses(directory, ValueError, "has 505 tokens", "embeds only 504", "copy the tokenizer")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vae_transfrom": [1, 1, 1]}, "no setting 'vae_transfrom'; did you mean 'vae_transform'"),
        ({"bagel": {"max_latent": 16}}, "did you mean 'bagel.max_latent_size'"),
        ({"bagel": {"max_latent_size": 1.5}}, "bagel.max_latent_size must be a positive whole"),
        ({"bagel": {"max_latent_size": True}}, "bagel.max_latent_size must be a positive whole"),
        ({"bagel": {"timestep_shift": 0}}, "bagel.timestep_shift must be a number above 0, got 0"),
        ({"bagel": {"interpolate_pos": 1}}, "bagel.interpolate_pos must be true or false, got 1"),
        ({"bagel": {"connector_act": 3}}, "bagel.connector_act must be a string, got 3"),
        ({"bagel": 3}, "no setting 'bagel'"),
        ({"autoencoder": {"shift_factor": float("nan")}}, "shift_factor must be a finite number"),
        ({"image_shape": [48]}, "image_shape must be [height, width] in pixels, got [48]"),
        ({"vit_transform": [112, 28]}, "vit_transform must be [largest side, smallest side"),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(
    directory: Path, settings: dict[str, Any], said: str
) -> None:
    refuses(directory, ValueError, "settings: ", said, settings=settings)
    (directory / SETTINGS_FILE).write_text(json.dumps(settings))
    refuses(directory, ValueError, f"{directory / SETTINGS_FILE}: ", said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bagel": {"connector_act": "glue"}}, "connector_act must be an activation"),
        ({"vae_transform": [120, 40, 20]}, "must be a multiple of the model's 16, got 20"),
        ({"vae_transform": [128, 256, 16]}, "vae_transform [128, 256, 16]: min_image_size"),
    ],
)
def test_a_setting_that_the_model_cannot_have_is_named(
    directory: Path, settings: dict[str, Any], said: str
) -> None:
    refuses(directory, ValueError, said, settings=settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": torch.int8}, "dtype must be None or one of"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"device_map": "cuda"}, "for a single device use device='cuda'"),
        ({"max_memory": {"cpu": "1GiB"}}, "give device_map='auto' too"),
        ({"device_map": {"vit_modle": "cpu", "": "cpu"}}, "no module 'vit_modle'; did you mean"),
        ({"device_map": {"vit_model": "cpu"}}, "no entry for language_model.model.embed_tokens"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    refuses(GOLDEN_CHECKPOINT, ValueError, said, **options)
