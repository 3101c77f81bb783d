"""Failures half-way: what exists is kept, the cause is told, and nothing stays behind."""

import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auto_interleaved_inference import GenerationError
from data.output import InterleavedOutput
from data.output.events import Finished, ImageDone, TextDelta, ThoughtDelta
from data.protocols import Protocol, Written
from modeling.context import Context
from modeling.kv_store import KVStore
from tests.builders import BOS, picture
from tests.scripted import (
    SHORT,
    Said,
    ScriptedInferencer,
    asks,
    encoded,
    layout,
    pixels,
    says,
    toy_parts,
)

SCRIPT = (asks("One"), asks("Two"), says("Three"))
PROMPT = ["Go.", picture()]


@contextmanager
def failing(module: nn.Module, call: int, error: BaseException) -> Iterator[None]:
    """Let a part of the model fail at its call number `call`, counted from 1."""
    calls: list[int] = []

    def fail(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == call:
            raise error

    hook = module.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class Failure:
    """Where a run fails, and what it has made until then.

    Attributes:
        part: which part of the model.
        call: at which of its calls.
        error: what happens there.
        made: what exists by then.
        last_error: what the record of the last piece says.
    """

    part: Callable[[Any], nn.Module]
    call: int
    error: BaseException
    made: list[str]
    last_error: str | None = None


def decoder(parts: Any) -> nn.Module:
    return parts.model.language_model.model.layers[1]


def head(parts: Any) -> nn.Module:
    return parts.model.language_model.lm_head


WRITTEN = [len(encoded(text)) + 2 for text in ("One", "Two", "Three")]
READ = 1 + 2  # calls for the caller's text and for the two blocks of the caller's image
EVALUATIONS = 2  # of one image: two steps, each over three contexts at once
KEPT = 1  # the written text, once more for the context without images
FIRST_IMAGE = READ + WRITTEN[0] + KEPT
OUT_OF_MEMORY = torch.OutOfMemoryError("out of memory")
FAILURES = {
    "the caller's image cannot be encoded": Failure(
        lambda parts: parts.vae_model.encoder, 1, RuntimeError("encoder"), []
    ),
    "memory runs out in the second step of the first image": Failure(
        decoder, FIRST_IMAGE + 2, OUT_OF_MEMORY, ["One"], "OutOfMemoryError: out of memory"
    ),
    "memory runs out in the first step of the second image": Failure(
        decoder,
        FIRST_IMAGE + EVALUATIONS + 2 + WRITTEN[1] + KEPT + 1,
        OUT_OF_MEMORY,
        ["One", "*", "Two"],
        "OutOfMemoryError: out of memory",
    ),
    "the first image cannot be decoded": Failure(
        lambda parts: parts.vae_model.decoder,
        1,
        RuntimeError("decoder"),
        ["One"],
        "RuntimeError: decoder",
    ),
    "the first image cannot be seen": Failure(
        lambda parts: parts.model.vit_model, 2, RuntimeError("vision"), ["One", "*"]
    ),
    "the decoder fails while a text is written": Failure(
        decoder,
        FIRST_IMAGE + EVALUATIONS + 2 + 3,
        RuntimeError("decoder"),
        ["One", "*", "Tw"],
    ),
    "the vocabulary head fails at the first token": Failure(head, 2, RuntimeError("head"), []),
}
everywhere = pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))


def run(inferencer: ScriptedInferencer, **options: Any) -> InterleavedOutput:
    inferencer.script = iter(SCRIPT)
    return inferencer.auto_interleaved_generation(PROMPT, seed=5, **SHORT | options)


@everywhere
def test_what_exists_is_returned_with_the_error(failure: Failure) -> None:
    inferencer = ScriptedInferencer()
    with failing(failure.part(inferencer), failure.call, failure.error):
        output = run(inferencer)
    assert layout(output) == failure.made
    assert output.finish_reason == "error"
    assert output.error is failure.error
    assert inferencer.last_output is output
    if failure.last_error is not None:
        assert output.segments[-1].error == failure.last_error


@everywhere
def test_a_failure_may_be_raised_and_carries_what_exists(failure: Failure) -> None:
    inferencer = ScriptedInferencer()
    with (
        failing(failure.part(inferencer), failure.call, failure.error),
        pytest.raises(GenerationError, match=r"generation failed: .*\.partial") as raised,
    ):
        run(inferencer, on_error="raise")
    assert layout(raised.value.partial) == failure.made
    assert raised.value.partial.finish_reason == "error"
    assert raised.value.partial.error is failure.error
    assert raised.value.__cause__ is failure.error


@everywhere
def test_after_a_failure_everything_is_as_if_nothing_had_been(failure: Failure) -> None:
    reference = run(ScriptedInferencer())
    inferencer = ScriptedInferencer()
    with failing(failure.part(inferencer), failure.call, failure.error):
        run(inferencer)
    output = run(inferencer)
    assert output.error is None
    assert layout(output) == layout(reference) == ["One", "*", "Two", "*", "Three"]
    assert pixels(output) == pixels(reference)


