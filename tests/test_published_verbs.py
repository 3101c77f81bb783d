"""The model's published calls: golden numbers, and that a batch is what its samples are alone."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache
from tests.builders import (
    BOS,
    EOS,
    VOCABULARY,
    picture,
    read_ids,
    teach,
    toy_bagel,
    toy_inferencer,
)
from tests.conftest import golden_json, golden_tensors
from tests.published_scripts import Script
from tests.test_golden import TOLERANCE, assert_close, distances

GOLDEN = golden_json("published_verbs")
STEPS: dict[str, dict[str, Any]] = {step["step"]: step for step in GOLDEN["steps"]}
SIZES = [(32, 48), (32, 48)]
TEXTS = ("a", "a red fox in the snow", "two", "then three of them, drawn with care")
OFF: dict[str, Any] = {"num_timesteps": 3}


# Golden numbers: two samples at once.


def golden_inputs(step: str, inputs: dict[str, Any]) -> None:
    """Compare a dictionary: keys and their order, dtypes, shapes, numbers."""
    facts = STEPS[step]
    assert list(inputs) == list(facts["keys"])
    for name, value in inputs.items():
        if isinstance(value, list):
            assert [list(shape) for shape in value] == facts["keys"][name]
            continue
        assert str(value.dtype) == facts["dtypes"][name]
        theirs = golden_tensors("published_verbs")[f"{step}.{name}"]
        if value.is_floating_point():
            assert_close(value, theirs)
        else:
            assert value.tolist() == theirs.tolist()


def golden_cache(step: str, script: Script) -> None:
    """Compare each sample's rows as sets: within an image block their order means nothing."""
    golden, last = golden_tensors("published_verbs"), script.cache.num_layers - 1
    for half in ("key", "value"):
        for layer, name in ((0, "first"), (last, "last")):
            ours = getattr(script.cache, f"{half}_cache")[layer].split(script.lengths)
            theirs = golden[f"{step}.{half}_{name}"].split(script.lengths)
            assert max(distances(*pair).max() for pair in zip(ours, theirs, strict=True)) < (
                TOLERANCE
            )


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    golden = golden_tensors("published_verbs")
    return [Image.fromarray(golden[name].numpy()) for name in ("image0", "image1")]


@pytest.fixture(scope="module")
def read(golden_inferencer: InterleaveInferencer) -> Script:
    return Script(golden_inferencer, 2).read(*GOLDEN["prompts"])


@pytest.fixture(scope="module")
def seen(read: Script, images: list[Image.Image]) -> Script:
    return read.fork().encode(*images).see(*images)


def test_golden_prompts(golden_inferencer: InterleaveInferencer, read: Script) -> None:
    inputs, lengths, ropes = golden_inferencer.model.prepare_prompts(
        [0, 0], [0, 0], GOLDEN["prompts"], golden_inferencer.tokenizer, read.ids
    )
    golden_inputs("prepare_prompts", inputs)
    facts = STEPS["prepare_prompts"]
    assert (read.lengths, read.ropes) == (lengths, ropes) == (facts["kvlens"], facts["ropes"])
    golden_cache("after_text", read)


def test_golden_images(read: Script, images: list[Image.Image]) -> None:
    script, inferencer = read.fork(), read.inferencer
    for step, transform, enter, after in (
        ("prepare_vae_images", inferencer.vae_transform, script.encode, "after_vae"),
        ("prepare_vit_images", inferencer.vit_transform, script.see, "after_vit"),
    ):
        prepare = getattr(inferencer.model, step)
        inputs, *_ = prepare(script.lengths, script.ropes, images, transform, script.ids)
        golden_inputs(step, inputs)
        enter(*images)
        facts = STEPS[step]
        assert (script.lengths, script.ropes) == (facts["kvlens"], facts["ropes"])
        golden_cache(after, script)


