"""The FLUX autoencoder, pixels to latents and back, and the file its weights come from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modeling.autoencoder.layers import Decoder, DiagonalGaussian, Encoder
from modeling.autoencoder.params import AutoEncoderParams
from modeling.autoencoder.tiles import decode_in_tiles
from modeling.checks import integer, out_of_range

__all__ = ["AutoEncoder", "AutoEncoderParams", "load_ae"]

WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_NAMES_SHOWN = 20
MIN_TILE = 8  # latent positions; smaller ones are all border


class AutoEncoder(nn.Module):
    """Convolutional autoencoder between pixels in [-1, 1] and normalised latents.

    It holds parameters only, under the names of the published checkpoint. It computes in the
    dtype of its weights, to which inputs are converted; inputs must be on its device.

    Args:
        params: its sizes.

    Attributes:
        reg: makes a latent of what the encoder says, where the posterior is sampled.
        sample_posterior: what `encode` does where a call does not say; may be set.
    """

    sample_posterior = False

    def __init__(self, params: AutoEncoderParams) -> None:
        super().__init__()
        self.params = params
        self.encoder = Encoder(
            params.in_channels,
            params.ch,
            params.level_widths,
            params.num_res_blocks,
            params.z_channels,
        )
        self.decoder = Decoder(
            params.z_channels, params.level_widths, params.num_res_blocks + 1, params.out_ch
        )
        self.reg = DiagonalGaussian()

    @property
    def scale_factor(self) -> float:
        """What latents are multiplied by; setting it changes `params`."""
        return self.params.scale_factor

    @scale_factor.setter
    def scale_factor(self, value: float) -> None:
        self.params = replace(self.params, scale_factor=value)

    @property
    def shift_factor(self) -> float:
        """What is subtracted from latents before; setting it changes `params`."""
        return self.params.shift_factor

    @shift_factor.setter
    def shift_factor(self, value: float) -> None:
        self.params = replace(self.params, shift_factor=value)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.encoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.conv_in.weight.device

    def encode(
        self,
        pixels: Tensor,
        *,
        sample_posterior: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Turn pixels into latents.

        Args:
            pixels: (batch, in_channels, height, width) in [-1, 1]; height and width are multiples
                of `params.downsample`.
            sample_posterior: draw from the posterior, unless `reg.sample` is False. None is as the
                attribute says: by default the latent is the mean, so that the same pixels always
                give the same latent.
            generator: source of the draw, on any device; None is torch's global generator. Used
                with `sample_posterior` only.

        Returns:
            Latents (batch, z_channels, height / downsample, width / downsample).

        Raises:
            TypeError: the pixels are not floating point.
            ValueError: the shape does not fit.
        """
        _check_images(pixels, "pixels", self.params.in_channels, self.params.downsample)
        moments = self.encoder(pixels.to(self.dtype))
        mean = moments.chunk(2, dim=1)[0]
        drawn = self.sample_posterior if sample_posterior is None else sample_posterior
        sample = self.reg(moments, generator) if drawn else mean
        return self.scale_factor * (sample - self.shift_factor)

    def decode(self, latent: Tensor, tile: int | None = None) -> Tensor:
        """Turn latents into pixels.

        Args:
            latent: (batch, z_channels, height, width), as `encode` returns.
            tile: decode overlapping squares of so many latent positions a side and blend them, in
                the memory that one of them takes. Lossy: norms and the attention in the middle
                then see a tile instead of the image. None, or a tile that holds it, is exact.

        Returns:
            Pixels (batch, out_ch, height * downsample, width * downsample), about [-1, 1] but not
            clamped to it.

        Raises:
            TypeError: the latent is not floating point, or the tile is no integer.
            ValueError: the shape does not fit, or the tile is too small.
        """
        _check_images(latent, "latent", self.params.z_channels, 1)
        tile = check_tile("tile", tile)
        sample = (latent / self.scale_factor + self.shift_factor).to(self.dtype)
        if tile is None or tile >= max(latent.shape[-2:]):
            return self.decoder(sample)
        tiled = decode_in_tiles(self.decoder, sample, tile, self.params.downsample)
        return tiled.to(self.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels to the posterior mean and decode them again."""
        return self.decode(self.encode(pixels))


def check_tile(name: str, tile: int | None) -> int | None:
    """Check the side of tiles, as `AutoEncoder.decode` takes it.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too small.
    """
    if tile is None:
        return None
    side = integer()(name, tile)
    if side < MIN_TILE:
        allowed = f"at least {MIN_TILE} latent positions"
        raise out_of_range(name, allowed, tile, "None is the whole image at once")
    return side


def load_ae(local_path: str | os.PathLike[str] | None) -> tuple[AutoEncoder, AutoEncoderParams]:
    """Read an autoencoder from a safetensors file, in evaluation mode.

    Sizes come from the shapes in the file and the dtype is the stored one. The weights stay
    memory-mapped: the file is not copied, and must not change while they are in use.

    Args:
        local_path: the file, `ae.safetensors` in a checkpoint directory. None gives the published
            shape with fresh weights.

    Returns:
        The autoencoder, on the CPU, and its sizes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole safetensors file, or its tensors are not those of an
            autoencoder; the message names them.
        RuntimeError: called inside accelerate's `init_empty_weights()`, which drops the weights.
    """
    if local_path is None:
        params = AutoEncoderParams()
        return AutoEncoder(params).eval(), params
    weights = _read_weights(Path(local_path))
    try:
        autoencoder = _shape_of({name: weight.shape for name, weight in weights.items()})
    except ValueError as error:
        raise ValueError(
            f"{local_path} does not hold a FLUX autoencoder ({error}); "
            "give the path of a checkpoint's ae.safetensors"
        ) from error
    autoencoder.load_state_dict(weights, strict=True, assign=True)
    if autoencoder.device.type == "meta":
        raise RuntimeError(
            "load_ae was called inside init_empty_weights(), where the weights of the file are "
            "lost to the meta device; call it before or after that block"
        )
    return autoencoder.eval(), autoencoder.params


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no autoencoder file at {path}; expected the path of a checkpoint's ae.safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); download or copy it again"
        ) from error
    dtypes = {weight.dtype for weight in weights.values()}
    if len(dtypes) > 1 or not dtypes.issubset(WEIGHT_DTYPES):
        raise ValueError(
            f"{path} must hold tensors of one dtype out of {WEIGHT_DTYPES}, got "
            f"{sorted(map(str, dtypes))}; save it again with all its tensors in one of them"
        )
    return weights


def _check_images(images: Tensor, name: str, channels: int, stride: int) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating point tensor, got {given}; convert it first")
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"{name} must have the shape (batch, {channels}, height, width), "
            f"got {tuple(images.shape)}"
        )
    height, width = images.shape[2:]
    if min(height, width) < 1 or height % stride or width % stride:
        raise ValueError(
            f"height and width of {name} must be positive multiples of {stride}, got {height} x "
            f"{width}; resize to {_nearest(height, stride)} x {_nearest(width, stride)}"
        )


def _nearest(length: int, stride: int) -> int:
    return max(1, round(length / stride)) * stride


def _shape_of(shapes: Mapping[str, Sequence[int]]) -> AutoEncoder:
    """Build the autoencoder on the meta device that has exactly these tensors."""
    params = AutoEncoderParams.from_state_dict_shapes(shapes)
    with torch.device("meta"):
        autoencoder = AutoEncoder(params)
    expected = {name: tuple(weight.shape) for name, weight in autoencoder.state_dict().items()}
    faults = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of the wrong shape": [
            f"{name} {tuple(shapes[name])}, not {shape}"
            for name, shape in expected.items()
            if name in shapes and tuple(shapes[name]) != shape
        ],
    }
    if any(faults.values()):
        listed = (f"{kind}: {_shorten(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"tensors {'; '.join(listed)}")
    return autoencoder


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
