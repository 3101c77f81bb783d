"""The published cache: a variable over context values, and dictionaries that scripts write to."""

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache
from modeling.kv_store import KVStore
from tests.builders import toy_inferencer
from tests.published_scripts import Script


@pytest.fixture(scope="module")
def inferencer() -> InterleaveInferencer:
    return toy_inferencer()


@pytest.fixture
def script(inferencer: InterleaveInferencer) -> Script:
    return Script(inferencer, 2).read("a red fox", "two")


def stores(script: Script) -> list[KVStore]:
    return [context.store for context in script.cache.contexts()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


# What nobody touched is not copied.


def test_a_new_cache_holds_nothing() -> None:
    cache = NaiveCache(3)
    assert (cache.num_layers, cache.seq_lens) == (3, 0)
    assert cache.key_cache == cache.value_cache == {0: None, 1: None, 2: None}


def test_reading_and_writing_go_on_in_the_same_stores(script: Script) -> None:
    before = stores(script)
    script.read("more", "of it")
    script.write(3)
    assert [a is b for a, b in zip(stores(script), before, strict=True)] == [True, True]


def test_a_look_is_no_reason_to_copy(script: Script) -> None:
    before = stores(script)
    shapes = {tensor.shape for tensor in script.cache.key_cache.values()}
    assert shapes == {(sum(script.lengths), 2, 8)}
    script.read("more", "of it")
    assert [a is b for a, b in zip(stores(script), before, strict=True)] == [True, True]
    assert script.cache.key_cache[0].shape[0] == sum(script.lengths)


def test_a_deep_copy_shares_what_was_read_and_nothing_else(script: Script) -> None:
    forked = script.fork()
    assert [a is b for a, b in zip(stores(script), stores(forked), strict=True)] == [True, True]
    before = script.rows()
    forked.read("x", "y")
    assert same(script.rows(), before)
    kept = forked.rows()
    script.read("something", "else")
    assert same(forked.rows(), kept)


def test_a_deep_copy_keeps_what_was_written_to_the_cache(script: Script) -> None:
    script.cache.key_cache[1] *= 2
    copied = copy.deepcopy({"cache": script.cache, "again": script.cache})
    assert copied["cache"] is copied["again"]
    assert torch.equal(copied["cache"].key_cache[1], script.cache.key_cache[1])
    script.cache.key_cache[1] *= 2
    assert not torch.equal(copied["cache"].key_cache[1], script.cache.key_cache[1])


def test_a_cache_dies_with_its_last_name(inferencer: InterleaveInferencer) -> None:
    """A circle would keep its slots until the collector comes, and others would go on in copies."""
    script = Script(inferencer).read("a red fox")
    assert script.cache.key_cache[0] is not None
    store = weakref.ref(stores(script)[0])
    gc.disable()
    try:
        del script
        assert store() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("through", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_a_stored_cache_comes_back(script: Script, through: Callable[..., bytes] | None) -> None:
    if through is None:
        file = io.BytesIO()
        torch.save(script.cache, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    else:
        loaded = pickle.loads(through(script.cache))
    expected = script.fork().write(4)
    script.cache = loaded
    assert script.write(4).tolist() == expected.tolist()


# Whatever a script writes is heeded.


def assign(cache: NaiveCache) -> None:
    cache.key_cache[1] = cache.key_cache[1] * 2


def in_place(cache: NaiveCache) -> None:
    cache.key_cache[1].mul_(2)


def in_a_slice(cache: NaiveCache) -> None:
    cache.key_cache[1][:] *= 2


def behind_the_back(cache: NaiveCache) -> None:
    cache.key_cache[1].data.mul_(2)


def through_numpy(cache: NaiveCache) -> None:
    cache.key_cache[1].numpy()[:] *= 2


def a_dictionary_of_its_own(cache: NaiveCache) -> None:
    cache.key_cache = {0: cache.key_cache[0], 1: cache.key_cache[1] * 2}


def by_update(cache: NaiveCache) -> None:
    cache.key_cache.update({1: cache.key_cache[1] * 2})


def taken_out_and_put_back(cache: NaiveCache) -> None:
    cache.key_cache[1] = cache.key_cache.pop(1) * 2


def under_inference_mode(cache: NaiveCache) -> None:
    with torch.inference_mode():
        cache.key_cache[1].mul_(2)


WAYS = [
    assign,
    in_place,
    in_a_slice,
    behind_the_back,
    through_numpy,
    a_dictionary_of_its_own,
    by_update,
    taken_out_and_put_back,
    under_inference_mode,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_next_call_takes_over_what_was_written(
    script: Script, way: Callable[[NaiveCache], None]
) -> None:
    plain, forked = script.fork(), script.fork()
    way(script.cache)
    by_hand = plain.fork()
    for layer in range(2):
        by_hand.cache.value_cache[layer] = plain.cache.value_cache[layer]
        by_hand.cache.key_cache[layer] = plain.cache.key_cache[layer] * (1 + layer)
    written, expected, other = (one.read("x", "y").rows() for one in (script, by_hand, plain))
    assert same(written, expected)
    assert not same(written, other)
    assert same(forked.read("x", "y").rows(), other)


def test_a_dictionary_that_a_script_keeps_follows_the_cache(script: Script) -> None:
    keys = script.cache.key_cache
    assert keys[0].shape[0] == sum(script.lengths)
    script.read("x", "y")
    assert keys is script.cache.key_cache
    assert keys[0].shape[0] == sum(script.lengths)


def test_a_tensor_that_a_script_keeps_may_be_written_again_and_again(script: Script) -> None:
    """Drawing leaves the dictionaries as they are, so what was taken from them stays in them."""
    values, before = script.cache.value_cache[1], script.cache.value_cache[1].clone()
    drawn = []
    for _ in range(3):
        torch.manual_seed(1)
        drawn.append(script.draw([(8, 8), (8, 8)], num_timesteps=2)[0])
        values.mul_(2)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert script.cache.value_cache[1] is values
    script.read("x", "y")
    kept = script.cache.value_cache[1].split(script.lengths)[0]
    assert torch.equal(kept[: len(kept) - 3], 8 * before[: len(kept) - 3])


def test_a_cache_may_be_shortened(inferencer: InterleaveInferencer) -> None:
    script, whole = Script(inferencer).read("one"), Script(inferencer).read("one").read("two")
    for half in (whole.cache.key_cache, whole.cache.value_cache):
        for layer in half:
            half[layer] = half[layer][: script.lengths[0]]
    assert whole.cache.seq_lens == script.lengths[0]
    whole.lengths, whole.ropes = script.lengths, script.ropes
    assert whole.write(4).tolist() == script.write(4).tolist()


def test_a_cache_may_be_emptied(script: Script) -> None:
    for half in (script.cache.key_cache, script.cache.value_cache):
        for layer in half:
            half[layer] = None
    assert script.cache.seq_lens == 0
    script.lengths, script.ropes = [0, 0], [0, 0]
    fresh = Script(script.inferencer, 2).read("x", "y")
    assert same(script.read("x", "y").rows(), fresh.rows())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.key_cache.update({1: None}), r"as many tokens in every layer.*None"),
        (lambda c: c.key_cache.update({1: c.key_cache[1][1:]}), "as many tokens in every layer"),
        (lambda c: c.key_cache.update({1: torch.zeros(3)}), "as many tokens in every layer"),
        (lambda c: c.key_cache.pop(0), "an entry for each layer|must be NaiveCache"),
        (lambda c: c.value_cache.pop(1), "an entry for each layer"),
    ],
)
def test_what_is_no_cache_is_refused(
    script: Script, change: Callable[[NaiveCache], Any], message: str
) -> None:
    change(script.cache)
    with pytest.raises(ValueError, match=message):
        script.read("x", "y")


@pytest.mark.parametrize("lengths", [[3, 3], [999, 0]])
def test_lengths_that_are_not_the_caches_are_refused(script: Script, lengths: list[int]) -> None:
    """As after a shallow copy of a context, of which one grew."""
    held, script.lengths = sum(script.lengths), lengths
    with pytest.raises(ValueError, match=f"the cache holds {held} tokens, but the lengths say"):
        script.read("x", "y")


def test_samples_without_a_token_may_stand_between_others(
    inferencer: InterleaveInferencer,
) -> None:
    script = Script(inferencer).read("a red fox")
    wide = script.fork()
    wide.lengths, wide.ropes = [0, *script.lengths, 0], [0, *script.ropes, 0]
    before = stores(wide)
    wide.read("x", "y", "z")
    assert stores(wide)[1] is before[0]
    expected = script.read("y").cache.key_cache[1]
    found = wide.cache.key_cache[1].split(wide.lengths)[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# A dictionary like any other.


def test_layers_are_a_dictionary_in_every_way(script: Script) -> None:
    def fresh() -> Any:
        return script.fork().cache.key_cache

    expected = {layer: fresh()[layer] for layer in (0, 1)}
    ways: list[Callable[[Any], Any]] = [
        dict,
        lambda d: {**d},
        lambda d: d.copy(),
        lambda d: dict(d.items()),
        lambda d: dict(zip(d, d.values(), strict=True)),
        lambda d: d | {},
        lambda d: {} | d,
        lambda d: {layer: d.get(layer) for layer in d},
        lambda d: {layer: d.setdefault(layer) for layer in list(d)},
        lambda d: {layer: d.pop(layer) for layer in list(d)},
        copy.copy,
        copy.deepcopy,
        lambda d: pickle.loads(pickle.dumps(d)),
    ]
    for way in ways:
        found = way(fresh())
        assert type(found) is dict
        assert list(found) == [0, 1]
        assert all(map(torch.equal, found.values(), expected.values()))
    keys = fresh()
    assert isinstance(keys, dict)
    assert (len(keys), 1 in keys, 2 in keys, list(keys.keys())) == (2, True, False, [0, 1])
    assert keys.get(2, "none") == keys.pop(2, "none") == "none"
    assert "UNSEEN" not in repr(fresh())
    with pytest.raises(KeyError):
        keys[2]


class Named(NaiveCache):
    """A script's own cache, which knows more."""

    def __init__(self, num_layers: int, name: str) -> None:
        super().__init__(num_layers)
        self.name = name


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))]
)
@pytest.mark.parametrize("written", [False, True])
def test_a_copy_is_of_its_own_kind_and_keeps_what_was_added(
    script: Script, copied: Any, written: bool
) -> None:
    cache = Named(2, "mine")
    cache.notes = [1]
    cache.hold(script.cache.contexts())
    if written:
        cache.key_cache[0] = cache.key_cache[0] + 1
    other = copied(cache)
    assert isinstance(other, Named)
    assert (other.name, other.notes) == ("mine", [1])
    assert same([cache.key_cache[0]], [other.key_cache[0]])
