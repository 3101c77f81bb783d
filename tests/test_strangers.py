"""Objects of the caller: whatever their methods do, a run and its result are none the worse."""

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_interleaved_inference import GenerationError
from data.output import InterleavedOutput, RecordedError
from data.output.errors import describe_error
from data.output.events import Finished
from data.output.strangers import message_of, plain
from data.protocols import Protocol
from tests.output_samples import story
from tests.scripted import SHORT, ScriptedInferencer, asks, layout, says, toy_writer

SCRIPT = (asks("One"), says("Two"))


class Broken(BaseException):
    """What methods raise that nobody expects."""


def hostile(*bases: type, spared: tuple[str, ...] = (), **own: Any) -> type:
    """Make a class whose methods raise, all that Python lets a class define."""

    def refuse(self: object, *arguments: object, **named: object) -> Any:
        raise own_error()

    def own_error() -> BaseException:
        return RuntimeError("never ask me")

    names = (
        "bool bytes call class_getitem complex contains copy deepcopy delattr delitem dir enter "
        "eq exit float format fspath ge getattr getattribute getitem getstate gt hash index int "
        "invert iter le len length_hint lt ne neg next reduce reduce_ex repr reversed round "
        "setattr setitem setstate sizeof str"
    )
    methods = {f"__{name}__": refuse for name in names.split() if name not in spared}
    methods["__class__"] = property(refuse)
    return type("Hostile", bases, {**methods, **own})


def called(self: object, *arguments: object, **named: object) -> None:
    """Do what a callback must, and nothing else."""


@dataclass
class Collector:
    """A callback that refers to itself, and keeps all that it is shown."""

    latents: list[torch.Tensor] = field(default_factory=list)
    itself: Any = None

    def __post_init__(self) -> None:
        self.itself = self

    def __call__(self, inferencer: object, step: int, time: float, given: dict[str, Any]) -> None:
        self.latents.append(torch.zeros(100_000))


class Collected(list[Any]):
    """A callback that is a list."""

    def __call__(self, inferencer: object, step: int, time: float, given: dict[str, Any]) -> None:
        self.append(torch.zeros(100_000))


def run(**options: Any) -> InterleavedOutput:
    return ScriptedInferencer(*SCRIPT).auto_interleaved_generation("Go.", **SHORT | options)


# Callbacks.


