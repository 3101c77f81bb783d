"""What the host does for a token and a step: counted, so that it cannot grow unseen."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from benchmarks import host_work
from benchmarks.fake_devices import UnavailableError, fake_devices
from benchmarks.host_work import PUBLISHED, TEXTS, Count, fake_model, measure, narrow_model
from benchmarks.watch import Watch
from modeling.decoding import RUN_LENGTH

LAYERS = 28  # of the 7B

# Launches and waits for one token or one step of the 7B, no more of them.
BOUNDS = {
    "a token": Count(launches=812, recorded=0, waits=1 / RUN_LENGTH),
    "a token, recorded": Count(launches=14, recorded=803, waits=1 / RUN_LENGTH),
    f"a token of {TEXTS} texts together": Count(launches=140, recorded=0, waits=1 / TEXTS),
    "a guided step": Count(launches=1622, recorded=0, waits=0),
    "a guided step, recorded": Count(launches=8, recorded=1616, waits=0),
    "a guided step of 2 pictures together": Count(launches=1647, recorded=0, waits=0),
}
# Functions that Python calls, PyTorch's own included, with a little room for other versions.
PYTHON_CALLS = {"a token": 6200, "a token, recorded": 185, "a guided step, recorded": 42}


@cache
def counts(layers: int) -> dict[str, Count]:
    try:
        with fake_devices():
            return measure(fake_model(layers, side=512))
    except UnavailableError as error:
        pytest.skip(str(error))


@cache
def python_work(layers: int) -> dict[str, tuple[float, float]]:
    return host_work.python_work(narrow_model(layers), PYTHON_CALLS)


def at_28_layers(at: Callable[[int], float]) -> float:
    """Carry on a count, of which each layer adds as much as the one before."""
    return at(1) + (LAYERS - 1) * (at(2) - at(1))


@pytest.mark.parametrize("name", BOUNDS)
def test_launches_and_waits_do_not_grow(name: str) -> None:
    bound = BOUNDS[name]
    assert at_28_layers(lambda layers: counts(layers)[name].launches) <= bound.launches
    assert at_28_layers(lambda layers: counts(layers)[name].recorded) <= bound.recorded
    assert counts(2)[name].waits <= bound.waits


def test_a_token_takes_less_of_the_host_than_in_the_published_code() -> None:
    launches, waits = PUBLISHED
    assert BOUNDS["a token"].launches < launches / 2
    assert BOUNDS["a token"].waits < waits / 1000
    assert BOUNDS["a token, recorded"].launches < launches / 100


@pytest.mark.parametrize("name", PYTHON_CALLS)
def test_pythons_part_does_not_grow(name: str) -> None:
    assert at_28_layers(lambda layers: python_work(layers)[name][0]) <= PYTHON_CALLS[name]
    assert python_work(2)[name][1] <= 8, "what a token or a step leaves behind in memory"


def test_a_look_at_a_value_and_a_copy_are_told_with_their_place() -> None:
    try:
        with fake_devices(), Watch() as watch:
            row = torch.ones(4, device="cuda:0")
            row[0] = 2
            assert row.sum().item() == 1.0, "a fake tensor's value is made up"
            row.cpu()
            torch.ones(2).to("cuda:0", non_blocking=True)
    except UnavailableError as error:
        pytest.skip(str(error))
    crossings = [(c.source, c.target, c.nbytes, c.waits) for c in watch.crossings]
    into, out = ("cpu", "cuda"), ("cuda", "cpu")
    assert crossings == [(*out, 4, True), (*out, 16, True), (*into, 8, False)]
    assert watch.started["sum"] == 1
    assert "select.int" not in watch.started, "a view starts nothing"
