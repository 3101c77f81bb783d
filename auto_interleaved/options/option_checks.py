"""Checks of single options: what a value may be, and the message where it is something else.

Those that any argument may need are in `modeling.checks`.
"""

from __future__ import annotations

from typing import Any

import torch

from auto_interleaved.options.seeds import ANY_SEED, MAX_SEED, RandomState, Seed, any_seed
from data.callables import unfit
from data.output.segments import require_one_of
from data.wording import require_whole
from modeling.checks import Check, instance, integer, out_of_range, wrong_type


def choice(*allowed: str) -> Check:
    """Return a check for one of several words."""
    word = instance(str, f"one of {', '.join(allowed)}")

    def check(name: str, value: Any) -> str:
        require_one_of(name, word(name, value), allowed)
        return value

    return check


def function(count: int, hint: str) -> Check:
    """Return a check for what can be called with so many arguments; the hint tells with which."""

    def check(name: str, value: Any) -> Any:
        if not callable(value):
            raise wrong_type(name, "callable", value, hint)
        # A list of processors is called with what its members take; they are what may be wrong.
        for place, entry in enumerate(value if issubclass(type(value), list) else [value]):
            reason = unfit(entry, count) if callable(entry) else "it cannot be called"
            if reason is not None:
                label = name if entry is value else f"{name}[{place}]"
                raise wrong_type(label, f"callable with {count} arguments", entry, reason)
        return value

    return check


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Check for any number of strings, none of them empty; a single one may stand alone."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise wrong_type(name, "a string or a tuple of strings", value)
    for place, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong_type(f"{name}[{place}]", "a string", item)
        if not item:
            raise ValueError(
                f"{name}[{place}] must not be empty, got ''; an empty string is in every text"
            )
        require_whole(item, f"{name}[{place}]")
    return tuple(value)


def seed(name: str, value: Any) -> Seed:
    """Check for a seed or the state of a generator; one is drawn where any will do."""
    hint = f"{ANY_SEED} is any seed, and output.seed repeats the run of an output"
    if isinstance(value, str) and value.startswith("state:"):
        try:
            RandomState.parse(value)
        except ValueError as error:
            raise out_of_range(name, "the whole of what output.seed gave", value, hint) from error
        return value
    number = integer(hint=hint)(name, value)
    if not (number == ANY_SEED or 0 <= number <= MAX_SEED):
        raise out_of_range(name, "from 0 to 2**64 - 1", value, hint)
    return any_seed() if number == ANY_SEED else number


def word_or(word: str, check: Check) -> Check:
    """Return a check that lets one word pass too."""
    return lambda name, value: (
        word if isinstance(value, str) and value == word else check(name, value)
    )


def cpu_generator(name: str, value: Any) -> torch.Generator:
    """Check for a generator on the CPU, where noise is drawn as published on every machine."""
    if not isinstance(value, torch.Generator):
        raise wrong_type(name, "a torch.Generator", value, "for a number use seed")
    if value.device.type != "cpu":
        raise ValueError(
            f"{name} must be on the CPU, where noise is drawn whatever the model's device is, "
            f'got one on {value.device}; make it with torch.Generator("cpu")'
        )
    return value
