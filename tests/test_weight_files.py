"""What a file of weights is called inside, and what it is where it is no whole model."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modeling.checkpoint import load_checkpoint
from modeling.checkpoint.names import plain
from tests.checkpoints import (
    GOLDEN_CHECKPOINT,
    copy_checkpoint,
    golden_weights,
    save,
    save_shards,
)
from tests.conftest import golden_json

Weights = dict[str, Tensor]
LAYER = "language_model.model.layers.0"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path / "checkpoint")


def says(directory: Path, error: type[Exception], *parts: str) -> None:
    with pytest.raises(error) as info:
        load_checkpoint(directory)
    message = str(info.value)
    assert re.search(".*".join(map(re.escape, parts)), message), message


def assert_golden_weights(directory: Path) -> None:
    parameters = dict(load_checkpoint(directory).model.named_parameters())
    for name, weight in golden_weights().items():
        assert torch.equal(parameters[name], weight)


# Prefixes.


PREFIXES = ("_orig_mod.", "module.", "model.", "bagel.", "module._orig_mod.", "bagel.model.module.")


def test_every_name_is_read_without_what_wrappers_put_before_it() -> None:
    for name in golden_json("manifest_7b")["bagel"]:
        assert plain(name) == name
        for prefix in PREFIXES:
            assert plain(prefix + name) == name


def test_names_are_read_without_what_wrappers_put_between_their_parts() -> None:
    inside = f"_fsdp_wrapped_module.{LAYER}._orig_mod.mlp._checkpoint_wrapped_module.up_proj.weight"
    assert plain(inside) == f"{LAYER}.mlp.up_proj.weight"


def test_names_of_other_models_are_left_as_they_are() -> None:
    for name in ("model.layers.0.mlp.up_proj.weight", "ema.llm2vae.bias", "module", "model.", ""):
        assert plain(name) == name


def test_a_file_of_wrapped_names_loads_whatever_the_mixture(directory: Path) -> None:
    weights = {
        PREFIXES[index % len(PREFIXES)] + name if index % 7 else name: weight
        for index, (name, weight) in enumerate(golden_weights().items())
    }
    save(weights, directory / "ema.safetensors")
    assert_golden_weights(directory)
    save_shards(weights, directory)
    assert_golden_weights(directory)


def test_two_names_of_one_tensor_are_refused(directory: Path) -> None:
    weights = golden_weights()
    save(
        {**weights, "module.llm2vae.bias": weights["llm2vae.bias"].clone()},
        directory / "ema.safetensors",
    )
    says(directory, ValueError, "same tensor twice, as llm2vae.bias and as module.llm2vae.bias")


# Other files.


def lora(weights: Weights) -> Weights:
    names = [name for name in weights if name.endswith("_proj.weight")]
    return {f"base_model.model.{name}.lora_A.weight": torch.ones(2, 2) for name in names}


def in_fp8(weights: Weights) -> Weights:
    return {n: w.to(torch.float8_e4m3fn) if w.ndim == 2 else w for n, w in weights.items()}


def language_model_alone(weights: Weights) -> Weights:
    start = "language_model."
    return {n[len(start) :]: w for n, w in weights.items() if n.startswith(start)}


CONTENTS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "adapter": (lora, "it is a LoRA or similar adapter, not a whole model"),
    "adapter among weights": (
        lambda w: {**w, f"{LAYER}.mlp.up_proj.lora_A.default.weight": torch.ones(2, 2)},
        "it is a LoRA or similar adapter",
    ),
    "fp8": (in_fp8, "it is stored in fp8 (connector.fc1.weight: F8_E4M3); take the bfloat16 file"),
    "nf4": (
        lambda w: {**w, "llm2vae.weight.absmax": torch.ones(1)},
        "it is quantised to 4 bits by bitsandbytes",
    ),
    "int8": (
        lambda w: {**w, "llm2vae.SCB": torch.ones(1)},
        "it is quantised to 8 bits by bitsandbytes",
    ),
    "gptq": (
        lambda w: {**w, f"{LAYER}.mlp.up_proj.qweight": torch.ones(1)},
        "it is quantised by GPTQ or AWQ",
    ),
    "optimizer": (
        lambda w: {f"state.{n}.exp_avg": torch.ones(1) for n in w},
        "it is the state of an optimizer; give the file of the model",
    ),
    "nothing": (lambda _: {}, "it holds no tensors"),
    "qwen": (language_model_alone, "it is a language model alone"),
    "strangers": (lambda _: {"a.b": torch.ones(1)}, "none of its 1 tensors is a BAGEL model's"),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_of_other_tensors_says_what_it_is(directory: Path, content: str) -> None:
    change, said = CONTENTS[content]
    save(change(golden_weights()), directory / "ema.safetensors")
    parts = said.split("; ")
    says(directory, ValueError, f"{directory / 'ema.safetensors'} is no BAGEL model", *parts)


BYTES = {
    "GGUF": (b"GGUF\x03\0\0\0", "it is a GGUF file, which is for llama.cpp"),
    "zip": (b"PK\x03\x04" + b"\0" * 99, "it is a PyTorch file (pickle); convert it once"),
    "pickle": (b"\x80\x02}q\0.", "it is a PyTorch file (pickle); convert it once"),
    "page": (b"<!DOCTYPE html><html>", "it is a web page; download the file itself"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
    "gzip": (b"\x1f\x8b" + b"\0" * 99, "it is a gzip archive; unpack it first"),
    "zeros": (b"\0" * 999, "it is nothing but zeros at its beginning"),
}


@pytest.mark.parametrize("content", BYTES)
def test_a_file_of_another_format_says_what_it_is(directory: Path, content: str) -> None:
    written, said = BYTES[content]
    (directory / "ema.safetensors").write_bytes(written)
    says(directory, ValueError, "ema.safetensors is not a whole safetensors file", said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "it does have pytorch_model.bin: it is a PyTorch file"),
        ("bagel.pt", "it does have bagel.pt: it is a PyTorch file"),
        ("optimizer.00000-of-00008.pt", "it is a state of training saved by PyTorch, not a model"),
        ("pytorch_model.bin.index.json", "it is an index of shards of another format"),
    ],
)
def test_a_directory_without_safetensors_says_what_it_has_instead(
    directory: Path, name: str, said: str
) -> None:
    (directory / "ema.safetensors").unlink()
    torch.save({}, directory / name)
    says(directory, FileNotFoundError, "holds no weights", said)


def test_a_directory_around_the_checkpoint_says_where_it_is(directory: Path) -> None:
    says(directory.parent, FileNotFoundError, f"but {directory} does: give that directory")


# Another checkpoint lends what is not there.


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What training saves: the weights that it changed, under its wrapper's names."""
    directory = tmp_path / "trained"
    directory.mkdir()
    changed = {n: -w for n, w in golden_weights().items() if not n.startswith("vit_model.")}
    save(
        {f"module.{name}": weight for name, weight in changed.items()},
        directory / "model.safetensors",
    )
    return directory


