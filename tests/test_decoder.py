"""The decoder equals transformers' Qwen2 and Qwen3; caching, packing and order change nothing."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from modeling.bagel import Bagel, Qwen2ForCausalLM
from modeling.bagel.blocks import Block
from modeling.bagel.config import rope_theta
from modeling.bagel.qwen2_navit import rotate
from modeling.context import Context
from tests.builders import MARKERS, VOCABULARY, noise_of, read_ids, toy_bagel, toy_llm_config

HEADS = [(4, 4), (4, 2), (4, 1), (2, 1), (1, 1)]
IDS = torch.randint(0, VOCABULARY, (24,), generator=torch.Generator().manual_seed(0)).tolist()
GRID = (2, 3)
PIXELS = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.fixture
def model() -> Bagel:
    return toy_bagel()


def text(model: Bagel, ids: list[int]) -> Tensor:
    """Return the logits of a text that is read at once."""
    _, hidden = model.read(model.new_context(), model.text_block(ids))
    return model.logits(hidden)


def latent_block(model: Bagel, time: float = 0.0) -> Block:
    return model.latent_block(noise_of(GRID), GRID, MARKERS, time)


def assert_close(found: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    """The default is float32 rounding through two layers, in another order of summation."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


def rows_of(context: Context) -> list[Tensor]:
    pairs = [context.rows(layer) for layer in range(context.store.num_layers)]
    return [rows.clone() for pair in pairs if pair is not None for rows in pair]


# Transformers as the oracle.


def oracle_logits(oracle: Any, model: Bagel, ids: list[int]) -> Tensor:
    """Give an independent implementation the text weights, all of them, and run it."""
    weights = model.language_model.state_dict()
    weights = {name: w for name, w in weights.items() if "_moe_gen" not in name}
    missing, unexpected = oracle.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("o_proj.bias") for name in missing)  # Qwen3 can have one
    for name in missing:
        torch.nn.init.zeros_(oracle.get_parameter(name))
    with torch.inference_mode():
        return oracle.eval()(torch.tensor([ids])).logits[0]


def oracle_settings(model: Bagel) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    names += ("rms_norm_eps", "tie_word_embeddings")
    return {name: getattr(model.language_model.config, name) for name in names}


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_without_qk_norm_texts_equal_transformers_qwen2(heads: int, kv_heads: int) -> None:
    model = toy_bagel(
        num_attention_heads=heads, num_key_value_heads=kv_heads, qk_norm=False, rms_norm_eps=1e-3
    )
    config = transformers.Qwen2Config(**oracle_settings(model))
    oracle = transformers.Qwen2ForCausalLM(config)
    assert_close(text(model, IDS), oracle_logits(oracle, model, IDS))


@pytest.mark.skipif(
    not hasattr(transformers, "Qwen3ForCausalLM"), reason="this transformers has no Qwen3"
)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_with_qk_norm_texts_equal_transformers_qwen3(heads: int, kv_heads: int) -> None:
    model = toy_bagel(num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=1e-3)
    settings = oracle_settings(model)
    settings |= {"head_dim": 32 // heads, "attention_bias": True}
    oracle = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings))
    assert_close(text(model, IDS), oracle_logits(oracle, model, IDS))


def test_the_base_of_the_rotary_angles_is_obeyed() -> None:
    base = {"rope_theta": 100.0}
    if transformers.__version__ >= "5":
        base = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}  # type: ignore[dict-item]
    model = toy_bagel(qk_norm=False, **base)
    oracle = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**oracle_settings(model), **base)
    )
    logits = text(model, IDS)
    assert_close(logits, oracle_logits(oracle, model, IDS))
    assert (logits - text(toy_bagel(qk_norm=False), IDS)).abs().max() > 1e-2


# Caching.


@pytest.mark.parametrize("sizes", [[1] * 24, [3] * 8, [1, 7, 2, 14], [23, 1]])
def test_a_text_read_in_pieces_equals_the_text_read_at_once(model: Bagel, sizes: list[int]) -> None:
    context, logits = model.new_context(), []
    for ids in torch.tensor(IDS).split(sizes):
        context, hidden = model.read(context, model.text_block(ids))
        logits.append(model.logits(hidden))
    whole = read_ids(model, model.new_context(), IDS)
    assert_close(torch.cat(logits), text(model, IDS))
    assert (context.length, context.position) == (whole.length, whole.position)
    for piecewise, at_once in zip(rows_of(context), rows_of(whole), strict=True):
        assert_close(piecewise, at_once)


def test_a_text_does_not_depend_on_what_comes_after_it(model: Bagel) -> None:
    assert_close(text(model, IDS)[:10], text(model, IDS[:10]))


def test_reading_leaves_the_context_before_it_untouched(model: Bagel) -> None:
    before = read_ids(model, model.new_context(), IDS[:6])
    rows = rows_of(before)
    model.read(before, latent_block(model))
    model.read(before, model.vit_block(PIXELS, MARKERS))
    read_ids(model, before, IDS)
    assert before.length == before.position == 6
    assert all(map(torch.equal, rows, rows_of(before)))


