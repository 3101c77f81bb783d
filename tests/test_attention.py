"""attend() equals naive softmax attention; packed rows equal each row by itself."""

import random
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from modeling.attention import CachedRow, CachedRows, MaskedSequences, Projected, attend
from modeling.context import Context, draft
from modeling.kv_store import Tail
from modeling.side_by_side import SideBySide
from tests.histories import Advance

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def naive(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attend head by head, query by query."""
    group = query.shape[1] // key.shape[1]
    result = torch.empty_like(query)
    for i in range(query.shape[0]):
        chosen = slice(None) if visible is None else visible[i]
        for head in range(query.shape[1]):
            keys, values = key[chosen, head // group], value[chosen, head // group]
            weights = torch.softmax(keys @ query[i, head] / query.shape[2] ** 0.5, dim=0)
            result[i, head] = weights @ values
    return result


def tensors(num_queries: int, num_keys: int, heads: int, kv_heads: int, head_dim: int):
    """Random query, key and value in float64, where only real faults exceed 1e-10."""
    return (
        torch.randn(num_queries, heads, head_dim, dtype=torch.float64),
        torch.randn(num_keys, kv_heads, head_dim, dtype=torch.float64),
        torch.randn(num_keys, kv_heads, head_dim, dtype=torch.float64),
    )


def projected(count: int) -> Projected:
    query, key, value = tensors(count, count, HEADS, KV_HEADS, HEAD_DIM)
    return Projected(query=query, key=key, value=value)


def joined(*parts: Projected | None) -> Projected:
    present = [part for part in parts if part is not None]
    return Projected(
        query=torch.cat([part.query for part in present]),
        key=torch.cat([part.key for part in present]),
        value=torch.cat([part.value for part in present]),
    )


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


# One sequence.


@pytest.mark.parametrize("seed", range(60))
def test_attend_equals_naive_softmax(seed: int) -> None:
    torch.manual_seed(seed)
    choose = random.Random(seed)
    kv_heads, group = choose.choice((1, 2, 3)), choose.choice((1, 2, 7))
    num_keys = choose.randint(1, 12)
    num_queries = choose.randint(1, num_keys)
    q, k, v = tensors(num_queries, num_keys, kv_heads * group, kv_heads, choose.choice((2, 8)))
    causal = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    mask = torch.rand(num_queries, num_keys) < 0.5
    mask[:, choose.randrange(num_keys)] = True
    assert_equal(attend(q, k, v), naive(q, k, v))
    assert_equal(attend(q, k, v, causal=True), naive(q, k, v, causal))
    assert_equal(attend(q, k, v, mask=mask), naive(q, k, v, mask))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (2, 7), (4, 7)])
def test_a_single_query_over_many_keys_equals_naive_softmax(
    kv_heads: int, group: int, masked: bool
) -> None:
    """Here heads that share keys become queries, and their mask is one."""
    q, k, v = tensors(1, 300, kv_heads * group, kv_heads, 8)
    visible = torch.rand(1, 300) < 0.5 if masked else torch.ones(1, 300, dtype=torch.bool)
    mask = visible if masked else None
    assert_equal(attend(q, k, v, mask=mask), naive(q, k, v, visible))
    assert_equal(attend(q, k, v, mask=mask, causal=not masked), naive(q, k, v, visible))


def test_more_queries_than_keys_attend_where_nothing_is_causal() -> None:
    q, k, v = tensors(7, 3, 4, 2, 8)
    assert_equal(attend(q, k, v), naive(q, k, v))


def test_a_causal_query_does_not_see_what_comes_after_it() -> None:
    q, k, v = tensors(4, 9, 4, 2, 8)
    before = attend(q, k, v, causal=True)
    k[-1], v[-1] = 5.0, 5.0
    after = attend(q, k, v, causal=True)
    assert torch.equal(before[:-1], after[:-1])
    assert not torch.equal(before[-1], after[-1])


def test_the_result_keeps_shape_and_dtype() -> None:
    q, k, v = (x.bfloat16() for x in tensors(5, 9, 4, 2, 8))
    attended = attend(q, k, v, causal=True)
    assert attended.shape == (5, 4, 8)
    assert attended.dtype == torch.bfloat16


# Cached rows.


def context_of(count: int) -> tuple[Context, Projected]:
    """Return a context of one layer that holds random keys and values, and these."""
    known = projected(count)
    context = Context.empty(1)
    with context.room(count) as tail:
        tail.write(0, 0, known.key, known.value)
        return context.after(tail, Advance(count)), known


def row_of(tail: Tail, num_text: int, num_latent: int, *, causal: bool) -> CachedRow:
    return CachedRow(tail=tail, num_text=num_text, num_latent=num_latent, causal=causal)


def expected_row(known: Projected, text: Projected, latent: Projected | None, *, causal: bool):
    new = joined(text, latent)
    every = joined(known, new)
    visible = torch.ones(len(new.query), len(every.key), dtype=torch.bool)
    if causal:
        visible = visible.tril(len(known.key))
    attended = naive(new.query, every.key, every.value, visible).flatten(1)
    return attended[: len(text.query)], attended[len(text.query) :]


@pytest.mark.parametrize(
    "layout",
    [
        [(5, 3, 0, True)],
        [(5, 2, 6, False)],
        [(5, 3, 0, True), (2, 1, 0, True), (9, 4, 0, True)],
        [(5, 2, 6, False), (7, 2, 4, False)],
        [(5, 3, 0, True), (2, 2, 6, False), (4, 5, 0, False), (1, 1, 0, True)],
    ],
    ids=["text", "image", "texts", "images", "mixed"],
)
def test_packed_rows_equal_each_row_by_itself(layout: list[tuple[int, int, int, bool]]) -> None:
    rows, texts, latents, expected = [], [], [], []
    with ExitStack() as rooms:
        for known_count, num_text, num_latent, causal in layout:
            context, known = context_of(known_count)
            tail = rooms.enter_context(context.room(num_text + num_latent))
            texts.append(projected(num_text))
            latents.append(projected(num_latent) if num_latent else None)
            rows.append(row_of(tail, num_text, num_latent, causal=causal))
            expected.append(expected_row(known, texts[-1], latents[-1], causal=causal))
        packed_latent = joined(*latents) if any(latents) else None
        text, latent = CachedRows(rows).attend(0, joined(*texts), packed_latent)
    assert_equal(text, torch.cat([t for t, _ in expected]))
    if packed_latent is None:
        assert latent is None
    else:
        assert_equal(latent, torch.cat([n for _, n in expected]))


def test_rows_that_share_the_slots_of_a_draft_do_not_see_each_other() -> None:
    short, known = context_of(4)
    more = projected(3)
    with short.room(3) as tail:
        tail.write(0, 0, more.key, more.value)
        long = short.after(tail, Advance(3))
    texts, latents = [projected(2) for _ in range(3)], [projected(5) for _ in range(3)]
    pasts = (joined(known, more), known, joined(known, more))
    with draft([long, short, long], 7) as tails:
        rows = [row_of(tail, 2, 5, causal=False) for tail in tails]
        text, latent = CachedRows(rows).attend(0, joined(*texts), joined(*latents))
    expected = [
        expected_row(past, *parts, causal=False)
        for past, *parts in zip(pasts, texts, latents, strict=True)
    ]
    assert_equal(text, torch.cat([t for t, _ in expected]))
    assert_equal(latent, torch.cat([n for _, n in expected]))


def test_rows_side_by_side_equal_rows_one_by_one_at_every_evaluation() -> None:
    short, _ = context_of(4)
    more = projected(3)
    with short.room(3) as tail:
        tail.write(0, 0, more.key, more.value)
        long = short.after(tail, Advance(3))
    with draft([long, short, Context.empty(1)], 7) as tails:
        rows = [row_of(tail, 2, 5, causal=False) for tail in tails]
        assert SideBySide.suits(rows, bytes_per_token=1)
        together, apart = SideBySide(rows), CachedRows(rows)
        for _ in range(2):
            text, latent = projected(3 * 2), projected(3 * 5)
            for found, expected in zip(
                together.attend(0, text, latent), apart.attend(0, text, latent), strict=True
            ):
                assert_equal(found, expected)


def test_rows_of_one_length_side_by_side_equal_rows_one_by_one() -> None:
    contexts = [context_of(4)[0] for _ in range(3)]
    text = projected(3 * 2)
    with draft(contexts, 2) as tails:
        rows = [row_of(tail, 2, 0, causal=False) for tail in tails]
        found, nothing = SideBySide(rows).attend(0, text, None)
        expected, _ = CachedRows(rows).attend(0, text, None)
    assert_equal(found, expected)
    assert nothing is None


def test_rows_are_not_laid_side_by_side_if_their_shapes_differ_or_copies_were_large() -> None:
    context, _ = context_of(4)
    with draft([context, context], 7) as tails:
        alike = [row_of(tail, 2, 5, causal=False) for tail in tails]
        other = row_of(tails[1], 7, 0, causal=False)
        causal = [row_of(tail, 2, 5, causal=True) for tail in tails]
        assert SideBySide.suits(alike, bytes_per_token=2**20)
        assert not SideBySide.suits(alike, bytes_per_token=2**27)
        assert not SideBySide.suits(alike[:1], bytes_per_token=1)
        assert not SideBySide.suits([alike[0], other], bytes_per_token=1)
        assert not SideBySide.suits(causal, bytes_per_token=1)


# Training sequences.


def test_masked_sequences_equal_naive_attention_of_each() -> None:
    lengths, length = (6, 4), 6
    mask = torch.rand(2, length, length) < 0.5
    mask |= torch.eye(length, dtype=torch.bool)
    for row, count in zip(mask, lengths, strict=True):
        row[:count, count:] = False  # nothing looks at padding
    present = torch.cat([torch.arange(count) + i * length for i, count in enumerate(lengths)])
    places = present[torch.randperm(len(present))]
    text, latent = projected(7), projected(3)
    found = MaskedSequences.of(places, mask).attend(0, text, latent)
    packed = joined(text, latent)
    where = {int(place): token for token, place in enumerate(places)}
    expected = torch.empty(10, HEADS * HEAD_DIM, dtype=torch.float64)
    for i, count in enumerate(lengths):
        tokens = torch.tensor([where[i * length + place] for place in range(count)])
        q, k, v = (x[tokens] for x in (packed.query, packed.key, packed.value))
        expected[tokens] = naive(q, k, v, mask[i, :count, :count]).flatten(1)
    assert_equal(found[0], expected[:7])
    assert found[1] is not None
    assert_equal(found[1], expected[7:])


def test_masked_sequences_without_latents_give_none_back() -> None:
    mask = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    text, latent = MaskedSequences.of(torch.arange(3), mask).attend(0, projected(3), None)
    assert text.shape == (3, HEADS * HEAD_DIM)
    assert latent is None
