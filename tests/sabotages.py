"""Bugs that this library could have, each put into one named function.

None of them raises an error or changes a shape, and most leave every output plausible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import modeling.attention
import modeling.bagel.qwen2_navit
from auto_interleaved.run.asks import Work
from auto_interleaved.run.contexts import Contexts, Reader, ReadImage
from auto_interleaved.run.painter import Painter
from data.transforms import ImageTransform
from modeling.bagel import Bagel
from modeling.bagel.blocks import Block
from modeling.context import Context
from modeling.verbs import Verbs
from tests.driving import answering

_attend = modeling.attention.attend
_angles = modeling.bagel.qwen2_navit.rotary_angles
_arrange = Bagel.arrange
_read_image = Reader.read_image
_with_text = Reader._with_text
_transform = ImageTransform.__call__
_text_block = Bagel.text_block
_latent_block = Bagel.latent_block
_read_latent = Verbs.read_latent
_read_vision = Verbs.read_vision


@dataclass(frozen=True)
class Sabotage:
    """A bug.

    Attributes:
        name: what is wrong.
        patches: owner, attribute, and what stands there instead.
        harms: "text" or "picture", the loss on right texts or right pictures; None where the model
            hardly minds, or no loss tells.
        by: the loss is more than so many times as high.
    """

    name: str
    patches: tuple[tuple[Any, str, Any], ...]
    harms: str | None = None
    by: float = 1.0

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner, attribute, instead in self.patches:
            monkeypatch.setattr(owner, attribute, instead)


# Contexts that lose something, or hold too much.


def image_unread(self: Reader, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
    return answering(replace(contexts, num_images=contexts.num_images + 1))


def latent_unread(self: Verbs, latent: Tensor, grid: Any, context: Context) -> Context:
    return context


def vision_unread(self: Verbs, image: Image.Image, context: Context) -> Context:
    return context


def latent_waits(self: Any, latent: Tensor, grid: Any, context: Context) -> Context:
    self.waiting = latent, grid
    return context


def vision_first(self: Any, image: Image.Image, context: Context) -> Context:
    return _read_latent(self, *self.waiting, _read_vision(self, image, context))


def noise_fed_back(self: Painter, image: ReadImage) -> Work[ReadImage]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.latent.shape, generator=generator)
    return answering(replace(image, latent=noise))


def prompt_unread(self: Reader, contexts: Contexts, ids: Sequence[int]) -> Work[Contexts]:
    return answering(contexts)


def text_not_kept(
    self: Reader, contexts: Contexts, ids: Sequence[int], after: Context
) -> Work[Contexts]:
    return answering(contexts)


def text_in_view_only(
    self: Reader, contexts: Contexts, ids: Sequence[int], after: Context
) -> Work[Contexts]:
    return answering(replace(contexts, view=after))


def no_text_is_full(self: Reader, *arguments: Any, **named: Any) -> Work[Contexts]:
    contexts = yield from _with_text(self, *arguments, **named)
    return replace(contexts, without_text=contexts.full)


def no_text_is_empty(self: Reader, *arguments: Any, **named: Any) -> Work[Contexts]:
    contexts = yield from _with_text(self, *arguments, **named)
    nothing = Context.empty(contexts.full.store.num_layers)
    return replace(contexts, without_text=nothing)


def no_image_sees_images(self: Reader, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
    read = yield from _read_image(self, contexts, image)
    return replace(read, without_images=read.full)


def no_image_loses_text(self: Reader, *arguments: Any, **named: Any) -> Work[Contexts]:
    contexts = arguments[0]
    read = yield from _with_text(self, *arguments, **named)
    return replace(read, without_images=contexts.without_images)


# Positions, masks and markers.


def advancing(by: int) -> property:
    return property(lambda block: block.num_text if block.causal else by)


def images_one_late(self: Bagel, rows: Sequence[Any]) -> Any:
    moved = [(replace(t, position=t.position + (not shape.causal)), shape) for t, shape in rows]
    return _arrange(self, moved)


def texts_one_late(self: Bagel, rows: Sequence[Any]) -> Any:
    moved = [(replace(t, position=t.position + shape.causal), shape) for t, shape in rows]
    return _arrange(self, moved)


def published_theta(positions: Tensor, head_dim: int, theta: float) -> Any:
    return _angles(positions, head_dim, 1e6)


def attending(*, causal: bool) -> Callable[..., Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        return _attend(query, key, value, causal=causal)

    return attend


def bos_missing(self: Bagel, ids: Any) -> Block:
    return _text_block(self, ids[1:] if len(ids) > 2 else ids)


# What images are turned into.


def read_as_noise(self: Bagel, latent: Tensor, grid: Any, markers: Any, **_: Any) -> Block:
    return _latent_block(self, latent, grid, markers, time=1.0)


def columns_first(self: Bagel, latent: Tensor, grid: Any, markers: Any, **named: Any) -> Block:
    turned = latent.unflatten(0, grid).transpose(0, 1).flatten(0, 1)
    return _latent_block(self, turned, grid, markers, **named)


def pixels_from_zero(self: ImageTransform, *arguments: Any) -> Tensor:
    return _transform(self, *arguments) / 2 + 0.5


def colours_reversed(self: ImageTransform, *arguments: Any) -> Tensor:
    return _transform(self, *arguments).flip(0)


# A draft's tokens are arranged and attended to as all others are.
_SEES = (modeling.attention, "attend")
_TURNS = (modeling.bagel.qwen2_navit, "rotary_angles")
_LATENT, _PIXELS = (Bagel, "latent_block"), (ImageTransform, "__call__")
_KEEPS, _READS = (Reader, "keep_text"), (Reader, "read_image")


def _bug(name: str, where: tuple[Any, str], instead: Any, *harm: Any) -> Sabotage:
    return Sabotage(name, ((*where, instead),), *harm)


SABOTAGES = (
    _bug("drawn images are not read", _READS, image_unread, "text", 2),
    _bug("noise is fed back", (Painter, "feed_back"), noise_fed_back, "picture", 1.5),
    _bug("images are vision alone", (Verbs, "read_latent"), latent_unread, "picture", 1.3),
    _bug("images are latents alone", (Verbs, "read_vision"), vision_unread, "text", 1.2),
    Sabotage(
        "vision comes before latents",
        ((Verbs, "read_latent", latent_waits), (Verbs, "read_vision", vision_first)),
    ),
    _bug("the prompt is not read", (Reader, "read_text"), prompt_unread, "text", 2),
    _bug("a written text is not kept", _KEEPS, text_not_kept, "text", 1.2),
    _bug("a text is not drawn by", _KEEPS, text_in_view_only, "picture", 2),
    _bug("no text: everything", (Reader, "_with_text"), no_text_is_full),
    _bug("no text: nothing", (Reader, "_with_text"), no_text_is_empty),
    _bug("no images: everything", _READS, no_image_sees_images),
    _bug("no images: no text", (Reader, "_with_text"), no_image_loses_text),
    _bug("an image takes no position", (Block, "advance"), advancing(0)),
    _bug("an image takes two positions", (Block, "advance"), advancing(2)),
    _bug("images stand one late", (Bagel, "arrange"), images_one_late),
    _bug("texts stand one late", (Bagel, "arrange"), texts_one_late),
    _bug("RoPE has the published base", _TURNS, published_theta, "picture", 2),
    _bug("images are causal", _SEES, attending(causal=True), "picture", 1.1),
    _bug("texts are not causal", _SEES, attending(causal=False)),
    _bug("bos is not read", (Bagel, "text_block"), bos_missing),
    _bug("clean images are read as noise", _LATENT, read_as_noise, "picture", 1.2),
    _bug("latents go column by column", _LATENT, columns_first, "picture", 1.2),
    _bug("pixels begin at 0", _PIXELS, pixels_from_zero),
    _bug("colours are blue, green, red", _PIXELS, colours_reversed),
)
