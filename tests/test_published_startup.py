"""The published start-up sequence, as `examples/published_startup.py` goes through it."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from accelerate.utils import BnbQuantizationConfig, load_and_quantize_model
from PIL import Image
from torch import Tensor
from torch.nn import functional

from modeling.autoencoder import AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.context import Context
from tests.builders import randomise
from tests.checkpoints import (
    GOLDEN_CHECKPOINT,
    assert_golden_answers,
    copy_checkpoint,
    golden_weights,
)
from tests.conftest import golden_tensors

EXAMPLE = Path(__file__).parent.parent / "examples" / "published_startup.py"
GOLDEN_SIZES = (
    *("--max-latent-size", "16", "--vit-max-num-patch-per-side", "8"),
    *("--vae-transform", "128", "32", "16", "--vit-transform", "112", "28", "14"),
)
MARKERS = (502, 503)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published_startup", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def typed(folder: Path, *more: str, mode: str = "edit", directory: Path | None = None) -> list[str]:
    """Return the command line that fits the golden checkpoint."""
    checkpoint = str(directory or GOLDEN_CHECKPOINT)
    offload = ("--offload-folder", str(folder))
    return [checkpoint, mode, "a prompt", "--dtype", "float32", *GOLDEN_SIZES, *offload, *more]


def test_the_sequence_gives_the_golden_answers(example: ModuleType, tmp_path: Path) -> None:
    assert_golden_answers(example.start(example.parse(typed(tmp_path))))


def test_it_does_so_with_most_of_the_model_on_disk(example: ModuleType, tmp_path: Path) -> None:
    inferencer = example.start(example.parse(typed(tmp_path, "--max-memory", "600KB")))
    assert {"cpu", "disk"} == set(inferencer.model.hf_device_map.values())
    assert_golden_answers(inferencer, "edit", "think")


def test_computed_tables_are_not_looked_for_among_offloaded_weights(
    example: ModuleType, tmp_path: Path
) -> None:
    """`offload_buffers=True` made accelerate ask the file for tables that it does not store."""
    model, _ = example.build_model(example.parse(typed(tmp_path)))
    weights = str(GOLDEN_CHECKPOINT / "ema.safetensors")
    device_map = {name: "disk" for name, _ in model.named_children()} | {"connector": "cpu"}
    filled = load_checkpoint_and_dispatch(
        model, weights, device_map, offload_folder=tmp_path, offload_buffers=True
    )
    inferencer = example.start(example.parse(typed(tmp_path)))
    inferencer.model = filled.eval()
    assert_golden_answers(inferencer, "edit")


@pytest.mark.parametrize("memory", ["1GB", "600KB"])
def test_it_takes_files_that_store_the_position_tables(
    example: ModuleType, tmp_path: Path, memory: str
) -> None:
    golden = golden_tensors("position_embeddings")
    names = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")
    weights = {**golden_weights(), **{name: golden[name] for name in names}}
    directory = copy_checkpoint(tmp_path / "checkpoint", weights)
    arguments = typed(tmp_path, "--max-memory", memory, directory=directory)
    assert_golden_answers(example.start(example.parse(arguments)), "edit")


TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")
PLACES = {"cpu": "cpu", "cpu and disk": "cpu", "disk": "disk"}


def dispatched(
    example: ModuleType, folder: Path, weights: dict[str, Tensor], places: str
) -> tuple[Bagel, Tensor]:
    """Load weights by accelerate; return the model, and what both tables say of one position."""
    directory = copy_checkpoint(folder / "checkpoint", weights)
    model, _ = example.build_model(example.parse(typed(folder, directory=directory)))
    device_map = {name: PLACES[places] for name, _ in model.named_children()}
    if places != "cpu":
        device_map |= {"latent_pos_embed": "disk", "vit_pos_embed": "disk", "connector": "cpu"}
    model = load_checkpoint_and_dispatch(
        model,
        str(directory / "ema.safetensors"),
        device_map={"": "cpu"} if places == "cpu" else device_map,
        offload_folder=folder,
        offload_buffers=True,
        force_hooks=True,
    )
    position = torch.tensor([7])
    for _ in range(2):  # hooks fetch before a call and may take away after it
        told = torch.stack([model.latent_pos_embed(position), model.vit_pos_embed(position)])
    return model, told


@pytest.mark.parametrize("places", PLACES)
def test_tables_that_a_file_stores_are_used_by_accelerates_loader(
    example: ModuleType, tmp_path: Path, places: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They were passed over, with a warning that they were not the model's."""
    stored = {TABLES[0]: torch.randn(16 * 16, 64), TABLES[1]: torch.randn(8 * 8, 64)}
    model, told = dispatched(example, tmp_path, {**golden_weights(), **stored}, places)
    assert torch.equal(told, torch.stack([stored[name][[7]] for name in TABLES]))
    assert "not used" not in caplog.text
    assert model.state_dict().keys() == {*golden_weights(), *TABLES}


