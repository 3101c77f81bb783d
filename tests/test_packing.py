"""Packed training sequences show the model exactly what inference shows it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.packing import LatentPart, Part, SpecialIds, TextPart, VisionPart, pack
from inferencer import InterleaveInferencer
from modeling.context import Context

SPECIAL = SpecialIds(bos=500, eos=501, start_of_image=502, end_of_image=503)
MARKERS = (502, 503)
FIRST, SECOND = (10, 11, 12, 13), (20, 21, 22)
GRID, PATCH_GRID = (2, 3), (2, 2)


@pytest.fixture(scope="module")
def latent() -> Tensor:
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(2)) * 2 - 1


def patches(pixels: Tensor) -> Tensor:
    cells = pixels.reshape(3, 2, 14, 2, 14)
    return cells.permute(1, 3, 2, 4, 0).reshape(4, 588)


def read_text(inferencer: InterleaveInferencer, ids: tuple[int, ...], context: Context) -> Context:
    return inferencer.read_ids([SPECIAL.bos, *ids, SPECIAL.eos], context)[0]


def drawn_velocity(
    inferencer: InterleaveInferencer, context: Context, noisy: Tensor, time: float
) -> Tensor:
    model = inferencer.model
    block = model.latent_block(noisy, GRID, MARKERS, time)
    with context.room(block.length) as tail:
        return model.velocity(model.extend([(tail, block)])[0][1])


def test_the_velocity_in_training_is_that_of_the_context_at_inference(
    golden_inferencer: InterleaveInferencer, latent: Tensor, pixels: Tensor
) -> None:
    """A copy before the text sees what the context of text guidance holds, one after it all."""
    model, time = golden_inferencer.model, 0.6
    noised = LatentPart(latent=latent, grid=GRID, time=time)
    parts: list[Part] = [
        TextPart(ids=FIRST, loss=False),
        LatentPart(latent=latent, grid=GRID),
        VisionPart(patches=patches(pixels), grid=PATCH_GRID),
        noised,
        TextPart(ids=SECOND, loss=False),
        noised,
    ]
    noise = torch.randn(18, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        losses = model(pack([parts], SPECIAL), noise)
    before = read_text(golden_inferencer, FIRST, golden_inferencer.new_context())
    before = golden_inferencer.read_latent(latent, GRID, before)
    before, _ = model.read(before, model.vit_block(pixels, MARKERS))
    after = read_text(golden_inferencer, SECOND, before)
    for number, context in enumerate((before, after)):
        own = noise[6 * (number + 1) : 6 * (number + 2)]
        noisy = (1 - time) * latent + time * own
        velocity = drawn_velocity(golden_inferencer, context, noisy, time)
        expected = (velocity - (own - latent)).square()
        torch.testing.assert_close(losses.mse[6 * number :][:6], expected, atol=1e-4, rtol=1e-4)


def test_the_text_loss_is_that_of_the_cached_logits_and_ends_in_what_follows(
    golden_inferencer: InterleaveInferencer,
) -> None:
    model = golden_inferencer.model
    parts: list[Part] = [
        TextPart(ids=FIRST, loss=False),
        TextPart(ids=SECOND, following=SPECIAL.start_of_image),
    ]
    with torch.no_grad():
        losses = model(pack([parts], SPECIAL))
    context = read_text(golden_inferencer, FIRST, golden_inferencer.new_context())
    ids = [SPECIAL.bos, *SECOND, SPECIAL.eos]
    _, hidden = model.read(context, model.text_block(ids))
    labels = torch.tensor([*ids[1:], SPECIAL.start_of_image])
    expected = F.cross_entropy(model.logits(hidden), labels, reduction="none")
    torch.testing.assert_close(losses.ce, expected, atol=1e-4, rtol=1e-4)


def test_samples_packed_together_do_not_see_one_another(
    golden_inferencer: InterleaveInferencer, latent: Tensor
) -> None:
    short: list[Part] = [TextPart(ids=SECOND)]
    long: list[Part] = [TextPart(ids=FIRST), LatentPart(latent=latent, grid=GRID, time=0.5)]
    noise = torch.zeros(6, 16)
    with torch.no_grad():
        both = golden_inferencer.model(pack([short, long], SPECIAL), noise)
        alone = golden_inferencer.model(pack([short], SPECIAL))
        other = golden_inferencer.model(pack([long], SPECIAL), noise)
    torch.testing.assert_close(both.ce, torch.cat([alone.ce, other.ce]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.mse, other.mse, atol=1e-5, rtol=1e-5)


def test_a_noised_copy_is_seen_by_nobody_and_leaves_the_position_where_it_was(
    latent: Tensor,
) -> None:
    plain = pack([[TextPart(ids=FIRST), TextPart(ids=SECOND)]], SPECIAL)
    noised = LatentPart(latent=latent, grid=GRID, time=0.5)
    with_copy = pack([[TextPart(ids=FIRST), noised, TextPart(ids=SECOND)]], SPECIAL)
    size = len(FIRST) + 2
    copy = slice(size, size + 8)
    assert with_copy.positions.tolist()[copy] == [size] * 8
    kept = torch.tensor([place not in range(size, size + 8) for place in range(19)])
    assert torch.equal(with_copy.positions[kept], plain.positions)
    assert torch.equal(with_copy.mask[0][kept][:, kept], plain.mask[0])
    assert not with_copy.mask[0][kept][:, copy].any()


def test_a_text_without_loss_predicts_nothing_and_gradients_reach_every_part(
    golden_inferencer: InterleaveInferencer, latent: Tensor, pixels: Tensor
) -> None:
    parts: list[Part] = [
        TextPart(ids=FIRST, loss=False),
        LatentPart(latent=latent, grid=GRID, time=0.5),
        LatentPart(latent=latent, grid=GRID),
        VisionPart(patches=patches(pixels), grid=PATCH_GRID),
        TextPart(ids=SECOND),
    ]
    batch = pack([parts], SPECIAL)
    assert batch.ce_labels.tolist() == [*SECOND, SPECIAL.eos]
    model = golden_inferencer.model
    losses = model(batch)
    (losses.ce.mean() + losses.mse.mean()).backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad(set_to_none=True)
    assert untouched == []


@pytest.mark.parametrize("samples", [[], [[]], [[TextPart(ids=FIRST)], []]])
def test_an_empty_sample_is_refused(samples: list[list[Part]]) -> None:
    with pytest.raises(ValueError, match="at least one sample, each of at least one part"):
        pack(samples, SPECIAL)


def test_a_batch_moves_whole(latent: Tensor) -> None:
    batch = pack([[TextPart(ids=FIRST), LatentPart(latent=latent, grid=GRID)]], SPECIAL)
    moved = batch.to("meta")
    assert {value.device.type for value in vars(moved).values() if isinstance(value, Tensor)} == {
        "meta"
    }
    assert moved.latent_grids == batch.latent_grids
