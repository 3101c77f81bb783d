"""Loading keywords: transformers' spellings are understood, all else says what to write."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_interleaved_inference import AutoInterleavedInferencer
from modeling.autoencoder import AutoEncoderParams
from modeling.bagel import BagelConfig, Qwen2Config
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.checkpoint.files import Location
from modeling.checkpoint.names import TABLES
from modeling.checkpoint.published import protocol_of
from modeling.checkpoint.weights import StoredTensor, Weights
from tests.checkpoints import GOLDEN_CHECKPOINT, copy_checkpoint, load_golden_checkpoint

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.checkpoint.load.open_weights", pytest.fail)


@pytest.mark.parametrize(
    ("spelt", "dtype"),
    [
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"dtype": "bf16", "torch_dtype": None}, torch.bfloat16),
        ({"dtype": "auto"}, torch.float32),
        ({"device": torch.device("cpu"), "load_in_4bit": False}, torch.float32),
        ({"device": "CPU", "low_cpu_mem_usage": None}, torch.float32),
        ({"device": "cpu:0"}, torch.float32),
    ],
)
def test_other_spellings_are_understood(spelt: dict[str, Any], dtype: torch.dtype) -> None:
    model = load_checkpoint(GOLDEN_CHECKPOINT, **spelt).model
    assert (model.dtype, model.device.type) == (dtype, "cpu")


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"dtype": "bfloat17"}, ValueError, "dtype must be None or one of torch.float32"),
    ({"dtype": torch.float64}, ValueError, "got torch.float64"),
    ({"dtype": 16}, ValueError, "got 16"),
    ({"dtype": "bfloat16", "torch_dtype": "bfloat16"}, TypeError, "are the same; give one"),
    ({"load_in_4bit": True}, TypeError, "'load_in_4bit': weights in 4 or 8 bits"),
    ({"load_in_8bit": True}, TypeError, "published_startup.py --quantize"),
    ({"quantization_config": {}}, TypeError, "'quantization_config': weights in 4 or 8"),
    ({"trust_remote_code": True}, TypeError, "no code of a checkpoint is ever run"),
    ({"attn_implementation": "sdpa"}, TypeError, "PyTorch's own attention is used"),
    ({"devcie": "cpu"}, TypeError, "no loading keyword 'devcie'; did you mean 'device'?"),
    ({"foo": 1}, TypeError, "no loading keyword 'foo'; known are base, decision, adapter,"),
    ({"device": "gpu"}, ValueError, "got 'gpu'; write 'cuda'"),
    ({"device": "cpu:5"}, ValueError, "the CPU is one device; write device='cpu'"),
    ({"device": "meta"}, ValueError, "nothing to load; write device='cpu'"),
    ({"device": "auto"}, ValueError, "is no device; write device_map='auto'"),
    ({"device": -1}, ValueError, "write device='cpu' for the CPU"),
    ({"device": True}, TypeError, "got True"),
    ({"device": ["cpu"]}, TypeError, "got ['cpu']"),
    ({"device": "x" * 9999}, ValueError, "got 'xxx"),
    ({"device_map": {}}, ValueError, "device_map is empty"),
    ({"device_map": ["cpu"]}, TypeError, "device_map must be a dict"),
    ({"device_map": "atuo"}, ValueError, "got 'atuo'; did you mean 'auto'?"),
    ({"device_map": {"": "dsik"}}, ValueError, "device_map[''] must be a device"),
    ({"device_map": {"": None}}, TypeError, "'' has no device"),
    ({"device_map": {3: "cpu"}}, TypeError, "module names are strings, got 3"),
    ({"device_map": {"": "cpu:3"}}, ValueError, "the CPU is one device"),
    ({"device_map": "auto", "max_memory": "1GB"}, TypeError, "max_memory must be a dict"),
    ({"device_map": "auto", "max_memory": {"cpu": "lots"}}, ValueError, "such as '20GiB'"),
    ({"device_map": "auto", "max_memory": {"cpu": -1}}, ValueError, "such as '20GiB'"),
    ({"device_map": "auto", "max_memory": {"cpu": float("nan")}}, ValueError, "such as"),
    ({"device_map": "auto", "max_memory": {"gpu": "1GB"}}, ValueError, "got 'gpu'"),
    ({"device_map": "auto", "max_memory": {"disk": "1GB"}}, ValueError, "left on disk"),
    ({"device_map": {"": "disk"}, "offload_folder": 3}, TypeError, "must be a path, got 3"),
    ({"device_map": {"": "disk"}, "offload_folder": ""}, ValueError, "no folder that can be"),
    ({"device_map": {"": "disk"}, "offload_folder": __file__}, ValueError, "no folder that"),
    ({"settings": "x"}, TypeError, "settings must be a dictionary"),
    ({"settings": {3: 1}}, ValueError, "there is no setting 3"),
    ({"fp8": "yes"}, TypeError, "fp8 must be True or False, got 'yes'"),
    ({"fp8": True}, ValueError, "fp8 needs a model on one CUDA device, got cpu"),
    ({"fp8": True, "device_map": {"": "disk"}}, ValueError, "one CUDA device, got cpu"),
    ({"compile_layers": 1}, TypeError, "compile_layers must be True or False"),
    ({"local_files_only": "yes"}, TypeError, "local_files_only must be True or False"),
    ({"revision": 3}, TypeError, "revision must be"),
    ({"cache_dir": 3}, TypeError, "cache_dir must be a path"),
    ({"token": 3}, TypeError, "token must be a string"),
]


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(("given", "error", "said"), BAD)
def test_what_cannot_be_says_what_to_write_before_anything_is_read(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)) as info:
        AutoInterleavedInferencer.from_pretrained(GOLDEN_CHECKPOINT, **given)
    assert len(str(info.value)) < 500


@NO_CUDA
@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    "given",
    [
        {"device": "cuda"},
        {"device": "cuda:7"},
        {"device": 0},
        {"device": torch.device("cuda")},
        {"device_map": {"": "cuda"}},
        {"device_map": {"": 0}},
        {"device_map": "auto", "max_memory": {0: "1GB"}},
    ],
)
def test_a_gpu_that_is_not_there_is_told_before_anything_is_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PyTorch sees no CUDA device here .* write .*='cpu'"):
        load_checkpoint(GOLDEN_CHECKPOINT, **given)


@pytest.mark.usefixtures("nothing_is_read")
def test_an_unknown_protocol_is_told_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="did you mean 'native'"):
        AutoInterleavedInferencer.from_pretrained(GOLDEN_CHECKPOINT, protocol="natve")


def test_a_folder_that_nothing_goes_to_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_checkpoint(GOLDEN_CHECKPOINT, offload_folder=tmp_path)
    assert "offload_folder has no effect without a device_map" in caplog.text


# The protocol.


def chosen(path: Any, caplog: pytest.LogCaptureFixture, **options: Any) -> str:
    """Load; return the protocol, which the log told with a reason."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "auto_interleaved"):
        protocol = AutoInterleavedInferencer.from_pretrained(path, **options).protocol.name
    assert re.search(f"protocol {protocol!r}, because ", caplog.text)
    return protocol