# Made within the tests: a test's parameters are looked at, and these may not be.
CALLBACKS: dict[str, Callable[[], Any]] = {
    "Hostile": lambda: hostile(object, spared=("call",), __call__=called)(),
    "Collector": Collector,
    "Collected": Collected,
    "called": lambda: called,
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_belongs_into_a_result_by_name_only(name: str, tmp_path: Path) -> None:
    output = run(callback_on_step_end=CALLBACKS[name]())
    assert output.error is None
    assert layout(output) == ["One", "*", "Two"]
    assert output.config["callback_on_step_end"] == name
    for place in ("a.html", "b.md", "c.json", "d"):
        assert InterleavedOutput.load(output.save(tmp_path / place)).config == output.config
    assert (tmp_path / "c.json").stat().st_size < 10_000
    assert pickle.loads(pickle.dumps(output)) == copy.deepcopy(output) == output


def test_generators_and_processors_too() -> None:
    def keep(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores

    output = run(generator=torch.Generator(), logits_processor=keep)
    name = "test_generators_and_processors_too.<locals>.keep"
    assert (output.config["generator"], output.config["logits_processor"]) == ("Generator", name)


# Settings as plain values.


def endless() -> Iterator[int]:
    while True:
        yield 1


class Endless(list[int]):
    def __iter__(self) -> Iterator[int]:
        return endless()


CIRCLE: list[Any] = [1]
CIRCLE += [CIRCLE, {"again": CIRCLE}]
BOMB: list[Any] = [0]
for _ in range(60):
    BOMB = [BOMB, BOMB]


SETTINGS: dict[str, Callable[[], Any]] = {
    "object": lambda: hostile(object)(),
    "dict": lambda: hostile(dict)(),
    "list": lambda: hostile(list)((1,)),
    "frozenset": lambda: hostile(frozenset)(),
    "dataclass": lambda: dataclass(hostile(object, spared=("setattr",)))(),
    "key": lambda: {hostile(object, spared=("hash",), __hash__=lambda self: 1)(): 1},
    "endless list": Endless,
    "generator": endless,
    "circle": lambda: CIRCLE,
    "bomb": lambda: BOMB,
    "bytes": lambda: b"x" * 10**6,
    "nothing": object,
}


@pytest.mark.parametrize("case", SETTINGS)
def test_any_setting_becomes_plain_and_can_be_saved(case: str, tmp_path: Path) -> None:
    value = SETTINGS[case]()
    output = InterleavedOutput(["a"], config={"given": value})
    assert plain(output.config) == output.config
    assert InterleavedOutput.load(output.save(tmp_path / "a.json")).config == output.config
    output.config["later"] = value
    output.save(tmp_path / "a.html")
    assert len(repr(plain(value))) < 2_000_000


def test_what_is_a_number_or_a_text_within_stays_one() -> None:
    text, number, real = hostile(str)("a"), hostile(int)(5), hostile(float)(0.5)
    assert plain([text, number, real]) == ("a", 5, 0.5)
    assert [type(value) for value in plain([text, number, real])] == [str, int, float]


# Errors.


@dataclass(frozen=True)
class Frozen(Exception):  # noqa: N818
    code: int = 3


class TwoArguments(Exception):  # noqa: N818
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Wrapped(Exception):  # noqa: N818
    def __init__(self, message: str) -> None:
        super().__init__(f"wrapped {message}")


def local_error() -> Exception:
    class Local(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise Broken

    return Local("told")


class Holder(Exception):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("held")
        self.lock = (value for value in ())


ERRORS = {
    "hostile": (
        lambda: hostile(RuntimeError, spared=("getattribute",), __init__=called)("told"),
        "Hostile: told",
    ),
    "wholly hostile": (lambda: hostile(RuntimeError)("told"), "Hostile: told"),
    "frozen": (Frozen, "Frozen"),
    "frozen with words": (lambda: Frozen(7), "Frozen: 7"),
    "two arguments": (lambda: TwoArguments("a", "b"), "TwoArguments: a and b"),
    "wrapped": (lambda: Wrapped("a"), "Wrapped: wrapped a"),
    "local": (local_error, "Local: told"),
    "holder": (Holder, "Holder: held"),
}


def raising(error: BaseException) -> Any:
    def callback(*arguments: object) -> None:
        raise error

    return callback


@pytest.mark.parametrize("case", ERRORS)
def test_whatever_error_ends_a_run_what_was_made_comes_back_and_can_be_kept(
    case: str, tmp_path: Path
) -> None:
    make, words = ERRORS[case]
    error = make()
    output = run(callback_on_step_end=raising(error))
    assert output.error is error
    assert layout(output) == ["One"]
    assert output.segments[-1].error == words
    again = pickle.loads(pickle.dumps(output))
    for kept in (again, copy.deepcopy(output), copy.copy(output)):
        assert kept == output
        assert describe_error(kept.error) == words
    assert copy.copy(output).error is error
    loaded = InterleavedOutput.load(output.save(tmp_path / "a.html"))
    assert describe_error(loaded.error) == words
    output._repr_html_()


@pytest.mark.parametrize("case", ERRORS)
def test_whatever_error_is_raised_it_carries_what_was_made(case: str) -> None:
    make, words = ERRORS[case]
    error = make()
    with pytest.raises(GenerationError) as raised:
        run(callback_on_step_end=raising(error), on_error="raise")
    assert raised.value.__cause__ is error
    for kept in (raised.value, pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
        assert str(kept) == f"generation failed: {words}; what was made is in .partial"
        assert layout(kept.partial) == ["One"]
    assert layout(copy.deepcopy(raised.value).partial) == ["One"]


def test_an_error_of_a_trigger_or_a_processor_is_the_one_that_is_told() -> None:
    """A frozen error was replaced by the one that Python's context managers met over it."""
    error = Frozen(7)
    assert run(protocol=Protocol(name="own", trigger=raising(error))).error is error
    writer = toy_writer()
    assert writer.auto_interleaved_generation("Go.", logits_processor=raising(error)).error is error


def test_events_survive_a_pickle_too() -> None:
    error = local_error()
    inferencer = ScriptedInferencer(*SCRIPT)
    options = SHORT | {"callback_on_step_end": raising(error)}
    events = list(inferencer.stream("Go.", **options))
    for again in (pickle.loads(pickle.dumps(events)), copy.deepcopy(events)):
        assert [type(event) for event in again] == [type(event) for event in events]
        assert isinstance(again[-1], Finished)
        assert describe_error(again[-1].output.error) == "Local: told"


def test_an_error_that_is_read_back_keeps_its_words_through_further_pickles() -> None:
    error = pickle.loads(pickle.dumps(RecordedError("Local", "told")))
    assert (describe_error(error), message_of(error)) == ("Local: told", "Local: told")


# What the last run made.


def test_what_a_run_has_made_so_far_can_be_had_at_any_time() -> None:
    inferencer = ScriptedInferencer(says("Before"))
    inferencer.auto_interleaved_generation("Go.", max_images=0, **SHORT)
    inferencer.script = iter(SCRIPT)
    stream = inferencer.stream("Go.", **SHORT)
    assert inferencer.last_output is None  # and not what the run before it made
    for event in stream:
        made = inferencer.last_output
        assert made is not None
        assert isinstance(event, Finished) or made.finish_reason == "interrupted"
    assert made == inferencer.last_output == event.output


def test_a_stream_that_is_closed_late_does_not_hide_the_run_after_it() -> None:
    inferencer = ScriptedInferencer(*SCRIPT)
    stream = inferencer.stream("Go.", **SHORT)
    next(stream)
    inferencer.script = iter([says("After")])
    output = inferencer.auto_interleaved_generation("Go.", max_images=0, **SHORT)
    stream.close()
    assert inferencer.last_output is output


def test_a_story_of_its_own_kind_of_text_is_plain_text() -> None:
    segment = story().segments[0]
    made = type(segment)(kind="text", role="generated", text=hostile(str)("told"))
    assert type(made.text) is str
    assert InterleavedOutput.from_segments([made], finish_reason="stop") == ["told"]
