"""What others build on: which module may import which, names, signatures, tensor names."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

from data import data_utils
from data.data_utils import add_special_tokens, pil_img2rgb
from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from modeling.autoencoder import AutoEncoder, AutoEncoderParams, load_ae
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.bagel.qwen2_navit import NaiveCache
from modeling.qwen2 import Qwen2Tokenizer
from tests.builders import picture, toy_autoencoder, toy_bagel

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"

# Imports go from a later line to an earlier one, or stay within their own.
LAYERS = (
    {"data"},
    {
        "modeling.checks",
        "modeling.bar_config",
        "modeling.progress",
        "modeling.small_files",
        "modeling.kv_store",
        "modeling.context",
        "modeling.activations",
        "modeling.attention",
        "modeling.side_by_side",
        "modeling.linear",
        "modeling.cuda_graph",
        "modeling.inference",
        "modeling.numbers",
        "modeling.device",
        "modeling.flow",
        "modeling.qwen2",
    }
    | {"modeling.autoencoder", "modeling.autoencoder.layers", "modeling.autoencoder.params"},
    # Bagel has the published calls as methods, so what they are made of lies beside it.
    {
        "modeling.bagel",
        "modeling.published",
        "modeling.choice",
        "modeling.decoding",
        "modeling.decode_graph",
    },
    {"modeling"},  # the rest of it: verbs, checkpoints
    {"inferencer"},
    {"auto_interleaved.options"},
    {"auto_interleaved.run", "auto_interleaved.drivers"},
    {"auto_interleaved.sessions"},
    {"auto_interleaved.layouts"},
    {"auto_interleaved"},  # the rest of it: the terminal, files of prompts, the server
    {"auto_interleaved_inference"},
    {"auto_interleaved.harness", "auto_interleaved.serving.cluster"},
    {"bagel", "picturebook"},  # the same modules under another name; a world to draw
)
LIBRARY = ("data", "modeling", "auto_interleaved", "bagel", "picturebook")
COMMAND_LINE = ("auto_interleaved_inference", "auto_interleaved.terminal.command_line")


# The walls of the house.


@cache
def modules() -> dict[str, ast.Module]:
    """Parse every module of the library, by its dotted name."""
    paths = [path for folder in LIBRARY for path in sorted((ROOT / folder).rglob("*.py"))]
    paths = [path for path in paths if path.parent.parent.name != "picturebook"]  # scripts
    paths += [ROOT / f"{name}.py" for name in ("inferencer", "auto_interleaved_inference")]
    parsed = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        parsed[name] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def imports(name: str) -> Iterator[str]:
    """Name the modules of the library that a module imports, for type checkers too."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [full for full in submodules if full in modules()]
            yield from found
            if node.module in modules() and len(found) < len(submodules):
                yield str(node.module)


def layer_of(name: str) -> int:
    """Find a module's line in LAYERS, by the longest name that leads to it."""
    while name:
        for index, layer in enumerate(LAYERS):
            if name in layer:
                return index
        name = name.rpartition(".")[0]
    raise AssertionError("a module has no place in LAYERS")


def only_for_type_checkers(name: str) -> set[str]:
    """Name what a module imports under `if TYPE_CHECKING`."""
    guarded = [
        node
        for branch in ast.walk(modules()[name])
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
    ]
    return {str(node.module) for node in guarded}


@pytest.mark.parametrize("name", modules())
def test_imports_go_one_way(name: str) -> None:
    for imported in imports(name):
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(LAYERS[1]))
def test_the_core_of_the_model_knows_nothing_of_data(name: str) -> None:
    known = {"data.wording"}  # of messages, not of data
    assert all(layer_of(imported) == 1 for imported in set(imports(name)) - known)


def test_no_module_imports_itself_round_a_corner() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path, name))}"
        if name not in done:
            for imported in set(imports(name)) - only_for_type_checkers(name):
                visit(imported, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())


