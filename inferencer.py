"""The published inferencer: read text, read images, write, draw; one answer a call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from PIL import Image

from data.data_utils import pil_img2rgb
from modeling.context import Context
from modeling.decoding import choice
from modeling.flow import ImageOptions
from modeling.verbs import Verbs

logger = logging.getLogger("auto_interleaved")

# Checkpoints were trained on these very words: they are data, like token ids.
VLM_THINK_SYSTEM_PROMPT = (
    "You should first think about the reasoning process in the mind and then provide the user "
    "with the answer. \nThe reasoning process is enclosed within <think> </think> tags, i.e. "
    "<think> reasoning process here </think> answer here"
)
GEN_THINK_SYSTEM_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. "
    "\nThe planning process is enclosed within <think> </think> tags, i.e. "
    "<think> planning process here </think> image here"
)


class InterleaveInferencer(Verbs):
    """Reads texts and images into a context and gives back a text or an image.

    Contexts are immutable values: every `update_*` returns a new one and leaves the old one as it
    was, so that keeping, forking and comparing them is free.

    The constructor is `Verbs`': the model, its autoencoder, tokenizer, transforms and special ids.
    """

    def init_gen_context(self) -> Context:
        """Return a context that has read nothing."""
        return self.model.new_context()

    def update_context_text(
        self, text: str, gen_context: Context, *, split_special_tokens: bool = True
    ) -> Context:
        """Read a text.

        Args:
            text: what to read; bos and eos are put around it.
            gen_context: what came before.
            split_special_tokens: read the characters of a special token, such as
                `<|vision_start|>`, as characters; False turns them into the token.

        Raises:
            TypeError: if `text` is no string.
        """
        ids = self.encode_text(text, split_special_tokens=split_special_tokens)
        return self.read_ids([self.bos, *ids, self.eos], gen_context)[0]

    def update_context_image(
        self, image: Image.Image, gen_context: Context, vae: bool = True, vit: bool = True
    ) -> Context:
        """Read an image.

        Args:
            image: any mode and size.
            gen_context: what came before.
            vae: read its latents, which drawing goes by.
            vit: read its vision features, which understanding goes by.

        Raises:
            ValueError: if neither is asked for.
            TypeError: if it is no image.
        """
        if not (vae or vit):
            raise ValueError("vae and vit are both False: nothing of the image would be read")
        image = pil_img2rgb(image)
        if vae:
            gen_context = self.read_latent(*self.encode_image(image), gen_context)
        if vit:
            gen_context = self.read_vision(image, gen_context)
        return gen_context

    def gen_image(  # noqa: PLR0913 - the published signature
        self,
        image_shape: tuple[int, int],
        gen_context: Context,
        cfg_text_scale: float = 4.0,
        cfg_img_scale: float = 1.5,
        cfg_text_precontext: Context | None = None,
        cfg_img_precontext: Context | None = None,
        cfg_interval: Sequence[float] = (0.4, 1.0),
        cfg_renorm_min: float = 0.0,
        cfg_renorm_type: str = "global",
        num_timesteps: int = 50,
        timestep_shift: float = 3.0,
        enable_taylorseer: bool = False,
    ) -> Image.Image:
        """Draw one image; the context stays as it is.

        The initial noise comes from torch's global CPU generator, as published.

        Args:
            image_shape: (height, width) in pixels, multiples of the model's stride.
            gen_context: what the image should follow.
            cfg_text_scale: guidance away from `cfg_text_precontext`; 1 is off.
            cfg_img_scale: guidance away from `cfg_img_precontext`; works only with text guidance.
            cfg_text_precontext: the context without the last text.
            cfg_img_precontext: the context without images.
            cfg_interval: guidance holds where `interval[0] < t <= interval[1]`.
            cfg_renorm_min: lower bound of the renorm factor.
            cfg_renorm_type: "global", "channel" or "text_channel".
            num_timesteps: points on the time line; one more than steps.
            timestep_shift: how far times lean towards noise.
            enable_taylorseer: extrapolate two of three evaluations. Faster and lossy.

        Raises:
            ValueError: on a bad option, size, or a guidance context that is missing.
        """
        options = ImageOptions(
            cfg_text_scale=cfg_text_scale,
            cfg_img_scale=cfg_img_scale,
            cfg_interval=(cfg_interval[0], cfg_interval[1]),
            cfg_renorm_min=cfg_renorm_min,
            cfg_renorm_type=cfg_renorm_type,  # type: ignore[arg-type]  # checked by ImageOptions
            num_timesteps=num_timesteps,
            timestep_shift=timestep_shift,
            enable_taylorseer=enable_taylorseer,
        )
        if cfg_text_scale <= 1 < cfg_img_scale:
            logger.warning(
                "cfg_img_scale=%s has no effect while cfg_text_scale is at most 1", cfg_img_scale
            )
        *_, last = self.draw_latent(
            image_shape, gen_context, cfg_text_precontext, cfg_img_precontext, options
        )
        return self.decode_image(last.latent, image_shape)

    def gen_text(
        self,
        gen_context: Context,
        max_length: int = 500,
        do_sample: bool = True,
        temperature: float = 1.0,
    ) -> str:
        """Write a text; the context stays as it is.

        Args:
            gen_context: what the text should follow.
            max_length: tokens at most, the bos that is fed included.
            do_sample: draw tokens from torch's global generator; False takes the likeliest.
            temperature: above 0; plays no part without sampling.

        Raises:
            ValueError: if a number is out of range.
        """
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        choose = choice(do_sample=do_sample, temperature=temperature)
        tokens = (token for token, _ in self.write(gen_context, choose, max_length - 1))
        ends = (self.eos, self.bos)
        ids = list(takewhile(lambda token: token not in ends, tokens))
        return self.tokenizer.decode(ids)

    def interleave_inference(  # noqa: PLR0913 - the published signature
        self,
        input_lists: Sequence[str | Image.Image],
        think: bool = False,
        understanding_output: bool = False,
        max_think_token_n: int = 1000,
        do_sample: bool = False,
        text_temperature: float = 0.3,
        cfg_text_scale: float = 3.0,
        cfg_img_scale: float = 1.5,
        cfg_interval: Sequence[float] = (0.4, 1.0),
        timestep_shift: float = 3.0,
        num_timesteps: int = 50,
        cfg_renorm_min: float = 0.0,
        cfg_renorm_type: str = "global",
        image_shapes: tuple[int, int] = (1024, 1024),
        enable_taylorseer: bool = False,
    ) -> list[str | Image.Image]:
        """Read texts and images in order, then give one text or one image.

        Args:
            input_lists: strings and images.
            think: write a plan first; it is returned before the image.
            understanding_output: answer with a text instead of an image.
            max_think_token_n: tokens of a text at most, the bos that is fed included.
            do_sample: draw text tokens instead of taking the likeliest.
            text_temperature: temperature of that.
            cfg_text_scale: see `gen_image`.
            cfg_img_scale: see `gen_image`.
            cfg_interval: see `gen_image`.
            timestep_shift: see `gen_image`.
            num_timesteps: see `gen_image`.
            cfg_renorm_min: see `gen_image`.
            cfg_renorm_type: see `gen_image`.
            image_shapes: (height, width) of the image; an input image's size goes before it.
            enable_taylorseer: see `gen_image`.

        Returns:
            `[text]`, `[image]`, or with `think` `[plan, image]`.

        Raises:
            TypeError: if an input is neither a string nor an image.
            ValueError: on a bad option.
        """
        inputs = _checked(input_lists)
        reading = _Reading(self, image_shapes, understanding_output)
        if think:
            reading.instruct(
                VLM_THINK_SYSTEM_PROMPT if understanding_output else GEN_THINK_SYSTEM_PROMPT
            )
        for item in inputs:
            reading.read(item)
        text: list[str | Image.Image] = []
        if think or understanding_output:
            written = self.gen_text(reading.full, max_think_token_n, do_sample, text_temperature)
            if understanding_output:
                return [written]
            reading.full = self.update_context_text(written, reading.full)
            text = [written]
        image = self.gen_image(
            reading.image_shape,
            reading.full,
            cfg_text_scale=cfg_text_scale,
            cfg_img_scale=cfg_img_scale,
            cfg_text_precontext=reading.without_text,
            cfg_img_precontext=reading.without_images,
            cfg_interval=cfg_interval,
            cfg_renorm_min=cfg_renorm_min,
            cfg_renorm_type=cfg_renorm_type,
            num_timesteps=num_timesteps,
            timestep_shift=timestep_shift,
            enable_taylorseer=enable_taylorseer,
        )
        return [*text, image]

    def __call__(
        self, image: Image.Image | None = None, text: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Read an image, a text, or both, and answer; see `interleave_inference`.

        Returns:
            `{"image": image or None, "text": text or None}`.

        Raises:
            ValueError: if there is neither an image nor a text.
        """
        inputs = [item for item in (image, text) if item is not None]
        if not inputs:
            raise ValueError("give an image, a text, or both")
        answer: dict[str, Any] = {"image": None, "text": None}
        for item in self.interleave_inference(inputs, **kwargs):
            answer["text" if isinstance(item, str) else "image"] = item
        return answer