@everywhere
def test_what_was_streamed_is_what_is_returned(failure: Failure) -> None:
    inferencer = ScriptedInferencer(*SCRIPT)
    with failing(failure.part(inferencer), failure.call, failure.error):
        events = list(inferencer.stream(PROMPT, **SHORT))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == finished.output.text
    assert [e.image for e in events if isinstance(e, ImageDone)] == finished.output.images


def test_the_partial_output_survives_a_pickle() -> None:
    """A worker process hands its error to the one that waits."""
    inferencer = ScriptedInferencer()
    with failing(inferencer.vae_model.decoder, 1, RuntimeError("decoder")):
        output = run(inferencer)
    assert output.error is not None
    again = pickle.loads(pickle.dumps(GenerationError(output)))
    assert again.partial == ["One"]
    assert str(again) == str(GenerationError(output))


# The caller's own code.


def test_a_callback_that_raises_fails_the_run() -> None:
    error = ValueError("mine")

    def callback(inferencer: object, step: int, time: float, given: dict[str, Any]) -> None:
        if step == 1:
            raise error

    inferencer = ScriptedInferencer()
    output = run(inferencer, callback_on_step_end=callback)
    assert output.error is error
    assert layout(output) == ["One"]
    assert output.segments[-1].error == "ValueError: mine"
    assert pixels(run(inferencer)) == pixels(run(ScriptedInferencer()))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (3, "callback_on_step_end must return None or a dictionary.*got int"),
        (torch.zeros(4, 16), "callback_on_step_end must return None or a dictionary.*got Tensor"),
        (
            {"latents": torch.zeros(3)},
            r"must return latents of shape \(4, 16\).*got .*of shape \(3,\)",
        ),
        ({"latents": torch.zeros(4, 16).long()}, r"in floating point.*got torch.int64 of shape"),
        ({"latents": torch.zeros(4, 16) * 1j}, r"in floating point.*got torch.complex64 of shape"),
        ({"latents": [0.0]}, r"must return latents of shape \(4, 16\).*got list"),
    ],
)
def test_a_callback_that_returns_something_else_is_told_what_it_may(
    answer: object, message: str
) -> None:
    output = run(ScriptedInferencer(), callback_on_step_end=lambda *arguments: answer)
    with pytest.raises((TypeError, ValueError), match=message):
        raise output.error or AssertionError


def test_a_trigger_that_raises_fails_the_run_and_keeps_the_text() -> None:
    def trigger(written: Written) -> str:
        return str(1 / (3 - len(written.token_ids)))[:0] or "write"

    inferencer = ScriptedInferencer(says("abcdef"))
    output = inferencer.auto_interleaved_generation(
        "Go.", protocol=Protocol(name="own", trigger=trigger), **SHORT
    )
    assert isinstance(output.error, ZeroDivisionError)
    assert output == ["abc"]


def test_held_back_text_is_shown_before_a_failure_is() -> None:
    inferencer = ScriptedInferencer(says("One", then=BOS), Said(encoded("STO")))  # too short
    events = list(inferencer.stream("Go.", stop_strings=("STOP",), **SHORT))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "One\nSTO"
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert isinstance(finished.output.error, IndexError)
    assert finished.output == ["One\nSTO"]


