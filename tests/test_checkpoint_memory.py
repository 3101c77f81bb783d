"""Loading needs no more host memory than the weights themselves, and less where it can."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoints import change_json, copy_checkpoint, golden_weights
from tests.conftest import golden_json

MIB = 2**20
REPOSITORY = Path(__file__).parent.parent
VOCABULARY = 400_000  # at 64 channels and 4 bytes, embedding and head have 98 MiB each

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads what Linux says of a process's memory"
)

# Anonymous memory is what a process allocates; pages of a mapped file are not in it. Its peak has
# no counter, so a thread looks at it all the time. One process measures everything, because most of
# the time goes into starting it.
MEASURE = """
import json, os, sys, threading
import torch
from modeling.checkpoint import load_checkpoint

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def peak_and_size(directory, dtype):
    seen, done = [anonymous()], threading.Event()
    def watch():
        while not done.is_set():
            seen.append(anonymous())
            if seen[-1] > 2**30:  # before a mistake takes the whole machine's memory
                sys.stderr.write("more than 1 GiB of anonymous memory")
                sys.stderr.flush()
                os._exit(1)
    thread = threading.Thread(target=watch)
    thread.start()
    model = load_checkpoint(directory, dtype=dtype).model
    done.set()
    thread.join()
    return max(seen) - seen[0], sum(p.nbytes for p in model.parameters())

small, large, published = sys.argv[1:]
load_checkpoint(small)  # what is imported or set up on the way is not the weights'
print(json.dumps({
    "stored": peak_and_size(large, None),
    "published": peak_and_size(published, None),
    "converted": peak_and_size(large, torch.bfloat16),
}))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Peak of anonymous memory and bytes of the model, per case, from a process of its own."""
    root = tmp_path_factory.mktemp("memory")
    directories = [
        copy_checkpoint(root / "small"),
        write_large(root / "large"),
        write_published(root / "published"),
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, directories)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_loading_in_the_stored_dtype_copies_nothing(measured: dict[str, tuple[int, int]]) -> None:
    peak, size = measured["stored"]
    assert size > 190 * MIB
    assert peak < 16 * MIB


def test_loading_in_another_dtype_makes_one_copy(measured: dict[str, tuple[int, int]]) -> None:
    peak, size = measured["converted"]
    assert size > 95 * MIB
    assert peak < size + 16 * MIB


def test_the_published_layout_takes_the_memory_of_its_computed_tables(
    measured: dict[str, tuple[int, int]],
) -> None:
    """29 GB are more than this test's machine need have."""
    peak, size = measured["published"]
    assert size > 29 * 10**9
    assert peak < 400 * MIB  # tables of 4,096 and 4,900 rows, and what computing them takes


def write_large(directory: Path) -> Path:
    weights = golden_weights()
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        weights[name] = torch.zeros(VOCABULARY, 64)
    copy_checkpoint(directory, weights)
    change_json(directory / "llm_config.json", vocab_size=VOCABULARY)
    return directory


def write_published(directory: Path) -> Path:
    """Write the published layout with files of which no byte is written but the headers."""
    copy_checkpoint(directory)
    shapes = golden_json("manifest_7b")
    stored = {n: shape for n, shape in shapes["bagel"].items() if not n.endswith("pos_embed")}
    write_hollow(directory / "ema.safetensors", stored, "BF16", width=2)
    write_hollow(directory / "ae.safetensors", shapes["autoencoder"], "F32", width=4)
    (directory / "llm_config.json").write_text(json.dumps(PUBLISHED_LLM))
    (directory / "vit_config.json").write_text(json.dumps(PUBLISHED_VIT))
    if (directory / "ema.safetensors").stat().st_blocks * 512 > MIB:
        pytest.skip("this file system has no hollow files")
    return directory


def write_hollow(path: Path, shapes: dict[str, list[int]], dtype: str, width: int) -> None:
    """Write a safetensors file that is all header and hole."""
    header, stop = {}, 0
    for name, shape in shapes.items():
        start, stop = stop, stop + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + stop)


PUBLISHED_LLM = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
}
PUBLISHED_VIT = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 980,
}
