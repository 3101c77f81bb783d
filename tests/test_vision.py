"""The vision encoder equals transformers' SigLIP; packing and patch order change nothing."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from modeling.bagel import Bagel, BagelConfig, Qwen2ForCausalLM, SiglipVisionModel
from modeling.bagel.blocks import flattened_positions, patchify, unpatchify
from tests.builders import (
    MARKERS,
    randomise,
    toy_bagel,
    toy_llm_config,
    toy_vit,
    toy_vit_config,
)

SIDE = 6  # patches of the toy table
PATCH = 4


def pixels_of(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, rows * PATCH, columns * PATCH, generator=generator) * 2 - 1


def encode(model: SiglipVisionModel, *images: Tensor) -> Tensor:
    """Encode images packed one after another."""
    grids = [(image.shape[1] // PATCH, image.shape[2] // PATCH) for image in images]
    with torch.inference_mode():
        return model(
            torch.cat([patchify(image, PATCH) for image in images]),
            torch.cat([flattened_positions(grid, SIDE, False) for grid in grids]),
            [rows * columns for rows, columns in grids],
        )


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Float32 rounding through two layers, in another order of summation."""
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


# Transformers as the oracle.


def oracle_of(model: SiglipVisionModel) -> Any:
    """Build an independent implementation with the weights of a model that still convolves."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("patch_size", "image_size", "hidden_act", "layer_norm_eps")
    settings = {name: getattr(model.config, name) for name in names}
    config = transformers.SiglipVisionConfig(**settings, vision_use_head=False)
    oracle = transformers.SiglipVisionModel(config).eval()
    weights = model.state_dict()
    if not any(name.startswith("vision_model.") for name in oracle.state_dict()):
        weights = {name.removeprefix("vision_model."): w for name, w in weights.items()}
    oracle.load_state_dict(weights)
    return oracle


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu"])
def test_at_the_full_grid_features_equal_transformers_siglip(heads: int, act: str) -> None:
    config = toy_vit_config(num_attention_heads=heads, hidden_act=act, layer_norm_eps=1e-3)
    model = SiglipVisionModel(config)
    randomise(model)
    oracle = oracle_of(model)
    model.vision_model.embeddings.convert_conv2d_to_linear(config)
    image = pixels_of(SIDE, SIDE)
    with torch.inference_mode():
        expected = oracle(image[None]).last_hidden_state[0]
    assert_close(encode(model, image), expected)


# The patch embedding.


def test_conversion_carries_the_weights_over() -> None:
    config = toy_vit_config()
    embeddings = SiglipVisionModel(config).vision_model.embeddings
    randomise(embeddings)
    convolution = copy.deepcopy(embeddings.patch_embedding)
    embeddings.convert_conv2d_to_linear(config)
    linear = embeddings.patch_embedding
    assert isinstance(linear, nn.Linear)
    image = pixels_of(2, 3)
    with torch.inference_mode():
        convolved = convolution(image[None])[0].flatten(1).T
        assert_close(linear(patchify(image, PATCH)), convolved)


def test_conversion_keeps_the_dtype() -> None:
    config = toy_vit_config()
    embeddings = SiglipVisionModel(config).bfloat16().vision_model.embeddings
    embeddings.convert_conv2d_to_linear(config)
    assert embeddings.patch_embedding.weight.dtype == torch.bfloat16


def test_conversion_on_meta_allocates_nothing() -> None:
    config = toy_vit_config()
    embeddings = SiglipVisionModel(config).vision_model.embeddings
    embeddings.convert_conv2d_to_linear(config, meta=True)
    assert embeddings.patch_embedding.weight.device.type == "meta"
    assert embeddings.patch_embedding.weight.shape == (16, 48)


def test_converting_twice_is_converting_once() -> None:
    model = toy_vit()
    linear = model.vision_model.embeddings.patch_embedding
    model.vision_model.embeddings.convert_conv2d_to_linear(model.config)
    assert model.vision_model.embeddings.patch_embedding is linear


def test_an_encoder_that_still_convolves_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match="call .*convert_conv2d_to_linear"):
        encode(SiglipVisionModel(toy_vit_config()), pixels_of(1, 1))


def test_rotary_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="rope=True is not supported"):
        SiglipVisionModel(toy_vit_config(rope=True))


# Packing.


def test_images_packed_together_equal_each_image_alone() -> None:
    model = toy_vit()
    images = [pixels_of(2, 3, 0), pixels_of(6, 6, 1), pixels_of(1, 1, 2), pixels_of(5, 2, 3)]
    assert_close(encode(model, *images), torch.cat([encode(model, image) for image in images]))


def test_the_same_patches_elsewhere_give_other_features() -> None:
    model, patches = toy_vit(), patchify(pixels_of(2, 2), PATCH)
    corner = flattened_positions((2, 2), SIDE, False)
    with torch.inference_mode():
        here, there = (model(patches, corner + shift, [4]) for shift in (0, 7))
    assert (here - there).abs().max() > 1e-2


# Blocks of the whole model.


def test_a_vision_block_is_two_markers_and_the_features() -> None:
    model = toy_bagel()
    image = pixels_of(2, 3)
    block = model.vit_block(image, MARKERS)
    assert (block.num_text, block.num_latent, block.length, block.advance) == (8, 0, 8, 1)
    assert not block.causal
    with torch.inference_mode():
        assert torch.equal(block.text[:2], model.embed(MARKERS))
        positions = flattened_positions((2, 3), SIDE, False)
        features = model.connector(encode(model.vit_model, image))
        assert_close(block.text[2:], features + model.vit_pos_embed(positions))


@pytest.mark.parametrize(("height", "width"), [(10, 8), (8, 10), (0, 8), (2, 2)])
def test_sides_that_are_no_multiple_of_the_patch_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"patch size 4, got height {height} and width {width}"):
        toy_bagel().vit_block(torch.zeros(3, height, width), MARKERS)


def test_an_image_beyond_the_position_table_is_refused() -> None:
    with pytest.raises(ValueError, match="7 x 2 patches does not fit .* 6 x 6"):
        toy_bagel().vit_block(pixels_of(7, 2), MARKERS)


def test_with_interpolated_positions_a_larger_image_is_read() -> None:
    block = toy_bagel(interpolate_pos=True).vit_block(pixels_of(7, 9), MARKERS)
    assert block.length == 2 + 63


def test_a_model_without_eyes_needs_no_encoder() -> None:
    llm_config = toy_llm_config()
    config = BagelConfig(visual_gen=False, visual_und=False, llm_config=llm_config)
    model = Bagel(Qwen2ForCausalLM(llm_config), None, config)
    assert not any("vit" in name or "latent" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BagelConfig(visual_und=False), "a model that draws needs vae_config"),
        (BagelConfig(visual_gen=False), "a model that reads images needs vit_model and vit_config"),
    ],
)
def test_a_model_with_parts_missing_is_refused(config: BagelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bagel(Qwen2ForCausalLM(toy_llm_config()), None, config)


# Patches and positions.


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 1)])
def test_patches_put_together_again_are_the_image(rows: int, columns: int) -> None:
    image = pixels_of(rows, columns)
    tokens = patchify(image, PATCH)
    assert torch.equal(unpatchify(tokens, (rows, columns), PATCH), image)
    for row in range(rows):
        for column in range(columns):
            y, x = row * PATCH, column * PATCH
            patch = image[:, y : y + PATCH, x : x + PATCH].permute(1, 2, 0)
            assert torch.equal(tokens[row * columns + column], patch.flatten())


def test_positions_number_the_top_left_corner_of_the_table() -> None:
    assert flattened_positions((2, 3), 70, False).tolist() == [0, 1, 2, 70, 71, 72]


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("side", [32, 64, 70])
def test_a_full_grid_takes_every_position_of_the_table(side: int, interpolate: bool) -> None:
    positions = flattened_positions((side, side), side, interpolate)
    assert torch.equal(positions, torch.arange(side * side))


@pytest.mark.parametrize("side", [6, 64, 70])
@pytest.mark.parametrize("rows", [1, 2, 5, 37, 64, 100])
def test_interpolated_positions_spread_evenly_over_the_table(side: int, rows: int) -> None:
    numbers = flattened_positions((rows, 3), side, True)[::3] // side  # of the first column
    assert (numbers.diff() >= 0).all()
    # Float32 edges may put a row that falls on a border one place early, as published.
    exact = torch.arange(rows) * side // rows
    assert ((exact - numbers) <= 1).all()
    assert (numbers <= exact).all()
    assert numbers.min() >= 0


@pytest.mark.parametrize("grid", [(7, 1), (1, 7)])
def test_a_grid_larger_than_the_table_is_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{grid[0]} x {grid[1]} patches .* use a smaller image"):
        flattened_positions(grid, 6, False)
