"""Contexts are values: whatever is read, forked, drafted or forgotten, each holds what it read."""

import copy
import dataclasses
import gc
import pickle
import sys
import weakref

import pytest
import torch

from modeling.context import Context, draft, without
from modeling.kv_store import KVStore, Tail
from tests.histories import LAYERS, Advance, History, holds, read, rows_of, sees, write
from tests.stores import Allocations


def empty() -> Context:
    return Context.empty(len(LAYERS))


def context_of(*tokens: int) -> Context:
    return read(empty(), tokens)


def slots(count: int) -> int:
    """Bytes that `count` slots take over all layers."""
    sizes = (heads * head_dim * dtype.itemsize for heads, head_dim, dtype in LAYERS)
    return 2 * count * sum(sizes)


# Every living context holds what it read.


@pytest.mark.parametrize("hundred", range(4))
def test_contexts_equal_naive_concatenation_through_random_histories(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        history = History(seed)
        for _ in range(25):
            history.act()
            history.check()


def test_a_fork_does_not_see_later_tokens() -> None:
    context = context_of(1, 2)
    fork = context
    longer = read(context, (3, 4))
    other = read(fork, (5,))
    assert holds(fork, (1, 2))
    assert holds(longer, (1, 2, 3, 4))
    assert holds(other, (1, 2, 5))


def test_a_rewound_context_goes_on_in_place_once_what_followed_is_forgotten() -> None:
    context = context_of(1, 2)
    longer = read(context, (3, 4))
    assert read(context, (5,)).store is not context.store
    del longer
    again = read(context, (6,))
    assert again.store is context.store
    assert holds(again, (1, 2, 6))


def test_leaving_a_room_drops_what_was_not_kept() -> None:
    context = context_of(1, 2)
    with context.room(3) as tail:
        write(tail, (3, 4, 5))
    assert holds(context, (1, 2))
    assert context.store.written == 2
    assert holds(read(context, (6,)), (1, 2, 6))


def test_a_kept_part_of_a_text_moves_the_position_by_what_was_kept() -> None:
    context = empty()
    with context.room(5) as tail:
        write(tail, (1, 2, 3, 4, 5))
        text = context.after(tail, Advance(5), 3)
        image = context.after(tail, Advance(1), 3)
    assert holds(text, (1, 2, 3))
    assert (text.position, image.position) == (3, 1)


def test_tokens_can_be_kept_one_by_one_within_one_room() -> None:
    context = start = context_of(1)
    with start.room(3) as tail:
        for offset in range(3):
            part = tail.part(offset, 1, context.position)
            write(part, (offset + 2,))
            assert sees(part, (1, *range(2, offset + 3)), 0, ordered=True)
            context = context.after(part, Advance(1))
    assert holds(context, (1, 2, 3, 4))
    assert context.store is start.store


def test_an_error_inside_a_room_leaves_every_context_as_it_was() -> None:
    context = context_of(1, 2)
    with pytest.raises(RuntimeError, match="size"), context.room(2) as tail:
        tail.write(0, 0, torch.zeros(2, 3, 5), torch.zeros(2, 3, 5))  # of another head_dim
    assert not context.store.busy
    assert holds(context, (1, 2))


def test_a_context_that_nobody_else_holds_outlives_its_room() -> None:
    with context_of(1, 2).room(1) as tail:
        gc.collect()
        write(tail, (3,))
        assert tail.store.written == 2
        assert sees(tail, (1, 2, 3), 1, ordered=True)


# Contexts cross the border of inference_mode.


@pytest.mark.parametrize("inside", [True, False])
def test_a_context_goes_on_across_the_border_of_inference_mode(inside: bool) -> None:
    """Buffers made under inference_mode could not be written outside."""
    with torch.inference_mode(inside):
        context = context_of(1, 2)
        longer = read(context, (3,))
    with torch.inference_mode(not inside):
        in_place = read(longer, tuple(range(4, 100)))
        copied = read(context, (100,))
        with draft([copied, context], 2) as tails:
            for tail in tails:
                write(tail, (200, 201))
    assert holds(in_place, tuple(range(1, 100)))
    assert holds(copied, (1, 2, 100))


# Drafts.


def test_contexts_of_one_store_share_a_draft_and_each_sees_what_it_knows() -> None:
    short = context_of(1, 2)
    long = read(short, (3, 4, 5))
    with draft([long, short, long], 2) as tails:
        assert len({(tail.start, tail.count) for tail in tails}) == 1
        for tail, known in zip(tails, ((1, 2, 3, 4, 5), (1, 2), (1, 2, 3, 4, 5)), strict=True):
            write(tail, (8, 9))
            assert all(sees(tail, (*known, 8, 9), layer, ordered=False) for layer in range(2))
        assert holds(long, (1, 2, 3, 4, 5))
        assert holds(short, (1, 2))
    assert holds(long, (1, 2, 3, 4, 5))


def test_a_draft_spans_contexts_of_different_stores() -> None:
    first, second = context_of(1, 2), context_of(3)
    with draft([first, second], 1) as tails:
        for tail in tails:
            write(tail, (9,))
        assert sees(tails[0], (1, 2, 9), 0, ordered=False)
        assert sees(tails[1], (3, 9), 0, ordered=False)


def test_a_draft_after_nothing_at_all() -> None:
    nothing = empty()
    full = read(nothing, (1, 2))
    with draft([full, nothing], 3) as tails:
        for tail, known in zip(tails, ((1, 2), ()), strict=True):
            write(tail, (7, 8, 9))
            assert sees(tail, (*known, 7, 8, 9), 0, ordered=False)
        assert nothing.rows(0) is None
    assert holds(full, (1, 2))


def test_a_context_can_be_read_on_while_a_draft_stands_in_the_middle_of_it() -> None:
    short = context_of(1)
    long = read(short, (2, 3))
    with draft([long, short], 2) as tails:
        write(tails[0], (8, 9))
        longer, other = read(long, (4,)), read(short, (5,))
        assert holds(longer, (1, 2, 3, 4))
        assert holds(other, (1, 5))
        assert sees(tails[0], (1, 2, 3, 8, 9), 0, ordered=False)
    assert holds(longer, (1, 2, 3, 4))
    assert holds(long, (1, 2, 3))


def test_a_draft_outlives_contexts_that_are_forgotten_meanwhile() -> None:
    short = context_of(1)
    long = read(short, (2, 3))
    with draft([long, short], 2) as tails:
        del long
        store = short.store
        del short
        gc.collect()
        write(tails[0], (8, 9))
        assert sees(tails[0], (1, 2, 3, 8, 9), 0, ordered=False)
        assert store.written == 3
    assert store.written == 0


def test_a_draft_moves_more_slots_than_fit_one_piece() -> None:
    short = context_of(1)
    tokens = tuple(range(2, 9002))
    long = read(short, tokens)
    with draft([long, short], 3) as tails:
        write(tails[1], (-1, -2, -3))
        assert holds(long, (1, *tokens))
    assert holds(long, (1, *tokens))


def test_a_layer_that_cannot_grow_leaves_every_context_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Growth used to come between the moves of two layers, and its failure split them."""
    short = context_of(1)
    long = read(short, tuple(range(2, 201)))
    grow = KVStore._grow

    def out_of_memory_at_the_last_layer(store, buffers, layer, like):
        if layer == len(LAYERS) - 1:
            raise torch.OutOfMemoryError("full")
        return grow(store, buffers, layer, like)

    monkeypatch.setattr(KVStore, "_grow", out_of_memory_at_the_last_layer)
    with pytest.raises(torch.OutOfMemoryError, match="full"), draft([long, short], 150):
        pass
    assert holds(long, tuple(range(1, 201)))
    assert not long.store.busy


# Memory.


def test_a_fork_costs_no_memory() -> None:
    context = context_of(*range(100))
    before = context.store.nbytes
    forks = [context, copy.copy(context), copy.deepcopy({"context": context})["context"]]
    assert context.store.nbytes == before
    assert all(fork.store is context.store for fork in forks)


def test_growth_never_exceeds_a_quarter_a_thousand_and_64_slots() -> None:
    context = empty()
    for start in range(0, 12000, 7):
        context = read(context, tuple(range(start, start + 7)))
        slack = 64 + min(context.length // 4, 1024)
        assert slots(context.length) <= context.store.nbytes <= slots(context.length + slack)


@pytest.mark.parametrize("how", ["reading", "drawing", "forking"])
def test_growing_takes_one_buffer_of_one_layer_beside_what_is_held(how: str) -> None:
    """Never everything twice: layers follow one by one."""
    short = context_of(1)
    long = read(short, tuple(range(6000)))
    tokens = tuple(range(2000))
    for layer in range(len(LAYERS)):
        rows_of(tokens, layer)  # made once, and not while it is measured
    largest = max(buffer.nbytes for buffer in buffers_of(long.store))
    with Allocations(*buffers_of(long.store)) as allocated:
        if how == "drawing":
            with draft([long, short], len(tokens)) as tails:
                write(tails[0], tokens)
            after = [long.store]
        else:
            longer = read(long if how == "reading" else short, tokens)
            after = [long.store] if how == "reading" else [long.store, longer.store]
        held = sum(store.nbytes for store in after)
        assert held <= allocated.peak <= held + largest
    assert allocated.now == held


def buffers_of(store: KVStore) -> list[torch.Tensor]:
    rows = [store.rows(layer, store.capacity) for layer in range(store.num_layers)]
    return [buffer for pair in rows if pair is not None for buffer in pair]


def test_appending_one_by_one_grows_a_logarithm_of_times() -> None:
    context, sizes = empty(), set()
    for token in range(2000):
        context = read(context, (token,))
        sizes.add(context.store.nbytes)
    assert len(sizes) <= 13  # 64 * 1.25^n reaches 2000 within 13 steps


def test_a_draft_over_a_prefix_copies_nothing() -> None:
    short = context_of(*range(1000))
    long = read(short, tuple(range(1000, 1010)))
    before = long.store.nbytes
    with draft([long, short, short], 100) as tails:
        assert {tail.store for tail in tails} == {long.store}
        for tail in tails:
            write(tail, tuple(range(100)))
        assert long.store.nbytes == before  # the slack holds the draft
    with draft([long, short], 1000) as tails:
        assert {tail.store for tail in tails} == {long.store}
        assert long.store.nbytes <= slots((1010 + 1000) * 5 // 4 + 64)


def test_going_on_from_a_prefix_costs_one_copy_of_the_prefix() -> None:
    short = context_of(1, 2)
    long = read(short, tuple(range(1000)))
    other = read(short, tuple(range(200)))
    further = read(other, (7,))
    assert further.store is other.store is not long.store
    assert other.store.nbytes <= slots((2 + 200) * 5 // 4 + 64)


def test_a_forgotten_store_is_freed_at_once() -> None:
    context = read(context_of(1), (2,))
    store = weakref.ref(context.store)
    gc.disable()  # no cycle may keep the buffers until a collection
    try:
        with draft([context], 1) as tails:
            write(tails[0], (3,))
        del context, tails
        assert store() is None
    finally:
        gc.enable()


# Forgetting slots.


def test_a_context_without_some_slots_holds_the_others_at_the_same_position() -> None:
    context = context_of(*range(10))
    [shorter] = without([context], [[range(2, 5), range(5, 6), range(8, 9)]])
    assert holds(shorter, (0, 1, 6, 7, 9))
    assert shorter.position == context.position == 10
    assert holds(read(shorter, (20,)), (0, 1, 6, 7, 9, 20))
    assert holds(context, tuple(range(10)))


@pytest.mark.parametrize("lost", [[range(0, 3)], [range(7, 10)], [range(0, 10)]])
def test_slots_at_either_end_can_be_forgotten_and_all_of_them(lost: list[range]) -> None:
    [shorter] = without([context_of(*range(10))], [lost])
    assert holds(shorter, tuple(n for n in range(10) if n not in lost[0]))
    left = [n for n in range(10) if n not in lost[0]]
    assert holds(read(shorter, (20,)), (*left, 20))


def test_contexts_of_one_store_share_the_one_without_the_slots() -> None:
    short = context_of(*range(6))
    long = read(short, (6, 7, 8, 9))
    none = Context(long.store)
    lost = [range(1, 3), range(7, 8)]
    kept = without([short, long, none, long], [lost[:1], lost, [], lost])
    for context, tokens in zip(kept, ((0, 3, 4, 5), (0, 3, 4, 5, 6, 8, 9), ()), strict=False):
        assert holds(context, tokens)
    assert len({context.store for context in kept}) == 1
    assert kept[1] == kept[3]
    assert [context.position for context in kept] == [6, 10, 0, 10]


def test_a_store_that_loses_nothing_stays_as_it_is() -> None:
    first, second = context_of(1, 2), context_of(3, 4)
    kept = without([first, second], [[], [range(0, 1)]])
    assert kept[0] is first
    assert holds(kept[1], (4,))


def test_slots_can_be_forgotten_while_a_draft_stands_among_them() -> None:
    short = context_of(0, 1, 2)
    long = read(short, (3, 4, 5))
    with draft([long, short], 2) as tails:
        write(tails[0], (8, 9))
        [shorter] = without([long], [[range(2, 4)]])
        assert holds(shorter, (0, 1, 4, 5))
    assert holds(shorter, (0, 1, 4, 5))
    assert holds(long, (0, 1, 2, 3, 4, 5))


def test_forgetting_copies_what_is_kept_and_frees_the_old_store() -> None:
    context = context_of(*range(8000))
    before = weakref.ref(context.store)
    with Allocations(*buffers_of(context.store)) as allocated:
        [shorter] = without([context], [[range(100, 7900)]])
        assert allocated.peak == context.store.nbytes + shorter.store.nbytes
    del context
    assert before() is None
    assert shorter.store.nbytes == slots(200 + 200 // 4 + 64)


@pytest.mark.parametrize("lost", [[range(2, 4), range(3, 5)], [range(8, 12)]])
def test_slots_that_overlap_or_are_not_there_cannot_be_forgotten(lost: list[range]) -> None:
    with pytest.raises(AssertionError, match="spans"):
        without([context_of(*range(10))], [lost])


# Contexts as values.


def test_contexts_are_equal_where_store_length_and_position_are() -> None:
    context = context_of(1)
    assert context == dataclasses.replace(context)
    assert hash(context) == hash(dataclasses.replace(context))
    assert context != dataclasses.replace(context, position=5)
    assert context != read(context, (2,))
    assert context != context_of(1)
    assert empty() != empty()


def test_copies_are_the_context_itself() -> None:
    context = context_of(1, 2)
    assert copy.copy(context) is context
    assert copy.deepcopy(context) is context
    assert copy.deepcopy([context, {"context": context}])[1]["context"] is context


def test_a_context_cannot_be_changed() -> None:
    context = context_of(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="length"):
        context.length = 5  # type: ignore[misc]


def test_a_pickled_context_comes_back_with_its_tokens() -> None:
    context = context_of(1, 2)
    longer = read(context, (3,))
    loaded = pickle.loads(pickle.dumps(context))
    assert holds(read(loaded, (4,)), (1, 2, 4))
    assert holds(longer, (1, 2, 3))


def test_pickled_contexts_that_share_a_store_go_on_sharing_it() -> None:
    context = context_of(1, 2)
    short, long = pickle.loads(pickle.dumps([context, read(context, (3,))]))
    assert short.store is long.store
    assert read(short, (4,)).store is not short.store  # the other one holds what comes next
    assert holds(long, (1, 2, 3))


def test_no_code_runs_when_a_context_is_dropped() -> None:
    """Ctrl-C arrives between two lines of Python, and Python ignores errors of finalizers."""
    context = context_of(1, 2)
    longer = read(context, (3,))
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(f"{event} {frame.f_code.co_name}"))
    try:
        del longer
    finally:
        sys.setprofile(None)
    assert [call for call in called if call.startswith("call")] == []
    assert context.store.written == context.length
    assert read(context, (4,)).store is context.store


# Wrong use.


@pytest.mark.parametrize("count", [0, -1])
def test_a_room_or_a_draft_without_slots_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {count}"), empty().room(count):
        pass
    with pytest.raises(ValueError, match=f"at least 1, got {count}"), draft([empty()], count):
        pass


@pytest.mark.parametrize("count", [0, -1, 4])
def test_keeping_more_or_less_than_the_tail_is_refused(count: int) -> None:
    context = context_of(1)
    with context.room(3) as tail, pytest.raises(ValueError, match=f"1 to 3, .*; got {count}"):
        context.after(tail, Advance(3), count)


def test_a_tail_is_kept_only_in_its_own_open_room() -> None:
    context, stranger = context_of(1), context_of(2)
    longer = read(context, (3,))
    with longer.room(2) as tail:
        for other in (context, stranger, empty()):
            with pytest.raises(RuntimeError, match="no open room of this context"):
                other.after(tail, Advance(2))
    with pytest.raises(RuntimeError, match="no open room of this context"):
        longer.after(tail, Advance(2))


def test_a_stranger_of_the_same_length_cannot_keep_a_tail() -> None:
    """It would get the other's tokens under its own position."""
    context, stranger = context_of(1), context_of(2)
    with context.room(2) as tail:
        write(tail, (8, 9))
        with pytest.raises(RuntimeError, match="no open room of this context"):
            stranger.after(tail, Advance(2))


def test_nobody_keeps_a_draft() -> None:
    context = context_of(1)
    with draft([context], 2) as tails:
        write(tails[0], (8, 9))
        with pytest.raises(RuntimeError, match="no open room of this context"):
            context.after(tails[0], Advance(1))


@pytest.mark.parametrize(("offset", "count"), [(0, 3), (1, 2), (2, 1)])
def test_writing_beyond_a_tail_is_refused(offset: int, count: int) -> None:
    """In a draft it would overwrite what stands behind the draft."""
    short = context_of(1)
    long = read(short, (2, 3))
    with draft([short, long], 2) as tails, pytest.raises(AssertionError, match="beyond the tail"):
        write(tails[0], tuple(range(count)), offset)
    assert holds(long, (1, 2, 3))


def test_a_part_beyond_the_room_is_refused() -> None:
    context = context_of(1)
    with context.room(2) as tail:
        outside = Tail(store=tail.store, start=1, count=3, visible=4, position=1)
        with pytest.raises(RuntimeError, match="no open room of this context"):
            context.after(outside, Advance(3), 2)