def test_what_a_training_folder_lacks_comes_from_its_base(trained: Path) -> None:
    checkpoint = load_checkpoint(trained, base=GOLDEN_CHECKPOINT)
    for name, parameter in checkpoint.model.named_parameters():
        weight = golden_weights()[name]
        assert torch.equal(parameter, weight if name.startswith("vit_model.") else -weight)
    assert checkpoint.new_token_ids == golden_json("config")["new_token_ids"]


def test_what_is_there_goes_before_the_base(trained: Path, directory: Path) -> None:
    (directory / "bagel_config.json").write_text('{"image_shape": [48, 80]}')
    assert load_checkpoint(trained, base=directory).settings == {"image_shape": [48, 80]}
    (trained / "bagel_config.json").write_text('{"image_shape": [80, 48]}')
    assert load_checkpoint(trained, base=directory).settings == {"image_shape": [80, 48]}
    (trained / "llm_config.json").write_text("{")  # broken is not absent
    with pytest.raises(ValueError, match=re.escape(f"{trained / 'llm_config.json'} is not valid")):
        load_checkpoint(trained, base=directory)


def test_without_a_base_everything_that_lacks_is_named_at_once(trained: Path) -> None:
    names = ("ae.safetensors", "llm_config.json", "vit_config.json", "vocab.json", "base=")
    says(trained, FileNotFoundError, *names)
    for name in (
        "ae.safetensors",
        "llm_config.json",
        "vit_config.json",
        "vocab.json",
        "merges.txt",
    ):
        shutil.copyfile(GOLDEN_CHECKPOINT / name, trained / name)
    says(trained, ValueError, "are missing: vit_model.* (37 tensors)", "base=")


def test_what_neither_has_is_missing_and_strange_tensors_stay_strange(
    trained: Path, directory: Path
) -> None:
    weights = golden_weights()
    kept = {n: w for n, w in weights.items() if not n.startswith("vit_model.")}
    save({**kept, "llm2vae.extra": torch.ones(1)}, trained / "model.safetensors")
    save(kept, directory / "ema.safetensors")
    with pytest.raises(ValueError, match=r"vit_model\.\* \(37 tensors\).*model's: llm2vae.extra"):
        load_checkpoint(trained, base=directory)


def test_a_base_that_is_not_there_is_named_as_the_base(trained: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^base='nowhere': no checkpoint directory"):
        load_checkpoint(trained, base="nowhere")
