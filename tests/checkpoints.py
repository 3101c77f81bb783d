"""Checkpoint directories made from the golden one, changed in one respect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from inferencer import InterleaveInferencer
from modeling.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import GOLDEN, golden_json, golden_tensors

GOLDEN_CHECKPOINT = GOLDEN / "checkpoint"


def golden_settings() -> dict[str, Any]:
    """Return what the golden checkpoint has no file for."""
    config = golden_json("config")
    return {name: config[name] for name in ("bagel", "vae_transform", "vit_transform")}


def golden_weights() -> dict[str, Tensor]:
    """Return a copy of the golden model's tensors by name."""
    return dict(golden_tensors("checkpoint/ema"))


def copy_checkpoint(directory: Path, weights: dict[str, Tensor] | None = None) -> Path:
    """Copy the golden checkpoint, with other weights if there are any."""
    shutil.copytree(GOLDEN_CHECKPOINT, directory, copy_function=shutil.copyfile)
    if weights is not None:
        save(weights, directory / "ema.safetensors")
    return directory


def save(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as the published files are written."""
    save_file(weights, path, metadata={"format": "pt"})


def save_shards(weights: dict[str, Tensor], directory: Path, count: int = 3) -> Path:
    """Write tensors in several files with an index, instead of the one there is."""
    (directory / "ema.safetensors").unlink(missing_ok=True)
    places = {}
    for number in range(count):
        shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = dict(list(weights.items())[number::count])
        save(part, directory / shard)
        places.update(dict.fromkeys(part, shard))
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load_golden_checkpoint(path: Path = GOLDEN_CHECKPOINT, **options: Any) -> Checkpoint:
    """Load the golden checkpoint, or a copy of it, with the golden settings."""
    return load_checkpoint(path, settings=golden_settings(), **options)


def inferencer_of(checkpoint: Checkpoint) -> InterleaveInferencer:
    """Put a checkpoint's first six parts into an inferencer."""
    return InterleaveInferencer(
        checkpoint.model,
        checkpoint.vae_model,
        checkpoint.tokenizer,
        checkpoint.vae_transform,
        checkpoint.vit_transform,
        checkpoint.new_token_ids,
    )


def assert_golden_answers(inferencer: InterleaveInferencer, *names: str) -> None:
    """Run the golden cases of `interleave_inference`, all of them if none is named."""
    golden = golden_tensors("interleave_inference")
    inferencer.sample_posterior = False  # as these were made
    for case in golden_json("index")["interleave_inference"]:
        if names and case["name"] not in names:
            continue
        inputs = [
            Image.fromarray(golden[item].numpy()) if item in golden else item
            for item in case["inputs"]
        ]
        torch.manual_seed(case["seed"])
        outputs = inferencer.interleave_inference(inputs, **case["arguments"])
        for ours, theirs in zip(outputs, case["outputs"], strict=True):
            if isinstance(ours, str):
                assert ours == theirs["text"]
                continue
            # Truncation to 8 bits turns the smallest difference at an edge into one level.
            levels = np.asarray(ours).astype(int) - golden[theirs["image"]].numpy()
            assert np.abs(levels).max() <= 1
