"""The model's numbers equal the published code's on every golden file.

Tolerance 1e-4 absolute is the promise; the differences seen in float32 on a CPU are below 2e-5, and
that is what is held here.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer
from data.packing import LatentPart, SpecialIds, TextPart, VisionPart, pack
from inferencer import InterleaveInferencer
from modeling.bagel.blocks import flattened_positions, patchify
from modeling.bagel.drawing import draw
from modeling.context import Context
from modeling.flow import ImageOptions, guide
from tests.conftest import golden_json, golden_tensors

TOLERANCE = 2e-5
BOS, EOS, START, END = 500, 501, 502, 503
GRID = (3, 5)  # of the golden 48 x 80 images

index = golden_json("index")
as_published = golden_json("interleave_as_published")


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert difference(ours, theirs) <= TOLERANCE


def assert_pixels(ours: Image.Image, theirs: Tensor) -> None:
    """Truncation to 8 bits turns the smallest difference at an edge into one level."""
    assert np.abs(np.asarray(ours).astype(int) - theirs.numpy()).max() <= 1


def assert_context(context: Context, golden: dict[str, Tensor], prefix: str) -> None:
    """Compare as sets of rows: within an image block their order means nothing."""
    assert context.length == golden[f"{prefix}.kv_len"]
    assert context.position == golden[f"{prefix}.rope"]
    for layer in range(context.store.num_layers):
        rows = context.rows(layer)
        assert rows is not None
        for ours, name in zip(rows, ("key", "value"), strict=True):
            theirs = golden[f"{prefix}.{name}.{layer}"]
            nearest = distances(ours, theirs)
            assert difference(nearest, torch.zeros_like(nearest)) <= TOLERANCE


def distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far each row is from the nearest row of the other side."""
    apart = torch.cdist(
        ours.flatten(1),
        theirs.flatten(1),
        p=float("inf"),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    return torch.cat([apart.min(0).values, apart.min(1).values])


@pytest.fixture
def prompt(golden_inferencer: InterleaveInferencer) -> Context:
    model = golden_inferencer.model
    ids = golden_tensors("text_prefill")["prompt_ids"].tolist()
    return model.read(model.new_context(), model.text_block([BOS, *ids, EOS]))[0]


@pytest.fixture
def contexts(golden_inferencer: InterleaveInferencer, prompt: Context) -> dict[str, Context]:
    model = golden_inferencer.model
    image = Image.fromarray(golden_tensors("vae_image")["image"].numpy())
    second = [BOS, *golden_tensors("interleaved_context")["prompt2_ids"].tolist(), EOS]
    after_image = golden_inferencer.update_context_image(image, prompt)
    return {
        "after_image": after_image,
        "full": model.read(after_image, model.text_block(second))[0],
        "no_image": model.read(prompt, model.text_block(second))[0],
    }


@pytest.mark.parametrize("name", ["latent_pos_embed", "vit_pos_embed"])
def test_position_tables(golden_inferencer: InterleaveInferencer, name: str) -> None:
    ours = getattr(golden_inferencer.model, name).pos_embed
    assert_close(ours, golden_tensors("position_embeddings")[f"{name}.pos_embed"])


def test_text_prefill(golden_inferencer: InterleaveInferencer, prompt: Context) -> None:
    golden, model = golden_tensors("text_prefill"), golden_inferencer.model
    block = model.text_block([BOS, *golden["prompt_ids"].tolist(), EOS])
    _, hidden = model.read(model.new_context(), block)
    with torch.inference_mode():
        assert_close(model.language_model.model.norm(hidden), golden["hidden"])
    assert_close(model.logits(hidden), golden["logits"])
    assert_context(prompt, golden, "context")


def test_greedy_decode(golden_inferencer: InterleaveInferencer, prompt: Context) -> None:
    golden, model, context = golden_tensors("greedy_decode"), golden_inferencer.model, prompt
    written = []
    for fed, expected in zip(golden["fed_ids"], golden["logits"], strict=True):
        context, hidden = model.read(context, model.text_block(fed[None]))
        logits = model.logits(hidden)[0]
        assert_close(logits, expected)
        written.append(int(logits.argmax()))
    assert written[:-1] == golden["fed_ids"][1:].tolist()


def test_vit_image(golden_inferencer: InterleaveInferencer, prompt: Context) -> None:
    golden, model = golden_tensors("vit_image"), golden_inferencer.model
    pixels = golden_inferencer.vit_transform(Image.fromarray(golden["image"].numpy()))
    assert_close(pixels, golden["pixels"])
    patches = patchify(pixels, model.vit_patch_size)
    assert_close(patches, golden["patches"])
    positions = flattened_positions((4, 6), model.vit_max_num_patch_per_side, False)
    assert positions.tolist() == golden["position_ids"].tolist()
    with torch.inference_mode():
        features = model.vit_model(patches, positions, [24])
        assert_close(features, golden["vit_output"])
        assert_close(model.connector(features), golden["connector_output"])
    context, _ = model.read(prompt, model.vit_block(pixels, (START, END)))
    assert_context(context, golden, "context")


def test_vae_image(golden_inferencer: InterleaveInferencer, prompt: Context) -> None:
    golden, model, vae = (
        golden_tensors("vae_image"),
        golden_inferencer.model,
        golden_inferencer.vae_model,
    )
    image = Image.fromarray(golden["image"].numpy())
    assert_close(golden_inferencer.vae_transform(image), golden["pixels"])
    with torch.inference_mode():
        latent = vae.encode(golden["pixels"][None])
        assert_close(latent[0], golden["latent_mean"])
        assert_close(vae.decode(latent)[0], golden["decoded"])
    tokens, grid = golden_inferencer.encode_image(image)
    context, _ = model.read(prompt, model.latent_block(tokens, grid, (START, END)))
    assert_context(context, golden, "context")


@pytest.mark.parametrize("name", ["after_image", "full", "no_image"])
def test_interleaved_context(contexts: dict[str, Context], name: str) -> None:
    assert_context(contexts[name], golden_tensors("interleaved_context"), name)


@pytest.mark.parametrize("number", range(len(index["velocity"]["cases"])))
def test_velocity(
    golden_inferencer: InterleaveInferencer, contexts: dict[str, Context], number: int
) -> None:
    golden, model = golden_tensors("velocity"), golden_inferencer.model
    case = dict(index["velocity"]["cases"][number])
    time = case.pop("timestep")
    block = model.latent_block(golden["x_t"], GRID, (START, END), time)

    def velocity(context: Context) -> Tensor:
        with context.room(block.length) as tail:
            return model.velocity(model.extend([(tail, block)])[0][1])

    options = ImageOptions(cfg_interval=(0.0, 1.0), **case)
    branches = [velocity(contexts[name]) for name in ("full", "after_image", "no_image")]
    ours = guide(*branches, options) if options.guided(time) else branches[0]
    assert_close(ours, golden[f"velocity.{number}"])


def _sample(
    inferencer: InterleaveInferencer, contexts: dict[str, Context], options: ImageOptions
) -> Tensor:
    *_, last = draw(
        inferencer.model,
        full=contexts["full"],
        without_text=contexts["after_image"],
        without_images=contexts["no_image"],
        noise=golden_tensors("sample_image")["initial_noise"],
        grid=GRID,
        markers=(START, END),
        options=options,
    )
    return last.latent


@pytest.mark.parametrize("case", index["sample_image"]["cases"], ids=lambda c: str(c["case"]))
def test_sample_image(
    golden_inferencer: InterleaveInferencer, contexts: dict[str, Context], case: dict[str, Any]
) -> None:
    arguments = {name: value for name, value in case.items() if name != "case"}
    latent = _sample(golden_inferencer, contexts, ImageOptions(**arguments))
    assert_close(latent, golden_tensors("sample_image")[f"latent.{case['case']}"])


def test_decoded_image(golden_inferencer: InterleaveInferencer) -> None:
    golden = golden_tensors("sample_image")
    image = golden_inferencer.decode_image(golden["latent.0"], (48, 80))
    assert_pixels(image, golden["image.0"])


@pytest.mark.parametrize("case", index["interleave_inference"], ids=lambda c: c["name"])
def test_interleave_inference(
    golden_inferencer: InterleaveInferencer, case: dict[str, Any]
) -> None:
    golden = golden_tensors("interleave_inference")
    inputs = [
        Image.fromarray(golden[item].numpy()) if item in golden else item for item in case["inputs"]
    ]
    torch.manual_seed(case["seed"])
    outputs = golden_inferencer.interleave_inference(inputs, **case["arguments"])
    for ours, theirs in zip(outputs, case["outputs"], strict=True):
        if isinstance(ours, str):
            assert ours == theirs["text"]
        else:
            assert ours.size == tuple(theirs["size"])
            assert_pixels(ours, golden[theirs["image"]])


@pytest.mark.parametrize("kind", [InterleaveInferencer, AutoInterleavedInferencer])
@pytest.mark.parametrize("case", as_published["cases"], ids=lambda c: c["name"])
def test_interleave_as_published(
    golden_inferencer: InterleaveInferencer, case: dict[str, Any], kind: type[InterleaveInferencer]
) -> None:
    """Posteriors are sampled, a cut text makes its extra draw, markers in a text are tokens."""
    golden, g = golden_tensors("interleave_as_published"), golden_inferencer
    inferencer = kind(
        g.model, g.vae_model, g.tokenizer, g.vae_transform, g.vit_transform, g.new_token_ids
    )
    inputs = [
        Image.fromarray(golden[item].numpy()) if item in golden else item for item in case["inputs"]
    ]
    torch.manual_seed(case["seed"])
    outputs = inferencer.interleave_inference(inputs, **case["arguments"])
    for ours, theirs in zip(outputs, case["outputs"], strict=True):
        if isinstance(ours, str):
            assert ours == theirs["text"]
        else:
            assert_pixels(ours, golden[theirs["image"]])


def test_training_forward(golden_inferencer: InterleaveInferencer) -> None:
    golden, model = golden_tensors("training_forward"), golden_inferencer.model
    latent = patchify(golden["latent"], model.latent_patch_size)

    def part(plan: dict[str, Any]) -> TextPart | LatentPart | VisionPart:
        if plan["type"] == "text":
            return TextPart(
                ids=tuple(plan["ids"]), loss=plan["loss"], following=plan["special_label"]
            )
        if plan["type"] == "vit_image":
            return VisionPart(patches=golden["vit_patches"], grid=(5, 7))
        time = torch.sigmoid(torch.tensor(plan["timestep_logit"])).item() if plan["loss"] else None
        return LatentPart(latent=latent, grid=(4, 6), time=time)

    special = SpecialIds(bos=BOS, eos=EOS, start_of_image=START, end_of_image=END)
    batch = pack([[part(plan) for plan in index["training_forward"]["plan"]]], special)
    assert torch.equal(batch.mask[0], golden["mask_allowed"])
    assert torch.equal(batch.positions, golden["position_ids"])
    assert torch.equal(batch.ce_places, golden["ce_positions"])
    assert torch.equal(batch.ce_labels, golden["labels"])
    losses = model(batch, golden["noise"])
    assert_close(losses.ce.detach(), golden["ce"])
    assert_close(losses.mse.detach(), golden["mse"])
