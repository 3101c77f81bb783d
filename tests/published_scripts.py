"""What published scripts do with the model's own calls, for any number of samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache

Sizes = list[tuple[int, int]]


@dataclass
class Script:
    """A cache, and the two lists that scripts keep beside it."""

    inferencer: InterleaveInferencer
    samples: int = 1
    cache: NaiveCache = field(init=False)
    lengths: list[int] = field(init=False)
    ropes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.cache = NaiveCache(self.model.config.llm_config.num_hidden_layers)
        self.lengths, self.ropes = [0] * self.samples, [0] * self.samples

    @property
    def model(self) -> Any:
        return self.inferencer.model

    @property
    def ids(self) -> Any:
        return self.inferencer.new_token_ids

    def fork(self) -> Script:
        forked = Script(self.inferencer, self.samples)
        forked.cache = copy.deepcopy(self.cache)
        forked.lengths, forked.ropes = list(self.lengths), list(self.ropes)
        return forked

    def read(self, *texts: str) -> Script:
        inputs, self.lengths, self.ropes = self.model.prepare_prompts(
            self.lengths, self.ropes, list(texts), self.inferencer.tokenizer, self.ids
        )
        assert self.model.forward_cache_update_text(self.cache, **inputs) is self.cache
        return self

    def see(self, *images: Image.Image) -> Script:
        inputs, self.lengths, self.ropes = self.model.prepare_vit_images(
            self.lengths, self.ropes, list(images), self.inferencer.vit_transform, self.ids
        )
        assert self.model.forward_cache_update_vit(self.cache, **inputs) is self.cache
        return self

    def encode(self, *images: Image.Image) -> Script:
        inputs, self.lengths, self.ropes = self.model.prepare_vae_images(
            self.lengths, self.ropes, list(images), self.inferencer.vae_transform, self.ids
        )
        vae = self.inferencer.vae_model
        assert self.model.forward_cache_update_vae(vae, self.cache, **inputs) is self.cache
        return self

    def branch(self, kind: str, sizes: Sizes) -> dict[str, Any]:
        """Return this cache as a guidance branch of `generate_image`."""
        inputs = self.model.prepare_vae_latent_cfg(self.lengths, self.ropes, sizes)
        named = {name.replace("cfg_", f"cfg_{kind}_", 1): value for name, value in inputs.items()}
        return {f"cfg_{kind}_past_key_values": self.cache, **named}

    def latents(self, sizes: Sizes) -> dict[str, Tensor]:
        return self.model.prepare_vae_latent(self.lengths, self.ropes, sizes, self.ids)

    def draw(self, sizes: Sizes, **options: Any) -> tuple[Tensor, ...]:
        return self.model.generate_image(
            past_key_values=self.cache, **self.latents(sizes), **options
        )

    def write(self, max_length: int, **options: Any) -> Tensor:
        inputs = self.model.prepare_start_tokens(self.lengths, self.ropes, self.ids)
        return self.model.generate_text(self.cache, **inputs, max_length=max_length, **options)

    def rows(self) -> list[Tensor]:
        """Return copies of every layer's keys and values."""
        layers = range(self.cache.num_layers)
        halves = (self.cache.key_cache, self.cache.value_cache)
        return [half[layer].clone() for half in halves for layer in layers]
