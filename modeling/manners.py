"""How an inferencer reads and draws where a call does not say: as published, unless it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from data.data_utils import pil_img2rgb, plain_rgb
from data.transforms import ImageTransform
from modeling.autoencoder import AutoEncoder
from modeling.bagel import Bagel
from modeling.bar_config import check_bar_config
from modeling.checks import flag
from modeling.interleave import Item, check_shape
from modeling.verbs import Verbs

# The default of `image_shapes`, by which a call knows that nobody asked for a size: it is this very
# object then. The inferencer's own size takes its place.
PUBLISHED_SHAPE = (1024, 1024)


class Manners(Verbs):
    """The verbs, and what the published calls go by.

    Args:
        model: see `Verbs`, as the five that follow; they are kept as they are.
        vae_model: the autoencoder.
        tokenizer: a Qwen2 tokenizer.
        vae_transform: size rule and normalisation of images for the autoencoder.
        vit_transform: the same for the vision encoder.
        new_token_ids: as `add_special_tokens` returns them.
        sample_posterior: draw the latents of an image that is read from their distribution, by
            torch's global generator, as published; False takes their mean.
        split_special_tokens: read `<|vision_start|>` and its like in a text as characters; as
            published they are tokens.
        as_viewed: turn an image by its EXIF orientation and show odd modes on white and in full
            range, see `pil_img2rgb`; as published an image is read as it is stored, see
            `plain_rgb`.

    Attributes:
        sample_posterior, split_special_tokens, as_viewed: may be set at any time. They hold for the
            published calls; the interleaved loop has ways of its own.
    """

    def __init__(  # noqa: PLR0913 - the published signature
        self,
        model: Bagel,
        vae_model: AutoEncoder,
        tokenizer: Any,
        vae_transform: ImageTransform,
        vit_transform: ImageTransform,
        new_token_ids: Mapping[str, int],
        *,
        sample_posterior: bool = True,
        split_special_tokens: bool = False,
        as_viewed: bool = False,
    ) -> None:
        super().__init__(model, vae_model, tokenizer, vae_transform, vit_transform, new_token_ids)
        self.sample_posterior = flag("sample_posterior", sample_posterior)
        self.split_special_tokens = flag("split_special_tokens", split_special_tokens)
        self.as_viewed = flag("as_viewed", as_viewed)
        self._image_shape: tuple[int, int] | None = None
        self._progress: dict[str, Any] = {}

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of images where a call does not say.

        At first 1024 x 1024, or the largest square that the model's position table holds.

        Raises:
            TypeError: if something else than two integers is set.
            ValueError: if the model draws no images of the size that is set.
        """
        if self._image_shape is not None:
            return self._image_shape
        stride = self.model.latent_downsample
        side = min(1024 // stride, self.model.max_latent_size) * stride
        return side, side

    @image_shape.setter
    def image_shape(self, shape: tuple[int, int]) -> None:
        checked = check_shape("image_shape", shape)
        self.model.latent_grid(*checked)
        self._image_shape = checked

    def set_progress_bar_config(self, **config: Any) -> None:
        """Set keyword arguments for tqdm, such as `disable=True`.

        Raises:
            TypeError: if tqdm has no such argument, or its value is of a wrong type.
            ValueError: if no bar can be shown so.
        """
        self._progress = check_bar_config(config)

    def to_rgb(self, image: Image.Image) -> Image.Image:
        """Convert an image as the published calls are to read it.

        Raises:
            TypeError: if it is no PIL image.
        """
        return pil_img2rgb(image) if self.as_viewed else plain_rgb(image)

    def sized(
        self, inputs: Sequence[Item], image_shape: tuple[int, int], *, understanding: bool
    ) -> tuple[list[Item], tuple[int, int]]:
        """Bring images to the size at which they are read, and find that of the image to draw.

        Args:
            inputs: strings and images.
            image_shape: (height, width) to draw where no input has a size.
            understanding: nothing is to be drawn.

        Returns:
            The inputs, and the (height, width) of the last image or else what was asked for.

        Raises:
            TypeError: if `image_shape` is no pair of integers.
            ValueError: if it, or an image where latents are read, is of a size that the model
                draws no images of.
        """
        wanted = check_shape("image_shapes", image_shape)
        resize = self.vae_transform.resize_transform
        sized = [item if isinstance(item, str) else resize(self.to_rgb(item)) for item in inputs]
        shapes = [(item.height, item.width) for item in sized if not isinstance(item, str)]
        if understanding:
            return sized, wanted
        if not shapes:
            shapes = [self.image_shape if image_shape is PUBLISHED_SHAPE else wanted]
        for shape in shapes:
            self.model.latent_grid(*shape)
        return sized, shapes[-1]