def test_only_the_command_line_prints() -> None:
    for name, tree in modules().items():
        if name in COMMAND_LINE:
            continue
        calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        names = [func.id for func in calls if isinstance(func, ast.Name)]
        assert "print" not in names, f"{name} prints"


@pytest.mark.parametrize(
    "name", [name for name in modules() if name.startswith("auto_interleaved")]
)
def test_the_feature_uses_only_public_names_of_others(name: str) -> None:
    tree = modules()[name]
    own = {node.attr for node in ast.walk(tree) if _is_private_attribute(node, of_self=True)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    foreign = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if _is_private_attribute(node, of_self=False) and node.attr not in own
    }
    assert not foreign


def _is_private_attribute(node: ast.AST, *, of_self: bool) -> bool:
    if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
        return False
    is_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    return is_self == of_self and not node.attr.startswith("__")


IMPORT_EVERYTHING = """
import importlib, socket, sys

def refuse(*arguments, **named):
    raise AssertionError("importing opened a connection")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
extras = ("fastapi", "uvicorn", "starlette", "prometheus_client", "python_multipart", "openai")
extras += ("peft", "datasets", "gradio", "IPython", "playwright", "ray")
published = ("flash_attn", "torchvision", "cv2", "bitsandbytes", "triton", "xformers")
for name in (*published, *extras):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)

import torch
assert not torch.cuda.is_available() and not torch.cuda.is_initialized()
assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
"""


# What the extra `serve` is for; whoever has not installed it does without these.
SERVER = {
    f"auto_interleaved.serving.{name}"
    for name in (
        "answers",
        "app",
        "calls",
        "chat",
        "chat_requests",
        "cluster",
        "door",
        "errors",
        "fields",
        "images",
        "inputs",
        "response_events",
        "response_requests",
        "responses",
        "served",
        "server",
        "status",
    )
}


# What the extra `page` is for.
PAGE = {
    f"auto_interleaved.page.{name}"
    for name in ("controls", "desk", "gate", "host", "layout", "messages")
}


def test_importing_everything_needs_no_network_no_cuda_and_no_extras() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, *sorted(modules().keys() - SERVER - PAGE)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


TELL = """
import sys
from auto_interleaved_inference import AutoInterleavedInferencer
inferencer = AutoInterleavedInferencer.from_pretrained()
told = inferencer.auto_interleaved_generation(
    "Tell a story about a red fox.", num_timesteps=3, max_images=1
)
print(len(told), "torch._dynamo" in sys.modules)
"""


