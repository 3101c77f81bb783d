"""Writing in runs: a run of any length and a recorded step write what single steps write."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessorList

from modeling.bagel import Bagel
from modeling.context import Context
from modeling.cuda_graph import Work, can_repeat, is_hooked
from modeling.decode_graph import (
    Feed,
    GraphFeed,
    compiled_step,
    fastest_feed,
    feed_token,
    tried,
)
from modeling.decoding import Choice, choice, decode, greedy
from tests.builders import BOS, read_ids, toy_bagel
from tests.scripted import Seen, counted, generate, pixels, toy_parts, toy_writer

LENGTHS = [2, 3, 7, 16]
HOT: dict[str, Any] = {"do_sample": True, "temperature": 1.5}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "penalised": {"do_sample": False, "repetition_penalty": 1.3},
    "sampled": HOT,
    "of few": HOT | {"top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@pytest.fixture(scope="module")
def model() -> Bagel:
    return toy_parts().model


def prompt(model: Bagel, length: int = 5) -> Context:
    return read_ids(model, model.new_context(), [BOS, *range(length - 1)])


@dataclass
class Text:
    """A text with all that can be seen of it while it is written, draws included."""

    ids: list[int]
    contexts: list[Seen]
    states: list[Tensor]

    def equals(self, other: "Text") -> bool:
        return (
            self.ids == other.ids
            and all(map(torch.equal, self.states, other.states))
            and all(map(same, self.contexts, other.contexts))
        )


def same(one: Seen, other: Seen) -> bool:
    return (
        (one.length, one.position) == (other.length, other.position)
        and torch.equal(one.keys, other.keys)
        and torch.equal(one.values, other.values)
    )


def written(
    model: Bagel,
    kind: dict[str, Any],
    count: int = 40,
    between: Callable[[int, Context, torch.Generator], None] | None = None,
    **how: Any,
) -> Text:
    """Write `count` tokens with a seed; `between` is called while each is out."""
    generator = torch.Generator().manual_seed(3)
    text = Text([], [], [])
    steps = decode(model, prompt(model), BOS, choice(**kind, generator=generator), **how)
    for id_, context in islice(steps, count):
        text.ids.append(id_)
        text.contexts.append(Seen.of(context))
        text.states.append(generator.get_state())
        if between is not None:
            between(id_, context, generator)
    text.states.append(generator.get_state())
    return text


# Runs.


@kinds
@pytest.mark.parametrize("length", LENGTHS)
def test_a_run_of_any_length_writes_the_same(
    model: Bagel, kind: dict[str, Any], length: int
) -> None:
    assert written(model, kind, run_length=length).equals(written(model, kind, run_length=1))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 11, 20])
def test_after_a_text_that_ends_anywhere_the_generator_has_made_its_draws(
    model: Bagel, count: int
) -> None:
    assert written(model, HOT, count, run_length=16).equals(written(model, HOT, count))


@pytest.mark.parametrize("length", LENGTHS)
def test_the_global_generator_is_set_back_as_well(model: Bagel, length: int) -> None:
    def draws(run_length: int) -> tuple[list[int], float]:
        torch.manual_seed(3)
        steps = decode(model, prompt(model), BOS, choice(**HOT), run_length=run_length)
        return [id_ for id_, _ in islice(steps, 11)], float(torch.rand(()))

    assert draws(length) == draws(1)


@pytest.mark.parametrize("length", LENGTHS)
def test_draws_that_a_caller_makes_between_tokens_count_for_the_next_one(
    model: Bagel, length: int
) -> None:
    stores = set()

    def draw(id_: int, context: Context, generator: torch.Generator) -> None:
        stores.add(context.store)
        if id_ % 3 == 0:
            torch.rand((), generator=generator)

    disturbed = written(model, HOT, between=draw, run_length=length)
    assert len(stores) == 1  # what came out anew was written in place
    assert disturbed.equals(written(model, HOT, between=draw))
    assert disturbed.ids != written(model, HOT).ids


@pytest.mark.parametrize("length", LENGTHS)
def test_a_caller_may_read_on_from_any_token_while_the_text_goes_on(
    model: Bagel, length: int
) -> None:
    kept: list[Context] = []

    def read_on(id_: int, context: Context, _: torch.Generator) -> None:
        kept.append(read_ids(model, context, [id_, 1, 2]))

    assert written(model, HOT, 20, between=read_on, run_length=length).equals(
        written(model, HOT, 20)
    )
    forks, kept = kept, []
    written(model, HOT, 20, between=read_on)
    assert all(same(Seen.of(one), Seen.of(other)) for one, other in zip(forks, kept, strict=True))


def test_no_id_is_looked_at_within_a_run(model: Bagel) -> None:
    class Blindfold(TorchDispatchMode):
        def __torch_dispatch__(
            self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = operation.overloadpacket.__name__
            assert name not in ("_local_scalar_dense", "nonzero", "masked_select"), name
            return operation(*args, **kwargs or {})

    for kind in KINDS.values():
        steps = decode(model, prompt(model), BOS, choice(**kind), run_length=16)
        with Blindfold():
            assert len(list(islice(steps, 40))) == 40


# The surplus.


def test_a_text_that_is_closed_early_goes_on_in_place(model: Bagel) -> None:
    start = prompt(model)
    steps = decode(model, start, BOS, greedy, run_length=16)
    *_, (_, context) = islice(steps, 9)  # the first of a run
    assert context.store.written > context.length
    steps.close()  # type: ignore[attr-defined]
    assert context.store.written == context.length
    assert read_ids(model, context, [1, 2]).store is context.store is start.store


def test_a_text_that_is_left_by_break_goes_on_in_place(model: Bagel) -> None:
    for _, context in decode(model, prompt(model), BOS, greedy, run_length=16):
        if context.length == 5 + 10:
            break
    assert context.store.written == context.length
    assert read_ids(model, context, [1, 2]).store is context.store


def test_a_text_ends_after_as_many_tokens_as_are_asked_for(model: Bagel) -> None:
    for count in (0, 1, 6, 16, 17):
        with counted(model) as counts:
            steps = decode(model, prompt(model), BOS, greedy, at_most=count, run_length=16)
            assert len(list(steps)) == count
        assert counts["calls"] == 1 + count  # the prompt's among them


def test_runs_begin_short(model: Bagel) -> None:
    with counted(model) as counts:
        steps = decode(model, prompt(model), BOS, greedy, run_length=16)
        next(steps)
        assert counts["calls"] == 1 + 1
        list(islice(steps, 3))
        assert counts["calls"] == 1 + 4


def test_a_run_does_not_go_beyond_the_positions_of_the_model() -> None:
    model = toy_bagel(max_position_embeddings=20)
    with counted(model) as counts:
        steps = decode(model, prompt(model, 5), BOS, greedy, run_length=16)
        assert len(list(islice(steps, 15))) == 15
        assert counts["calls"] == 1 + 15
        next(steps)  # which is for the caller to say
        assert counts["calls"] == 1 + 16


def test_a_processor_of_the_callers_sees_only_what_comes(model: Bagel) -> None:
    seen: list[list[int]] = []

    def note(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids[0].tolist())
        return scores

    choose = choice(do_sample=False, logits_processor=note)
    ids = [id_ for id_, _ in islice(decode(model, prompt(model), BOS, choose, run_length=16), 11)]
    assert seen == [ids[:count] for count in range(11)]


def test_a_processor_may_write_into_the_scores(model: Bagel) -> None:
    """On a CPU in float32 they were the model's own tensor, which nobody may write to."""

    def forbid(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, first] = -torch.inf
        return scores

    first = next(decode(model, prompt(model), BOS, greedy))[0]
    choose = choice(do_sample=False, logits_processor=forbid)
    assert next(decode(model, prompt(model), BOS, choose))[0] != first


