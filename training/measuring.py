"""How long a conversation is for a checkpoint, and at what sizes it sees the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.transforms import ImageTransform, resized_size
from modeling.checkpoint import Checkpoint
from training.bars import bar
from training.conversations import Conversation, Reading
from training.samples import Text

Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True, kw_only=True)
class Length:
    """What a conversation takes.

    Attributes:
        tokens: in a packed sequence, the noised copies of pictures that are drawn included.
        positions: of those that the decoder was made for.
    """

    tokens: int
    positions: int


class Ruler:
    """Measures conversations.

    Args:
        checkpoint: whose tokenizer, size rules and positions count.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.positions: int = checkpoint.model.language_model.config.max_position_embeddings

    def length(self, conversation: Conversation) -> Length:
        """Return how long a conversation is."""
        tokens = positions = 0
        # A source has a size just as its image has.
        for item in conversation.laid_out(lambda source: source):
            if isinstance(item, Text):
                ids = self._encoded(item.text)
                tokens, positions = tokens + len(ids) + 2, positions + len(ids) + 2
                continue
            latent, vision = self._image_tokens(item.image.size)
            tokens += latent + vision + (latent if item.drawn else 0)
            positions += 2
        return Length(tokens=tokens, positions=positions)

    def size(self, picture: Size) -> Size:
        """Return the size at which a picture is drawn, and at which it is then looked at."""
        return _resized(picture, self._checkpoint.vae_transform)

    def _encoded(self, text: str) -> list[int]:
        # Not verbose: what is too long is told by its line.
        return self._checkpoint.tokenizer.encode(text, split_special_tokens=True, verbose=False)

    def _image_tokens(self, picture: Size) -> tuple[int, int]:
        """Return the tokens of latents and of vision patches, markers included."""
        drawn = self.size(picture)
        seen = _resized(drawn, self._checkpoint.vit_transform)
        model, side = self._checkpoint.model, self._checkpoint.model.vit_patch_size
        rows, columns = model.latent_grid(drawn[1], drawn[0])
        return rows * columns + 2, (seen[0] // side) * (seen[1] // side) + 2


def fitting(conversations: Sequence[Conversation], ruler: Ruler) -> Reading:
    """Tell the conversations that the decoder has positions for from those that are too long."""
    good, faults = [], []
    for conversation in bar(conversations, "measuring the data", "line"):
        positions = ruler.length(conversation).positions
        if positions <= ruler.positions:
            good.append(conversation)
            continue
        faults.append(
            ValueError(
                f"{conversation.place}: takes {positions:,} positions, and the checkpoint was made "
                f"for {ruler.positions:,}; make two conversations of it"
            )
        )
    return Reading(conversations=good, faults=faults, lines=len(conversations))


def _resized(size: Size, transform: ImageTransform) -> Size:
    rule = transform.resize_transform
    return resized_size(
        *size,
        max_size=rule.max_image_size,
        min_size=rule.min_image_size,
        stride=rule.image_stride,
        max_pixels=rule.max_pixels,
    )
