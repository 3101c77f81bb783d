"""One run in several processes: the numbers of one process, and nobody waits for who is gone.

Most tests let threads stand for processes, which talk in lockstep; at the end real processes talk
by gloo.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from auto_interleaved_inference import AutoInterleavedInferencer, main
from data.output import InterleavedOutput
from data.output.events import Finished, ImagePreview, ImageStep
from tests.builders import picture
from tests.command_lines import SHORT_FLAGS, drawing_checkpoint
from tests.scripted import SHORT, counted, layout, pixels, toy_writer

PROMPT: list[Any] = [picture(24, 16), "Look.", "What now?"]
ASKED = "One.<|vision_start|>Two.<|vision_start|>"
OPTIONS: dict[str, Any] = SHORT | {
    "protocol": "every-block",
    "max_text_length": 6,
    "max_interleaved_blocks": 1,
    "seed": 5,
}
Run = Callable[[AutoInterleavedInferencer], Any]


class Circle:
    """Threads that stand for processes: each says a word, then all know all words."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=20)
        self.messages = [b""] * size

    def exchange(self, rank: int, message: bytes) -> list[bytes]:
        try:
            self.messages[rank] = message
            self._barrier.wait()
            heard = list(self.messages)
            self._barrier.wait()
        except threading.BrokenBarrierError as error:
            raise ConnectionError("nobody came") from error
        return heard


