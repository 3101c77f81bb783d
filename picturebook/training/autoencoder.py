"""The picture book's autoencoder: trained once, then frozen."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from modeling.autoencoder import AutoEncoder, AutoEncoderParams
from picturebook import render, sample_caption
from picturebook.world import random_traits
from training.plan import NotANumberError
from training.states import replace_file
from training.stopping import Interrupted, Stopping

logger = logging.getLogger("auto_interleaved.training")

PARAMS = AutoEncoderParams(
    resolution=64,
    ch=32,
    ch_mult=(1, 1, 2, 3),
    num_res_blocks=1,
    z_channels=16,
    scale_factor=1.0,
    shift_factor=0.0,
)
_RATE = 2e-3
_LATENT_NOISE = 0.1  # so that a sampled latent, never quite clean, decodes as well


def train_autoencoder(path: Path, *, steps: int, batch_size: int, device: str) -> AutoEncoder:
    """Train, or go on training, the autoencoder at `path`; return it normalised and frozen.

    Args:
        path: `training.pt` holds the state to resume from, beside the finished `ae.safetensors`.
        steps: optimiser steps in all.
        batch_size: pictures a step.
        device: where to train.
    """
    torch.manual_seed(0)
    model = AutoEncoder(PARAMS).to(device)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    state_file, first = path.with_suffix(".training.pt"), 0
    if state_file.exists():
        # One of several processes names its CPU "cpu:0", which nothing can be loaded to.
        state = torch.load(state_file, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    pictures = _pictures(seed=first, batch_size=batch_size)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        replace_file(state_file, partial(torch.save, state))

    with _cores_of_all_processes(), Stopping() as stopping:
        for step in range(first, steps):
            if stopping.signal is not None:
                save(step)
                raise Interrupted(
                    f"stopped by {stopping.signal.name} after step {step} of {steps} of the "
                    "autoencoder; the same command goes on from there",
                    stopping.signal,
                )
            loss = _learn(model, optimizer, next(pictures).to(device), step, steps)
            if (step + 1) % 200 == 0 or step + 1 == steps:
                save(step + 1)
                quality = psnr(model, next(_pictures(seed=10**9, batch_size=64)).to(device))
                logger.info("autoencoder step %d loss %.5f psnr %.2f dB", step + 1, loss, quality)
    return _finish(model, path)


@contextmanager
def _cores_of_all_processes() -> Iterator[None]:
    """Compute with the cores that this machine's other processes leave idle while they wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _learn(
    model: AutoEncoder, optimizer: torch.optim.Optimizer, pixels: Tensor, step: int, steps: int
) -> float:
    """Take one step; return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = _RATE * min(1.0, (step + 1) / 100, max(0.01, 1.6 * (1 - step / steps)))
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        loss = _loss(model, pixels)
    if not torch.isfinite(loss):
        raise NotANumberError(
            f"the autoencoder's loss of step {step + 1} is no finite number; the same command goes "
            "on from its last saved state"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def load_autoencoder(path: Path, device: str) -> AutoEncoder:
    """Load a finished autoencoder with the normalisation that was measured for it."""
    tensors = load_file(path)
    shift, scale = tensors.pop("shift_factor"), tensors.pop("scale_factor")
    params = replace(PARAMS, shift_factor=float(shift), scale_factor=float(scale))
    model = AutoEncoder(params)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False).to(device)


@torch.inference_mode()
def psnr(model: AutoEncoder, pixels: Tensor) -> float:
    """Return the peak signal-to-noise ratio of reconstructions, in dB over a range of 2."""
    error = F.mse_loss(model(pixels).clamp(-1, 1), pixels)
    return float(10 * torch.log10(4 / error))


def to_pixels(pictures: list) -> Tensor:
    """Turn RGB images of one size into (images, 3, height, width) in [-1, 1]."""
    levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _normalise(norm: nn.GroupNorm, features: Tensor) -> Tensor:
    """GroupNorm by sums: its own backward takes 60% of a training step on a CPU."""
    batch, channels, height, width = features.shape
    wide = features.float()
    sums = torch.stack([wide.sum((2, 3)), wide.square().sum((2, 3))])
    grouped = sums.view(2, batch, norm.num_groups, -1).sum(3)
    mean, square = grouped * (norm.num_groups / (channels * height * width))
    scale = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt()
    size = channels // norm.num_groups
    gain = scale.repeat_interleave(size, 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(size, 1) * gain
    return features * gain[..., None, None].to(features) + shift[..., None, None].to(features)


def _loss(model: AutoEncoder, pixels: Tensor) -> Tensor:
    mean, log_variance = model.encoder(pixels).float().chunk(2, dim=1)
    # A weak pull to a unit Gaussian keeps latents smooth and of one scale.
    spread = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    noisy = mean + _LATENT_NOISE * torch.randn_like(mean)
    decoded = model.decoder(noisy).float()
    return F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels) + 1e-3 * spread


def _pictures(*, seed: int, batch_size: int) -> Iterator[Tensor]:
    rng = Random(seed)
    while True:
        scenes = [sample_caption(rng, traits=random_traits(rng)).scene for _ in range(batch_size)]
        yield to_pixels([render(scene) for scene in scenes])


def _finish(model: AutoEncoder, path: Path) -> AutoEncoder:
    """Measure the latents' mean and scale, and save both beside the weights."""
    device = str(model.device)
    with torch.inference_mode():
        pixels = next(_pictures(seed=10**9 + 1, batch_size=64)).to(device)
        latent = model.encode(pixels)
    extras = {"shift_factor": latent.mean(), "scale_factor": 1 / latent.std()}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {name: value.reshape(1).clone() for name, value in extras.items()}
    replace_file(path, partial(save_file, tensors))
    return load_autoencoder(path, device)
