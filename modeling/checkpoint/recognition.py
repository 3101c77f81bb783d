"""What a file of weights is, where it is not a BAGEL checkpoint's: said in words, with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from modeling.checkpoint.names import ROOTS
from modeling.small_files import DOWNLOAD_AGAIN, is_file

_BINARY = (
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.msgpack",
    "*.h5",
    "*.onnx",
    "*.npz",
)
_OPTIMIZER_FILE = re.compile(r"(?i)optim|scheduler|random_states|rng_state|training_args|data_stat")

_CONVERT = (
    "convert it once: safetensors.torch.save_file(torch.load(PATH, map_location='cpu', "
    "weights_only=True), 'model.safetensors')"
)

# The first bytes of files that people take for weights, what these are, and what to do.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer",
        "`git lfs pull` replaces it, or download the file again",
    ),
    (
        b"GGUF",
        "a GGUF file, which is for llama.cpp",
        "take the safetensors file of the checkpoint that it was made from",
    ),
    (b"\x93NUMPY", "a NumPy array", "take the checkpoint's safetensors file"),
    (b"\x89HDF", "an HDF5 file", "take the checkpoint's safetensors file"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", "unpack it first"),
    (b"\x89PNG", "a picture", "give the checkpoint's directory"),
    (b"\xff\xd8\xff", "a picture", "give the checkpoint's directory"),
)
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))

# Parts of tensor names, what files with such tensors are, and what to do.
_NAMES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(^|[._])(lora|hada|lokr|oft|vera|boft)_|\.dora_scale$|ia3_l$"),
        "a LoRA or similar adapter, not a whole model",
        "load the checkpoint that it was trained on, with this one's folder as adapter=",
    ),
    (
        re.compile(r"\.quant_state\.|\.(absmax|quant_map|nested_absmax)$"),
        "quantised to 4 bits by bitsandbytes",
        "take the bfloat16 file, and quantise it while loading",
    ),
    (
        re.compile(r"\.(SCB|weight_format)$"),
        "quantised to 8 bits by bitsandbytes",
        "take the bfloat16 file, and quantise it while loading",
    ),
    (
        re.compile(r"\.(qweight|qzeros|g_idx)$"),
        "quantised by GPTQ or AWQ",
        "take the bfloat16 file, and quantise it while loading",
    ),
    (
        re.compile(r"(^|\.)(exp_avg|exp_avg_sq|momentum_buffer)$|^optimizer\.state"),
        "the state of an optimizer",
        "give the file of the model, ema.safetensors or model.safetensors",
    ),
)

_OTHER_MODELS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(encoder\.down|decoder\.up|encoder\.conv_in)\."), "an autoencoder alone"),
    (re.compile(r"^(model\.)?layers\.\d+\.self_attn\."), "a language model alone"),
    (re.compile(r"^(vision_model|text_model)\."), "a vision encoder alone"),
    (re.compile(r"^model\.diffusion_model\.|double_blocks\.|transformer_blocks\."), "a diffuser"),
)


def other_weights(directory: Path) -> Path | None:
    """Return a file of a directory that holds weights in another format, if there is one."""
    found = [path for pattern in _BINARY for path in sorted(directory.glob(pattern))]
    models = [path for path in found if not _OPTIMIZER_FILE.search(path.name)]
    return next(iter([*models, *found]), None)


def advice_on_file(path: Path) -> str:
    """Say what a file is that is not safetensors, as far as its name and first bytes tell."""
    if path.name.endswith(".index.json"):
        return (
            "it is an index of shards of another format than safetensors; load and save the model "
            "where it comes from as safetensors"
        )
    what = _by_content(path)
    if what is not None:
        return f"it is {what[0]}; {what[1]}"
    if path.suffix in (".part", ".incomplete", ".crdownload", ".tmp"):
        return f"it is a download that was not finished; {DOWNLOAD_AGAIN}"
    return DOWNLOAD_AGAIN


def _by_content(path: Path) -> tuple[str, str] | None:
    if not is_file(path):
        return None
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty", DOWNLOAD_AGAIN
    for beginning, what, remedy in _BEGINNINGS:
        if head.startswith(beginning):
            return what, remedy
    if head.startswith(b"PK\x03\x04") and path.suffix not in (".zip", ".npz"):
        return _pytorch(path)
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive", "unpack it first"
    if head.startswith(_PICKLES):
        return _pytorch(path)
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the file itself"
    if text.startswith((b"{", b"[")) and path.suffix == ".json":
        return "a configuration", "give the checkpoint's directory, or its file of weights"
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    if not head.strip(b"\0"):
        return "nothing but zeros at its beginning", DOWNLOAD_AGAIN
    return None


def _pytorch(path: Path) -> tuple[str, str]:
    if _OPTIMIZER_FILE.search(path.name):
        return (
            "a state of training saved by PyTorch, not a model",
            "give the file of the model, ema.safetensors or model.safetensors",
        )
    return "a PyTorch file (pickle)", _CONVERT


def advice_on_tensors(dtypes: Mapping[str, str]) -> str | None:
    """Say what a file is by the names and dtypes of its tensors, where it is no plain BAGEL model.

    Args:
        dtypes: safetensors' name of the dtype by plain tensor name.

    Returns:
        What it is and what to do; None where nothing but a comparison tells.
    """
    for pattern, what, remedy in _NAMES:
        example = next((name for name in dtypes if pattern.search(name)), None)
        if example is not None:
            return f"it is {what} (it has {example[:200]}); {remedy}"
    ours = [name for name in dtypes if name.split(".")[0] in ROOTS]
    eight_bit = [name for name in ours if dtypes[name].startswith("F8_")]
    if eight_bit:
        return (
            f"it is stored in fp8 ({eight_bit[0]}: {dtypes[eight_bit[0]]}); take the bfloat16 "
            "file, and load that with fp8=True on a GPU that can"
        )
    if not dtypes:
        return f"it holds no tensors; {DOWNLOAD_AGAIN}"
    if ours:
        return None
    first = min(dtypes)
    for pattern, what in _OTHER_MODELS:
        if any(pattern.search(name) for name in dtypes):
            return f"it is {what} (it has {first[:200]}); {_WHOLE}"
    return f"none of its {len(dtypes)} tensors is a BAGEL model's (it has {first[:200]}); {_WHOLE}"


_WHOLE = "give the file of the whole model, ema.safetensors in the published checkpoint"
