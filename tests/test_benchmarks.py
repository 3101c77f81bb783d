"""Benchmarks run at toy size, and what they compare with does the same work; no time is tested."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from itertools import islice

import pytest
import torch
from PIL import Image, ImageChops

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import (
    contexts,
    decode,
    flow,
    image_into_context,
    linear,
    memory,
    models,
    naive,
    numbers,
    published,
    roofline,
    session,
    story,
    table,
)
from benchmarks.naive_story import Plan
from modeling.decode_graph import compiled_step
from modeling.flow import ImageOptions

TOY = models.Shape(
    decoder={
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
    vision={
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 4,
    },
    autoencoder={
        "ch": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "z_channels": 4,
        "downsample": 2,
    },
    latent_side=4,
)
PLAN = Plan(
    prompt="A fox.",
    num_images=2,
    text_length=3,
    image_options=ImageOptions(num_timesteps=3),
    seed=5,
)


@cache
def toy() -> AutoInterleavedInferencer:
    inferencer = models.build_shape(TOY, "cpu", torch.float32)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


@pytest.fixture(autouse=True)
def _small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the device with small buffers."""
    small = partial(roofline.ways_to_move, megabytes=1)
    for module in (decode, roofline):
        monkeypatch.setattr(module, "ways_to_move", small)
    for module in (flow, image_into_context, story):
        monkeypatch.setattr(module, "matmul_rate", partial(roofline.matmul_rate, side=32))


def assert_finite(costs: list[object]) -> None:
    assert costs
    for cost in costs:
        assert all(map(math.isfinite, dataclasses.astuple(cost)))


