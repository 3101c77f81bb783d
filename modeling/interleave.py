"""The published calls' arguments, checked, and the published loop's contexts while it reads."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from data import prompts
from data.data_utils import MARKERS
from data.picture_sources import Convert
from modeling.checks import flag, instance, integer, number, out_of_range, pair, wrong_type
from modeling.choice import TEMPERATURES
from modeling.numbers import require_within

Item = str | Image.Image

check_shape = pair(("height", "width"), integer(minimum=1))
_check_latent = instance(Tensor, "a tensor of latent tokens, as draw_latent gives them")
_LISTED = "a list of strings and PIL images"
_UNORDERED = (Mapping, set, frozenset, bytes)


def checked_inputs(given: Iterable[prompts.Item], convert: Convert) -> list[Item]:
    """Return the items of a list, or of anything else that gives them in order, once.

    Args:
        given: strings, images, path objects of image files, and parts of chat messages.
        convert: turns the image of a file into RGB.

    Raises:
        TypeError: if it is something else, or an item is neither a string nor an image.
        ValueError: if it is empty, or an item is a string that names a picture.
    """
    alone = isinstance(given, Item)
    if alone or isinstance(given, _UNORDERED) or not isinstance(given, Iterable):
        remedy = "; put it in a list" if alone else ""
        raise TypeError(f"input_lists must be {_LISTED}, got {type(given).__name__}{remedy}")
    inputs = prompts.read_inputs(given, "input", convert=convert)
    if not inputs:
        raise ValueError("input_lists must hold a string or an image at least, got none")
    return inputs


def checked_writing(
    do_sample: bool, max_length: tuple[str, int], temperature: tuple[str, float]
) -> tuple[bool, int, float]:
    """Check how a text is to be written.

    Args:
        do_sample: draw tokens.
        max_length: the name of the keyword, and tokens at most, the bos that is fed included.
        temperature: the name of the keyword, and the temperature; above 0 where it is used.

    Raises:
        TypeError: if a value is of a wrong type.
        ValueError: if it is out of range.
    """
    sample, length = flag("do_sample", do_sample), integer(minimum=1)(*max_length)
    heat = number()(*temperature)
    if sample and heat <= 0:
        remedy = "for the likeliest token set do_sample=False"
        raise out_of_range(temperature[0], "above 0 when sampling", temperature[1], remedy)
    if sample:
        require_within(temperature[0], heat, *TEMPERATURES)
    return sample, length, heat


def check_latent(latent: Any, size: tuple[int, int]) -> None:
    """Check latent tokens that are to become an image.

    Args:
        latent: what was given.
        size: (rows * columns, patch values) that the image takes.

    Raises:
        TypeError: if it is no tensor of numbers with a point.
        ValueError: if it is of another size.
    """
    if not _check_latent("latent", latent).is_floating_point():
        raise wrong_type("latent", "floating point", latent.dtype)
    if tuple(latent.shape) != size:
        wanted = f"(rows * columns, patch values) = {size} for an image of this size"
        raise out_of_range("latent", wanted, tuple(latent.shape))


def written_ids(tokens: Iterable[int], *, bos: int, eos: int, is_drawn: bool) -> list[int]:
    """Return a text's ids, up to its end or to an inner bos.

    Where tokens are drawn at random they are asked for up to the end or the limit, as published:
    what follows an inner bos is dropped, but on its draws depends whatever is drawn next.
    """
    ends = (eos,) if is_drawn else (eos, bos)
    ids = list(takewhile(lambda token: token not in ends, tokens))
    return list(takewhile(lambda token: token != bos, ids))


def up_to_marker(text: str) -> str:
    """Return a text up to where it spells out an end or a beginning."""
    for name in ("eos_token_id", "bos_token_id"):
        text = text.partition(MARKERS[name])[0]
    return text


class Reads(Protocol):
    """The verbs by which inputs are read, as published."""

    def init_gen_context(self) -> Any:
        """Return a context that has read nothing."""

    def update_context_text(self, text: str, gen_context: Any) -> Any:
        """Read a text."""

    def update_context_image(self, image: Image.Image, gen_context: Any, vae: bool) -> Any:
        """Read an image."""


class Reading:
    """The three contexts of the published loop while its inputs are read.

    Each is a copy wherever one is kept, so that a verb may change what it is given. Until an image
    or a plan comes, the context without images *is* the full one: a velocity over both is computed
    once.

    Args:
        verbs: what reads.
        understanding: read images by their vision features alone.
    """

    def __init__(self, verbs: Reads, *, understanding: bool) -> None:
        self._verbs = verbs
        self._understanding = understanding
        self._apart: Any = None  # the context without images, once it differs from the full one
        self.full = verbs.init_gen_context()
        self.without_text = copy.deepcopy(self.full)

    @property
    def without_images(self) -> Any:
        """What was read but for the images."""
        return self.full if self._apart is None else self._apart

    def instruct(self, text: str) -> None:
        """Read a system prompt, which guidance never drops... except as the text before."""
        self._extend(text)

    def read(self, item: Item) -> None:
        """Read one input; an image at the size at which it is to be read."""
        if isinstance(item, str):
            self.without_text = copy.deepcopy(self.full)
            self._extend(item)
            return
        self._part()
        self.full = self._verbs.update_context_image(item, self.full, vae=not self._understanding)
        self.without_text = copy.deepcopy(self.full)

    def plan(self, text: str) -> None:
        """Read what was written before an image; only the full context holds it."""
        self._part()
        self.full = self._verbs.update_context_text(text, self.full)

    def _part(self) -> None:
        if self._apart is None:
            self._apart = copy.deepcopy(self.full)

    def _extend(self, text: str) -> None:
        self.full = self._verbs.update_context_text(text, self.full)
        if self._apart is not None:
            self._apart = self._verbs.update_context_text(text, self._apart)
