"""What several test files share: the golden numbers and the model they were made with."""

import gc
import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from modeling.autoencoder import load_ae
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.qwen2 import Qwen2Tokenizer

GOLDEN = Path(__file__).parent / "golden"

# Models of this size are fastest on one thread; two that wait for a busy core are slower by far.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for what tests start


@cache
def golden_tensors(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def golden_json(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def load_golden() -> InterleaveInferencer:
    """Load the golden checkpoint, which has no settings file, with the golden settings.

    Most golden numbers were made with the mean of the posterior, where an image is read.
    """
    config = golden_json("config")
    llm_config = Qwen2Config.from_json_file(GOLDEN / "checkpoint" / "llm_config.json")
    vit_config = SiglipVisionConfig.from_json_file(GOLDEN / "checkpoint" / "vit_config.json")
    vit_config.num_hidden_layers -= 1
    vae_model, vae_config = load_ae(str(GOLDEN / "checkpoint" / "ae.safetensors"))
    model = Bagel(
        Qwen2ForCausalLM(llm_config),
        SiglipVisionModel(vit_config),
        BagelConfig(
            llm_config=llm_config, vit_config=vit_config, vae_config=vae_config, **config["bagel"]
        ),
    )
    model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config)
    model.load_state_dict(golden_tensors("checkpoint/ema"), strict=False)
    return InterleaveInferencer(
        model.eval(),
        vae_model,
        Qwen2Tokenizer.from_pretrained(GOLDEN / "checkpoint"),
        ImageTransform(*config["vae_transform"]),
        ImageTransform(*config["vit_transform"]),
        config["new_token_ids"],
        sample_posterior=False,
    )


@pytest.fixture(scope="session")
def golden_inferencer() -> InterleaveInferencer:
    return load_golden()


@pytest.fixture(scope="session")
def served() -> Iterator[Any]:
    """A server of the bundled model, open to this machine; see `tests.serving.Running`."""
    from tests.serving import running

    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def _global_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compiler() -> Iterator[None]:
    """Let torch.compile make code, as if nothing had been compiled before."""
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    torch._dynamo.reset()
    # Processes of its own that compile are slow to start on a busy machine.
    with torch._inductor.config.patch(compile_threads=1):
        yield


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: a look at all of it took a tenth of the time."""
    gc.collect()
    gc.freeze()