class _Reading:
    """The three contexts of the published loop while its inputs are read.

    Until an image comes, the context without images *is* the full one, and a velocity over both is
    computed once.
    """

    def __init__(
        self,
        inferencer: InterleaveInferencer,
        image_shape: tuple[int, int],
        understanding: bool,
    ) -> None:
        self._inferencer = inferencer
        self._understanding = understanding
        self.image_shape = image_shape
        self.full = self.without_text = self.without_images = inferencer.init_gen_context()

    def instruct(self, text: str) -> None:
        """Read a system prompt, which guidance never drops... except as the text before."""
        self._extend(text)

    def read(self, item: str | Image.Image) -> None:
        """Read one input."""
        if isinstance(item, str):
            self.without_text = self.full
            self._extend(item)
            return
        image = self._inferencer.vae_transform.resize_transform(pil_img2rgb(item))
        self.full = self._inferencer.update_context_image(
            image, self.full, vae=not self._understanding
        )
        self.without_text = self.full
        self.image_shape = (image.height, image.width)

    def _extend(self, text: str) -> None:
        update = self._inferencer.update_context_text
        same = self.without_images == self.full
        self.full, before = update(text, self.full), self.without_images
        self.without_images = self.full if same else update(text, before)


def _checked(inputs: Sequence[str | Image.Image]) -> Sequence[str | Image.Image]:
    if isinstance(inputs, str | Image.Image):
        raise TypeError(
            f"input_lists must be a list of strings and PIL images, got {type(inputs).__name__}; "
            "put it in a list"
        )
    for place, item in enumerate(inputs):
        if not isinstance(item, str | Image.Image):
            raise TypeError(
                f"input {place} must be a string or a PIL image, got {type(item).__name__}"
            )
    return inputs