def test_a_story_is_the_same_whatever_the_length_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> tuple[Any, ...]:
        options = {"protocol": "every-block", "max_interleaved_blocks": 2, "max_text_length": 13}
        hot = {"do_sample": True, "text_temperature": 1.5, "stop_strings": ()}
        generator = torch.Generator().manual_seed(5)  # for texts and images, in order
        output = generate(toy_writer(), "Go.", generator=generator, **options, **hot)
        return (
            [s.token_ids for s in output.segments],
            pixels(output),
            generator.get_state().tolist(),
        )

    single = story()
    monkeypatch.setattr("modeling.verbs.decode", partial(decode, run_length=7))
    assert story() == single


# Failures.


@contextmanager
def failing(model: Bagel, call: int) -> Iterator[None]:
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("in the last layer")

    hook = model.language_model.model.layers[1].register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@kinds
def test_a_failure_comes_when_its_token_is_asked_for(model: Bagel, kind: dict[str, Any]) -> None:
    start = prompt(model)
    plain, generator = written(model, kind), torch.Generator().manual_seed(3)
    choose = choice(**kind, generator=generator)
    with failing(model, call=12):
        steps = decode(model, start, BOS, choose, run_length=16)
        given = list(islice(steps, 11))
        with pytest.raises(RuntimeError, match="in the last layer"):
            next(steps)
    assert [id_ for id_, _ in given] == plain.ids[:11]
    assert torch.equal(generator.get_state(), plain.states[10])
    last_id, context = given[-1]
    assert not context.store.busy
    assert same(Seen.of(context), plain.contexts[10])
    resumed = decode(model, context, last_id, greedy)
    expected = read_ids(model, prompt(model), [BOS, *plain.ids[:11]])
    torch.testing.assert_close(next(resumed)[1].rows(1), expected.rows(1), atol=2e-5, rtol=1e-5)