def test_decoding_gives_a_row_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way all ways are made sure to write the same, compiled code too."""
    monkeypatch.setattr(decode.shutil, "which", lambda name: name)
    traced = compiled_step("eager")
    monkeypatch.setattr("modeling.decode_graph.compiled_step", lambda: traced)
    costs = decode.measure(toy().model, tokens=12, repeats=1, lengths=[0, 20])
    assert_finite(costs)
    assert [cost.length for cost in costs] == [0, 20]
    assert len(decode.verdicts(costs)) == 5
    monkeypatch.setattr(decode.shutil, "which", lambda name: None)
    [cost] = decode.measure(toy().model, tokens=2, repeats=1, lengths=[0])
    assert cost.compiled is None, "there is no compiler"


def test_published_calls_are_measured_at_every_length() -> None:
    """On the way they are made sure to write what our own way writes."""
    costs = published.measure(toy().model, tokens=3, repeats=1, lengths=[0, 20])
    assert [cost.length for cost in costs] == [0, 20]
    assert all(min(c.ours, c.call, c.batch, c.loop, c.looking) > 0 for c in costs)
    assert len(published.verdicts(costs)) == 2


@pytest.mark.parametrize("length", [0, 20])
def test_all_ways_write_the_same_tokens(length: int) -> None:
    context = contexts.filled(toy().model, length)
    slow = contexts.filled_naively(toy().model, length)
    ids = decode.write(toy().model, context, 8)
    assert decode.write_naively(toy().model, slow, 8) == ids
    assert decode.write_plainly(toy().model, slow, 8) == ids
    assert slow.length == length, "an alias reads on by itself"


def test_a_product_is_measured_both_ways() -> None:
    assert all(passed > 0 for passed in linear.measure((8, 16), 2, repeats=1, megabytes=1))


def test_attention_is_overheard_once_a_layer() -> None:
    context = contexts.filled(toy().model, 20)
    calls = decode.attention_calls(toy().model, context, 3)
    assert [call.args[0] for call in calls] == [0, 1]
    before = [rows.clone() for layer in range(2) for rows in context.rows(layer)]
    decode.attend_again(calls)
    after = [rows for layer in range(2) for rows in context.rows(layer)]
    assert all(map(torch.equal, before, after)), "it writes nowhere but in free slots"


def test_a_filled_context_reads_on_like_any_other() -> None:
    model = toy().model
    context = contexts.after_text(model, contexts.filled(model, 20), 5)
    assert (context.length, context.position) == (25, 25)
    assert contexts.usable_lengths(model, (0, 100, 1000, 3000), 2000, 12) == [0, 100, 500]


def test_flow_gives_a_row_a_length_and_one_a_way() -> None:
    costs = flow.measure(toy(), steps=1, repeats=1, lengths=[0, 20])
    assert_finite(costs)
    assert [cost.length for cost in costs] == [0, 20]
    pictures = flow.measure_pictures(toy(), length=20, timesteps=4, repeats=1)
    assert all(math.isfinite(seconds) for _, seconds, _ in pictures)
    options = ImageOptions(num_timesteps=4)
    assert pictures[0][2] == 3 + flow.num_guided(options)


@pytest.mark.parametrize("length", [0, 20])
def test_both_ways_draw_the_same_latents(length: int) -> None:
    full, without_text, without_images = flow.branches_after(toy(), length)
    options = ImageOptions(num_timesteps=5)
    for branches in [(full, without_text, without_images), (full, without_text, full)]:
        # Sums over the keys run in another order.
        assert flow.compare(toy(), branches, options) < 1e-4


def test_looks_at_numbers_change_nothing_that_is_made() -> None:
    context = toy().update_context_text("a", toy().new_context())
    drawn = partial(numbers.draw, toy(), context)
    assert drawn() == numbers.without_looks(drawn)
    assert len(numbers.measure(toy(), repeats=1)) == 2


def test_images_into_contexts_give_a_row_a_length() -> None:
    costs = image_into_context.measure(toy(), repeats=1, lengths=[0, 20])
    assert_finite(costs)


def test_both_ways_read_the_same_from_pixels() -> None:
    drawn = image_into_context.drawn_picture(toy())
    context = contexts.filled(toy().model, 20)
    fast = image_into_context.read_pixels(toy(), drawn, context)
    slow = image_into_context.read_naively(toy(), drawn, naive.NaiveContext.of(context))
    assert (slow.length, slow.position) == (fast.length, fast.position)
    for layer in range(2):
        for ours, theirs in zip(
            fast.rows(layer), (slow.keys[layer], slow.values[layer]), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)  # one forward's rounding


@pytest.mark.parametrize("way", [story.tell_naively, story.tell_plainly])
def test_all_ways_tell_the_same_story(way: Callable[..., story.Told]) -> None:
    fast = story.tell(toy(), PLAN, image_feedback="pixels")
    slow = way(toy(), PLAN)
    assert fast.counts == slow.counts == [3, 3, 3]
    assert len(fast.items) == len(slow.items) == 5
    for ours, theirs in zip(fast.items, slow.items, strict=True):
        if isinstance(ours, str):
            assert ours == theirs
            continue
        assert isinstance(ours, Image.Image)
        assert isinstance(theirs, Image.Image)
        # Levels are truncated: one that lies on a border may fall on either side.
        assert max(high for _, high in ImageChops.difference(ours, theirs).getextrema()) <= 1


def test_a_storys_parts_are_timed() -> None:
    stories = story.measure(toy(), PLAN, repeats=1)
    for name, told in stories:
        assert set(told.parts) == set(story.PARTS), name
        assert sum(told.parts.values()) <= told.total
        row = story.row(name, told)[1:]
        assert all(math.isfinite(number) for number in row if number != "")
    kept = {name: told.context for name, told in stories}
    assert kept["ours"] == kept["ours, pixels fed back"]
    assert kept["ours"] > kept["ours, older images seen"] > kept["ours, older images forgotten"]
    assert all(map(math.isfinite, story.roofline(toy(), PLAN, [3, 3, 3])))


def test_memory_counts_no_copy_for_forks_and_guidance() -> None:
    length = 100
    use = partial(memory.usage, toy(), length=length)
    rows = memory.measure(toy(), use)
    prefix = length * toy().model.bytes_per_token
    assert [stage for stage, *_ in rows] == list(memory.STAGES)
    copies = {stage: (ours.held / prefix, slow.held / prefix) for stage, ours, slow, _ in rows}
    assert copies[f"{memory.FORKS} forks"] == (0, memory.FORKS)
    for stage in ("three guidance contexts", "a draft over them"):
        ours, slow = copies[stage]
        assert ours < 1, "the prompt, the picture and the slack of a buffer that grew"
        assert slow >= 2


def test_bytes_of_a_token_are_the_weights_it_goes_through() -> None:
    decoder = toy().model.language_model
    unused = sum(p.numel() for name, p in decoder.named_parameters() if "moe_gen" in name)
    unused += decoder.model.embed_tokens.weight.numel()
    used = sum(p.numel() for p in decoder.parameters()) - unused
    assert roofline.token_bytes(toy().model, 0) == 4 * used
    # Two layers of keys and values in 2 heads of 8 channels.
    assert roofline.token_bytes(toy().model, 10) - 4 * used == 10 * 2 * 2 * 2 * 8 * 4


def test_counted_products_are_those_that_run() -> None:
    model = toy().model
    latent = flow.noise_for(toy())
    block = model.latent_block(latent, (4, 4), toy().markers)
    run = partial(model.read, model.new_context(), block)
    attention = 4 * 18 * 18 * 32 * 2  # attention is not seen on a CPU
    counted = roofline.block_flops(model, num_text=2, num_latent=16, context_length=0) - attention
    assert counted == roofline.counted_flops(run)


def test_random_models_write_texts_that_tokenise_to_the_same_ids() -> None:
    tokens = naive.tokens(toy().model, naive.NaiveContext(), toy().bos)
    ids = list(islice(tokens, 20))
    assert toy().encode_text(toy().tokenizer.decode(ids)) == ids


def test_a_talk_gives_a_row_a_turn_and_each_costs_its_own_tokens() -> None:
    options = {"num_timesteps": 2, "max_interleaved_blocks": 1, "max_text_length": 1, "seed": 0}
    turns = session.measure(toy(), [f"{word}{session.DRAW}" for word in "abc"], options)
    assert_finite(turns)
    assert [turn.length for turn in turns[:1]] == [0]
    assert turns[1].length < turns[2].length
    assert turns[1].tokens == turns[2].tokens
    assert session.middle([turns]) == turns


def test_every_device_rate_is_a_number() -> None:
    assert roofline.bandwidth("cpu", torch.float32) > 0
    assert roofline.matmul_rate("cpu", torch.float32, side=32) > 0


def test_a_verdict_says_what_was_wanted() -> None:
    assert table.judge("growth", 1.1, most=1.15).startswith("met: growth: 1.1, wanted at most 1.15")
    assert table.judge("times", 3.0, least=4).startswith("NOT MET: times: 3, wanted at least 4")


@pytest.mark.parametrize("name", ["bf", "int64"])
def test_a_dtype_that_is_none_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table.parser(None, repeats=1).parse_args(["--dtype", name])
    assert "is no dtype such as float32" in capsys.readouterr().err