def test_loading_and_telling_a_story_does_not_wait_for_a_compiler_to_be_imported() -> None:
    told = subprocess.run(
        [sys.executable, "-c", TELL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.stdout == "3 False\n", told.stdout + told.stderr


# Published names and signatures.


PUBLISHED = {
    InterleaveInferencer.__init__: "model, vae_model, tokenizer, vae_transform, vit_transform, "
    "new_token_ids",
    InterleaveInferencer.init_gen_context: "",
    InterleaveInferencer.update_context_text: "text, gen_context",
    InterleaveInferencer.update_context_image: "image, gen_context, vae=True, vit=True",
    InterleaveInferencer.gen_image: "image_shape, gen_context, cfg_text_scale=4.0, "
    "cfg_img_scale=1.5, cfg_text_precontext=None, cfg_img_precontext=None, "
    "cfg_interval=(0.4, 1.0), cfg_renorm_min=0.0, cfg_renorm_type='global', num_timesteps=50, "
    "timestep_shift=3.0, enable_taylorseer=False",
    InterleaveInferencer.decode_image: "latent, image_shape",
    InterleaveInferencer.gen_text: "gen_context, max_length=500, do_sample=True, temperature=1.0",
    InterleaveInferencer.interleave_inference: "input_lists, think=False, "
    "understanding_output=False, max_think_token_n=1000, do_sample=False, text_temperature=0.3, "
    "cfg_text_scale=3.0, cfg_img_scale=1.5, cfg_interval=(0.4, 1.0), timestep_shift=3.0, "
    "num_timesteps=50, cfg_renorm_min=0.0, cfg_renorm_type='global', image_shapes=(1024, 1024), "
    "enable_taylorseer=False",
    InterleaveInferencer.__call__: "image=None, text=None, **kwargs",
    NaiveCache.__init__: "num_layers",
    Bagel.prepare_prompts: "curr_kvlens, curr_rope, prompts, tokenizer, new_token_ids",
    Bagel.forward_cache_update_text: "past_key_values, packed_text_ids, packed_text_position_ids, "
    "text_token_lens, packed_text_indexes, packed_key_value_indexes, key_values_lens",
    Bagel.prepare_vit_images: "curr_kvlens, curr_rope, images, transforms, new_token_ids",
    Bagel.forward_cache_update_vit: "past_key_values, packed_text_ids, packed_text_indexes, "
    "packed_vit_tokens, packed_vit_token_indexes, packed_vit_position_ids, vit_token_seqlens, "
    "packed_position_ids, packed_seqlens, packed_indexes, packed_key_value_indexes, "
    "key_values_lens",
    Bagel.prepare_vae_images: "curr_kvlens, curr_rope, images, transforms, new_token_ids, "
    "timestep=0",
    Bagel.forward_cache_update_vae: "vae_model, past_key_values, padded_images, "
    "patchified_vae_latent_shapes, packed_vae_position_ids, packed_timesteps, "
    "packed_vae_token_indexes, packed_text_ids, packed_text_indexes, packed_position_ids, "
    "packed_seqlens, packed_indexes, key_values_lens, packed_key_value_indexes",
    Bagel.prepare_vae_latent: "curr_kvlens, curr_rope, image_sizes, new_token_ids",
    Bagel.prepare_vae_latent_cfg: "curr_kvlens, curr_rope, image_sizes",
    Bagel.generate_image: "packed_text_ids, packed_text_indexes, packed_init_noises, "
    "packed_vae_position_ids, packed_vae_token_indexes, packed_seqlens, packed_position_ids, "
    "key_values_lens, packed_indexes, packed_key_value_indexes, past_key_values, "
    "num_timesteps=24, timestep_shift=1.0, cfg_renorm_min=0.0, cfg_renorm_type='global', "
    "cfg_interval=(0, 1), cfg_text_scale=1.0, cfg_text_packed_query_indexes=None, "
    "cfg_text_packed_position_ids=None, cfg_text_past_key_values=None, "
    "cfg_text_key_values_lens=None, cfg_text_packed_key_value_indexes=None, cfg_img_scale=1.0, "
    "cfg_img_packed_query_indexes=None, cfg_img_packed_position_ids=None, "
    "cfg_img_past_key_values=None, cfg_img_key_values_lens=None, "
    "cfg_img_packed_key_value_indexes=None, cfg_type='parallel', enable_taylorseer=False",
    Bagel.prepare_start_tokens: "curr_kvlens, curr_rope, new_token_ids",
    Bagel.generate_text: "past_key_values, packed_key_value_indexes, key_values_lens, "
    "packed_start_tokens, packed_query_position_ids, max_length, do_sample=False, "
    "temperature=1.0, end_token_id=None",
    Bagel.chat: "tokenizer, new_token_ids, image_transform, images, prompt, max_length, "
    "do_sample=False, temperature=1.0",
    Qwen2ForCausalLM.forward_inference: "packed_query_sequence, query_lens, "
    "packed_query_position_ids, packed_query_indexes, past_key_values=None, "
    "key_values_lens=None, packed_key_value_indexes=None, update_past_key_values=True, "
    "is_causal=True, mode='und', packed_vae_token_indexes=None, packed_text_indexes=None",
    load_ae: "local_path",
    add_special_tokens: "tokenizer",
    pil_img2rgb: "image",
    ImageTransform.__init__: "max_image_size, min_image_size, image_stride, max_pixels=1806336, "
    "image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5)",
    Bagel.__init__: "language_model, vit_model, config",
}


@pytest.mark.parametrize("function", PUBLISHED, ids=lambda function: function.__qualname__)
def test_published_signatures_are_kept(function: Any) -> None:
    """Names, order and defaults; what is new can only be asked for by name."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    published = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in parameters
        if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    new = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert ", ".join(map(str, published)) == PUBLISHED[function]
    assert all(p.default is not inspect.Parameter.empty for p in new)


def test_published_attributes_are_there() -> None:
    assert ImageTransform(32, 8, 4).resize_transform(picture(16, 8)).size == (16, 8)
    assert NaiveCache(3).num_layers == 3
    model = toy_bagel()
    assert isinstance(model.config, BagelConfig)
    assert isinstance(model.language_model.model, Qwen2Model)
    # What scripts pass as no_split_module_classes.
    names = {type(module).__name__ for module in model.modules()}
    assert {"Bagel", "Qwen2MoTDecoderLayer"} <= names
    tokenizer = Qwen2Tokenizer.from_pretrained(GOLDEN / "checkpoint")
    assert add_special_tokens(tokenizer)[1:] == (
        {"bos_token_id": 500, "eos_token_id": 501, "start_of_image": 502, "end_of_image": 503},
        0,
    )


def test_a_model_tells_what_published_scripts_ask_of_it() -> None:
    model = toy_bagel()
    told = (model.hidden_size, model.num_heads, model.use_moe, model.timestep_shift)
    assert told == (32, 4, True, 1.0)
    assert model.vit_hidden_size == 16


def test_an_autoencoder_tells_what_published_scripts_ask_of_it() -> None:
    autoencoder = toy_autoencoder()
    assert (autoencoder.scale_factor, autoencoder.shift_factor) == (0.3611, 0.1159)
    moments = torch.randn(1, 8, 2, 3)
    mean, log_variance = moments.chunk(2, dim=1)
    torch.manual_seed(1)
    noise = torch.randn(1, 4, 2, 3)
    torch.manual_seed(1)
    drawn = mean + (0.5 * log_variance).exp() * noise
    assert torch.equal(autoencoder.reg(moments), drawn)
    autoencoder.reg.sample = False
    assert torch.equal(autoencoder.reg(moments), mean)
    pixels = autoencoder.decode(torch.randn(1, 4, 2, 3))
    latent = autoencoder.encode(pixels)
    assert torch.equal(autoencoder.encode(pixels, sample_posterior=True), latent)
    autoencoder.scale_factor = 2 * 0.3611
    assert torch.allclose(autoencoder.encode(pixels), 2 * latent)
    assert "reg" not in " ".join(autoencoder.state_dict())


def test_the_whole_configuration_takes_and_tells_anything() -> None:
    positional = BagelConfig(True, False, None, None, AutoEncoderParams(), 2, 64, freeze="vit")
    assert (positional.visual_und, positional.max_latent_size) == (False, 64)
    assert positional.freeze == "vit"
    told = json.loads(json.dumps(toy_bagel().config.to_dict()))
    assert told["llm_config"]["hidden_size"] == 32
    assert told["vae_config"]["z_channels"] == 4
    assert told["max_latent_size"] == 8
    assert json.loads(positional.to_json_string())["freeze"] == "vit"
    assert "freeze" in repr(positional)


def test_functions_about_patches_are_where_published_scripts_look() -> None:
    image = torch.arange(3 * 4 * 6).reshape(3, 4, 6)
    tokens = data_utils.patchify(image, 2)
    assert torch.equal(tokens[4].view(2, 2, 3), image[:, 2:4, 2:4].permute(1, 2, 0))
    with pytest.raises(ValueError, match="multiples of patch_size 5, got height 4 and width 6"):
        data_utils.patchify(image, 5)
    inside = data_utils.get_flattened_position_ids_extrapolate(28, 45, 14, 70)
    assert inside.tolist() == [0, 1, 2, 70, 71, 72]
    spread = data_utils.get_flattened_position_ids_interpolate(28, 42, 14, 70)
    assert spread.tolist() == [0, 23, 46, 2450, 2473, 2496]
    with pytest.raises(ValueError, match="71 x 1 patches does not fit the position table of 70 x"):
        data_utils.get_flattened_position_ids_extrapolate(71, 1, 1, 70)


def test_siglip_itself_is_transformers() -> None:
    from modeling import siglip
    from modeling.siglip.configuration_siglip import SiglipVisionConfig as Configuration
    from modeling.siglip.modeling_siglip import SiglipPreTrainedModel

    assert issubclass(SiglipVisionConfig, siglip.SiglipVisionConfig)
    assert Configuration is siglip.SiglipVisionConfig
    assert issubclass(siglip.SiglipVisionModel, SiglipPreTrainedModel)
    assert not hasattr(siglip, "SiglipNothing")


@pytest.mark.parametrize("name", ["data.transforms", "modeling.bagel.qwen2_navit", "inferencer"])
def test_the_package_bagel_is_the_same_modules_by_another_name(name: str) -> None:
    """A second copy would have classes of its own, which no isinstance knows."""
    module = importlib.import_module(name)
    assert importlib.import_module(f"bagel.{name}") is module
    assert module.__name__ == name == module.__spec__.name


def test_it_may_come_first_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "modeling.siglip.configuration_siglip"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delitem(sys.modules, f"bagel.{name}", raising=False)
    aliased = importlib.import_module(f"bagel.{name}")
    assert importlib.import_module(name) is aliased
    assert aliased.__name__ == name


@pytest.mark.parametrize("name", ["bagel.tests", "bagel.data.nothing", "bagel.json", "bagel.train"])
def test_it_holds_nothing_else(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=name):
        importlib.import_module(name)


def test_configurations_are_read_from_files_and_changed_as_scripts_do() -> None:
    llm_config = Qwen2Config.from_json_file(GOLDEN / "checkpoint" / "llm_config.json")
    llm_config.qk_norm = True
    llm_config.tie_word_embeddings = False
    llm_config.layer_module = "Qwen2MoTDecoderLayer"
    assert llm_config.hidden_size == 64
    vit_config = SiglipVisionConfig.from_json_file(GOLDEN / "checkpoint" / "vit_config.json")
    vit_config.rope = False
    vit_config.num_hidden_layers = vit_config.num_hidden_layers - 1
    assert vit_config.hidden_size == 48
    config = BagelConfig(
        visual_gen=True,
        visual_und=True,
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=AutoEncoderParams(),
        vit_max_num_patch_per_side=70,
        connector_act="gelu_pytorch_tanh",
        latent_patch_size=2,
        max_latent_size=64,
    )
    assert config.interpolate_pos is False
    assert config.timestep_shift == 1.0


# The published checkpoint.


@cache
def manifest() -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / "manifest_7b.json").read_text())


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def test_the_7b_on_meta_has_the_published_tensors() -> None:
    llm_config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    vit_config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        patch_size=14,
        image_size=980,
        layer_norm_eps=1e-6,
    )
    with init_empty_weights():
        model = Bagel(
            Qwen2ForCausalLM(llm_config),
            SiglipVisionModel(vit_config),
            BagelConfig(
                llm_config=llm_config,
                vit_config=vit_config,
                vae_config=AutoEncoderParams(),
                max_latent_size=64,
            ),
        )
        model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config, meta=True)
    assert shapes_of(model) == manifest()["bagel"]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_published_autoencoder_on_meta_has_the_published_tensors() -> None:
    with torch.device("meta"):
        autoencoder = AutoEncoder(AutoEncoderParams())
    assert shapes_of(autoencoder) == manifest()["autoencoder"]
