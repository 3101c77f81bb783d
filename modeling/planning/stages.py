"""The working set of each stage of a run: what it takes beside weights and what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.autoencoder import AutoEncoder
from modeling.bagel import Bagel
from modeling.bagel.drawing import Canvas, paint
from modeling.context import Context
from modeling.flow import ImageOptions
from modeling.inference import inference
from modeling.planning.live import peak_bytes

Size = tuple[int, int]  # (height, width)

_MARKERS = (0, 1)
_TEXT = 64  # tokens before an image
_TWO_STEPS = ImageOptions(num_timesteps=3, cfg_interval=(0.0, 1.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """A model on the meta device, and the autoencoder that belongs to it.

    Attributes:
        model, autoencoder: both in one dtype.
        vision_size: (height, width) in pixels at which an image of a size is seen, by that size.
    """

    model: Bagel
    autoencoder: AutoEncoder
    vision_size: Callable[[Size], Size]

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor of the model's dtype where the model is."""
        return torch.zeros(shape, dtype=dtype or self.model.dtype, device=self.model.device)


def working_sets(sketch: Sketch, shape: Size) -> Mapping[str, int]:
    """Return the bytes that each stage of a run takes at most, beside weights and contexts.

    Args:
        sketch: the model.
        shape: (height, width) of the images.
    """
    return {name: _peak(work) for name, work in stages_of(sketch, shape).items()}


def stages_of(sketch: Sketch, shape: Size) -> dict[str, Callable[[], Context | None]]:
    """Return the work of each stage, which also runs where there are values."""
    stages: dict[str, Callable[[], Context | None]] = {
        "drawing": _drawing(sketch, shape),
        "reading latents": lambda: _read_latents(sketch, shape),
        "seeing": lambda: _see(sketch, shape),
        "decoding": lambda: _decode(sketch, shape),
        "encoding": lambda: _encode(sketch, shape),
    }
    return {name: inference(work) for name, work in stages.items()}


def decoding_in_tiles(sketch: Sketch, shape: Size, tile: int) -> int:
    """Return the bytes that decoding an image in tiles of so many latent positions takes."""
    params = sketch.autoencoder.params
    one = (tile * params.downsample, tile * params.downsample)
    # Pixels that are added up and their weights, both in float32; and the quotient of the two.
    sums = (2 * params.out_ch + 1) * shape[0] * shape[1] * torch.float32.itemsize
    return _peak(lambda: _decode(sketch, one)) + sums


@inference
def _peak(work: Callable[[], Context | None]) -> int:
    made = work()  # stores grow once, and are counted with what is read
    return peak_bytes(work) - (0 if made is None else made.store.nbytes)


@inference
def _drawing(sketch: Sketch, shape: Size) -> Callable[[], None]:
    """Prepare drawing over three contexts, of which one holds an image of that size."""
    model, grid = sketch.model, sketch.model.latent_grid(*shape)
    ids = sketch.zeros(_TEXT, dtype=torch.long)
    text, other = (model.read(model.new_context(), model.text_block(ids))[0] for _ in range(2))
    full, _ = model.read(text, model.latent_block(_latent(sketch, shape), grid, _MARKERS))
    noise = _latent(sketch, shape).float()

    def draw() -> None:
        canvas = Canvas(model, sketch.zeros(2, dtype=torch.long), model.latent_places(grid))
        for _ in paint(
            canvas,
            full=full,
            without_text=text,
            without_images=other,
            noise=noise,
            options=_TWO_STEPS,
        ):
            pass

    return draw


def _latent(sketch: Sketch, shape: Size) -> Tensor:
    rows, columns = sketch.model.latent_grid(*shape)
    return sketch.zeros(rows * columns, sketch.model.patch_latent_dim)


def _read_latents(sketch: Sketch, shape: Size) -> Context:
    model = sketch.model
    block = model.latent_block(_latent(sketch, shape), model.latent_grid(*shape), _MARKERS)
    return model.read(model.new_context(), block)[0]


def _see(sketch: Sketch, shape: Size) -> Context:
    model = sketch.model
    block = model.vit_block(sketch.zeros(3, *sketch.vision_size(shape)), _MARKERS)
    return model.read(model.new_context(), block)[0]


def _decode(sketch: Sketch, shape: Size) -> None:
    params = sketch.autoencoder.params
    height, width = (side // params.downsample for side in shape)
    sketch.autoencoder.decode(sketch.zeros(1, params.z_channels, height, width))


def _encode(sketch: Sketch, shape: Size) -> None:
    sketch.autoencoder.encode(sketch.zeros(1, sketch.autoencoder.params.in_channels, *shape))