@pytest.mark.parametrize("places", PLACES)
def test_tables_that_a_file_lacks_are_computed_under_accelerates_loader(
    example: ModuleType, tmp_path: Path, places: str
) -> None:
    model, told = dispatched(example, tmp_path, golden_weights(), places)
    golden = golden_tensors("position_embeddings")
    expected = torch.stack([golden[name][[7]] for name in TABLES])
    torch.testing.assert_close(told, expected, atol=2e-6, rtol=0)
    assert model.state_dict().keys() == {*golden_weights(), *TABLES}


@pytest.mark.parametrize("mode", ["text-to-image", "think", "edit", "understand"])
def test_the_script_runs_every_mode(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    picture, drawn = tmp_path / "picture.png", tmp_path / "drawn.png"
    Image.new("RGB", (64, 48), "orange").save(picture)
    reads = ["--image", str(picture)] if mode in ("edit", "understand") else []
    sizes = ["--num-timesteps", "3", "--max-think-token-n", "5", "--image-shape", "48", "80"]
    example.main(typed(tmp_path, *reads, *sizes, "--output", str(drawn), mode=mode))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= (2 if mode == "think" else 1)
    assert drawn.exists() == (mode != "understand")
    if drawn.exists():
        assert lines[-1] == f"saved {drawn}"
        assert Image.open(drawn).size == ((64, 48) if mode == "edit" else (80, 48))


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_quantising_goes_as_far_as_bitsandbytes_does_here(
    example: ModuleType, tmp_path: Path, bits: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("bitsandbytes has its device here")
    options = example.parse(typed(tmp_path, "--quantize", bits))
    # Not installed; or installed, and then accelerate or it wants an accelerator.
    with pytest.raises((ImportError, ValueError, RuntimeError), match="(?i)bitsandbytes|GPU|accel"):
        example.start(options)


NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": torch.bfloat16,
    "torch_dtype": torch.bfloat16,
}
INT8 = {"load_in_8bit": True, "torch_dtype": torch.float32}


@pytest.mark.parametrize(("quantisation", "similar"), [(NF4, 0.9), (INT8, 0.999)])
def test_a_quantised_model_answers_much_as_it_did(
    tmp_path: Path, quantisation: dict[str, Any], similar: float
) -> None:
    """bitsandbytes computes on a CPU too; accelerate turns "cpu" away, but not "cpu:0".

    Random weights do not forgive: four bits leave each layer with an error of about a tenth.
    """
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    plain = randomise(wide_model())
    for table in plain.buffers():
        table.normal_()  # stored tables are used, not computed again
    torch.save(plain.state_dict(), tmp_path / "weights.bin")
    with init_empty_weights():
        empty = wide_model()
    quantised = load_and_quantize_model(
        empty,
        weights_location=str(tmp_path / "weights.bin"),
        bnb_quantization_config=BnbQuantizationConfig(**quantisation),
        device_map={"": "cpu:0"},
    ).eval()
    head, layer = quantised.language_model.lm_head, quantised.language_model.model.layers[1]
    for linear in (head, layer.mlp.up_proj, layer.self_attn.q_proj_moe_gen, quantised.vae2llm):
        assert not linear.weight.is_floating_point()
    assert quantised.dtype == quantisation["torch_dtype"]
    for name, table in plain.named_buffers():
        assert torch.equal(quantised.get_buffer(name), table.to(quantised.get_buffer(name).dtype))
    for ours, theirs in zip(numbers(quantised), numbers(plain), strict=True):
        assert functional.cosine_similarity(ours.float(), theirs, dim=-1).mean() > similar


def wide_model() -> Bagel:
    """Build a model whose layers are all multiples of 64 wide, as 4-bit blocks are."""
    llm_config = Qwen2Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    vit_config = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=16,
        image_size=64,
    )
    vit_model = SiglipVisionModel(vit_config)
    vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config)
    config = BagelConfig(
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=AutoEncoderParams(),
        max_latent_size=8,
        vit_max_num_patch_per_side=4,
    )
    return Bagel(Qwen2ForCausalLM(llm_config), vit_model, config)


def numbers(model: Bagel) -> tuple[Tensor, Tensor]:
    """Return logits after a text and an image, and velocities of a latent block after both."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 32, 48, generator=generator) * 2 - 1
    latent = torch.randn(6, 64, generator=generator)
    context = read(model, model.new_context(), pixels)
    block = model.text_block([500, 7, 8, 9, 501])
    context, hidden = model.read(context, block)
    block = model.latent_block(latent, (2, 3), MARKERS, time=0.5)
    with context.room(block.length) as tail:
        [(_, drawn)] = model.extend([(tail, block)])
    assert drawn is not None
    return model.logits(hidden), model.velocity(drawn)


def read(model: Bagel, context: Context, pixels: Tensor) -> Context:
    return model.read(context, model.vit_block(pixels, MARKERS))[0]
