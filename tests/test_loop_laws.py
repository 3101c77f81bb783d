"""Laws of the loop over whatever a model may say: the right pieces, each computed once."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from data.output.events import ImageDone, TextDelta
from tests.builders import BOS, EOS, START
from tests.scripted import (
    SILENCE,
    Said,
    ScriptedInferencer,
    counted,
    encoded,
    events_of,
    frame,
    layout,
)

IMAGE = 2 + 4  # tokens of an image in either kind of block
PROMPT = "ab"
ALPHABET = "abc"  # one token a letter

endings = st.sampled_from([(START, SILENCE), (EOS, START), (EOS, BOS), (EOS, SILENCE)])
texts = st.tuples(st.text(ALPHABET, max_size=4), endings)


@dataclass
class Expected:
    """What a run should come to, worked out from its script alone."""

    items: list[str]
    reason: str
    texts: list[str]  # as they were written
    seen: int  # images read
    tokens: int


def worked_out(script: list[Any], rounds: int, limit: int, max_images: int) -> Expected:
    items: list[str] = []
    written: list[str] = []
    drawn = seen = 0
    tokens = len(frame(encoded(PROMPT)))
    pending = False
    for text, (ended_by, then) in script[:rounds]:
        if pending:
            seen, pending, tokens = seen + 1, False, tokens + 2 * IMAGE
        cut = len(text) >= limit
        text = text[:limit]
        written.append(text)
        tokens += (len(text) + 2) * (2 if seen else 1)  # again for the context without images
        if text and items and items[-1] != "*":
            items[-1] += "\n" + text
        elif text:
            items.append(text)
        if cut:
            return Expected(items, "length", written, seen, tokens)
        if START in (ended_by, then):
            if drawn == max_images:
                return Expected(items, "max_images", written, seen, tokens)
            items.append("*")
            drawn, pending, tokens = drawn + 1, True, tokens + IMAGE * (3 if seen else 2)
        elif then != BOS:
            reason = "stop" if drawn else "no_image"
            return Expected(items, reason, written, seen, tokens)
    return Expected(items, "max_blocks", written, seen, tokens)


@settings(deadline=None, database=None, derandomize=True, max_examples=40)
@given(
    script=st.lists(texts, min_size=4, max_size=4),
    rounds=st.integers(1, 4),
    limit=st.integers(1, 5),
    max_images=st.integers(1, 3),
)
def test_whatever_is_said_becomes_the_right_pieces_and_is_computed_once(
    script: list[Any], rounds: int, limit: int, max_images: int
) -> None:
    said = [Said((*encoded(text), ended_by), then) for text, (ended_by, then) in script]
    inferencer = ScriptedInferencer(*said)
    with counted(inferencer.model) as counts:
        events, output = events_of(
            inferencer,
            PROMPT,
            max_interleaved_blocks=rounds,
            max_text_length=limit,
            max_images=max_images,
            num_timesteps=2,
        )
    expected = worked_out(script, rounds, limit, max_images)
    assert layout(output) == expected.items
    assert output.finish_reason == expected.reason
    assert output.usage.image_tokens == expected.seen * 2 * IMAGE
    assert counts["tokens"] == expected.tokens
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == output.text
    assert [e.image for e in events if isinstance(e, ImageDone)] == output.images
    written = [s for s in output.segments if (s.kind, s.role) == ("text", "generated")]
    assert [segment.token_ids for segment in written] == [encoded(text) for text in expected.texts]