@pytest.mark.parametrize("kind", ["channel", "text_channel"])
def test_golden_drawing(read: Script, seen: Script, kind: str) -> None:
    nothing = Script(read.inferencer, 2)
    torch.manual_seed(STEPS["prepare_vae_latent"]["torch_seed"])
    inputs = seen.latents(SIZES)
    golden_inputs("prepare_vae_latent", inputs)
    golden_inputs(
        "prepare_vae_latent_cfg", read.model.prepare_vae_latent_cfg([0, 0], [0, 0], SIZES)
    )
    before = seen.rows()
    drawn = read.model.generate_image(
        past_key_values=seen.cache,
        **inputs,
        **nothing.branch("text", SIZES),
        **read.branch("img", SIZES),
        **STEPS[f"generate_image_{kind}"]["arguments"],
    )
    for number, latent in enumerate(drawn):
        assert_close(
            latent, golden_tensors("published_verbs")[f"generate_image_{kind}.latent{number}"]
        )
    assert all(map(torch.equal, before, seen.rows()))


def test_golden_drawing_of_one(golden_inferencer: InterleaveInferencer) -> None:
    script, nothing = (
        Script(golden_inferencer).read(GOLDEN["prompts"][1]),
        Script(golden_inferencer),
    )
    torch.manual_seed(11)
    [latent] = script.draw(
        SIZES[:1],
        **nothing.branch("text", SIZES[:1]),
        **STEPS["generate_image_global_single"]["arguments"],
    )
    assert_close(latent, golden_tensors("published_verbs")["generate_image_global_single.latent0"])


def test_golden_writing(seen: Script) -> None:
    script = seen.fork()
    golden_inputs(
        "prepare_start_tokens",
        script.model.prepare_start_tokens(script.lengths, script.ropes, script.ids),
    )
    ids = script.write(16)
    assert ids.tolist() == golden_tensors("published_verbs")["generate_text.ids"].tolist()
    assert script.cache.seq_lens == sum(script.lengths) + 2 * 16


def test_golden_chat(golden_inferencer: InterleaveInferencer, images: list[Image.Image]) -> None:
    i, facts = golden_inferencer, STEPS["chat"]
    answer = i.model.chat(
        i.tokenizer, i.new_token_ids, i.vit_transform, images, facts["prompt"], facts["max_length"]
    )
    assert answer == facts["output"]


# A batch is its samples.


@pytest.fixture(scope="module")
def inferencer() -> InterleaveInferencer:
    return toy_inferencer()


def close(ours: Tensor, theirs: Tensor) -> None:
    """Rows of one product round otherwise than each alone."""
    torch.testing.assert_close(ours.float(), theirs.float(), atol=2e-5, rtol=1e-4)


PICTURES = [picture(16, 8, 1), picture(8, 16, 2), picture(16, 16, 3), picture(16, 8, 4)]


