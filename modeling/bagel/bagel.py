"""The whole model: text, vision and latents become blocks, blocks enter contexts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from data.packing import PackedBatch
from modeling.attention import CachedRow, CachedRows, Sequences
from modeling.bagel.blocks import Block, Grid, Shape, flattened_positions, grid_of, patchify
from modeling.bagel.config import BagelConfig
from modeling.bagel.layers import MLPconnector, PositionEmbedding, TimestepEmbedder
from modeling.bagel.qwen2_navit import Pair, Qwen2ForCausalLM, Rotaries
from modeling.bagel.siglip_navit import SiglipVisionModel
from modeling.bagel.training import Losses, training_losses
from modeling.context import Context
from modeling.device import execution_device
from modeling.inference import inference
from modeling.kv_store import Tail
from modeling.linear import Linear
from modeling.published import painting, preparing, reading, writing
from modeling.side_by_side import SideBySide


class Bagel(nn.Module):
    """Decoder, vision encoder and the layers that join them, under the checkpoint's tensor names.

    Args:
        language_model: the decoder.
        vit_model: the vision encoder; None for a model without one.
        config: how they are joined; needs `vae_config` to draw and `vit_config` to read images.

    Raises:
        ValueError: if the configuration does not fit the parts.
    """

    def __init__(
        self,
        language_model: Qwen2ForCausalLM,
        vit_model: SiglipVisionModel | None,
        config: BagelConfig,
    ) -> None:
        super().__init__()
        _check(config, vit_model)
        self.config = config
        self.language_model = language_model
        self.hidden_size = hidden = language_model.config.hidden_size
        self.num_heads = language_model.config.num_attention_heads
        self.use_moe = True  # of every checkpoint: two sets of weights a layer
        if config.visual_gen and config.vae_config is not None:
            self.timestep_shift = config.timestep_shift
            self.latent_patch_size = config.latent_patch_size
            self.latent_channel = config.vae_config.z_channels
            self.latent_downsample = config.vae_config.downsample * config.latent_patch_size
            self.max_latent_size = config.max_latent_size
            self.patch_latent_dim = config.latent_patch_size**2 * self.latent_channel
            self.time_embedder = TimestepEmbedder(hidden)
            self.vae2llm = Linear(self.patch_latent_dim, hidden)
            self.llm2vae = Linear(hidden, self.patch_latent_dim)
            self.latent_pos_embed = PositionEmbedding(config.max_latent_size, hidden)
        if config.visual_und and vit_model is not None and config.vit_config is not None:
            self.vit_model = vit_model
            self.vit_hidden_size = config.vit_config.hidden_size
            self.vit_patch_size = config.vit_config.patch_size
            self.vit_max_num_patch_per_side = config.vit_max_num_patch_per_side
            self.connector = MLPconnector(
                config.vit_config.hidden_size, hidden, config.connector_act
            )
            self.vit_pos_embed = PositionEmbedding(config.vit_max_num_patch_per_side, hidden)

    # The published verbs, which are written in a room of their own.
    prepare_prompts = preparing.prepare_prompts
    prepare_vit_images = preparing.prepare_vit_images
    prepare_vae_images = preparing.prepare_vae_images
    prepare_vae_latent = preparing.prepare_vae_latent
    prepare_vae_latent_cfg = preparing.prepare_vae_latent_cfg
    prepare_start_tokens = preparing.prepare_start_tokens
    forward_cache_update_text = reading.forward_cache_update_text
    forward_cache_update_vit = reading.forward_cache_update_vit
    forward_cache_update_vae = reading.forward_cache_update_vae
    generate_image = painting.generate_image
    generate_text = writing.generate_text
    chat = writing.chat

    @property
    def device(self) -> torch.device:
        """Where tokens enter."""
        return execution_device(self.language_model.model.embed_tokens)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that tokens are embedded in."""
        return self.language_model.model.embed_tokens.weight.dtype

    @property
    def values_per_token(self) -> int:
        """Numbers in keys and values that a token takes in a context, over all layers."""
        config = self.language_model.config
        head_dim = config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that a token takes in a context; 57,344 for the 7B."""
        return self.values_per_token * self.dtype.itemsize

    def forward(self, batch: PackedBatch, noise: Tensor | None = None) -> Losses:
        """Compute the training losses of packed sequences; see `training_losses`."""
        return training_losses(self, batch, noise)

    def new_context(self) -> Context:
        """Return a context that has read nothing."""
        return Context.empty(self.language_model.config.num_hidden_layers)

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Embed (tokens,) ids; the result is (tokens, hidden)."""
        return self.language_model.model.embed_tokens(torch.as_tensor(ids, device=self.device))

    @inference
    def text_block(self, ids: Sequence[int] | Tensor) -> Block:
        """Make a block of text from its ids, bos and eos included."""
        return Block(text=self.embed(ids), causal=True)

    @inference
    def vit_block(self, pixels: Tensor, markers: tuple[int, int]) -> Block:
        """Make the block by which an image is understood.

        Args:
            pixels: (3, height, width) in [-1, 1]; the sides are multiples of the patch size.
            markers: ids of vision_start and vision_end.

        Raises:
            ValueError: if the sides do not fit.
        """
        grid = grid_of(pixels, self.vit_patch_size, "ViT patch size")
        positions = self._positions(grid, self.vit_max_num_patch_per_side)
        patches = patchify(pixels.to(self.device, self.dtype), self.vit_patch_size)
        features = self.vision_features(patches, positions, [len(patches)])
        # The markers stand first: tokens of an image share one position and see one another.
        return Block(text=torch.cat([self.embed(markers), features]))

    def vision_features(self, patches: Tensor, positions: Tensor, lengths: list[int]) -> Tensor:
        """Encode packed patches of images of `lengths` tokens; the result is (tokens, hidden)."""
        features = self.connector(self.vit_model(patches, positions, lengths))
        return features + self.vit_pos_embed(positions).to(features)

    @inference
    def latent_block(
        self, latent: Tensor, grid: Grid, markers: tuple[int, int], time: float = 0.0
    ) -> Block:
        """Make the block of an image's latent tokens.

        Args:
            latent: (rows * columns, patch values).
            grid: (rows, columns) of latent tokens.
            markers: ids of vision_start and vision_end.
            time: flow time; 0 is a clean image.

        Raises:
            ValueError: if the grid does not fit the position table or the tokens.
        """
        if latent.shape != (grid[0] * grid[1], self.patch_latent_dim):
            raise ValueError(
                f"latent must be ({grid[0] * grid[1]}, {self.patch_latent_dim}) for a grid of "
                f"{grid[0]} x {grid[1]}, got {tuple(latent.shape)}"
            )
        tokens = self.latent_tokens(latent, time, self.latent_places(grid))
        return Block(text=self.embed(markers), latent=tokens)

    def latent_places(self, grid: Grid) -> Tensor:
        """Return the position embeddings of a grid of latent tokens, (rows * columns, hidden)."""
        return self.latent_pos_embed(self._positions(grid, self.max_latent_size))

    def latent_tokens(self, latent: Tensor, time: float | Tensor, places: Tensor) -> Tensor:
        """Embed latents (tokens, patch values) at a time, one for all or (tokens,) of them.

        `places` are the (tokens, hidden) rows of the position table.
        """
        latent = latent.to(self.device, self.dtype)
        if not isinstance(time, Tensor):  # not copied there, for which the host would wait
            time = torch.full((1,), time, dtype=torch.float32, device=self.device)
        times = time.to(self.device, torch.float32).reshape(-1)
        embedded = self.vae2llm(latent)
        # The published order of the sum; in bfloat16 it is not associative.
        return embedded + self.time_embedder(times, self.dtype) + places.to(embedded)

    def latent_grid(self, height: int, width: int) -> Grid:
        """Return the (rows, columns) of latent tokens of an image of that size in pixels.

        Raises:
            ValueError: if the size is no positive multiple of the stride or beyond the position
                table.
        """
        stride, limit = self.latent_downsample, self.max_latent_size * self.latent_downsample
        for name, side in (("height", height), ("width", width)):
            if side < stride or side % stride:
                nearest = max(stride, round(side / stride) * stride)
                raise ValueError(
                    f"{name} must be a positive multiple of {stride}, got {side}; try {nearest}"
                )
            if side > limit and not self.config.interpolate_pos:
                raise ValueError(f"{name} must be at most {limit} for this model, got {side}")
        return height // stride, width // stride

    def arrange(
        self, rows: Sequence[tuple[Tail, Shape]], *, of_draft: bool = False
    ) -> tuple[Sequences, Rotaries]:
        """Work out row borders and RoPE angles once for rows that may run many times.

        Args:
            rows: where each is written, and its shape.
            of_draft: contexts do not change while these rows run, so small ones may be copied.
        """
        device = self.device
        text_positions, latent_positions = [], []
        for tail, shape in rows:
            start = tail.position
            stop = start + shape.num_text if shape.causal else start + 1
            steps = torch.arange(start, stop, device=device).expand(shape.num_text)
            text_positions.append(steps)
            latent_positions.append(torch.full((shape.num_latent,), start, device=device))
        decoder = self.language_model.model
        latent = torch.cat(latent_positions)
        rotaries = (
            decoder.rotary(torch.cat(text_positions)),
            decoder.rotary(latent) if len(latent) else None,
        )
        cached = [
            CachedRow(tail=t, num_text=s.num_text, num_latent=s.num_latent, causal=s.causal)
            for t, s in rows
        ]
        if of_draft and SideBySide.suits(cached, self.bytes_per_token):
            return SideBySide(cached), rotaries
        return CachedRows(cached), rotaries

    @inference
    def extend(self, rows: Sequence[tuple[Tail, Block]]) -> list[Pair]:
        """Run blocks through the decoder, each after its own context.

        Linear layers run over all rows packed together; only attention knows the borders.

        Args:
            rows: where each block is written, and the block.

        Returns:
            Per row what the last layer says, before the final norm: (tokens, hidden) for the text
            weights and, where there are any, for the generation weights. See `logits` and
            `velocity`.
        """
        sequences, rotaries = self.arrange([(tail, Shape.of(block)) for tail, block in rows])
        latents = [block.latent for _, block in rows if block.latent is not None]
        text, latent = self.language_model.model(
            torch.cat([block.text for _, block in rows]),
            torch.cat(latents) if latents else None,
            rotaries,
            sequences,
        )
        return _unpack(text, latent, [block for _, block in rows])

    @inference
    def read(self, context: Context, block: Block) -> tuple[Context, Tensor]:
        """Append a block to a context.

        Returns:
            The new context, and the last layer's text stream (tokens, hidden) for `logits`.
        """
        [read] = self.read_all([(context, block)])
        return read

    @inference
    def read_all(self, rows: Sequence[tuple[Context, Block]]) -> list[tuple[Context, Tensor]]:
        """Append a block to each context, all in one forward; see `read`."""
        with ExitStack() as rooms:
            tails = [rooms.enter_context(context.room(block.length)) for context, block in rows]
            pairs = self.extend([(t, block) for t, (_, block) in zip(tails, rows, strict=True)])
            return [
                (context.after(tail, block), text)
                for tail, (context, block), (text, _) in zip(tails, rows, pairs, strict=True)
            ]

    @inference
    def feed(self, contexts: Sequence[Context], ids: Tensor) -> tuple[list[Context], Tensor]:
        """Append one of (contexts,) ids to each context.

        Returns:
            The new contexts, and the (contexts, vocabulary) logits of what follows.
        """
        blocks = [Block(text=row, causal=True) for row in self.embed(ids).split(1)]
        read = self.read_all(list(zip(contexts, blocks, strict=True)))
        logits = self.logits(torch.cat([hidden for _, hidden in read]))
        return [context for context, _ in read], logits

    @inference
    def logits(self, hidden: Tensor) -> Tensor:
        """Turn the last layer's text stream (tokens, hidden) into logits (tokens, vocabulary)."""
        return self.language_model.lm_head(self.language_model.model.norm(hidden))

    @inference
    def velocity(self, hidden: Tensor) -> Tensor:
        """Turn the last layer's latent stream (tokens, hidden) into velocities, float32."""
        return self.llm2vae(self.language_model.model.norm_moe_gen(hidden)).float()

    def _positions(self, grid: Grid, max_per_side: int) -> Tensor:
        positions = flattened_positions(grid, max_per_side, self.config.interpolate_pos)
        return positions.to(self.device)


def _unpack(text: Tensor, latent: Tensor | None, blocks: list[Block]) -> list[Pair]:
    texts = text.split([block.num_text for block in blocks])
    if latent is None:
        return [(part, None) for part in texts]
    latents = latent.split([block.num_latent for block in blocks])
    return list(zip(texts, latents, strict=True))


def _check(config: BagelConfig, vit_model: SiglipVisionModel | None) -> None:
    if config.visual_gen and config.vae_config is None:
        raise ValueError(
            "a model that draws needs vae_config, the second value that load_ae returns; "
            "or set visual_gen=False"
        )
    if config.visual_und and (vit_model is None or config.vit_config is None):
        raise ValueError(
            "a model that reads images needs vit_model and vit_config; or set visual_und=False"
        )