class Member:
    def __init__(self, circle: Circle, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._circle = circle
        self.words = 0
        self.interrupt_at = 0  # the word whose answer a Ctrl-C keeps from arriving
        self._jobs = ThreadPoolExecutor(1)

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        future, self.interrupt_at = self._jobs.submit(job), self.interrupt_at - 1
        if self.interrupt_at == 0:
            raise KeyboardInterrupt
        return future

    def exchange(self, message: bytes) -> list[bytes]:
        self.words += 1
        return self._circle.exchange(self.rank, message)


def members(size: int) -> list[AutoInterleavedInferencer]:
    """Return the inferencers of so many processes."""
    circle, inferencers = Circle(size), [toy_writer() for _ in range(size)]
    for rank, inferencer in enumerate(inferencers):
        inferencer._peers = Member(circle, rank, size)
    return inferencers


def each(inferencers: list[AutoInterleavedInferencer], *runs: Run) -> list[Any]:
    """Do something in all processes at once; one thing for all, or one for each."""
    runs = runs * len(inferencers) if len(runs) == 1 else runs
    with ThreadPoolExecutor(len(inferencers)) as threads:
        futures = [threads.submit(run, one) for run, one in zip(runs, inferencers, strict=True)]
        return [future.result(30) for future in futures]


def told(inferencer: AutoInterleavedInferencer, **options: Any) -> InterleavedOutput:
    return inferencer.auto_interleaved_generation(PROMPT, **OPTIONS | options)


def spread(size: int, **options: Any) -> list[InterleavedOutput]:
    return each(members(size), partial(told, **options))


def assert_equal(one: InterleavedOutput, other: InterleavedOutput) -> None:
    """Everything that was made is equal, bit for bit."""
    assert one.error is other.error is None
    assert layout(one) == layout(other)
    assert [s.token_ids for s in one.segments] == [s.token_ids for s in other.segments]
    assert pixels(one) == pixels(other)
    assert (one.finish_reason, one.seed, one.seeds) == (
        other.finish_reason,
        other.seed,
        other.seeds,
    )


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, branches of a small image are rows of one forward, which sums in another order.

    Without that each branch is the same computation wherever it is done.
    """
    monkeypatch.setattr("modeling.bagel.drawing._PACKED_TOKENS_ON_CPU", 0)


VARIATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "guidance at some times": {"cfg_interval": (0.5, 0.9), "num_timesteps": 6},
    "renormed by channel": {"cfg_renorm_type": "text_channel"},
    "no guidance": {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0},
    "text guidance alone": {"cfg_img_scale": 1.0},
    "TaylorSeer": {"enable_taylorseer": True, "num_timesteps": 9},
    "TaylorSeer, guidance later": {
        "enable_taylorseer": True,
        "num_timesteps": 12,
        "cfg_interval": (0.2, 0.95),
    },
    "pixels fed back": {"image_feedback": "pixels"},
    "older images forgotten": {"image_memory": "text"},
    "sampled": {"do_sample": True, "text_temperature": 2.0},
    "text alone": {"max_images": 0},
    "candidates": {"num_candidates": 2},
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_process_makes_what_one_makes_alone(name: str) -> None:
    options = {"max_interleaved_blocks": 2} | VARIATIONS[name]
    alone, size = told(toy_writer(), **options), 2 + list(VARIATIONS).index(name) % 3
    for output in spread(size, **options):
        assert_equal(output, alone)


def test_images_that_need_not_see_one_another_are_those_of_one_process() -> None:
    def run(inferencer: AutoInterleavedInferencer) -> InterleavedOutput:
        options = OPTIONS | {"independent_images": True, "num_candidates": 2}
        return inferencer.auto_interleaved_generation(ASKED, **options)

    for output in each(members(2), run):
        assert_equal(output, run(toy_writer()))


def test_packed_branches_differ_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling.bagel.drawing._PACKED_TOKENS_ON_CPU", 64)
    alone, (output, _) = told(toy_writer()), spread(2)
    assert layout(output) == layout(alone)
    for ours, theirs in zip(pixels(output), pixels(alone), strict=True):
        # Levels are truncated: one that lies on a border may fall on either side.
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1


@pytest.mark.parametrize(("prompt", "branches"), [(PROMPT, 3), ("Go.", 2)])
def test_each_branch_is_computed_by_one_process_alone(prompt: Any, branches: int) -> None:
    """Without a picture before it an image has two branches; others of four processes rest."""

    def once(inferencer: AutoInterleavedInferencer) -> None:
        options = OPTIONS | {"cfg_interval": (0.0, 1.0)}
        inferencer.auto_interleaved_generation(prompt, **options)

    inferencers = members(4)
    with counted(inferencers[0].model) as alone:
        once(toy_writer())
    with counted(inferencers[0].model) as together:
        each(inferencers, once)
    drawn = branches * (OPTIONS["num_timesteps"] - 1)
    assert together["image rows"] - drawn == 4 * (alone["image rows"] - drawn), "all read alike"


# Randomness.


@pytest.mark.parametrize("seeds", [(-1, -1), (7, None), (None, 7), (None, None), (3, 4)])
def test_all_draw_what_the_main_process_draws(seeds: tuple[int | None, int | None]) -> None:
    given = [
        {"seed": seed, "generator": torch.Generator().manual_seed(rank) if seed is None else None}
        for rank, seed in enumerate(seeds)
    ]
    first, second = each(members(2), *(partial(told, **one, do_sample=True) for one in given))
    assert_equal(first, second)
    if seeds[0] not in (None, -1):
        assert first.seed == seeds[0]
    assert_equal(told(toy_writer(), seed=first.seed, do_sample=True), first)


def test_without_a_seed_the_main_process_draws_as_it_does_alone() -> None:
    torch.manual_seed(3)
    alone = [told(toy_writer(), seed=None) for _ in range(2)]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 8)]
    inferencers = members(2)
    for single in alone:  # also the second run: the generators go on
        outputs = each(
            inferencers, *(partial(told, seed=None, generator=one) for one in generators)
        )
        assert pixels(outputs[0]) == pixels(outputs[1]) == pixels(single)


# What callers do at a step.


def brighter(_: Any, step: int, time: float, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"latents": kwargs["latents"] * 1.1}


def in_place(_: Any, step: int, time: float, kwargs: dict[str, Any]) -> None:
    kwargs["latents"].mul_(1.1)


@pytest.mark.parametrize("callback", [brighter, in_place])
def test_a_callback_that_all_have_changes_what_it_changes_alone(callback: Any) -> None:
    alone = told(toy_writer(), callback_on_step_end=callback)
    assert pixels(alone) != pixels(told(toy_writer()))
    for output in spread(3, callback_on_step_end=callback):
        assert_equal(output, alone)


@pytest.mark.parametrize("callback", [brighter, in_place])
def test_a_callback_that_one_alone_has_is_found(callback: Any) -> None:
    outputs = each(members(2), told, partial(told, callback_on_step_end=callback))
    for output in outputs:
        assert "has come apart from process 0" in str(output.error)


def test_candidates_that_are_chosen_otherwise_are_found() -> None:
    runs = [
        partial(told, num_candidates=2, max_interleaved_blocks=2, choose=choose)
        for choose in (lambda images, text: 0, lambda images, text: 1)
    ]
    for output in each(members(2), *runs):
        assert "come apart" in str(output.error)


def test_previews_are_those_of_who_wants_them() -> None:
    def shown(inferencer: AutoInterleavedInferencer, every: int) -> list[Any]:
        return list(inferencer.stream(PROMPT, **OPTIONS, preview_every=every))

    alone = shown(toy_writer(), 1)
    main, other = each(members(2), partial(shown, every=1), partial(shown, every=0))
    previews = [event.image.tobytes() for event in alone if isinstance(event, ImagePreview)]
    assert previews == [e.image.tobytes() for e in main if isinstance(e, ImagePreview)]
    assert not any(isinstance(event, ImagePreview) for event in other)
    assert pixels(other[-1].output) == pixels(main[-1].output)


# Failures.


def failing(*_: Any) -> None:
    raise ValueError("my own callback\nin two lines")


@pytest.mark.parametrize("size", [2, 3])
def test_a_failure_of_one_ends_the_run_of_all(size: int) -> None:
    runs = [told] * (size - 1) + [partial(told, callback_on_step_end=failing)]
    *others, own = each(members(size), *runs)
    assert isinstance(own.error, ValueError)
    for output in others:
        assert output.finish_reason == "error"
        assert f"process {size - 1} of {size}" in str(output.error)
        assert "ValueError: my own callback in two lines" in str(output.error)
        assert output.text, "what was made is kept"


def test_after_a_failure_the_next_run_is_as_ever() -> None:
    inferencers = members(2)
    each(inferencers, told, partial(told, callback_on_step_end=failing))
    for output in each(inferencers, told):
        assert_equal(output, told(toy_writer()))


def test_a_failure_after_the_last_step_of_another_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(inferencer: AutoInterleavedInferencer) -> InterleavedOutput:
        def decode(*_: Any) -> Any:
            raise MemoryError("no picture")

        inferencer.decode_image = decode
        return told(inferencer)

    main, other = each(members(2), told, broken)
    assert isinstance(other.error, MemoryError)
    assert_equal(main, told(toy_writer()))
    assert "process 1 of 2, which computes guidance branches, failed (MemoryError" in caplog.text


def test_nan_is_said_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(_: Any, step: int, time: float, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": kwargs["latents"] * torch.nan}

    for output in spread(2, callback_on_step_end=spoil):
        assert "nan or inf in what callback_on_step_end returned at step 0" in str(output.error)


@pytest.mark.parametrize("prompts", [("Go.", "Stay."), ("Go.", "Go. <|vision_start|>")])
def test_processes_with_different_prompts_are_told_so(prompts: tuple[str, str]) -> None:
    def prompted(inferencer: AutoInterleavedInferencer, prompt: str) -> InterleavedOutput:
        return inferencer.auto_interleaved_generation(prompt, **OPTIONS)

    runs = [partial(prompted, prompt=prompt) for prompt in prompts]
    for output in each(members(2), *runs):
        assert "give all of them the same model, prompt, options" in str(output.error)


def test_a_refused_prompt_is_refused_alike_before_anybody_waits() -> None:
    def refused(inferencer: AutoInterleavedInferencer) -> None:
        with pytest.raises(ValueError, match="num_timesteps"):
            told(inferencer, num_timesteps=1)
        assert inferencer._peers is not None
        assert inferencer._peers.words == 0

    each(members(2), refused)


def test_a_prompt_that_one_alone_refuses_is_refused_to_all() -> None:
    """Whatever one process can tell only when all have begun."""

    def refused(inferencer: AutoInterleavedInferencer) -> None:
        with pytest.raises(ValueError, match="max_context_memory must be at least"):
            told(inferencer, max_context_memory=1)

    inferencers = members(2)
    output, _ = each(inferencers, told, refused)
    assert "process 1 of 2" in str(output.error)
    assert "max_context_memory must be at least" in str(output.error)
    each(inferencers, refused)
    for again in each(inferencers, told):
        assert_equal(again, told(toy_writer()))


@pytest.mark.parametrize("who", [0, 1])
def test_a_stream_that_one_closes_ends_for_all(who: int) -> None:
    def closed(inferencer: AutoInterleavedInferencer) -> None:
        for event in (events := inferencer.stream(PROMPT, **OPTIONS)):
            if isinstance(event, ImageStep):
                events.close()

    runs: list[Run] = [told, told]
    runs[who] = closed
    inferencers = members(2)
    output = each(inferencers, *runs)[1 - who]
    assert f"process {who} of 2" in str(output.error)
    assert "was closed" in str(output.error)
    for again in each(inferencers, told):
        assert_equal(again, told(toy_writer()))


def test_ctrl_c_in_all_of_them_leaves_no_word_behind() -> None:
    """One waits for the others when it comes; the other one computes, and says so instead."""

    def waiting(inferencer: AutoInterleavedInferencer) -> None:
        inferencer._peers.interrupt_at = 3  # the beginning, a step, another step
        with pytest.raises(KeyboardInterrupt):
            told(inferencer)

    def computing(inferencer: AutoInterleavedInferencer) -> None:
        events = inferencer.stream(PROMPT, **OPTIONS)
        while not isinstance(next(events), ImageStep):
            pass
        with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt())

    inferencers = members(2)
    each(inferencers, waiting, computing)
    for inferencer in inferencers:
        assert inferencer.last_output is not None
        assert inferencer.last_output.finish_reason == "interrupted"
    for output in each(inferencers, told):
        assert_equal(output, told(toy_writer()))


def test_who_looks_no_further_than_the_last_event_keeps_nobody_waiting() -> None:
    kept: list[Any] = []

    def watched(inferencer: AutoInterleavedInferencer) -> InterleavedOutput:
        kept.append(inferencer.stream(PROMPT, **OPTIONS))
        return next(event.output for event in kept[-1] if isinstance(event, Finished))

    main, other = each(members(2), watched, told)
    assert_equal(main, other)


# Processes.


def child(rank: int, size: int, folder: Path, act: Callable[..., Any], results: Connection) -> None:
    """Do something as one of several processes, and send what it returns."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    inferencer = toy_writer()
    inferencer.spread_guidance(timeout=20)
    results.send(act(inferencer))


def in_processes(size: int, folder: Path, act: Callable[..., Any], start: Any = child) -> list[Any]:
    """Do something in forked processes; None is from one that did not live to return anything."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(size)]
    processes = [
        fork.Process(target=start, args=(rank, size, folder, act, sender))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    try:
        return [_received(receiver) for receiver, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(results: Connection) -> Any:
    assert results.poll(60), "a process hangs"
    try:
        return results.recv()
    except EOFError:
        return None


forking = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or not distributed.is_available(),
    reason="processes start within the time of a test only where they are forked",
)


def made(inferencer: AutoInterleavedInferencer, **options: Any) -> tuple[Any, ...]:
    output = told(inferencer, **options)
    facts = layout(output), pixels(output), output.seed, str(output.error)
    return inferencer.is_main, *facts


@forking
@pytest.mark.parametrize("size", [2, 3])
def test_real_processes_make_what_one_makes_alone(size: int, tmp_path: Path) -> None:
    alone = told(toy_writer())
    facts = (layout(alone), pixels(alone), 5, "None")
    results = in_processes(size, tmp_path, made)
    assert results == [(rank == 0, *facts) for rank in range(size)]


@forking
def test_real_processes_without_a_seed_agree_and_go_on_drawing(tmp_path: Path) -> None:
    def twice(inferencer: AutoInterleavedInferencer) -> list[Any]:
        torch.manual_seed(os.getpid())
        return [made(inferencer, seed=None, do_sample=True)[1:] for _ in range(2)]

    main, other = in_processes(2, tmp_path, twice)
    assert main == other
    assert main[0] != main[1]


@forking
def test_a_process_that_is_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    def killed(inferencer: AutoInterleavedInferencer) -> tuple[Any, ...]:
        def kill(*_: Any) -> None:
            if not inferencer.is_main:
                os.kill(os.getpid(), signal.SIGKILL)

        return made(inferencer, callback_on_step_end=kill)

    main, other = in_processes(2, tmp_path, killed)
    assert other is None
    assert main[1], "what was made is kept"
    assert "another process of this run has ended" in main[-1]


@forking
def test_a_process_that_does_not_come_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    def late(inferencer: AutoInterleavedInferencer) -> list[str]:
        inferencer.spread_guidance(timeout=1)
        errors = []
        for _ in range(2 * inferencer.is_main):  # the second time at once
            with pytest.raises(ConnectionError) as caught:
                told(inferencer)
            errors.append(str(caught.value))
        distributed.barrier()
        return errors

    (first, second), nothing = in_processes(2, tmp_path, late)
    assert first == second
    assert "did not come to the same step within 1 s" in first
    assert nothing == []


# The command line.


def command(
    rank: int, size: int, folder: Path, act: Callable[..., Any], results: Connection
) -> None:
    """Run a command line as a launcher starts it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in place.items()})
    results.send(act(rank))


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