@pytest.mark.parametrize(("heads", "kv_heads", "samples"), [(4, 4, 3), (4, 1, 4), (2, 1, 2)])
def test_a_batch_reads_and_draws_and_writes_as_each_sample_alone(
    heads: int, kv_heads: int, samples: int
) -> None:
    model = toy_bagel(num_attention_heads=heads, num_key_value_heads=kv_heads)
    inferencer = toy_inferencer(model)
    sizes = [(8, 16), (16, 8), (8, 8), (8, 16)][:samples]

    def run(rows: range, noise: Tensor | None = None) -> tuple[Any, ...]:
        script = Script(inferencer, len(rows))
        script.read(*(TEXTS[row] for row in rows))
        nothing, text = Script(inferencer, len(rows)), script.fork()
        script.see(*(PICTURES[row] for row in rows))
        of_rows = [sizes[row] for row in rows]
        inputs = script.latents(of_rows)
        if noise is not None:
            inputs["packed_init_noises"] = noise
        drawn = model.generate_image(
            past_key_values=script.cache,
            **inputs,
            **nothing.branch("text", of_rows),
            **text.branch("img", of_rows),
            cfg_text_scale=3.0,
            cfg_img_scale=1.5,
            num_timesteps=4,
        )
        keys = script.cache.key_cache[1].split(script.lengths)
        ids = script.write(6)
        return inputs["packed_init_noises"], keys, drawn, ids

    noise, keys, drawn, ids = run(range(samples))
    noises = noise.split([height * width // 16 for height, width in sizes])
    for row in range(samples):
        _, [alone], [latent], [*steps] = run(range(row, row + 1), noises[row])
        close(keys[row], alone)
        close(drawn[row], latent)
        assert ids[:, row].tolist() == [int(step) for step in steps]


def test_samples_may_be_regrouped_between_two_calls(inferencer: InterleaveInferencer) -> None:
    """Scripts slice a cache by sample, and join caches into one."""
    both = Script(inferencer, 2).read(TEXTS[1], TEXTS[2])
    sliced = []
    for row, (keys, values) in enumerate(
        zip(
            *(
                _parts(half, both.lengths)
                for half in (both.cache.key_cache, both.cache.value_cache)
            ),
            strict=True,
        )  # fmt: skip
    ):
        script = Script(inferencer)
        script.lengths, script.ropes = [both.lengths[row]], [both.ropes[row]]
        for layer in range(2):
            script.cache.key_cache[layer] = keys[layer]
            script.cache.value_cache[layer] = values[layer]
        sliced.append(script)
    expected = both.fork().write(5)
    for row, script in enumerate(sliced):
        assert script.write(5)[:, 0].tolist() == expected[:, row].tolist()
    joined = Script(inferencer, 2)
    joined.lengths, joined.ropes = both.lengths, both.ropes
    for layer in range(2):
        parts = [both.cache.key_cache[layer], both.cache.value_cache[layer]]
        joined.cache.key_cache[layer], joined.cache.value_cache[layer] = parts
    assert joined.write(5).tolist() == expected.tolist()


def _parts(half: dict[int, Tensor], lengths: list[int]) -> list[list[Tensor]]:
    layers = [half[layer].split(lengths) for layer in range(2)]
    return [[layer[row] for layer in layers] for row in range(len(lengths))]


def test_one_cache_may_be_read_as_one_sample_or_as_two(inferencer: InterleaveInferencer) -> None:
    both = Script(inferencer, 2).read(TEXTS[0], TEXTS[1])
    one = Script(inferencer)
    one.cache, one.lengths, one.ropes = both.cache, [sum(both.lengths)], [max(both.ropes)]
    assert one.write(3).shape == (3, 1)
    assert both.cache.seq_lens == sum(both.lengths) + 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_calls_run_in_the_models_own_precision(dtype: torch.dtype, autocast: bool) -> None:
    """Scripts put autocast around one call and not around the next."""
    inferencer = toy_inferencer(toy_bagel().to(dtype))
    script = Script(inferencer, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        script.read(*TEXTS[:2]).encode(*PICTURES[:2])
    script.see(*PICTURES[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        drawn = script.draw([(8, 8), (8, 16)], **OFF)
    assert script.cache.key_cache[0].dtype == dtype
    assert [latent.shape for latent in drawn] == [(4, 16), (8, 16)]
    assert script.write(4).shape == (4, 2)


def test_what_comes_out_may_be_written_to_and_learned_from(
    inferencer: InterleaveInferencer,
) -> None:
    """A tensor made under inference_mode refuses both."""
    script = Script(inferencer).read(TEXTS[1])
    [latent] = script.draw([(8, 8)], **OFF)
    latent.add_(1)
    for tensor in (latent, script.write(3), script.cache.key_cache[0]):
        assert not tensor.is_inference()
        assert not tensor.requires_grad


def test_calls_repeat_under_the_same_seed_and_settle_nothing_on_the_model(
    inferencer: InterleaveInferencer,
) -> None:
    def run(**options: Any) -> list[Tensor]:
        torch.manual_seed(3)
        script = Script(inferencer, 2).read(*TEXTS[:2])
        drawn = script.draw([(8, 8), (8, 8)], **{"num_timesteps": 8, **options})
        return [*drawn, script.write(5, do_sample=True).float()]

    first = run()
    run(enable_taylorseer=True)
    assert all(map(torch.equal, first, run()))


# Words and pixels as the inferencer's own calls read and draw them.


def test_the_models_calls_and_the_inferencers_agree(
    inferencer: InterleaveInferencer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inferencer, "sample_posterior", False)  # as the autoencoder's own call
    context = inferencer.init_gen_context()
    inferencer.update_context_text(TEXTS[1], context)
    inferencer.update_context_image(PICTURES[0], context)
    script = Script(inferencer).read(TEXTS[1]).encode(PICTURES[0]).see(PICTURES[0])
    assert (context["kv_lens"], context["ropes"]) == (script.lengths, script.ropes)
    for ours, theirs in zip(
        (context["past_key_values"].key_cache, context["past_key_values"].value_cache),
        (script.cache.key_cache, script.cache.value_cache),
        strict=True,
    ):
        for layer in range(2):
            # The order of an image's rows means nothing.
            assert distances(ours[layer], theirs[layer]).max() < TOLERANCE
    text = inferencer.gen_text(context, 7, do_sample=False)
    ids = script.fork().write(7, end_token_id=EOS)[1:, 0].tolist()
    assert text == inferencer.tokenizer.decode(ids[: ids.index(BOS)] if BOS in ids else ids)
    torch.manual_seed(2)
    image = inferencer.gen_image((8, 16), context, 1.0, 1.0, num_timesteps=4)
    torch.manual_seed(2)
    [latent] = script.draw([(8, 16)], num_timesteps=4, timestep_shift=3.0)
    again = inferencer.decode_image(latent, (8, 16))
    assert image.tobytes() == again.tobytes()


# Writing.


@pytest.mark.parametrize("samples", [1, 2])
def test_a_text_ends_with_the_first_samples_end(samples: int) -> None:
    """The end is left out; whatever is returned has entered the cache."""
    inferencer = toy_inferencer(toy_bagel())
    script = Script(inferencer, samples).read(*TEXTS[1:2] * samples)
    ids = inferencer.tokenizer.encode(TEXTS[1])
    teach(
        inferencer.model,
        read_ids(inferencer.model, inferencer.new_context(), [BOS, *ids, EOS]),
        [70, 71, EOS, 72],
    )
    written = script.write(9, end_token_id=EOS)
    assert written.tolist() == [[id_] * samples for id_ in (BOS, 70, 71)]
    assert script.cache.seq_lens == sum(script.lengths) + 3 * samples


def test_writing_goes_on_from_the_cache_that_grew(inferencer: InterleaveInferencer) -> None:
    once, twice = (Script(inferencer, 2).read(*TEXTS[:2]) for _ in range(2))
    whole = once.write(8)
    first = twice.write(4)
    inputs = {
        "packed_start_tokens": whole[4],
        "packed_query_position_ids": torch.tensor(twice.ropes) + 4,
        "key_values_lens": torch.tensor(twice.lengths) + 4,
        "packed_key_value_indexes": torch.arange(twice.cache.seq_lens),
    }
    rest = twice.model.generate_text(twice.cache, **inputs, max_length=4)
    assert torch.cat([first, rest]).tolist() == whole.tolist()


@pytest.mark.parametrize("samples", [1, 3])
def test_sampling_takes_one_draw_a_step_for_all_samples(
    inferencer: InterleaveInferencer, samples: int
) -> None:
    """As published: one multinomial over (samples, vocabulary), also after the last id."""
    script = Script(inferencer, samples).read(*TEXTS[:samples])
    torch.manual_seed(4)
    script.write(5, do_sample=True, temperature=0.7)
    follows = torch.rand(1)
    torch.manual_seed(4)
    for _ in range(5):
        torch.multinomial(torch.full((samples, VOCABULARY), 1.0), 1)
    assert torch.equal(torch.rand(1), follows)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    for samples in (1, 2):
        inferencer = toy_inferencer(toy_bagel())
        script = Script(inferencer, samples).read(*TEXTS[:samples])
        inferencer.model.language_model.model.norm.weight.data.fill_(float("nan"))
        with pytest.raises(RuntimeError, match="nan"):
            script.write(3, do_sample=True)
        inferencer.model.llm2vae.bias.data.fill_(float("nan"))
        with pytest.raises(RuntimeError, match="nan or inf in the latents of image 1"):
            script.draw([(8, 8)] * samples, **OFF)


# What indexes say is obeyed as far as it means something.


def test_positions_are_those_that_the_inputs_say(inferencer: InterleaveInferencer) -> None:
    def keys(positions: list[int]) -> Tensor:
        script = Script(inferencer)
        inputs, *_ = script.model.prepare_prompts(
            [0], [0], [TEXTS[0]], inferencer.tokenizer, script.ids
        )
        inputs["packed_text_position_ids"] = torch.tensor(positions)
        script.model.forward_cache_update_text(script.cache, **inputs)
        return script.cache.key_cache[0]

    usual, other = keys([0, 1, 2]), keys([0, 9, 4])
    assert torch.equal(usual[0], other[0])
    assert not torch.allclose(usual[1], other[1], atol=1e-3)
    shifted = Script(inferencer)
    shifted.ropes = [40]
    assert not torch.equal(shifted.read(TEXTS[0]).cache.key_cache[0], usual)


def test_places_of_an_image_are_those_that_the_inputs_say(
    inferencer: InterleaveInferencer,
) -> None:
    script = Script(inferencer).read(TEXTS[0])
    inputs = script.latents([(8, 8)])
    usual, other = (
        script.model.generate_image(
            past_key_values=script.cache,
            **inputs | {"packed_vae_position_ids": torch.tensor(places)},
            **OFF,
        )[0]
        for places in ([0, 1, 8, 9], [36, 37, 44, 45])
    )
    assert not torch.allclose(usual, other, atol=1e-3)


def test_a_sample_that_adds_nothing_stays_as_it_is(inferencer: InterleaveInferencer) -> None:
    script = Script(inferencer, 2).read(*TEXTS[:2])
    lengths = torch.tensor([2, 0])
    before = script.cache.key_cache[1].split(script.lengths)[1]
    language_model = script.model.language_model
    language_model.forward_inference(
        script.model.embed([70, 71]).detach(),
        lengths,
        torch.tensor([3, 4]),
        torch.tensor([script.lengths[0], script.lengths[0] + 1]),
        script.cache,
        torch.tensor(script.lengths),
    )
    after = script.cache.key_cache[1].split([script.lengths[0] + 2, script.lengths[1]])[1]
    assert torch.equal(before, after)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(inputs: dict[str, Any]) -> None:
        inputs[name] = change(inputs[name])

    return apply


@pytest.mark.parametrize(
    ("call", "change", "message"),
    [
        ("text", changed("packed_text_indexes", lambda x: x.flip(0)), "new tokens do not fit"),
        ("text", changed("packed_key_value_indexes", lambda x: x + 1), "indexes do not fit"),
        ("text", changed("key_values_lens", lambda x: x[:1]), "one entry for each of 2 samples"),
        ("text", changed("key_values_lens", lambda x: x - 99), "at least 0"),
        ("text", changed("packed_text_position_ids", lambda x: x[1:]), "must hold the tokens of"),
        ("text", changed("text_token_lens", lambda x: x + 1), "do not fit"),
        ("vit", changed("packed_vit_token_indexes", lambda x: x * 0), "each of 20 tokens once"),
        ("vit", changed("packed_indexes", lambda x: x[1:]), "new tokens do not fit"),
        (
            "draw",
            changed("packed_position_ids", lambda x: x + torch.arange(12)),
            "the same for all",
        ),
        ("draw", changed("packed_position_ids", lambda x: x[1:]), "must have 12 entries"),
        ("draw", changed("packed_init_noises", lambda x: x[1:]), "in ascending order"),
        ("draw", changed("packed_vae_token_indexes", lambda x: x.flip(0)), "in ascending order"),
        ("draw", changed("packed_seqlens", lambda x: x + 1), "must have 14 entries|tokens once"),
        ("draw", lambda inputs: inputs.update(cfg_text_scale=4.0), "a context without the text"),
        ("draw", lambda inputs: inputs.update(num_timesteps=1), "num_timesteps must be at least 2"),
        ("write", changed("max_length", lambda _: 0), "max_length must be at least 1"),
        ("write", changed("packed_query_position_ids", lambda x: x[1:]), "one entry for each of 2"),
        ("write", changed("packed_key_value_indexes", lambda x: x + 1), "indexes do not fit"),
        ("write", lambda inputs: inputs.update(do_sample=True, temperature=0.0), "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(
    inferencer: InterleaveInferencer, call: str, change: Callable[[Any], None], message: str
) -> None:
    model, script = inferencer.model, Script(inferencer, 2).read(*TEXTS[:2])
    ends = script.lengths, script.ropes
    if call == "text":
        inputs, *_ = model.prepare_prompts(*ends, ["x", "yz"], inferencer.tokenizer, script.ids)
        run: Callable[..., Any] = model.forward_cache_update_text
    elif call == "vit":
        inputs, *_ = model.prepare_vit_images(
            *ends, PICTURES[:2], inferencer.vit_transform, script.ids
        )
        run = model.forward_cache_update_vit
    elif call == "draw":
        inputs, run = {**script.latents([(8, 8), (8, 8)]), **OFF}, model.generate_image
    else:
        inputs = {**model.prepare_start_tokens(*ends, script.ids), "max_length": 3}
        run = model.generate_text
    change(inputs)
    before = script.rows()
    hook = model.language_model.model.register_forward_pre_hook(_fail)
    try:
        with pytest.raises(ValueError, match=message):
            run(past_key_values=script.cache, **inputs)
    finally:
        hook.remove()
    assert all(map(torch.equal, before, script.rows()))


def _fail(*_: Any) -> None:
    raise AssertionError("something was computed")


@pytest.mark.parametrize("name", ["prompts", "images", "image_sizes", "curr_rope"])
def test_every_sample_needs_one_of_everything(inferencer: InterleaveInferencer, name: str) -> None:
    """What was too short cut the batch without a word."""
    model, ids = inferencer.model, inferencer.new_token_ids
    calls: dict[str, Callable[[], Any]] = {
        "prompts": lambda: model.prepare_prompts([0, 0], [0, 0], ["x"], inferencer.tokenizer, ids),
        "images": lambda: model.prepare_vae_images(
            [0, 0], [0, 0], PICTURES[:1], inferencer.vae_transform, ids
        ),
        "image_sizes": lambda: model.prepare_vae_latent([0, 0], [0, 0], [(8, 8)], ids),
        "curr_rope": lambda: model.prepare_start_tokens([0, 0], [0], ids),
    }
    with pytest.raises(ValueError, match=f"{name} must have one entry for each of 2 samples"):
        calls[name]()


def test_what_is_in_no_list_is_refused(inferencer: InterleaveInferencer) -> None:
    i, ids = inferencer, inferencer.new_token_ids
    for wrong in ("x", [3]):
        with pytest.raises(TypeError, match="prompts must be a list"):
            i.model.prepare_prompts([0], [0], wrong, i.tokenizer, ids)
    with pytest.raises(TypeError, match="images must be a list"):
        i.model.prepare_vit_images([0], [0], PICTURES[0], i.vit_transform, ids)
    with pytest.raises(TypeError, match="images must be a list"):
        i.model.chat(i.tokenizer, ids, i.vit_transform, PICTURES[0], "x", 4)


def test_a_cache_of_another_decoder_is_refused(inferencer: InterleaveInferencer) -> None:
    script = Script(inferencer)
    script.cache = NaiveCache(5)
    with pytest.raises(ValueError, match=r"must be NaiveCache\(2\), got 5 layers"):
        script.read("x")


# A loop of one's own over the decoder.


def test_a_loop_over_the_decoder_writes_what_generate_text_writes(
    inferencer: InterleaveInferencer,
) -> None:
    script = Script(inferencer, 2).read(*TEXTS[:2])
    expected = script.fork().write(5)
    language_model, model = script.model.language_model, script.model
    inputs = model.prepare_start_tokens(script.lengths, script.ropes, script.ids)
    ids, positions = inputs["packed_start_tokens"], inputs["packed_query_position_ids"]
    lengths, places = inputs["key_values_lens"], inputs["packed_key_value_indexes"]
    steps = []
    for _ in range(5):
        steps.append(ids)
        one = torch.ones_like(ids)
        parts = places.split(lengths.tolist())
        places = torch.cat([part + row for row, part in enumerate(parts)])
        output = language_model.forward_inference(
            packed_query_sequence=language_model.model.embed_tokens(ids),
            query_lens=one,
            packed_query_position_ids=positions,
            packed_query_indexes=lengths.cumsum(0) + torch.arange(2),
            past_key_values=script.cache,
            key_values_lens=lengths,
            packed_key_value_indexes=places,
        )
        assert output.past_key_values is script.cache
        ids = language_model.lm_head(output.packed_query_sequence).argmax(-1)
        lengths, positions = lengths + 1, positions + 1
        parts = places.split((lengths - 1).tolist())
        places = torch.cat([torch.cat([part, part[-1:] + 1]) for part in parts])
    assert torch.stack(steps).tolist() == expected.tolist()


def test_a_look_that_is_not_kept_leaves_the_cache(inferencer: InterleaveInferencer) -> None:
    """A flow step of one's own: markers through the text weights, latents through the others."""
    script, model = Script(inferencer, 2).read(*TEXTS[:2]), inferencer.model
    inputs, before = script.latents([(8, 8), (8, 16)]), script.rows()
    sequence = torch.zeros(len(inputs["packed_position_ids"]), 32)
    sequence[inputs["packed_text_indexes"]] = model.embed(inputs["packed_text_ids"]).detach()
    with torch.no_grad():
        sequence[inputs["packed_vae_token_indexes"]] = model.latent_tokens(
            inputs["packed_init_noises"],
            1.0,
            model.latent_pos_embed(inputs["packed_vae_position_ids"]),
        )
    output = model.language_model.forward_inference(
        sequence,
        inputs["packed_seqlens"],
        inputs["packed_position_ids"],
        inputs["packed_indexes"],
        script.cache,
        inputs["key_values_lens"],
        inputs["packed_key_value_indexes"],
        update_past_key_values=False,
        is_causal=False,
        mode="gen",
        packed_vae_token_indexes=inputs["packed_vae_token_indexes"],
        packed_text_indexes=inputs["packed_text_indexes"],
    )
    assert all(map(torch.equal, before, script.rows()))
    with torch.no_grad():
        velocity = model.llm2vae(output.packed_query_sequence[inputs["packed_vae_token_indexes"]])
    drawn = model.generate_image(past_key_values=script.cache, **inputs, num_timesteps=2)
    close(torch.cat(drawn), inputs["packed_init_noises"] - velocity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode must be 'und', or 'gen'"),
        ({"mode": "gen"}, "got 'gen' with is_causal=True"),
        ({"mode": "gen", "is_causal": False}, "needs packed_vae_token_indexes"),
        ({"query_lens": [0]}, "at least one"),
    ],
)
def test_the_decoder_refuses_what_it_cannot_do(
    inferencer: InterleaveInferencer, changes: dict[str, Any], message: str
) -> None:
    call = {
        "packed_query_sequence": torch.zeros(1, 32),
        "query_lens": [1],
        "packed_query_position_ids": torch.tensor([0]),
        "packed_query_indexes": None,
    }
    with pytest.raises(ValueError, match=message):
        inferencer.model.language_model.forward_inference(**call | changes)


def test_a_deep_copied_model_has_the_calls_too(inferencer: InterleaveInferencer) -> None:
    copied = toy_inferencer(copy.deepcopy(inferencer.model))
    ids = [Script(one).read(TEXTS[1]).write(4).tolist() for one in (copied, inferencer)]
    assert ids[0] == ids[1]


def test_numbers_of_numpy_are_numbers(inferencer: InterleaveInferencer) -> None:
    """Scripts read a length off an array."""
    script = Script(inferencer, 2).read(*TEXTS[:2])
    assert script.write(np.int64(3)).shape == (3, 2)


def test_latents_are_drawn_where_the_autoencoder_is_told_to() -> None:
    """As published, by the global generator: then the inferencer's call reads the same."""
    inferencer = toy_inferencer()
    means = Script(inferencer).encode(PICTURES[0]).rows()
    inferencer.vae_model.sample_posterior = True
    torch.manual_seed(5)
    script = Script(inferencer).encode(PICTURES[0])
    torch.manual_seed(5)
    context = inferencer.update_context_image(PICTURES[0], inferencer.init_gen_context(), vit=False)
    theirs = context["past_key_values"].key_cache
    for layer in range(2):
        assert distances(theirs[layer], script.cache.key_cache[layer]).max() < TOLERANCE
    assert not all(map(torch.equal, means, script.rows()))
