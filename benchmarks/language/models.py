"""SmolLM2 in our decoder, and in transformers'."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.language.source import Language
from benchmarks.models import SHAPES, Shape, build_shape
from data.data_utils import add_special_tokens
from modeling.qwen2 import Qwen2Tokenizer

_SPARE = 32  # rows of the vocabulary, for bytes and markers that SmolLM2 does not know


def ours(language: Language, dtype: torch.dtype) -> AutoInterleavedInferencer:
    """Put it into the text weights of a model whose other parts are small and random.

    Queries and keys have no norms, biases are zero, and the head is a copy of the embedding.
    """
    settings = dict(language.config)
    rows = settings.pop("vocab_size") + _SPARE
    decoder = settings | {"vocab_size": rows, "qk_norm": False}
    theta = decoder.pop("rope_theta")
    shape = Shape(
        decoder=decoder,
        vision=SHAPES["mid"].vision,
        autoencoder=SHAPES["mid"].autoencoder,
        latent_side=SHAPES["mid"].latent_side,
        rope_theta=theta,
    )
    inferencer = build_shape(shape, "cpu", dtype)
    inferencer.set_progress_bar_config(disable=True)
    model = inferencer.model.language_model
    given = {name: _with_spare_rows(name, tensor) for name, tensor in language.tensors.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in given:
                parameter.copy_(given.pop(name))
            elif name.endswith("proj.bias"):
                parameter.zero_()
    assert not given, f"the decoder has no {', '.join(given)}"
    tokenizer, new_token_ids, _ = add_special_tokens(_tokenizer(language))
    inferencer.tokenizer, inferencer.new_token_ids = tokenizer, new_token_ids
    return inferencer


def _with_spare_rows(name: str, tensor: Tensor) -> Tensor:
    if name.startswith(("model.embed_tokens", "lm_head")):
        return nn.functional.pad(tensor, (0, 0, 0, _SPARE))
    return tensor


def _tokenizer(language: Language) -> Qwen2Tokenizer:
    with tempfile.TemporaryDirectory() as directory:
        language.save_tokenizer(Path(directory))
        return Qwen2Tokenizer.from_pretrained(directory)


def transformers_own(language: Language) -> transformers.LlamaForCausalLM:
    """Put it into transformers' Llama, in float32."""
    settings = dict(language.config)
    theta = settings.pop("rope_theta")
    if transformers.__version__ >= "5":
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    else:
        settings["rope_theta"] = theta
    settings |= {"bos_token_id": None, "eos_token_id": None}  # nothing ends its texts
    config = transformers.LlamaConfig(**settings, tie_word_embeddings=False)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # whose table is no parameter
    model.load_state_dict(language.tensors, strict=True)
    return model.float().eval()
