"""The published inferencer: read text, read images, write, draw; one answer a call."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from data.picture_sources import Source, read_picture
from data.prompts import Item
from modeling.checks import flag
from modeling.context import Context
from modeling.decoding import choice
from modeling.flow import ImageOptions
from modeling.interleave import (
    Reading,
    check_shape,
    checked_inputs,
    checked_writing,
    up_to_marker,
    written_ids,
)
from modeling.manners import PUBLISHED_SHAPE, Manners
from modeling.progress import with_bar
from modeling.published.dictionaries import new_dictionary, put, value_in

logger = logging.getLogger("auto_interleaved")

# What `init_gen_context` returns, or the value within.
GenContext = dict[str, Any] | Context

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


class InterleaveInferencer(Manners):
    """Reads texts and images into a context and gives back a text or an image.

    A context is a dictionary, as published: `update_*` changes the one it is given and returns it,
    and whoever wants to keep one takes a `copy.deepcopy`, which costs nothing. In it lies an
    immutable `Context` (see `new_context`); calls take that as well, and then return a new one.

    The constructor is that of `Manners`: the model, its autoencoder, tokenizer, transforms and
    special ids; and by keyword what is to be otherwise than published.
    """

    def init_gen_context(self) -> dict[str, Any]:
        """Return a context that has read nothing.

        Returns:
            `{"kv_lens": [0], "ropes": [0], "past_key_values": NaiveCache}`.
        """
        return new_dictionary(self.model.language_model.config.num_hidden_layers)

    def update_context_text(
        self,
        text: str,
        gen_context: GenContext,
        *,
        split_special_tokens: bool | None = None,
    ) -> Any:
        """Read a text.

        Args:
            text: what to read; bos and eos are put around it.
            gen_context: what came before; it holds the text from now on.
            split_special_tokens: read the characters of a special token, such as
                `<|vision_start|>`, as characters; False turns them into the token. None is as the
                inferencer's own attribute says.

        Raises:
            TypeError: if `text` is no string, or the switch neither True nor False.
            ValueError: if `text` holds half a character.
        """
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        split = flag("split_special_tokens", split_special_tokens)
        ids = self.encode_text(text, split_special_tokens=split)
        read, _ = self.read_ids([self.bos, *ids, self.eos], value_in(gen_context))
        return put(read, gen_context)

    def update_context_image(
        self, image: Image.Image, gen_context: GenContext, vae: bool = True, vit: bool = True
    ) -> Any:
        """Read an image.

        Args:
            image: any mode and size.
            gen_context: what came before; it holds the image from now on.
            vae: read its latents, which drawing goes by.
            vit: read its vision features, which understanding goes by.

        Raises:
            ValueError: if neither is asked for.
            TypeError: if it is no image.
        """
        if not (flag("vae", vae) | flag("vit", vit)):
            raise ValueError("vae and vit are both False: nothing of the image would be read")
        image = self.to_rgb(image)
        read = value_in(gen_context)
        if vae:
            latent, grid = self.encode_image(image, sample_posterior=self.sample_posterior)
            read = self.read_latent(latent, grid, read)
        if vit:
            read = self.read_vision(image, read)
        return put(read, gen_context)

    def gen_image(  # noqa: PLR0913 - the published signature
        self,
        image_shape: tuple[int, int],
        gen_context: GenContext,
        cfg_text_scale: float = 4.0,
        cfg_img_scale: float = 1.5,
        cfg_text_precontext: GenContext | None = None,
        cfg_img_precontext: GenContext | None = None,
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
            TypeError: on an argument of a wrong type.
            ValueError: on a bad option, size, or a guidance context that is missing.
        """
        image_shape = check_shape("image_shape", image_shape)
        options = ImageOptions(
            cfg_text_scale=cfg_text_scale,
            cfg_img_scale=cfg_img_scale,
            cfg_interval=cfg_interval,  # type: ignore[arg-type]  # checked by ImageOptions
            cfg_renorm_min=cfg_renorm_min,
            cfg_renorm_type=cfg_renorm_type,  # type: ignore[arg-type]  # checked by ImageOptions
            num_timesteps=num_timesteps,
            timestep_shift=timestep_shift,
            enable_taylorseer=enable_taylorseer,
        )
        if options.cfg_text_scale <= 1 < options.cfg_img_scale:
            logger.warning(
                "cfg_img_scale=%s has no effect while cfg_text_scale is at most 1", cfg_img_scale
            )
        steps = self.draw_latent(
            image_shape,
            value_in(gen_context),
            None if cfg_text_precontext is None else value_in(cfg_text_precontext),
            None if cfg_img_precontext is None else value_in(cfg_img_precontext),
            options,
        )
        shown = with_bar(steps, options.num_timesteps - 1, self._progress)
        [last] = deque(shown, maxlen=1)
        return self.decode_image(last.latent, image_shape)

    def gen_text(
        self,
        gen_context: GenContext,
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
            TypeError: if an argument is of a wrong type.
            ValueError: if a number is out of range.
        """
        do_sample, max_length, temperature = checked_writing(
            do_sample, ("max_length", max_length), ("temperature", temperature)
        )
        choose = choice(do_sample=do_sample, temperature=temperature)
        # As published, one token more is drawn after a text that was cut than it then holds.
        drawn = max_length if do_sample else max_length - 1
        tokens = (token for token, _ in self.write(value_in(gen_context), choose, drawn))
        ids = written_ids(tokens, bos=self.bos, eos=self.eos, is_drawn=do_sample)
        return up_to_marker(self.tokenizer.decode(ids[: max_length - 1]))

    def interleave_inference(  # noqa: PLR0913 - the published signature
        self,
        input_lists: Iterable[Item],
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
        image_shapes: tuple[int, int] = PUBLISHED_SHAPE,
        enable_taylorseer: bool = False,
    ) -> list[str | Image.Image]:
        """Read texts and images in order, then give one text or one image.

        Args:
            input_lists: strings, images and path objects of image files.
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
            image_shapes: (height, width) of the image; an input image's size goes before it. Left
                out, it is `image_shape`, which is 1024 x 1024 where the checkpoint draws that.
            enable_taylorseer: see `gen_image`.

        Returns:
            `[text]`, `[image]`, or with `think` `[plan, image]`.

        Raises:
            TypeError: if an input is neither a string nor an image, or an option of a wrong type.
            ValueError: on a bad option, or a string that names a picture, before anything is
                computed.
        """
        inputs = checked_inputs(input_lists, self.to_rgb)
        think, answer = flag("think", think), flag("understanding_output", understanding_output)
        checked_writing(
            do_sample,
            ("max_think_token_n", max_think_token_n),
            ("text_temperature", text_temperature),
        )
        drawing: dict[str, Any] = {
            "cfg_text_scale": cfg_text_scale,
            "cfg_img_scale": cfg_img_scale,
            "cfg_interval": cfg_interval,
            "cfg_renorm_min": cfg_renorm_min,
            "cfg_renorm_type": cfg_renorm_type,
            "num_timesteps": num_timesteps,
            "timestep_shift": timestep_shift,
            "enable_taylorseer": enable_taylorseer,
        }
        ImageOptions(**drawing)
        sized, shape = self.sized(inputs, image_shapes, understanding=answer)
        reading = Reading(self, understanding=answer)
        if think:
            reading.instruct(VLM_THINK_SYSTEM_PROMPT if answer else GEN_THINK_SYSTEM_PROMPT)
        for item in sized:
            reading.read(item)
        text: list[str | Image.Image] = []
        if think or answer:
            written = self.gen_text(reading.full, max_think_token_n, do_sample, text_temperature)
            if answer:
                return [written]
            reading.plan(written)
            text = [written]
        image = self.gen_image(
            shape,
            reading.full,
            cfg_text_precontext=reading.without_text,
            cfg_img_precontext=reading.without_images,
            **drawing,
        )
        return [*text, image]

    def interleave_call(
        self, input_lists: Iterable[Item], **options: Any
    ) -> list[str | Image.Image]:
        """Do what `interleave_inference` does, under the name that scripts for WEAVE call."""
        return self.interleave_inference(input_lists, **options)

    def __call__(
        self, image: Source | None = None, text: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Read an image, a text, or both, and answer; see `interleave_inference`.

        Args:
            image: a PIL image, a path (also as a string), a `data:` URL or a file's bytes.
            text: what to read after it.
            **kwargs: see `interleave_inference`.

        Returns:
            `{"image": image or None, "text": text or None}`.

        Raises:
            ValueError: if there is neither an image nor a text, or the image cannot be read.
            TypeError: if they are something else.
        """
        inputs: list[Item] = []
        if image is not None:
            inputs.append(read_picture(image, convert=self.to_rgb))
        if text is not None:
            inputs.append({"type": "text", "text": text})  # words, whatever they look like
        if not inputs:
            raise ValueError("give an image, a text, or both")
        answer: dict[str, Any] = {"image": None, "text": None}
        for item in self.interleave_inference(inputs, **kwargs):
            answer["text" if isinstance(item, str) else "image"] = item
        return answer
