"""Which ways of keeping a model fit into a given memory, and what is then left for a story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from modeling.kv_store import SLACK
from modeling.planning.described import Described
from modeling.planning.formats import (
    FP8,
    FULL,
    HALF,
    INT8,
    NF4,
    Format,
    largest_layer_bytes,
    weight_bytes,
)
from modeling.planning.stages import Size, decoding_in_tiles, working_sets

# What Python, PyTorch and a device's libraries take before there is a tensor. On a CPU as measured
# with torch 2.13; elsewhere an allowance, which was not measured.
RUNTIME_BYTES = {"cpu": 450 * 10**6, "cuda": 700 * 10**6, "mps": 700 * 10**6}
# Of a working set: what kernels and allocators hold beyond what is asked of them. On a CPU as
# measured, where convolutions in half precision are computed in float32; elsewhere an allowance.
_MARGINS = {"cpu": (1.5, 2.7), "cuda": (1.1, 1.1), "mps": (1.1, 1.1)}

FORMATS = {"cpu": (FULL, HALF), "mps": (FULL, HALF), "cuda": (FULL, HALF, FP8, INT8, NF4)}
SMALLER_SIDES = (768, 512)
TILES = (64, 32)

_OTHERS = 2  # contexts that hold a story's texts: that with its images, and that without


@dataclass(frozen=True, kw_only=True)
class Need:
    """What is to fit.

    Attributes:
        memory: bytes of the device.
        device: "cuda", "cpu" or "mps".
        pictures: of a story, which are kept in what is read.
        text: tokens of each of its texts.
    """

    memory: int
    device: str = "cuda"
    pictures: int = 4
    text: int = 500


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One way of keeping a model, and what it comes to.

    Attributes:
        form: of the weights.
        shape: (height, width) of the pictures.
        tile: side of the tiles that they are decoded in; None is the whole picture.
        weights: bytes on the device, the autoencoder's included.
        loading: bytes at most while it is loaded.
        elsewhere: bytes of weights that are fetched from the host for every step.
        work: bytes of the largest working set, that of the device's libraries included.
        stage: which that is.
        context: bytes that are left for what is read, and for a picture while it is drawn.
        picture: bytes of each picture that is kept, and of its text.
        pictures: how many are, at most.
        fits: whether all of them do that were asked for.
    """

    form: Format
    shape: Size
    tile: int | None
    weights: int
    loading: int
    elsewhere: int
    work: int
    stage: str
    context: int
    picture: int
    pictures: int
    fits: bool


