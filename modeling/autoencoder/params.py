"""Sizes of an autoencoder, given as values or read off the shapes of its weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.wording import shown
from modeling.autoencoder.layers import NORM_GROUPS


@dataclass(frozen=True, kw_only=True)
class AutoEncoderParams:
    """Sizes of an autoencoder; the defaults are those of the published one.

    Attributes:
        resolution: side in pixels of the images it was trained on; nothing is computed from it.
        in_channels, out_ch: channels of the pixels that go in and come out.
        downsample: pixels a latent position spans in each direction, `2 ** (len(ch_mult) - 1)`.
        ch: channels after the first convolution, a multiple of 32.
        ch_mult: channels of each resolution in units of `ch`, highest resolution first.
        num_res_blocks: residual blocks a resolution in the encoder; the decoder has one more.
        z_channels: channels of a latent.
        scale_factor, shift_factor: a latent is `scale_factor * (sample - shift_factor)`.

    Raises:
        ValueError: a value is out of range or does not go with the others.
    """

    resolution: int = 256
    in_channels: int = 3
    downsample: int = 8
    ch: int = 128
    out_ch: int = 3
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))  # JSON files bring a list
        _check_counts(self)
        if self.downsample != 2 ** (len(self.ch_mult) - 1):
            raise ValueError(
                f"downsample must be 2 ** (len(ch_mult) - 1) = {2 ** (len(self.ch_mult) - 1)} "
                f"for ch_mult {self.ch_mult}, got {self.downsample}"
            )
        if self.ch % NORM_GROUPS:
            raise ValueError(f"ch must be a multiple of {NORM_GROUPS}, got {self.ch}")
        if not (math.isfinite(self.scale_factor) and self.scale_factor > 0):
            raise ValueError(f"scale_factor must be positive and finite, got {self.scale_factor}")
        if not math.isfinite(self.shift_factor):
            raise ValueError(f"shift_factor must be finite, got {self.shift_factor}")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of each resolution, highest resolution first."""
        return tuple(self.ch * multiple for multiple in self.ch_mult)

    @classmethod
    def from_state_dict_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> "AutoEncoderParams":
        """Read the sizes off tensor shapes, since files of weights carry no configuration.

        What shapes do not tell (`resolution`, `scale_factor`, `shift_factor`) keeps the published
        value. Only the tensors that tell a size are looked at; loading compares the others.

        Args:
            shapes: tensor name to shape, as in a state dict.

        Returns:
            The sizes of the autoencoder that these tensors belong to.

        Raises:
            ValueError: a tensor that tells a size is missing or of a shape that fits no
                autoencoder; the message names it.
        """
        ch = _width(shapes, "encoder.conv_in.weight", multiple_of=NORM_GROUPS)
        num_levels = _num_indices(shapes, "encoder.down.")
        widths = [
            _width(shapes, f"encoder.down.{level}.block.0.conv1.weight", multiple_of=ch)
            for level in range(max(1, num_levels))
        ]
        return cls(
            in_channels=_size(shapes, "encoder.conv_in.weight", axis=1),
            out_ch=_size(shapes, "decoder.conv_out.weight", axis=0),
            z_channels=_size(shapes, "decoder.conv_in.weight", axis=1),
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=_num_indices(shapes, "encoder.down.0.block."),
            downsample=2 ** (len(widths) - 1),
        )


def _check_counts(params: AutoEncoderParams) -> None:
    names = ("resolution", "in_channels", "downsample", "ch", "out_ch")
    for name in (*names, "num_res_blocks", "z_channels"):
        value = getattr(params, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {shown(value)}")
    if not params.ch_mult or any(
        not isinstance(multiple, int) or multiple < 1 for multiple in params.ch_mult
    ):
        raise ValueError(
            f"ch_mult must be one or more positive whole numbers, got {shown(params.ch_mult)}"
        )


def _size(shapes: Mapping[str, Sequence[int]], name: str, *, axis: int) -> int:
    if name not in shapes:
        raise ValueError(f"tensor {name} is missing")
    shape = tuple(shapes[name])
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"tensor {name} must have four non-empty dimensions, got {shape}")
    return shape[axis]


def _width(shapes: Mapping[str, Sequence[int]], name: str, *, multiple_of: int) -> int:
    width = _size(shapes, name, axis=0)
    if width % multiple_of:
        raise ValueError(f"tensor {name} must have a multiple of {multiple_of} rows, got {width}")
    return width


def _num_indices(names: Iterable[str], prefix: str) -> int:
    """Count the different indices that follow a prefix; gaps show as tensors that are missing."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})
