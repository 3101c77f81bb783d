"""Images decoded in tiles: exact where a decoder sees no further, nearly so for the real one."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modeling.autoencoder import AutoEncoder, load_ae
from modeling.autoencoder.tiles import decode_in_tiles
from modeling.verbs import Verbs
from tests.builders import toy_autoencoder, toy_inferencer
from tests.conftest import GOLDEN


def twofold(latent: Tensor) -> Tensor:
    """Decode each position by itself, to 2 x 2 pixels."""
    return functional.interpolate(latent * 3 - 1, scale_factor=2.0, mode="nearest")


@pytest.fixture
def autoencoder() -> AutoEncoder:
    return load_ae(GOLDEN / "checkpoint" / "ae.safetensors")[0]


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (40, 9), (5, 33), (8, 8), (3, 4)])
def test_tiles_of_a_decoder_that_sees_one_position_are_exact(size: tuple[int, int]) -> None:
    latent = torch.randn(2, 4, *size)
    torch.testing.assert_close(decode_in_tiles(twofold, latent, 8, 2), twofold(latent))


def test_no_tile_is_larger_than_asked_for_and_neighbours_overlap_by_a_quarter() -> None:
    seen: list[Tensor] = []

    def look(latent: Tensor) -> Tensor:
        seen.append(latent)
        return latent

    columns = torch.arange(37.0).expand(1, 1, 3, 37)
    decode_in_tiles(look, columns, 8, 1)
    spans = [(int(tile.min()), int(tile.max()) + 1) for tile in seen]
    assert all(tile.shape[-2:] == (3, 8) for tile in seen)
    assert spans[0][0] == 0
    assert spans[-1][1] == 37
    assert all(b - c >= 2 for (_, b), (c, _) in zip(spans[:-1], spans[1:], strict=True))


def test_two_tiles_are_blended_linearly() -> None:
    calls = iter((0.0, 1.0))
    pixels = decode_in_tiles(
        lambda latent: torch.full_like(latent, next(calls)), torch.zeros(1, 1, 8, 14), 8, 1
    )
    row = pixels[0, 0, 4]
    assert torch.equal(row[:6], torch.zeros(6))
    torch.testing.assert_close(row[6:8], torch.tensor([0.25, 0.75]))
    assert torch.equal(row[8:], torch.ones(6))


@torch.inference_mode()
def test_a_tile_that_holds_the_image_is_exactly_the_whole(autoencoder: AutoEncoder) -> None:
    latent = torch.randn(1, 4, 9, 12)
    assert torch.equal(autoencoder.decode(latent, 12), autoencoder.decode(latent))
    assert torch.equal(autoencoder.decode(latent, 99), autoencoder.decode(latent))
    assert not torch.equal(autoencoder.decode(latent, 11), autoencoder.decode(latent))


@torch.inference_mode()
def test_a_smooth_image_in_tiles_is_nearly_the_whole_without_seams() -> None:
    autoencoder = toy_autoencoder()
    ramp = torch.linspace(-1, 1, 24)
    latent = torch.stack([ramp.expand(24, 24), ramp[:, None].expand(24, 24)] * 2)[None]
    whole, tiled = autoencoder.decode(latent), autoencoder.decode(latent, 16)
    halves = [autoencoder.decode(half) for half in latent.split(12, dim=-1)]
    side_by_side = torch.cat(halves, dim=-1)
    # Random weights make much of what a tile does not see; it is still a fraction of the picture.
    assert (tiled - whole).abs().mean() < 0.5 * whole.std()

    def jump(pixels: Tensor) -> Tensor:
        """How much more neighbours differ across the middle than in the whole image."""
        return (pixels - whole)[..., 23:25].diff(dim=-1).abs().mean()

    assert jump(tiled) < 0.2 * jump(side_by_side)


@torch.inference_mode()
def test_no_layer_holds_more_than_a_tile(autoencoder: AutoEncoder) -> None:
    def largest(*arguments: object) -> int:
        sizes: list[int] = []
        handles = [
            module.register_forward_hook(lambda *hooked: sizes.append(hooked[2].numel()))
            for module in autoencoder.decoder.modules()
        ]
        autoencoder.decode(*arguments)
        for handle in handles:
            handle.remove()
        return max(sizes)

    latent = torch.randn(1, 4, 16, 20)
    assert largest(latent, 8) == largest(latent[..., :8, :8])
    assert largest(latent) == 5 * largest(latent, 8)


@torch.inference_mode()
def test_tiles_keep_dtype_and_batch() -> None:
    autoencoder = toy_autoencoder().bfloat16()
    pixels = autoencoder.decode(torch.randn(2, 4, 8, 20), 8)
    assert pixels.shape == (2, 3, 16, 40)
    assert pixels.dtype == torch.bfloat16


@pytest.mark.parametrize("tile", [7, 0, -8])
def test_a_tile_that_is_all_border_is_refused(tile: int) -> None:
    with pytest.raises(ValueError, match=f"tile must be at least 8 latent positions, got {tile}"):
        toy_autoencoder().decode(torch.zeros(1, 4, 16, 16), tile)


# Where tiles are used.


LATENT = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))  # 32 x 32 pixels


@pytest.fixture
def inferencer() -> Verbs:
    return toy_inferencer()


@pytest.fixture
def tiles(inferencer: Verbs, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Gets an entry for every decode."""
    used: list[int | None] = []
    decode = inferencer.vae_model.decode

    def note(latent: Tensor, tile: int | None = None) -> Tensor:
        used.append(tile)
        return decode(latent, tile)

    monkeypatch.setattr(inferencer.vae_model, "decode", note)
    return used


def test_images_are_decoded_whole_unless_asked_otherwise(
    inferencer: Verbs, tiles: list[int | None]
) -> None:
    whole = inferencer.decode_image(LATENT, (32, 32))
    inferencer.vae_tile = 8
    tiled = inferencer.decode_image(LATENT, (32, 32))
    assert tiles == [None, 8]
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(tiled)).max() > 0


def test_an_image_that_memory_is_short_for_is_decoded_in_tiles(
    inferencer: Verbs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inferencer.vae_model.decoder, "forward", _short_of(8, inferencer))
    image = inferencer.decode_image(LATENT, (32, 32))
    assert image.size == (32, 32)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "memory ran out: the image is decoded in tiles, which is lossy"


def test_memory_that_is_short_for_tiles_too_is_an_error(
    inferencer: Verbs, tiles: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inferencer.vae_model.decoder, "forward", _short_of(0, inferencer))
    with pytest.raises(torch.OutOfMemoryError, match="a full device"):
        inferencer.decode_image(LATENT, (32, 32))
    assert tiles == [None, 8]


def _short_of(side: int, inferencer: Verbs) -> Callable[[Tensor], Tensor]:
    """Decode up to `side` positions a side, and run out of memory above."""
    forward = inferencer.vae_model.decoder.forward

    def decode(latent: Tensor) -> Tensor:
        if max(latent.shape[-2:]) > side:
            raise torch.OutOfMemoryError("a full device")
        return forward(latent)

    return decode