# Positions.


def test_a_text_advances_by_its_tokens_and_an_image_by_one(model: Bagel) -> None:
    context = read_ids(model, model.new_context(), IDS[:6])
    assert (context.length, context.position) == (6, 6)
    context, _ = model.read(context, latent_block(model))
    assert (context.length, context.position) == (6 + 2 + 6, 7)
    context, _ = model.read(context, model.vit_block(PIXELS, MARKERS))
    assert (context.length, context.position) == (14 + 2 + 6, 8)
    context = read_ids(model, context, IDS[:3])
    assert (context.length, context.position) == (25, 11)


def keys_after(model: Bagel, before: int, block: Block) -> Tensor:
    """Return the first layer's keys of a block that stands at position `before`."""
    context, _ = model.read(read_ids(model, model.new_context(), IDS[:before]), block)
    rows = context.rows(0)
    assert rows is not None
    return rows[0][before:]


@pytest.mark.parametrize("position", [1, 7])
def test_all_tokens_of_an_image_share_one_position(model: Bagel, position: int) -> None:
    """A first layer's keys know nothing but token and position."""
    alone = [keys_after(model, position, model.text_block([marker])) for marker in MARKERS]
    latent, vision = latent_block(model), model.vit_block(PIXELS, MARKERS)
    for block in (latent, vision):
        assert_close(keys_after(model, position, block)[:2], torch.cat(alone))
    features = Block(text=vision.text[2:])
    one_by_one = [Block(text=row[None]) for row in features.text]
    expected = [keys_after(model, position, block) for block in one_by_one]
    assert_close(keys_after(model, position, vision)[2:], torch.cat(expected))
    layer = model.language_model.model.layers[0]
    attention, angles = layer.self_attn, model.language_model.model.rotary(torch.tensor([position]))
    assert latent.latent is not None
    with torch.inference_mode():
        keys = attention.k_proj_moe_gen(layer.input_layernorm_moe_gen(latent.latent))
        keys = attention.k_norm_moe_gen(keys.unflatten(-1, (-1, attention.head_dim)))
    assert_close(keys_after(model, position, latent)[2:], rotate(keys, angles))


def test_the_same_image_later_has_keys_turned_by_the_distance(model: Bagel) -> None:
    first, second = (keys_after(model, position, latent_block(model)) for position in (3, 8))
    half = first.shape[-1] // 2
    angles = (8 - 3) / rope_theta(model.language_model.config) ** (torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()
    a, b = first.chunk(2, dim=-1)
    assert_close(second, torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1))


def test_tokens_of_an_image_see_one_another_whatever_their_order(model: Bagel) -> None:
    context = read_ids(model, model.new_context(), IDS[:6])
    block = latent_block(model)
    assert block.latent is not None
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = Block(text=block.text, latent=block.latent[order])
    with context.room(8) as tail:
        [(markers, drawn)] = model.extend([(tail, block)])
    with context.room(8) as tail:
        [(other_markers, other_drawn)] = model.extend([(tail, shuffled)])
    assert drawn is not None
    assert other_drawn is not None
    assert_close(other_markers, markers)
    assert_close(other_drawn, drawn[order])


# Two sets of weights.


def change(model: Bagel, part: str) -> None:
    """Double every weight of the decoder whose name contains a word."""
    names = [name for name, _ in model.language_model.named_parameters() if part in name]
    assert names
    with torch.no_grad():
        for name in names:
            model.language_model.get_parameter(name).mul_(2)


def streams(model: Bagel, block: Block) -> tuple[Tensor, Tensor | None]:
    context = read_ids(model, model.new_context(), IDS[:6])
    with context.room(block.length) as tail:
        [pair] = model.extend([(tail, block)])
    return pair


def test_texts_and_vision_tokens_never_meet_the_generation_weights(model: Bagel) -> None:
    logits = text(model, IDS)
    vision, _ = streams(model, model.vit_block(PIXELS, MARKERS))
    change(model, "_moe_gen")
    assert torch.equal(text(model, IDS), logits)
    assert torch.equal(streams(model, model.vit_block(PIXELS, MARKERS))[0], vision)


@pytest.mark.parametrize("part", ["v_proj_moe_gen", "o_proj_moe_gen", "mlp_moe_gen"])
def test_latents_run_through_the_generation_weights(model: Bagel, part: str) -> None:
    _, before = streams(model, latent_block(model))
    change(model, f"1.self_attn.{part}" if "proj" in part else f"1.{part}")
    _, after = streams(model, latent_block(model))
    assert before is not None
    assert after is not None
    assert (after - before).abs().max() > 1e-2


