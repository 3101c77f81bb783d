"""Conversations as batches: decoded, encoded as a checkpoint sees them, grouped by length."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from random import Random

import torch

from data.packing import Part
from inferencer import InterleaveInferencer
from modeling.bagel.blocks import patchify
from modeling.checkpoint import Checkpoint
from training.conversations import Conversation
from training.lines import one_line
from training.samples import (
    Batch,
    EncodedPicture,
    FollowingIds,
    Outline,
    Picture,
    Recipe,
    by_length,
    parts_of,
)

logger = logging.getLogger("auto_interleaved.training")

_POOL = 64  # conversations that are encoded and sorted by length together


class Lessons:
    """Makes batches of conversations.

    Args:
        checkpoint: encodes texts and images.
        following: ids learnt after a text's eos.
        batch_tokens: tokens a batch; a longer sequence is one by itself.
        skip_bad: leave out conversations whose images cannot be decoded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        following: FollowingIds,
        batch_tokens: int,
        *,
        skip_bad: bool = False,
    ) -> None:
        self._verbs = InterleaveInferencer(
            checkpoint.model,
            checkpoint.vae_model,
            checkpoint.tokenizer,
            checkpoint.vae_transform,
            checkpoint.vit_transform,
            checkpoint.new_token_ids,
        )
        self._following = following
        self._batch_tokens = batch_tokens
        self._skip_bad = skip_bad

    def forever(self, conversations: Sequence[Conversation], first: int) -> Iterator[Batch]:
        """Yield batches over and over, in an order that depends on the step alone.

        Args:
            conversations: what to learn from.
            first: the step to begin at.

        Raises:
            ValueError: an image cannot be decoded.
        """
        step, usable = first, list(conversations)
        while True:
            rng = Random(step)
            sequences = []
            for conversation in rng.sample(usable, min(len(usable), _POOL)):
                sequence = self._sequence(conversation, Recipe(copies=1), rng)
                if sequence is None:
                    usable.remove(conversation)
                else:
                    sequences.append(sequence)
            if not usable:
                raise ValueError("no conversation is left whose pictures can be decoded")
            for batch in by_length(sequences, self._batch_tokens, rng) if sequences else ():
                yield batch
                step += 1

    def read(self, conversations: Iterable[Conversation]) -> Iterator[list[Part]]:
        """Yield each conversation once, as it is read: no copies, nothing left out.

        Raises:
            ValueError: an image cannot be decoded.
        """
        recipe = Recipe(copies=0, drop_text=0.0, drop_images=0.0)
        for conversation in conversations:
            sequence = self._sequence(conversation, recipe, Random(0))
            if sequence is not None:
                yield sequence

    def once(self, conversations: Sequence[Conversation]) -> list[Batch]:
        """Return batches of some conversations, the same whenever they are asked for."""
        rng = Random(0)
        # Nothing is left out of what is compared from one time to the next.
        recipe = Recipe(copies=1, drop_text=0.0, drop_images=0.0, context_noise=0.0)
        sequences = [self._sequence(conversation, recipe, rng) for conversation in conversations]
        return by_length([s for s in sequences if s is not None], self._batch_tokens, rng)

    def _sequence(
        self, conversation: Conversation, recipe: Recipe, rng: Random
    ) -> list[Part] | None:
        """Return a conversation's parts, or None if it is left out."""
        try:
            outline = conversation.outline()
        except ValueError as error:
            if not self._skip_bad:
                raise
            logger.warning("left out from here on: %s", one_line(error))
            return None
        encoded = _encode(outline, self._verbs)
        return parts_of(outline, encoded, self._verbs.encode_text, self._following, recipe, rng)


@torch.inference_mode()
def _encode(outline: Outline, verbs: InterleaveInferencer) -> dict[int, EncodedPicture]:
    """Encode an outline's pictures at the sizes at which the checkpoint reads them."""
    encoded = {}
    for place, item in enumerate(outline):
        if isinstance(item, Picture):
            picture = verbs.vae_transform.resize_transform(item.image)
            latent, grid = verbs.encode_image(picture)
            pixels, side = verbs.vit_transform(picture), verbs.model.vit_patch_size
            encoded[place] = EncodedPicture(
                latent=latent.float().cpu(),
                grid=grid,
                patches=patchify(pixels, side),
                patch_grid=(pixels.shape[1] // side, pixels.shape[2] // side),
            )
    return encoded
