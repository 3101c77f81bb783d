"""Low-rank changes are learnt beside weights, kept in peft's files, switched and merged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("peft", reason="peft is not installed (extra `train`)")

from peft import PeftModel
from peft.utils import get_peft_model_state_dict

from auto_interleaved_inference import AutoInterleavedInferencer
from data.packing import LatentPart, SpecialIds, TextPart, pack
from modeling.bagel import Bagel
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from modeling.checkpoint.adapters import adapter_names, add_adapters, merge_adapters, set_adapters
from modeling.cuda_graph import is_hooked
from modeling.linear import Linear
from picturebook.training.conversations import stories, write
from tests.builders import toy_bagel
from tests.checkpoints import change_json, copy_checkpoint, golden_settings
from train import main
from training.checkpointing import compute_again
from training.lora import add_lora
from training.merge import main as merge
from training.quantizing import quantize_layers
from training.task import FineTuning, Lora

SPECIAL = SpecialIds(bos=1, eos=2, start_of_image=3, end_of_image=4)
TEXT = [TextPart(ids=(5, 6, 7, 8), following=3), TextPart(ids=(9, 10))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, stories(Random("tests of adapters")), 4)
    return folder


@pytest.fixture(scope="module")
def adapter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "adapter"
    assert main([*flags(data, output), "--steps=2"]) == 0
    return output


def flags(data: Path, output: Path, *more: str) -> list[str]:
    """Return the flags of a small training of the bundled model."""
    size = ["--batch-tokens=300", "--lora-rank=2", "--learning-rate=1e-2"]
    return [f"--data={data}", f"--output={output}", "--device=cpu", *size, *more]


def logits(model: nn.Module) -> Tensor:
    """Return what a model says after a few tokens."""
    assert isinstance(model, Bagel)
    [(context, hidden)] = model.read_all([(model.new_context(), model.text_block([1, 5, 6, 2]))])
    return model.logits(hidden)


def scrambled(model: Bagel, lora: Lora, seed: int = 0) -> Any:
    """Put changes into a model that are not nothing."""
    wrapped = add_lora(model, lora)
    torch.manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return wrapped


# What is learnt.


def test_an_adapter_has_peft_s_files_and_the_checkpoint_stays(adapter: Path) -> None:
    names = {path.name for path in adapter.iterdir()}
    files = {"adapter_config.json", "adapter_model.safetensors", "README.md", "bagel_config.json"}
    assert names == {*files, "state"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 4, "LORA")
    assert config["base_model_name_or_path"] == str(BUNDLED_MODEL)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert any(tensor.any() for name, tensor in stored.items() if "lora_B" in name)
    assert 'adapter="' in (adapter / "README.md").read_text()


def test_a_state_holds_what_is_learnt_alone(adapter: Path) -> None:
    saved = load_file(adapter / "state" / "model.safetensors")
    stored = load_file(adapter / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in stored.values())


def test_an_adapter_s_training_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steady = ["--steps=4"]
    assert main([*flags(data, whole), *steady]) == 0
    assert main([*flags(data, parts), "--steps=2"]) == 0
    assert (parts / "state").is_dir()
    before = load_file(parts / "adapter_model.safetensors")
    assert main([*flags(data, parts), *steady]) == 0
    one, other = (load_file(p / "adapter_model.safetensors") for p in (whole, parts))
    assert one.keys() == other.keys()
    assert any(not torch.equal(before[name], other[name]) for name in other)
    # Learning rates fall towards the end, so that the first two steps differ; what was learnt not.
    same = nn.functional.cosine_similarity(flat(one), flat(other), dim=0)
    assert same > 0.99


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(
    ("targets", "number", "drawing"),
    [("text", 14, False), ("drawing", 14, True), ("both", 28, None)],
)
def test_targets_are_the_layers_of_one_side_or_of_both(
    targets: Any, number: int, drawing: bool | None
) -> None:
    model = toy_bagel()
    layers = len(model.language_model.model.layers)
    wrapped = add_lora(model, Lora(rank=2, targets=targets))
    learnt = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert len(learnt) == layers * number
    assert not any("vit_model" in name or "connector" in name for name in learnt)
    if drawing is not None:
        assert all(("_moe_gen" in name) == drawing for name in learnt)
    assert FineTuning(
        checkpoint=BUNDLED_MODEL, data="x", output=Path("y"), lora=Lora(rank=1, targets=targets)
    ).plan().mse_weight == (0 if targets == "text" else 1)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_changes_are_learnt_beside_quantised_weights(kind: Any, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    output = tmp_path / "output"
    assert main([*flags(data, output, f"--quantize={kind}"), "--steps=1"]) == 0
    stored = load_file(output / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in stored.items() if "lora_B" in name)
    assert all(tensor.isfinite().all() for tensor in stored.values())


def test_only_the_decoder_s_layers_are_quantised() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = load_checkpoint(BUNDLED_MODEL).model
    before = logits(model)
    quantize_layers(model, "nf4", torch.device("cpu"))
    decoder = model.language_model
    assert decoder.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert decoder.lm_head.weight.is_floating_point()
    assert isinstance(model.connector.fc1, Linear)
    assert nn.functional.cosine_similarity(logits(model), before, dim=-1).min() > 0.9


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = toy_bagel()
        if again:
            compute_again(model)
        latent = torch.randn(4, model.patch_latent_dim, generator=torch.Generator().manual_seed(1))
        parts = [*TEXT, LatentPart(latent=latent, grid=(2, 2), time=0.5)]
        losses = model(pack([parts], SPECIAL), torch.zeros(4, model.patch_latent_dim))
        (losses.ce.mean() + losses.mse.mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    one, other = gradients
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# What is loaded.


def test_an_adapter_is_loaded_switched_off_and_on(adapter: Path) -> None:
    plain = load_checkpoint(BUNDLED_MODEL).model
    inferencer = AutoInterleavedInferencer.from_pretrained(adapter=adapter)
    with_it = logits(inferencer.model)
    assert not torch.allclose(with_it, logits(plain), atol=1e-3)
    assert inferencer.adapters == ["adapter"]
    inferencer.set_adapters([])
    assert torch.equal(logits(inferencer.model), logits(plain))
    inferencer.set_adapters(["adapter"])
    assert torch.equal(logits(inferencer.model), with_it)
    assert inferencer.protocol.name == "native"
    assert not any(parameter.requires_grad for parameter in inferencer.model.parameters())


def test_merged_equals_unmerged_within_rounding(adapter: Path) -> None:
    inferencer = AutoInterleavedInferencer.from_pretrained(adapter=adapter)
    before = logits(inferencer.model)
    inferencer.merge_adapters()
    assert torch.allclose(logits(inferencer.model), before, atol=1e-4)
    plain = load_checkpoint(BUNDLED_MODEL).model
    assert inferencer.model.state_dict().keys() == plain.state_dict().keys()
    assert inferencer.adapters == []
    # Nothing is left that would keep a step from being recorded.
    assert not any(is_hooked(module) for module in inferencer.model.modules())


def test_several_adapters_add_up_and_one_may_count_alone(adapter: Path) -> None:
    both = load_checkpoint(BUNDLED_MODEL, adapter=[adapter, str(adapter)]).model
    assert adapter_names(both) == ["adapter", "adapter_2"]
    one = load_checkpoint(BUNDLED_MODEL, adapter=adapter).model
    assert not torch.allclose(logits(both), logits(one), atol=1e-3)
    twice = logits(both)
    set_adapters(both, ["adapter_2"])
    assert torch.allclose(logits(both), logits(one), atol=1e-5)
    set_adapters(both, ["adapter", "adapter_2"])
    assert torch.equal(logits(both), twice)
    merge_adapters(both)
    assert torch.allclose(logits(both), twice, atol=1e-4)


def test_adapters_of_both_sides_go_together(tmp_path: Path) -> None:
    """Each layer has the adapters that change it, and no other is asked of it."""
    folders = {}
    for seed, targets in enumerate(("text", "drawing")):
        torch.manual_seed(0)
        wrapped = scrambled(toy_bagel(), Lora(rank=2, targets=targets), seed)  # type: ignore[arg-type]
        wrapped.save_pretrained(str(tmp_path / targets))
        folders[targets] = tmp_path / targets
    torch.manual_seed(0)
    model = toy_bagel()
    plain = logits(model)
    add_adapters(model, folders)
    with_both = logits(model)
    set_adapters(model, ["drawing"])
    assert torch.equal(logits(model), plain)
    set_adapters(model, ["text"])
    assert torch.equal(logits(model), with_both)
    merge_adapters(model)
    assert torch.allclose(logits(model), with_both, atol=1e-4)


def test_peft_itself_reads_what_was_saved(adapter: Path) -> None:
    ours = load_checkpoint(BUNDLED_MODEL, adapter=adapter).model
    theirs = PeftModel.from_pretrained(load_checkpoint(BUNDLED_MODEL).model, str(adapter))
    assert torch.equal(logits(theirs.get_base_model()), logits(ours))
    stored = load_file(adapter / "adapter_model.safetensors")
    assert get_peft_model_state_dict(theirs).keys() == stored.keys()


def test_a_merged_checkpoint_is_a_checkpoint(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    assert (
        merge([f"--checkpoint={BUNDLED_MODEL}", f"--adapter={adapter}", f"--output={output}"]) == 0
    )
    beside = load_checkpoint(BUNDLED_MODEL, adapter=adapter).model
    # It is stored in bfloat16, as the bundled one is.
    assert torch.allclose(logits(load_checkpoint(output).model), logits(beside), atol=0.3)


# What is refused.


def test_what_is_no_adapter_of_this_checkpoint_is_told(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json; give the folder"):
        load_checkpoint(BUNDLED_MODEL, adapter=tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_checkpoint(BUNDLED_MODEL, adapter=tmp_path / "nothing")
    with pytest.raises(ValueError, match="names no folder"):
        load_checkpoint(BUNDLED_MODEL, adapter=[])
    with pytest.raises(TypeError, match="must be a path or a list of paths, got 3"):
        load_checkpoint(BUNDLED_MODEL, adapter=3)  # type: ignore[arg-type]
    golden = copy_checkpoint(tmp_path / "golden")
    (golden / "bagel_config.json").write_text("{}")
    change_json(golden / "bagel_config.json", **golden_settings())
    with pytest.raises(ValueError, match="does not fit this checkpoint"):
        load_checkpoint(golden, adapter=adapter)
    with pytest.raises(ValueError, match="merge it into the checkpoint first"):
        load_checkpoint(
            BUNDLED_MODEL, adapter=adapter, device_map={"": "cpu", "language_model.lm_head": "disk"}
        )


def test_fp8_does_not_go_with_adapters(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.checkpoint.load._check_fp8", lambda placement: None)
    with pytest.raises(ValueError, match=r"fp8=True does not go with adapter=; merge it"):
        load_checkpoint(BUNDLED_MODEL, adapter=adapter, fp8=True)


def test_without_peft_an_adapter_says_what_to_install(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="adapters need peft: pip install peft"):
        load_checkpoint(BUNDLED_MODEL, adapter=adapter)


def test_a_half_written_adapter_is_told(adapter: Path, tmp_path: Path) -> None:
    stored = load_file(adapter / "adapter_model.safetensors")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    save_file(dict(list(stored.items())[:-3]), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="does not fit this checkpoint"):
        load_checkpoint(BUNDLED_MODEL, adapter=tmp_path)


def test_an_adapter_that_is_not_there_cannot_count(adapter: Path) -> None:
    model = load_checkpoint(BUNDLED_MODEL, adapter=adapter).model
    with pytest.raises(ValueError, match="no adapter 'adaptor'; did you mean 'adapter'"):
        set_adapters(model, ["adaptor"])
    with pytest.raises(TypeError, match="a list of names, got 'adapter'"):
        set_adapters(model, "adapter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": Lora(rank=2), "trainable": "text"}, "does not go with lora_rank"),
        ({"quantize": "nf4"}, "weights in few bits cannot be learnt"),
        ({"quantize": "nf3", "lora": Lora(rank=2)}, "quantize must be one of"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTuning(checkpoint=BUNDLED_MODEL, data="x", output=Path("y"), **options)


def test_bad_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lora_rank must be at least 1"):
        Lora(rank=0)
    with pytest.raises(ValueError, match="lora_alpha must be a number above 0"):
        Lora(rank=1, alpha=-1)
    with pytest.raises(ValueError, match="lora_targets must be one of"):
        Lora(rank=1, targets="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lora_alpha needs --lora-rank"):
        main([f"--data={tmp_path}", f"--output={tmp_path}", "--lora-alpha=2"])