def test_in_the_last_layer_each_stream_has_an_mlp_of_its_own(model: Bagel) -> None:
    markers, drawn = streams(model, latent_block(model))
    change(model, "layers.1.mlp.")
    changed_markers, same_drawn = streams(model, latent_block(model))
    assert (changed_markers - markers).abs().max() > 1e-2
    assert drawn is not None
    assert same_drawn is not None
    assert torch.equal(same_drawn, drawn)
    change(model, "layers.1.mlp_moe_gen")
    assert torch.equal(streams(model, latent_block(model))[0], changed_markers)


def test_markers_and_latents_attend_to_each_other(model: Bagel) -> None:
    markers, drawn = streams(model, latent_block(model))
    change(model, "layers.0.mlp.")  # moves the markers, whose keys the latents see in layer 1
    assert drawn is not None
    _, moved = streams(model, latent_block(model))
    assert moved is not None
    assert (moved - drawn).abs().max() > 1e-3
    change(model, "layers.0.mlp_moe_gen")
    assert (streams(model, latent_block(model))[0] - markers).abs().max() > 1e-3


def test_each_stream_ends_in_a_norm_of_its_own(model: Bagel) -> None:
    hidden = torch.randn(3, 32)
    logits, velocity = model.logits(hidden), model.velocity(hidden)
    change(model, "model.norm_moe_gen")
    assert torch.equal(model.logits(hidden), logits)
    assert not torch.equal(model.velocity(hidden), velocity)
    change(model, "model.norm.")
    assert not torch.equal(model.logits(hidden), logits)


# Several rows at once.


def test_rows_packed_together_equal_each_row_alone(model: Bagel) -> None:
    contexts = [read_ids(model, model.new_context(), IDS[:n]) for n in (1, 5, 9, 3)]
    contexts.append(model.new_context())
    blocks = [
        model.text_block(IDS[:7]),
        latent_block(model, 0.5),
        model.text_block(IDS[3:4]),
        model.vit_block(PIXELS, MARKERS),
        latent_block(model),
    ]
    with ExitStack() as rooms:
        rows = [
            (rooms.enter_context(context.room(block.length)), block)
            for context, block in zip(contexts, blocks, strict=True)
        ]
        packed = model.extend(rows)
        kept = [
            context.after(tail, block)
            for context, (tail, block) in zip(contexts, rows, strict=True)
        ]
    for context, block, together, after in zip(contexts, blocks, packed, kept, strict=True):
        with context.room(block.length) as tail:
            [alone] = model.extend([(tail, block)])
            single = context.after(tail, block)
        assert_close(together[0], alone[0])
        assert (after.length, after.position) == (single.length, single.position)
        for ours, theirs in zip(rows_of(after), rows_of(single), strict=True):
            assert_close(ours, theirs)
        if alone[1] is not None:
            assert together[1] is not None
            assert_close(together[1], alone[1])


def test_texts_of_different_lengths_in_one_step_equal_each_alone(model: Bagel) -> None:
    contexts = [read_ids(model, model.new_context(), IDS[:n]) for n in (2, 11, 6)]
    blocks = [model.text_block(IDS[n : n + 4 - n % 3]) for n in range(3)]
    with ExitStack() as rooms:
        rows = [
            (rooms.enter_context(context.room(block.length)), block)
            for context, block in zip(contexts, blocks, strict=True)
        ]
        packed = [hidden for hidden, _ in model.extend(rows)]
    for context, block, together in zip(contexts, blocks, packed, strict=True):
        assert_close(together, model.read(context, block)[1])


# Other dtypes and configurations.


def test_bfloat16_runs_and_stays_near_float32(model: Bagel) -> None:
    reference = text(model, IDS)
    before = streams(model, latent_block(model))[1]
    half = toy_bagel().to(torch.bfloat16)
    logits, after = text(half, IDS), streams(half, latent_block(half))[1]
    assert logits.dtype == torch.bfloat16
    assert half.velocity(torch.zeros(1, 32, dtype=torch.bfloat16)).dtype == torch.float32
    assert before is not None
    assert after is not None
    # bfloat16 keeps 8 bits; through two layers of width 32 about 2 percent of a typical value.
    assert (logits.float() - reference).square().mean().sqrt() < 0.05 * reference.std()
    assert (after.float() - before).square().mean().sqrt() < 0.05 * before.std()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_context_has_as_many_layers_as_the_decoder(layers: int) -> None:
    model = toy_bagel(num_hidden_layers=layers)
    context = read_ids(model, model.new_context(), IDS[:3])
    assert context.store.num_layers == layers
    assert len(rows_of(context)) == 2 * layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_module": "Qwen2DecoderLayer"}, "must be 'Qwen2MoTDecoderLayer', got 'Qwen2Dec"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings must be False"),
        ({"num_attention_heads": 5}, "hidden_size 32 must be a multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "and that a multiple of num_key_value_heads 3"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Qwen2ForCausalLM(toy_llm_config(**changes))