def test_a_failure_within_a_plan_keeps_the_plan() -> None:
    """Half a character included, which waits for its other half."""
    half = encoded("\N{GRINNING FACE}")[:2]
    inferencer = ScriptedInferencer(Said((*encoded("I shall"), *half)))  # too short
    events = list(inferencer.stream("Go.", think=True, **SHORT))
    output = inferencer.last_output
    assert output is not None
    assert isinstance(output.error, IndexError)
    assert output == []
    assert ["".join(e.text for e in events if isinstance(e, ThoughtDelta))] == output.thoughts
    assert output.thoughts[0].startswith("I shall\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("call", range(1, 14))
def test_a_failure_of_the_tokenizer_keeps_the_text_whole(call: int) -> None:
    """Of "The picture is done" there was "The picture isdone" if a second decoding failed."""

    class Failing:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer
            self._calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def decode(self, ids: Any) -> str:
            self._calls += 1
            if self._calls == call:
                raise OSError("in the tokenizer")
            return self._tokenizer.decode(ids)

    text = "The picture is done"
    inferencer = ScriptedInferencer(says(text))
    inferencer.tokenizer = Failing(inferencer.tokenizer)
    output = inferencer.auto_interleaved_generation("Go.", **SHORT)
    assert isinstance(output.error, OSError)
    written = output.segments[-1]
    assert written.text == inferencer.tokenizer.decode(list(written.token_ids))
    assert text.startswith(written.text)


def test_an_error_of_the_consumer_ends_the_work() -> None:
    inferencer = ScriptedInferencer(*SCRIPT)

    def consume() -> None:
        for event in inferencer.stream(PROMPT, seed=5, **SHORT):
            if isinstance(event, ImageDone):
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        consume()
    del raised  # its frames hold the iterator
    gc.collect()
    assert inferencer.last_output == [*inferencer.last_output]
    assert layout(inferencer.last_output or ()) == ["One", "*"]
    assert inferencer.last_output.finish_reason == "interrupted"
    assert pixels(run(inferencer)) == pixels(run(ScriptedInferencer()))


def test_an_error_thrown_into_the_iterator_is_the_runs() -> None:
    inferencer = ScriptedInferencer(*SCRIPT)
    stream = inferencer.stream(PROMPT, **SHORT)
    next(stream)
    error = TimeoutError("too long")
    finished = stream.throw(error)  # type: ignore[attr-defined]
    while not isinstance(finished, Finished):
        finished = next(stream)
    assert finished.output.error is error


# Memory.


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Count the key/value stores that are alive, with nobody collecting garbage."""
    made: list[weakref.ref[KVStore]] = []
    original = KVStore.__init__

    def init(self: KVStore, num_layers: int) -> None:
        original(self, num_layers)
        made.append(weakref.ref(self))

    monkeypatch.setattr(KVStore, "__init__", init)
    gc.collect()
    gc.disable()
    try:
        yield lambda: sum(reference() is not None for reference in made)
    finally:
        gc.enable()
    assert made


def test_a_run_leaves_no_keys_and_values_behind(stores: Callable[[], int]) -> None:
    output = run(ScriptedInferencer())
    assert output.error is None
    assert stores() == 0


@everywhere
def test_a_failure_leaves_no_keys_and_values_behind(
    failure: Failure, stores: Callable[[], int]
) -> None:
    """They were kept alive by the error's traceback, as long as anybody held the output."""
    inferencer = ScriptedInferencer()
    with failing(failure.part(inferencer), failure.call, failure.error):
        output = run(inferencer)
    assert output.error is failure.error
    assert stores() == 0


def test_an_error_that_the_caller_is_handling_keeps_its_traceback() -> None:
    """It stands at the beginning of the chain of every error that happens meanwhile."""
    inferencer = ScriptedInferencer()
    own = LookupError("the caller's own")
    try:
        raise own
    except LookupError:
        with failing(inferencer.vae_model.decoder, 1, RuntimeError("decoder")):
            output = run(inferencer)
    assert output.error is not None
    assert output.error.__context__ is own
    assert own.__traceback__ is not None


def test_where_a_failure_happened_is_told_in_words() -> None:
    """The words of the error itself stay as they are."""
    inferencer = ScriptedInferencer()
    with failing(decoder(inferencer), FIRST_IMAGE + 1, RuntimeError("decoder")):
        output = run(inferencer)
    assert str(output.error) == "decoder"
    [words] = output.error.__notes__  # type: ignore[union-attr]
    assert "modeling/bagel/drawing.py" in words.replace("\\", "/")


def test_a_raised_failure_leaves_no_keys_and_values_behind(stores: Callable[[], int]) -> None:
    inferencer = ScriptedInferencer()
    with (
        failing(inferencer.vae_model.decoder, 1, RuntimeError("decoder")),
        pytest.raises(GenerationError) as raised,
    ):
        run(inferencer, on_error="raise")
    assert raised.value.partial
    assert stores() == 0


class Translating(ScriptedInferencer):
    """Turns one error into another, as a library around this one may."""

    def read_latent(self, latent: Tensor, grid: tuple[int, int], context: Context) -> Context:
        try:
            return super().read_latent(latent, grid, context)
        except RuntimeError as error:
            raise KeyError("second") from error


def test_an_error_that_was_caused_by_another_leaves_nothing_behind(
    stores: Callable[[], int],
) -> None:
    inferencer = Translating()
    with failing(decoder(inferencer), 2, RuntimeError("first")):
        output = run(inferencer)
    assert isinstance(output.error, KeyError)
    assert str(output.error.__cause__) == "first"
    assert stores() == 0


def test_an_interrupted_run_leaves_no_keys_and_values_behind(stores: Callable[[], int]) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    inferencer = ScriptedInferencer()
    with pytest.raises(KeyboardInterrupt) as raised:
        run(inferencer, callback_on_step_end=interrupt)
    assert raised.value is inferencer.last_output.error
    assert stores() == 0


def test_a_closed_iterator_leaves_no_keys_and_values_behind(stores: Callable[[], int]) -> None:
    inferencer = ScriptedInferencer(*SCRIPT)
    stream = inferencer.stream(PROMPT, **SHORT)
    next(event for event in stream if isinstance(event, ImageDone))
    assert stores() > 0
    stream.close()  # type: ignore[attr-defined]
    assert inferencer.last_output
    assert stores() == 0


def test_the_model_keeps_nothing_of_a_run() -> None:
    parts = toy_parts()
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    run(ScriptedInferencer())
    after = parts.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