def test_every_way_of_writing_a_path_gives_one_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = copy_checkpoint(tmp_path / "BAGEL-7B-MoT")
    (tmp_path / "current").symlink_to(directory)
    monkeypatch.chdir(directory)
    ways = [directory, f"{directory}/", f"{directory}/.", directory / "ema.safetensors"]
    ways += [".", "./", "ema.safetensors", "../BAGEL-7B-MoT", tmp_path / "current"]
    assert {chosen(way, caplog) for way in ways} == {"bagel"}


def test_the_hubs_own_folder_gives_the_protocol_of_its_repository(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for owner, name, protocol in (
        ("ByteDance-Seed", "BAGEL-7B-MoT", "bagel"),
        ("somebody", "my-model", "native"),
    ):
        repository = tmp_path / f"models--{owner}--{name}"
        snapshot = copy_checkpoint(repository / "snapshots" / "0123abcd")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123abcd")
        assert chosen(snapshot, caplog) == protocol
        assert chosen(snapshot / "ema.safetensors", caplog) == protocol
        options = {"cache_dir": tmp_path, "local_files_only": True}
        assert chosen(f"{owner}/{name}", caplog, **options) == protocol


def protocol_in(directory: Path, checkpoint: Checkpoint, names: tuple[str, ...] = ()) -> str:
    """Choose for a directory, and a file that has tensors of these names."""
    tensor = StoredTensor(file=directory, start=0, stop=0, shape=(), dtype="BF16")
    weights = Weights(source=directory, tensors=dict.fromkeys(names, tensor))
    location = Location(directory=directory, weights=directory / "ema.safetensors")
    return protocol_of(location, checkpoint.model.config, weights, checkpoint.settings)[0]


def test_only_a_format_may_stand_behind_the_published_name() -> None:
    checkpoint = load_golden_checkpoint()
    published = ("BAGEL-7B-MoT", "bagel-7b-mot", "BAGEL-7B-MoT-FP8", "BAGEL-7B-MoT_bf16")
    others = ("BAGEL-7B-MoT-stories", "my-BAGEL-7B-MoT", "BAGEL-7B", "BAGEL-7B-MoT2", "run")
    for name in published:
        assert protocol_in(Path("/models") / name, checkpoint) == "bagel", name
    for name in others:
        assert protocol_in(Path("/models") / name, checkpoint) == "native", name
        assert protocol_in(Path("/BAGEL-7B-MoT") / name, checkpoint) == "native", name


def test_the_published_weights_are_known_under_any_name() -> None:
    """By their sizes and the tables that they store; what training saves has no tables."""
    llm_config = Qwen2Config(
        hidden_size=3584,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
    )
    config = BagelConfig(llm_config=llm_config, vae_config=AutoEncoderParams())
    tensor = StoredTensor(file=Path("/x"), start=0, stop=0, shape=(), dtype="BF16")
    location = Location(
        directory=Path("/models/mine"), weights=Path("/models/mine/ema.safetensors")
    )
    for names, protocol in ((TABLES, "bagel"), ((), "native")):
        weights = Weights(source=Path("/x"), tensors=dict.fromkeys(names, tensor))
        assert protocol_of(location, config, weights, {})[0] == protocol
        named = {"protocol": "mathcanvas"}
        assert protocol_of(location, config, weights, named)[0] == "mathcanvas"
