"""What clients are told of a plan, however its text comes in pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auto_interleaved.serving.plans import TaglessPlan
from data.output.captions import without_tags

CHARACTERS = st.sampled_from(["a", " ", "\n", "<", ">", "/", "think", "<think>", "</think>"])


def told(written: str, cuts: list[int]) -> list[str]:
    plan = TaglessPlan()
    ends = [0, *sorted(cut % (len(written) + 1) for cut in cuts), len(written)]
    return [*(plan.more(written[start:end]) for start, end in pairwise(ends)), plan.rest()]


@example(words=["</", "</think>", "a"], cuts=[7, 10])
@given(words=st.lists(CHARACTERS), cuts=st.lists(st.integers(0, 1000), max_size=5))
def test_all_pieces_together_are_the_plan_without_tags(words: list[str], cuts: list[int]) -> None:
    written = "".join(words)
    assert "".join(told(written, cuts)) == without_tags(written)


def test_nothing_of_a_tag_is_told_while_it_is_being_written() -> None:
    written = "<think>First a < b, then c.</think>"
    pieces = told(written, list(range(len(written))))
    assert "".join(pieces) == "First a < b, then c."
    assert pieces[-1] == "", "a tag that is whole holds nothing back"


@pytest.mark.parametrize("written", ["<think>A house", "A house</thi", "<thi", ""])
def test_a_plan_that_was_cut_off_is_told_to_its_end(written: str) -> None:
    assert "".join(told(written, list(range(len(written))))) == without_tags(written)
