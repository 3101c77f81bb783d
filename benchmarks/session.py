"""Twenty turns of edits: what a turn takes as the talk grows, beside everything read again.

python -m benchmarks.session --model bundled

"Session" is one session; in each turn a picture is drawn on request and a text is written. "Length
alone" is the same turn over contexts of the same lengths that nothing was ever read into: what is
left to grow is attention, which a longer context takes by itself. "All again" gives the whole talk
as one prompt of chat messages, as is done without sessions. "Tokens" are those that entered the
decoder.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from auto_interleaved.drivers.direct import Direct
from auto_interleaved.options.generation import make_options
from auto_interleaved.run.engine import Run
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.setting import Setting
from auto_interleaved.run.standing import Standing
from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.contexts import filled
from benchmarks.models import build
from benchmarks.table import head, judge, parser, seconds, show
from data.prompts import parse_prompt
from modeling.context import Context

FIRST = "A red circle at the top left, by the blue sea."
EDITS = (
    "Add a blue square at the bottom right.",
    "Make the square green.",
    "Put it on a green meadow.",
    "Turn the green square into a green star.",
    "Move the star to the bottom left.",
    "Remove the star.",
)
DRAW = "<|vision_start|>"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One turn.

    Attributes:
        length: tokens of the context that it began with.
        tokens: that entered the decoder.
        session, alone, again: seconds in the three ways.
    """

    length: int
    tokens: int
    session: float
    alone: float
    again: float


def messages(count: int) -> list[str]:
    """Return what is said: a picture, then one edit after another."""
    return [FIRST + DRAW, *(EDITS[turn % len(EDITS)] + DRAW for turn in range(count - 1))]


@contextmanager
def counted(inferencer: AutoInterleavedInferencer) -> Iterator[list[int]]:
    """Note down how many tokens enter the decoder at each call."""
    counts: list[int] = []

    def count(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        del layer
        counts.append(sum(len(part) for part in arguments[:2] if part is not None))

    hook = inferencer.model.language_model.model.layers[0].register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def over_length_alone(
    inferencer: AutoInterleavedInferencer, start: Standing, message: str, options: dict[str, Any]
) -> None:
    """Take a turn over contexts that are as long as others, filled with random numbers."""
    given = make_options(options)
    setting = Setting(
        options=given,
        protocol=inferencer.protocol,
        image_shape=inferencer.image_shape,
        progress={"disable": True},
    )
    run = Run(inferencer, setting, RunRecord({}), start)
    deque(Direct(inferencer).drive(run.work(parse_prompt(message))), maxlen=0)


def filled_like(inferencer: AutoInterleavedInferencer, start: Standing) -> Standing:
    """Return contexts of the same lengths over stores that are shared alike."""
    contexts = start.contexts
    if contexts is None:
        return start
    longest = {
        store: max(context.length for context in contexts.each if context.store is store)
        for store in {context.store for context in contexts.each}
    }
    stores = {store: filled(inferencer.model, length) for store, length in longest.items()}
    each = [Context(stores[c.store].store, c.length, c.position) for c in contexts.each]
    return Standing.of(contexts.replaced(each, {}), start.input_size)


def measure(
    inferencer: AutoInterleavedInferencer, said: Sequence[str], options: dict[str, Any]
) -> list[Measured]:
    """Have the talk once, in all ways."""
    session = inferencer.start_session(**options)
    turns: list[Measured] = []
    chat: list[dict[str, Any]] = []
    for message in said:
        chat.append({"role": "user", "content": message.removesuffix(DRAW)})
        prompt = [*chat[:-1], {"role": "user", "content": message}]
        again = seconds(partial(inferencer.auto_interleaved_generation, prompt, **options))
        start, length = filled_like(inferencer, session.standing), session.num_tokens
        alone = seconds(partial(over_length_alone, inferencer, start, message, options))
        del start
        with counted(inferencer) as counts:
            passed = seconds(partial(session.send, message))
        chat.append({"role": "assistant", "content": session.history[-1].output})
        turns.append(
            Measured(length=length, tokens=sum(counts), session=passed, alone=alone, again=again)
        )
    return turns


def middle(talks: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Return each turn with the median of its seconds."""
    return [
        Measured(
            length=same[0].length,
            tokens=same[0].tokens,
            session=statistics.median(turn.session for turn in same),
            alone=statistics.median(turn.alone for turn in same),
            again=statistics.median(turn.again for turn in same),
        )
        for same in zip(*talks, strict=True)
    ]


def main() -> None:
    """Print the table."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--turns", type=int, default=20, help="default: %(default)s")
    command_line.add_argument("--timesteps", type=int, default=25, help="default: %(default)s")
    arguments = command_line.parse_args()
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    options = {
        "seed": 0,
        "num_timesteps": arguments.timesteps,
        "max_interleaved_blocks": 1,
        "max_text_length": 4,
        "on_error": "raise",
    }
    measure(inferencer, messages(2), options)  # warms up
    talks = [
        measure(inferencer, messages(arguments.turns), options) for _ in range(arguments.repeats)
    ]
    turns = middle(talks)
    show(
        f"{head(f'Session, {arguments.model}', arguments.device, arguments.dtype)}\n"
        f"A picture of {arguments.timesteps - 1} steps and a text of at most 4 tokens a turn, "
        f"default guidance; median of {arguments.repeats}; seconds:\n",
        ("turn", "context", "tokens", "session", "length alone", "all again", "again / session"),
        [
            (n, t.length, t.tokens, t.session, t.alone, t.again, t.again / t.session)
            for n, t in enumerate(turns, start=1)
        ],
    )
    late = turns[len(turns) // 2 :]
    beyond = statistics.median(turn.session / turn.alone for turn in late)
    print(judge("a late turn over its length alone", beyond, most=1.1))


if __name__ == "__main__":
    main()