class Planner:
    """Works out fits of one checkpoint.

    Args:
        described: the checkpoint.
        need: what is to fit.
    """

    def __init__(self, described: Described, need: Need) -> None:
        self._described = described
        self._need = need
        sketch = cache(described.sketch)
        self._sets = cache(lambda dtype, shape: working_sets(sketch(dtype), shape))
        self._tiled = cache(lambda dtype, *way: decoding_in_tiles(sketch(dtype), *way))

    def fits(self, shape: Size | None = None) -> list[Fit]:
        """Return every way, in the order in which they are to be preferred where they fit.

        Args:
            shape: (height, width) of the pictures; None tries the checkpoint's own and smaller.
        """
        formats = sorted(self._formats(), key=self._preference)
        sizes = self._sizes() if shape is None else [shape]
        ways = [self._fit(form, size) for size in sizes for form in formats]
        if self._need.device == "cuda":
            ways += self._offloaded(sizes[0])
        return ways

    def _formats(self) -> list[Format]:
        known = FORMATS[self._need.device]
        # On a GPU nothing is gained by more precision than what is stored has.
        stored_half = self._described.dtype != torch.float32 and self._need.device == "cuda"
        return [form for form in known if not (form is FULL and stored_half)]

    def _preference(self, form: Format) -> tuple[bool, ...]:
        # What is stored in half precision gains nothing from more; what loses least comes first.
        stored_full = self._described.dtype == torch.float32
        return form.lossy, form is FULL and not stored_full, form is NF4

    def _sizes(self) -> list[Size]:
        height, width = self._described.image_shape
        sizes = [(height, width)]
        stride = self._described.model.latent_downsample
        for side in SMALLER_SIDES:
            scale = side / max(height, width)
            if scale < 1:
                sizes.append(
                    (
                        round(height * scale / stride) * stride,
                        round(width * scale / stride) * stride,
                    )
                )
        return sizes

    def _fit(self, form: Format, shape: Size) -> Fit:
        """Try whole pictures first, and tiles where only they fit."""
        whole = self._tried(form, shape, None)
        largest = max(shape) // self._described.autoencoder.params.downsample
        for tile in TILES:
            if whole.fits or whole.stage != "decoding" or tile >= largest:
                continue
            tiled = self._tried(form, shape, tile)
            if tiled.fits:
                return tiled
        return whole

    def _tried(self, form: Format, shape: Size, tile: int | None) -> Fit:
        described = self._described
        model = weight_bytes(described.model, form)
        autoencoder = weight_bytes(described.autoencoder, replace(form, bits=None))
        loading = model + autoencoder
        if form is FP8:  # it is made of what was loaded in bfloat16
            loading = weight_bytes(described.model, HALF) + autoencoder
        sets = dict(self._sets(form.dtype, shape))
        if tile is not None:
            sets["decoding"] = self._tiled(form.dtype, shape, tile)
        if form.bits is not None and not form.only_layers:
            extra = largest_layer_bytes(described.model, form)  # made whole before it is multiplied
            sets["drawing"] += extra
            sets["seeing"] += extra
        stage = max(sets, key=lambda name: sets[name])
        work = (
            int(sets[stage] * margin(self._need.device, form.dtype))
            + RUNTIME_BYTES[self._need.device]
        )
        context = max(0, self._need.memory - model - autoencoder - work)
        picture = self._picture(form, shape)
        pictures = max(0, (context - self._drafts(form, shape)) // picture)
        loads = loading + RUNTIME_BYTES[self._need.device] <= self._need.memory
        return Fit(
            form=form,
            shape=shape,
            tile=tile,
            weights=model + autoencoder,
            loading=loading,
            elsewhere=0,
            work=work,
            stage=stage,
            context=context,
            picture=picture,
            pictures=pictures,
            fits=loads and pictures >= self._need.pictures,
        )

    def _offloaded(self, shape: Size) -> list[Fit]:
        """Leave on the host what does not fit beside a story, if there is any."""
        whole = self._tried(HALF, shape, None)
        story = self._need.pictures * whole.picture + self._drafts(HALF, shape)
        layer = max(
            weight_bytes(module, HALF)
            for module in self._described.model.language_model.model.layers
        )
        room = self._need.memory - whole.work - story - layer  # of which one is there in passing
        weights = max(0, min(whole.weights, room))
        offloaded = replace(
            whole,
            weights=weights,
            loading=weights,
            elsewhere=whole.weights - weights,
            context=story,
            pictures=self._need.pictures if room > 0 else 0,
            fits=room > 0,
        )
        return [offloaded] if offloaded.elsewhere else []

    def _image_tokens(self, shape: Size) -> Iterator[int]:
        rows, columns = self._described.model.latent_grid(*shape)
        yield 2 + rows * columns
        height, width = self._described.vision_size(shape)
        patch = self._described.model.vit_patch_size
        yield 2 + (height // patch) * (width // patch)

    def _picture(self, form: Format, shape: Size) -> int:
        tokens = sum(self._image_tokens(shape)) + _OTHERS * self._need.text
        return tokens * self._token(form)

    def _drafts(self, form: Format, shape: Size) -> int:
        """Return the bytes of the slots that an image takes while it is drawn, and of free ones."""
        latent, _ = self._image_tokens(shape)
        return _OTHERS * (latent + SLACK) * self._token(form)

    def _token(self, form: Format) -> int:
        return self._described.model.values_per_token * form.dtype.itemsize


def margin(device: str, dtype: torch.dtype) -> float:
    """Return what a working set is multiplied by to be the most that a device may come to hold."""
    single, half = _MARGINS[device]
    return single if dtype == torch.float32 else half


def best(fits: Sequence[Fit]) -> Fit | None:
    """Return the first way that fits: the largest pictures, then the least loss."""
    return next((fit for fit in fits if fit.fits), None)
