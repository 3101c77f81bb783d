"""The autoencoder equals the golden numbers, keeps to the checkpoint's names and refuses misuse."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file

from modeling.autoencoder import AutoEncoder, AutoEncoderParams, load_ae
from modeling.autoencoder.layers import AttentionBlock

GOLDEN = Path(__file__).parent / "golden"
AE_FILE = GOLDEN / "checkpoint" / "ae.safetensors"
TOY = AutoEncoderParams(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, downsample=2, resolution=32
)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def autoencoder():
    return load_ae(AE_FILE)[0]


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return AutoEncoder(TOY).eval()


@pytest.fixture
def weights():
    return load_file(AE_FILE)


def random_pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def on_meta(params):
    with torch.device("meta"):
        return AutoEncoder(params)


# Golden numbers. The tolerance is float32 rounding that grows through some thirty convolutions.


def test_encoding_equals_the_golden_posterior_mean(autoencoder):
    golden = load_file(GOLDEN / "vae_image.safetensors")
    latent = autoencoder.encode(golden["pixels"][None])
    torch.testing.assert_close(latent[0], golden["latent_mean"], atol=1e-5, rtol=0)


def test_decoding_equals_the_golden_pixels(autoencoder):
    golden = load_file(GOLDEN / "vae_image.safetensors")
    pixels = autoencoder.decode(golden["latent_mean"][None])
    torch.testing.assert_close(pixels[0], golden["decoded"], atol=2e-5, rtol=0)


def test_decoding_a_sampled_latent_equals_the_golden_image(autoencoder):
    golden = load_file(GOLDEN / "sample_image.safetensors")
    patches = golden["latent.0"].view(
        3, 5, 2, 2, 4
    )  # row, column, row and column in patch, channel
    latent = patches.permute(4, 0, 2, 1, 3).reshape(1, 4, 6, 10)
    pixels = autoencoder.decode(latent)[0]
    torch.testing.assert_close(pixels, golden["decoded.0"], atol=2e-5, rtol=0)
    image = ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).to(torch.uint8)
    # The fraction is cut off, so a value on the edge may fall to the neighbouring level.
    torch.testing.assert_close(image, golden["image.0"], atol=1, rtol=0)


def test_the_sizes_of_the_golden_file_are_read_off_its_shapes():
    _, params = load_ae(AE_FILE)
    written = json.loads((GOLDEN / "config.json").read_text())["ae"]
    assert params == AutoEncoderParams(**written)


# Names, shapes and where tensors live.


@pytest.mark.parametrize("empty", [init_empty_weights, lambda: torch.device("meta")])
def test_the_published_shape_has_exactly_the_published_tensors(empty):
    manifest = json.loads((GOLDEN / "manifest_7b.json").read_text())["autoencoder"]
    with empty():
        autoencoder, params = load_ae(None)
    assert shapes_of(autoencoder) == {name: tuple(shape) for name, shape in manifest.items()}
    assert autoencoder.device.type == "meta"
    assert params == AutoEncoderParams()
    assert not autoencoder.training


@pytest.mark.parametrize(
    "params",
    [
        AutoEncoderParams(),
        TOY,
        AutoEncoderParams(ch=32, ch_mult=(3,), downsample=1, num_res_blocks=3, z_channels=1),
        AutoEncoderParams(ch=64, ch_mult=(2, 1, 1), downsample=4, in_channels=1, out_ch=4),
        AutoEncoderParams(ch=32, ch_mult=(1, 2, 3, 4, 5), downsample=16, num_res_blocks=1),
    ],
)
def test_sizes_survive_the_way_through_shapes(params):
    read = AutoEncoderParams.from_state_dict_shapes(shapes_of(on_meta(params)))
    assert read == dataclasses.replace(params, resolution=256)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 64), (48, 80)])
def test_a_latent_position_spans_downsample_pixels(height, width):
    autoencoder = on_meta(AutoEncoderParams(ch=32, num_res_blocks=1))
    latent = autoencoder.encode(torch.empty(2, 3, height, width, device="meta"))
    assert latent.shape == (2, 16, height // 8, width // 8)
    assert autoencoder.decode(latent).shape == (2, 3, height, width)


def test_loaded_weights_are_views_of_the_mapped_file(autoencoder):
    parameters = sorted(autoencoder.parameters(), key=lambda parameter: parameter.data_ptr())
    ends = [parameter.data_ptr() + parameter.nbytes for parameter in parameters]
    starts = [parameter.data_ptr() for parameter in parameters]
    assert starts[1:] == ends[:-1]  # back to back, as only the file has them


def test_a_loaded_autoencoder_holds_the_stored_weights_and_nothing_else(autoencoder, weights):
    assert not autoencoder.training
    assert not list(autoencoder.buffers())
    assert autoencoder.dtype == torch.float32
    torch.testing.assert_close(dict(autoencoder.state_dict()), weights, atol=0, rtol=0)


def test_loading_draws_no_random_numbers():
    state = torch.get_rng_state()
    load_ae(AE_FILE)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_stored_in_bfloat16_stay_bfloat16(weights, tmp_path):
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, tmp_path / "ae")
    autoencoder, _ = load_ae(str(tmp_path / "ae"))
    assert autoencoder.dtype == torch.bfloat16


# Laws.


def test_attention_equals_a_naive_softmax_over_all_positions():
    torch.manual_seed(0)
    block = AttentionBlock(64)
    features = torch.randn(2, 64, 3, 5)
    normed = block.norm(features)
    query, key, value = (project(normed).flatten(2) for project in (block.q, block.k, block.v))
    weight = torch.softmax(torch.einsum("bcq,bck->bqk", query, key) / 8, dim=-1)
    attended = torch.einsum("bqk,bck->bcq", weight, value).reshape(features.shape)
    torch.testing.assert_close(block(features), features + block.proj_out(attended))


def test_a_batch_equals_its_images_one_by_one(autoencoder):
    pixels = random_pixels(3, 3, 32, 48)
    latents = autoencoder.encode(pixels)
    singles = torch.cat([autoencoder.encode(image[None]) for image in pixels])
    torch.testing.assert_close(latents, singles, atol=1e-5, rtol=0)
    decoded = torch.cat([autoencoder.decode(latent[None]) for latent in latents])
    torch.testing.assert_close(autoencoder.decode(latents), decoded, atol=2e-5, rtol=0)


def test_forward_decodes_the_encoded_mean(toy):
    pixels = random_pixels(1, 3, 16, 16)
    assert torch.equal(toy(pixels), toy.decode(toy.encode(pixels)))


def test_encoding_the_mean_leaves_the_global_generator_alone(toy):
    state = torch.get_rng_state()
    toy.encode(random_pixels(1, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_posterior_sample_is_repeated_by_its_seed_and_differs_from_the_mean(toy):
    pixels = random_pixels(1, 3, 16, 16)

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return toy.encode(pixels, sample_posterior=True, generator=generator)

    assert torch.equal(sample(5), sample(5))
    assert not torch.equal(sample(5), sample(6))
    assert not torch.equal(sample(5), toy.encode(pixels))


def test_without_a_generator_a_sample_follows_the_global_seed(toy):
    pixels = random_pixels(1, 3, 16, 16)
    torch.manual_seed(5)
    sample = toy.encode(pixels, sample_posterior=True)
    given = toy.encode(pixels, sample_posterior=True, generator=torch.Generator().manual_seed(5))
    assert torch.equal(sample, given)


def test_a_sample_is_the_mean_plus_noise_of_the_encoded_deviation(toy):
    pixels = random_pixels(2, 3, 16, 16)
    mean, log_variance = toy.encoder(pixels).split(4, dim=1)
    torch.manual_seed(5)
    noise = torch.randn(mean.shape)
    expected = 0.3611 * (mean + log_variance.exp().sqrt() * noise - 0.1159)
    torch.manual_seed(5)
    torch.testing.assert_close(toy.encode(pixels, sample_posterior=True), expected)


def test_bfloat16_takes_float32_inputs_and_stays_near_float32(weights):
    golden = load_file(GOLDEN / "vae_image.safetensors")
    autoencoder = load_ae(AE_FILE)[0].to(torch.bfloat16)
    latent = autoencoder.encode(golden["pixels"][None])
    pixels = autoencoder.decode(golden["latent_mean"][None])
    assert latent.dtype == pixels.dtype == autoencoder.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits, so about one percent of the largest value is left after the layers.
    for result, exact in ((latent[0], golden["latent_mean"]), (pixels[0], golden["decoded"])):
        assert (result - exact).abs().max() < 0.05 * exact.abs().max()


def test_gradients_reach_the_weights_of_a_loaded_autoencoder():
    with torch.inference_mode(False):
        autoencoder, _ = load_ae(AE_FILE)
        autoencoder(random_pixels(1, 3, 16, 16)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in autoencoder.decoder.parameters())


# Misuse of a loaded autoencoder is refused before anything is computed.


@pytest.fixture
def idle(toy):
    def refuse(*_):
        pytest.fail("a layer ran")

    for half in (toy.encoder, toy.decoder):
        half.register_forward_pre_hook(refuse)
    return toy


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 15, 16), r"multiples of 2, got 15 x 16; resize to 16 x 16"),
        ((1, 3, 16, 1), r"multiples of 2, got 16 x 1; resize to 16 x 2"),
        ((1, 3, 0, 16), r"multiples of 2, got 0 x 16; resize to 2 x 16"),
        ((3, 16, 16), r"pixels must have the shape \(batch, 3, height, width\), got \(3, 16, 16\)"),
        ((16, 3, 16), r"pixels must have the shape .*, got \(16, 3, 16\)"),
        ((1, 16, 16, 3), r"pixels must have the shape .*, got \(1, 16, 16, 3\)"),
    ],
)
def test_pixels_of_a_wrong_shape_are_refused(idle, shape, message):
    with pytest.raises(ValueError, match=message):
        idle.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 8, 8), r"latent must have the shape \(batch, 4, height, width\), got \(4, 8, 8\)"),
        ((1, 16, 8, 8), r"latent must have the shape .*, got \(1, 16, 8, 8\)"),
        ((1, 4, 8, 0), r"latent must be positive multiples of 1, got 8 x 0"),
    ],
)
def test_latents_of_a_wrong_shape_are_refused(idle, shape, message):
    with pytest.raises(ValueError, match=message):
        idle.decode(torch.zeros(shape))


def test_inputs_that_are_no_floating_point_tensors_are_refused(idle):
    with pytest.raises(TypeError, match=r"pixels must be a floating point tensor, got torch.uint8"):
        idle.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"latent must be a floating point tensor, got list"):
        idle.decode([0.0])


# Sizes.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsample": 16}, r"downsample must be .* = 8 for ch_mult \(1, 2, 4, 4\), got 16"),
        ({"ch": 48}, "ch must be a multiple of 32, got 48"),
        ({"ch_mult": ()}, r"ch_mult must be one or more positive whole numbers, got \(\)"),
        ({"ch_mult": (1, 0)}, r"ch_mult must be .*, got \(1, 0\)"),
        ({"num_res_blocks": 0}, "num_res_blocks must be a positive whole number, got 0"),
        ({"z_channels": 1.5}, "z_channels must be a positive whole number, got 1.5"),
        ({"scale_factor": 0.0}, "scale_factor must be positive and finite, got 0.0"),
        ({"shift_factor": float("nan")}, "shift_factor must be finite, got nan"),
    ],
)
def test_sizes_that_make_no_autoencoder_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AutoEncoderParams(**changes)


def test_sizes_from_json_are_equal_and_hashable():
    assert hash(AutoEncoderParams(ch_mult=[1, 2, 4, 4])) == hash(AutoEncoderParams())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("encoder.conv_in.weight", None, "is missing"),
        ("encoder.conv_in.weight", (33, 3, 3, 3), "must have a multiple of 32 rows, got 33"),
        ("encoder.conv_in.weight", (0, 3, 3, 3), "must have four non-empty dimensions, got"),
        ("encoder.down.1.block.0.conv1.weight", (48, 32, 3, 3), "must have a multiple of 32 rows"),
        ("encoder.down.0.block.0.conv1.weight", None, "is missing"),
        ("decoder.conv_in.weight", None, "is missing"),
        ("decoder.conv_out.weight", (3, 32), "must have four non-empty dimensions"),
    ],
)
def test_a_tensor_that_tells_no_size_is_named(name, shape, message):
    shapes = shapes_of(on_meta(TOY))
    shapes.pop(name)
    if shape is not None:
        shapes[name] = shape
    with pytest.raises(ValueError, match=f"tensor {name} {message}"):
        AutoEncoderParams.from_state_dict_shapes(shapes)


@pytest.mark.parametrize(("removed", "named"), [("down.2.", "down.2."), ("down.", "down.0.")])
def test_a_resolution_that_is_missing_is_named(removed, named):
    shapes = shapes_of(on_meta(AutoEncoderParams(ch=32, num_res_blocks=1)))
    gap = {name: shape for name, shape in shapes.items() if f"encoder.{removed}" not in name}
    with pytest.raises(ValueError, match=f"encoder.{named}block.0.conv1.weight is missing"):
        AutoEncoderParams.from_state_dict_shapes(gap)


# Files.


def test_missing_unexpected_and_misshapen_tensors_are_all_named(weights, tmp_path):
    del weights["decoder.mid.attn_1.q.bias"]
    weights["decoder.surplus"] = torch.zeros(1)
    weights["encoder.norm_out.weight"] = torch.zeros(32)
    save_file(weights, tmp_path / "ae.safetensors")
    with pytest.raises(ValueError, match=r"ae.safetensors does not hold a FLUX") as caught:
        load_ae(tmp_path / "ae.safetensors")
    message = str(caught.value)
    assert "missing: decoder.mid.attn_1.q.bias;" in message
    assert "unexpected: decoder.surplus;" in message
    assert "of the wrong shape: encoder.norm_out.weight (32,), not (64,)" in message


def test_a_long_list_of_tensors_is_cut_with_its_count(weights, tmp_path):
    surplus = {f"surplus.{index:02}": torch.zeros(1) for index in range(25)}
    save_file(weights | surplus, tmp_path / "ae.safetensors")
    with pytest.raises(ValueError, match=r"unexpected: surplus.00, .*surplus.19 and 5 more"):
        load_ae(tmp_path / "ae.safetensors")


def test_a_file_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"ema.safetensors does not hold .* give the path of"):
        load_ae(AE_FILE.with_name("ema.safetensors"))


@pytest.mark.parametrize("length", [0, 100, 100_000])
def test_a_truncated_file_is_refused(length, tmp_path):
    (tmp_path / "ae.safetensors").write_bytes(AE_FILE.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"ae.safetensors is not a whole safetensors file .*again"):
        load_ae(tmp_path / "ae.safetensors")


def test_a_file_that_is_no_safetensors_is_refused():
    with pytest.raises(ValueError, match=r"config.json is not a whole safetensors file"):
        load_ae(GOLDEN / "config.json")


@pytest.mark.parametrize("path", [GOLDEN / "absent.safetensors", GOLDEN / "checkpoint"])
def test_a_path_without_a_file_is_refused(path):
    with pytest.raises(
        FileNotFoundError, match=f"no autoencoder file at {re.escape(str(path))}; expected"
    ):
        load_ae(path)


def test_weights_of_several_dtypes_are_refused(weights, tmp_path):
    weights["encoder.conv_in.bias"] = weights["encoder.conv_in.bias"].bfloat16()
    save_file(weights, tmp_path / "ae.safetensors")
    with pytest.raises(
        ValueError, match=r"one dtype .* got .*torch.bfloat16.*torch.float32.*again"
    ):
        load_ae(tmp_path / "ae.safetensors")


def test_weights_of_a_dtype_that_cannot_compute_are_refused(weights, tmp_path):
    save_file({name: tensor.int() for name, tensor in weights.items()}, tmp_path / "ae.safetensors")
    with pytest.raises(ValueError, match=r"must hold tensors of one dtype .* got .'torch.int32'.;"):
        load_ae(tmp_path / "ae.safetensors")


def test_loading_inside_init_empty_weights_is_refused_rather_than_losing_the_weights():
    with init_empty_weights(), pytest.raises(RuntimeError, match="before or after that block"):
        load_ae(AE_FILE)