def test_a_failure_in_the_surplus_is_none(model: Bagel) -> None:
    start = prompt(model)
    with failing(model, call=12):
        steps = decode(model, start, BOS, greedy, run_length=16)
        *_, (_, context) = islice(steps, 11)
        steps.close()  # type: ignore[attr-defined]
    assert read_ids(model, context, [1]).store is context.store


def test_a_failure_keeps_no_storage(model: Bagel) -> None:
    start = prompt(model)
    store = weakref.ref(start.store)
    gc.disable()  # a circle of references would live until it runs
    try:
        with failing(model, call=12), pytest.raises(RuntimeError, match="in the last layer"):
            list(decode(model, start, BOS, greedy, run_length=16))
        del start
        assert store() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("length", [1, 16])
def test_a_logit_that_is_no_number_fails_at_its_token(model: Bagel, length: int) -> None:
    """What was computed after it must be harmless: on CUDA a bad index ends the process."""
    used: list[Tensor] = []
    shown: list[Tensor] = []

    def spoiled(tail: Any, token: Tensor) -> Tensor:
        used.append(token)
        logits = feed_token(model, tail, token)
        return logits.index_fill(0, torch.tensor(7), torch.nan) if len(used) > 11 else logits

    def note(ids: Tensor, scores: Tensor) -> Tensor:
        shown.append(ids.flatten())
        return scores

    choose = Choice(processors=LogitsProcessorList([note]), do_sample=True)
    steps = decode(model, prompt(model), BOS, choose, run_length=length, feed=spoiled)
    assert len(list(islice(steps, 11))) == 11
    with pytest.raises(RuntimeError, match="no id has a probability"):
        next(steps)
    assert len(used) == (12 if length == 1 else 16)
    assert all(id_ >= 0 for ids in (*used, *shown) for id_ in ids.tolist())


# Draws.


