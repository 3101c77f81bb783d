"""The layers of the FLUX autoencoder: a convolutional encoder and the decoder that mirrors it.

Attribute names are the tensor names of the published checkpoint. Features are laid out
(batch, channels, height, width) throughout.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 32
"""Groups of every normalisation; each width must be a multiple of it."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


def _conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


class ResidualBlock(nn.Module):
    """Twice normalise, swish, convolve; added to the input, projected where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = _conv3x3(channels_in, channels_out)
        self.norm2 = _norm(channels_out)
        self.conv2 = _conv3x3(channels_out, channels_out)
        self.nin_shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels_in, height, width) to (batch, channels_out, height, width)."""
        hidden = self.conv1(F.silu(self.norm1(features)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.nin_shortcut(features) + hidden


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of an image, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.k = nn.Conv2d(channels, channels, kernel_size=1)
        self.v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (batch, channels, height, width)."""
        normed = self.norm(features)
        query, key, value = (_as_sequence(project(normed)) for project in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.squeeze(1).transpose(1, 2).reshape(features.shape)
        return features + self.proj_out(attended)


def _as_sequence(features: Tensor) -> Tensor:
    """Turn (batch, channels, height, width) into (batch, 1 head, height * width, channels)."""
    # Contiguous, because the memory-lean CUDA kernels refuse strided channels, and the kernel
    # that does not would hold the scores of every pair of positions.
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


class Middle(nn.Module):
    """The lowest resolution: a residual block, attention, a residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (batch, channels, height, width)."""
        return self.block_2(self.attn_1(self.block_1(features)))


class Downsample(nn.Module):
    """Halve height and width with one strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels, height / 2, width / 2)."""
        # The published weights were trained with a margin on the right and below only.
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3x3(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, channels, 2 * height, 2 * width)."""
        return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Residual blocks at one resolution; the first of them changes the width."""

    def __init__(self, channels_in: int, channels_out: int, num_blocks: int) -> None:
        super().__init__()
        widths_in = [channels_in] + [channels_out] * (num_blocks - 1)
        self.block = nn.ModuleList(ResidualBlock(width, channels_out) for width in widths_in)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, channels_in, ...) to (batch, channels_out, ...) at this resolution."""
        for block in self.block:
            features = block(features)
        return features


class EncoderLevel(_Level):
    """The blocks of one resolution, then the way down to the next one, if there is one."""

    def __init__(
        self, channels_in: int, channels_out: int, num_blocks: int, *, is_lowest: bool
    ) -> None:
        super().__init__(channels_in, channels_out, num_blocks)
        self.downsample = nn.Identity() if is_lowest else Downsample(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, channels_out, ...), halved in height and width unless lowest."""
        return self.downsample(super().forward(features))


class DecoderLevel(_Level):
    """The blocks of one resolution, then the way up to the next one, if there is one."""

    def __init__(
        self, channels_in: int, channels_out: int, num_blocks: int, *, is_highest: bool
    ) -> None:
        super().__init__(channels_in, channels_out, num_blocks)
        self.upsample = nn.Identity() if is_highest else Upsample(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, channels_out, ...), doubled in height and width unless highest."""
        return self.upsample(super().forward(features))


class DiagonalGaussian(nn.Module):
    """What an encoder says of a latent, as a value: a draw from its distribution, or its mean.

    Args:
        sample: draw; False takes the mean.
        chunk_dim: the dimension that holds means and then log-variances.

    Attributes:
        sample, chunk_dim: as given; scripts set `autoencoder.reg.sample = False`.
    """

    def __init__(self, sample: bool = True, chunk_dim: int = 1) -> None:
        super().__init__()
        self.sample = sample
        self.chunk_dim = chunk_dim

    def forward(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return values of half as many channels; `generator` None is torch's global one."""
        mean, log_variance = moments.chunk(2, dim=self.chunk_dim)
        if not self.sample:
            return mean
        # A generator draws on its own device only, so a CPU seed gives the same noise everywhere.
        device = mean.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype)
        return mean + torch.exp(0.5 * log_variance) * noise.to(mean.device)


class Encoder(nn.Module):
    """Pixels to the mean and log-variance of their latents.

    Args:
        in_channels: channels of the pixels.
        width: channels after the first convolution.
        level_widths: channels of each resolution, highest resolution first.
        num_blocks: residual blocks a resolution.
        z_channels: channels of a latent.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        level_widths: Sequence[int],
        num_blocks: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        lowest = len(level_widths) - 1
        widths_in = (width, *level_widths[:-1])
        self.conv_in = _conv3x3(in_channels, width)
        self.down = nn.ModuleList(
            EncoderLevel(width_in, width_out, num_blocks, is_lowest=level == lowest)
            for level, (width_in, width_out) in enumerate(zip(widths_in, level_widths, strict=True))
        )
        self.mid = Middle(level_widths[-1])
        self.norm_out = _norm(level_widths[-1])
        self.conv_out = _conv3x3(level_widths[-1], 2 * z_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, 2 * z_channels, ...), downsampled."""
        features = self.conv_in(pixels)
        for level in self.down:
            features = level(features)
        return self.conv_out(F.silu(self.norm_out(self.mid(features))))


class Decoder(nn.Module):
    """Latents to pixels; `up[0]` is the highest resolution and runs last.

    Args:
        z_channels: channels of a latent.
        level_widths: channels of each resolution, highest resolution first.
        num_blocks: residual blocks a resolution.
        out_channels: channels of the pixels.
    """

    def __init__(
        self, z_channels: int, level_widths: Sequence[int], num_blocks: int, out_channels: int
    ) -> None:
        super().__init__()
        widths_in = (*level_widths[1:], level_widths[-1])
        self.conv_in = _conv3x3(z_channels, level_widths[-1])
        self.mid = Middle(level_widths[-1])
        self.up = nn.ModuleList(
            DecoderLevel(width_in, width_out, num_blocks, is_highest=level == 0)
            for level, (width_in, width_out) in enumerate(zip(widths_in, level_widths, strict=True))
        )
        self.norm_out = _norm(level_widths[0])
        self.conv_out = _conv3x3(level_widths[0], out_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """Map (batch, z_channels, height, width) to (batch, out_channels, ...), upsampled."""
        features = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            features = level(features)
        return self.conv_out(F.silu(self.norm_out(features)))