@forking
def test_the_command_line_shows_and_saves_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = drawing_checkpoint(tmp_path / "model")
    port = free_port()

    def run(rank: int) -> tuple[int, bool]:
        os.environ.update({"MASTER_ADDR": "localhost", "MASTER_PORT": port})
        output = tmp_path / f"{rank}.json"
        words = ["A fox.", "--model", model, "--device", "cpu", "--output", str(output)]
        return main([*words, *SHORT_FLAGS, "--spread-guidance"]), output.exists()

    assert in_processes(2, tmp_path, run, command) == [(0, True), (0, False)]
    shown = capfd.readouterr()
    assert shown.err.count("saved") == 1
    words = ["A fox.", "--model", model, "--device", "cpu", "--output", f"{tmp_path}/alone.json"]
    assert main([*words, *SHORT_FLAGS]) == 0
    assert capfd.readouterr().out == shown.out
    spread_out, alone = (InterleavedOutput.load(tmp_path / f"{name}.json") for name in (0, "alone"))
    assert pixels(spread_out) == pixels(alone)


def test_the_command_line_needs_a_launcher_and_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["A fox.", "--spread-guidance"]) == 2
    assert "start them so: torchrun --nproc-per-node 3" in capsys.readouterr().err


@forking
@pytest.mark.parametrize(
    ("told_by_launcher", "words"),
    [
        ({}, "environment variable MASTER_ADDR expected"),
        ({"MASTER_ADDR": "localhost"}, "--spread-guidance: another process of this run has ended"),
    ],
)
def test_the_command_line_says_that_nobody_else_came(
    told_by_launcher: dict[str, str],
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing says where the others are; or one is there, and ends before its run begins."""
    model = drawing_checkpoint(tmp_path / "model")
    environment = told_by_launcher | {"MASTER_PORT": free_port()}

    def run(rank: int) -> int:
        os.environ.update(environment)
        if rank == 1:
            if told_by_launcher:
                toy_writer().spread_guidance()
            return 0
        return main(["A fox.", "--model", model, "--device", "cpu", "--spread-guidance"])

    assert in_processes(2, tmp_path, run, command) == [2, 0]
    assert words in capfd.readouterr().err


def test_guidance_is_spread_among_several_processes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    inferencer = toy_writer()
    with pytest.raises(RuntimeError, match="among several processes; start this script"):
        inferencer.spread_guidance()
    assert inferencer.is_main
    assert_equal(told(inferencer), told(toy_writer()))


@forking
def test_a_group_may_be_a_part_of_all_processes_and_others_are_refused(tmp_path: Path) -> None:
    def act(inferencer: AutoInterleavedInferencer) -> Any:
        group = distributed.new_group([0, 2])
        try:
            inferencer.spread_guidance(group=group)
        except TypeError as error:
            return str(error)
        return made(inferencer)

    main, refused, other = in_processes(3, tmp_path, act)
    assert main[0]
    assert not other[0]
    assert main[1:] == other[1:]
    assert "a process group of torch.distributed that this process is in" in refused


def test_a_batch_is_not_spread_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    inferencer = members(2)[0]  # the other one does not come
    (output,) = inferencer.generate_batch([PROMPT], **OPTIONS)
    assert_equal(output, told(toy_writer()))
    assert "spread_guidance has no effect on many prompts" in caplog.text


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), 1e300, "5", None, True])
def test_a_timeout_is_some_seconds(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout must be a"):
        toy_writer().spread_guidance(timeout=timeout)