def test_an_id_is_drawn_as_torch_draws_it() -> None:
    """Seeds give the ids that they always gave."""
    for seed in range(200):
        logits = torch.randn(300, generator=torch.Generator().manual_seed(seed))
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        drawn = choice(**HOT, top_k=5 + seed, generator=ours)(torch.empty(0), logits)
        likeliest = logits / 1.5
        likeliest[likeliest < likeliest.topk(5 + seed).values[-1]] = -torch.inf
        assert drawn.equal(torch.multinomial(likeliest.softmax(0), 1, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_greedy_choice_moves_no_generator(model: Bagel) -> None:
    before = torch.get_rng_state()
    list(islice(decode(model, prompt(model), BOS, greedy, run_length=16), 20))
    assert torch.equal(torch.get_rng_state(), before)


# The recorded step, here without the recording.


class Recorder:
    """Notes how often a step is recorded, and gives it back as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, work: Work, device: torch.device) -> Work:
        self.count += 1
        return work


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.decode_graph.BUCKET", 16)


def fixed(model: Bagel, record: Any = None, patience: int = 0) -> GraphFeed:
    return GraphFeed(model, record or Recorder(), patience)


def close(one: Text, other: Text) -> bool:
    """Equal but for float32 rounding through two layers, in another order of summation."""
    return one.ids == other.ids and all(
        torch.allclose(a.keys, b.keys, atol=2e-5) and torch.allclose(a.values, b.values, atol=2e-5)
        for a, b in zip(one.contexts, other.contexts, strict=True)
    )


@kinds
@pytest.mark.parametrize("patience", [0, 5])
def test_a_fixed_step_writes_what_new_ones_write(
    model: Bagel, kind: dict[str, Any], patience: int
) -> None:
    feed = fixed(model, patience=patience)
    recorded = written(model, kind, 90, run_length=8, feed=feed)  # the store has room for 64
    assert close(recorded, written(model, kind, 90))


def logits_of(model: Bagel, feed: Feed) -> Tensor:
    """Return the (tokens, vocabulary) logits, in float32, that a way to feed gives for a text."""
    context, rows = prompt(model), []
    for token in (BOS, *range(70)):
        with context.room(1) as tail:
            rows.append(feed(tail, torch.tensor([token], device=model.device)).float().clone())
            context = context.after(tail, model.text_block([token]))
    return torch.stack(rows)


def test_a_fixed_step_gives_the_logits_that_new_ones_give(model: Bagel) -> None:
    expected = logits_of(model, partial(feed_token, model))
    torch.testing.assert_close(logits_of(model, fixed(model)), expected, atol=2e-5, rtol=1e-5)


def test_a_step_is_recorded_once_a_bucket(model: Bagel) -> None:
    recorder = Recorder()
    start = prompt(model)  # room for 64 more, so that nothing grows
    list(decode(model, start, BOS, greedy, at_most=16 + 16 + 4, feed=fixed(model, recorder)))
    assert recorder.count == 3


def test_a_short_text_is_not_worth_a_recording(model: Bagel) -> None:
    recorder = Recorder()
    feed = fixed(model, recorder, patience=9)
    steps = decode(model, prompt(model), BOS, greedy, feed=feed)
    list(islice(steps, 9))
    assert recorder.count == 0
    next(steps)
    assert recorder.count == 1


def test_the_first_token_of_all_needs_no_buffers(model: Bagel) -> None:
    def ids(**how: Any) -> list[int]:
        return [i for i, _ in decode(model, model.new_context(), BOS, greedy, at_most=30, **how)]

    assert ids(feed=fixed(model)) == ids()


def test_what_lies_in_free_slots_does_not_count(model: Bagel) -> None:
    start = prompt(model)
    for pair in start.store.buffers():
        for buffer in pair:
            buffer[start.length :] = torch.nan
    steps = decode(model, start, BOS, greedy, at_most=30, feed=fixed(model))
    assert [id_ for id_, _ in steps] == written(model, KINDS["greedy"], 30).ids


def test_a_recording_is_not_repeated_over_other_buffers(model: Bagel) -> None:
    """A caller who reads on from every token makes the text go on in a copy each time."""
    kept: list[Context] = []

    def read_on(id_: int, context: Context, _: torch.Generator) -> None:
        kept.append(read_ids(model, context, [id_, 1, 2]))

    feed = fixed(model)
    disturbed = written(model, KINDS["greedy"], 40, between=read_on, feed=feed)
    assert close(disturbed, written(model, KINDS["greedy"], 40))
    assert len({id(context.store) for context in kept}) > 1


def test_a_recording_keeps_no_buffer_alive(model: Bagel) -> None:
    def forgetful(work: Work, device: torch.device) -> Work:
        logits = work().clone()
        return lambda: logits

    start = prompt(model)
    feed = fixed(model, forgetful)
    buffers = [weakref.ref(buffer) for pair in start.store.buffers() for buffer in pair]
    steps = decode(model, start, BOS, greedy, feed=feed)
    next(steps)
    assert all(buffer() is not None for buffer in buffers)
    del start, steps
    assert feed._repeats
    assert all(buffer() is None for buffer in buffers)


def test_where_no_step_can_be_recorded_writing_goes_on_without(
    model: Bagel, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def refuse(work: Work, device: torch.device) -> Work:
        tries.append(1)
        raise RuntimeError("this device cannot\nand here is its whole log")

    for _ in range(2):
        text = written(model, HOT, 40, run_length=8, feed=fixed(model, refuse))
        assert text.equals(written(model, HOT, 40))
    assert len(tries) == 2  # once a text
    assert [record.message for record in caplog.records] == [
        "text is written the slow way: RuntimeError: this device cannot"
    ]


def test_nothing_is_recorded_on_a_cpu(model: Bagel) -> None:
    assert not can_repeat(model)


def test_a_module_that_somebody_watches_or_changed_is_not_recorded() -> None:
    module = torch.nn.Linear(2, 2)
    assert not is_hooked(module)
    for register in (module.register_forward_hook, module.register_forward_pre_hook):
        hook = register(lambda *_: None)
        assert is_hooked(module)
        hook.remove()
    module.forward = module.forward  # type: ignore[method-assign]  # as accelerate does
    assert is_hooked(module)


# Compiled, on a CPU.


@pytest.fixture
def compiled_model(monkeypatch: pytest.MonkeyPatch) -> Bagel:
    """A model that asks for compiled steps, traced as for a compiler and then run as they are."""
    torch._dynamo.reset()
    step = compiled_step("eager")
    monkeypatch.setattr("modeling.decode_graph.compiled_step", lambda: step)
    model = toy_bagel()
    model.language_model.compiled = True
    return model


@kinds
def test_a_compiled_step_writes_what_new_ones_write(
    compiled_model: Bagel, kind: dict[str, Any]
) -> None:
    expected = written(compiled_model, kind, 90, feed=partial(feed_token, compiled_model))
    assert close(written(compiled_model, kind, 90), expected)


def test_a_step_is_compiled_once_for_all_lengths(compiled_model: Bagel) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    for length in (1, 40, 300):
        feed = GraphFeed(compiled_model, tried, patience=0, step=compiled_step(counter))
        list(
            decode(
                compiled_model, prompt(compiled_model, length), BOS, greedy, at_most=70, feed=feed
            )
        )
        assert feed._repeats
    assert counter.frame_count == 1


def test_compiled_steps_are_asked_for(model: Bagel, compiled_model: Bagel) -> None:
    assert not isinstance(fastest_feed(model), GraphFeed)
    assert isinstance(fastest_feed(compiled_model), GraphFeed)
    hook = compiled_model.language_model.model.layers[0].register_forward_hook(lambda *_: None)
    assert not isinstance(fastest_feed(compiled_model), GraphFeed), "it would pass a hook over"
    hook.remove()


def test_without_a_compiler_writing_goes_on_and_says_so(
    compiled_model: Bagel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object) -> Tensor:
        raise RuntimeError("no working C++ compiler")

    expected = written(compiled_model, HOT, 40)
    monkeypatch.setattr("modeling.decode_graph.compiled_step", lambda: missing)
    assert close(written(compiled_model, HOT, 40), expected)
    told = [r.message for r in caplog.records if r.name == "auto_interleaved"]
    assert told == ["text is written the slow way: RuntimeError: no working C++ compiler"]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_compiler_makes_gives_about_the_logits_of_new_steps(dtype: torch.dtype) -> None:
    model = toy_bagel().to(dtype)
    model.language_model.compiled = True
    feed = fastest_feed(model)
    assert isinstance(feed, GraphFeed)
    compiled, expected = (logits_of(model, way) for way in (feed, partial(feed_token, model)))
    assert feed._repeats, "nothing was compiled"
    # In bfloat16 a product of one row is rounded once, not after every step of its sum.
    tolerance = 2e-5 if dtype == torch.float32 else 0.1 * float(expected.std())
    torch.testing.assert_close(compiled, expected, atol=tolerance, rtol=1e-5)


# On CUDA.


@pytest.fixture(scope="module")
def cuda_model() -> Bagel:
    return toy_bagel().to("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    def test_recorded_steps_write_what_new_ones_write(self, cuda_model: Bagel) -> None:
        assert can_repeat(cuda_model)
        for kind in KINDS.values():
            feed = GraphFeed(cuda_model, patience=0)
            recorded = written(cuda_model, kind, 150, run_length=8, feed=feed)
            assert feed._repeats, "nothing was recorded"
            eager = partial(feed_token, cuda_model)
            assert close(recorded, written(cuda_model, kind, 150, feed=eager))

    def test_recorded_steps_in_halves_give_about_the_logits_of_new_ones(
        self, cuda_model: Bagel
    ) -> None:
        """Eight bits of mantissa, two kernels: a few per cent of the logits' own spread."""
        model = toy_bagel().to("cuda", torch.bfloat16)
        graphs = GraphFeed(model, patience=0)
        recorded, eager = (logits_of(model, way) for way in (graphs, partial(feed_token, model)))
        assert graphs._repeats, "nothing was recorded"
        assert (recorded - eager).abs().max() < 0.1 * eager.std()

    def test_the_host_waits_once_a_run(
        self, cuda_model: Bagel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("modeling.decode_graph.BUCKET", 512)  # recordings wait, too
        generator = torch.Generator("cuda").manual_seed(3)
        choose = choice(**KINDS["of few"], generator=generator)
        steps = decode(cuda_model, prompt(cuda_model, 200), BOS, choose, run_length=16)
        list(islice(steps, 64))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchroniz") as waits:
                list(islice(steps, 16))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(waits) <= 2

    @pytest.mark.parametrize("device", ["cuda", "cpu", None])
    def test_runs_move_every_generator_alike(self, cuda_model: Bagel, device: str | None) -> None:
        def draws(run_length: int) -> tuple[list[int], float]:
            torch.manual_seed(3)
            generator = None if device is None else torch.Generator(device).manual_seed(3)
            choose = choice(**HOT, generator=generator)
            steps = decode(cuda_model, prompt(cuda_model), BOS, choose, run_length=run_length)
            ids = [id_ for id_, _ in islice(steps, 45)]
            where = device or "cuda"
            return ids, float(torch.rand((), device=where, generator=generator))

        assert draws(16) == draws(5) == draws(1)
