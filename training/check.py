"""Reads training data as `train.py` would, and tells what is in it, before anything is trained.

python -m training.check stories/ --checkpoint BAGEL-7B-MoT

It exits with 1 if a line is bad or a conversation is longer than the checkpoint can read.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from training.conversations import Conversation, Reading, examine
from training.measuring import Length, Ruler, Size, fitting
from training.pictures import PictureSource
from training.task import FineTuning

_GOOD, _BAD = 0, 1
_SIZES = 8  # that are told, of how many there are


def main(arguments: Sequence[str] | None = None) -> int:
    """Check files; return 0, or 1 if something is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m training.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="+", metavar="FILE", help="files, directories or patterns")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=BUNDLED_MODEL,
        help="whose tokenizer, sizes and positions count; default: the bundled model",
    )
    parser.add_argument(
        "--decode", action="store_true", help="decode every picture, not only its header"
    )
    given = parser.parse_args(arguments)
    try:
        return _checked(examine(given.data), given.checkpoint, given.decode)
    except (OSError, ValueError) as error:
        _say([f"{error}"])
        return _BAD


def _checked(reading: Reading, checkpoint: Path, decode: bool) -> int:
    faults = list(reading.faults)
    if decode:
        faults += _undecodable(reading.conversations)
    _say(_counts(reading))
    if reading.conversations:
        ruler = Ruler(load_checkpoint(checkpoint))
        fit = fitting(reading.conversations, ruler)
        _say(_lengths(fit.conversations, ruler))
        _say(_pictures(reading.conversations, ruler))
        faults += fit.faults
    if faults:
        _say([f"bad: {len(faults)}", *(f"  {fault}" for fault in faults)])
    return _BAD if faults else _GOOD


def _undecodable(conversations: Sequence[Conversation]) -> Iterator[Exception]:
    for conversation in conversations:
        try:
            conversation.outline()
        except ValueError as error:
            yield error


def _counts(reading: Reading) -> Iterator[str]:
    messages = [m for conversation in reading.conversations for m in conversation.messages]
    parts = [(m.role == "assistant", part) for m in messages for part in m.parts]
    learnt = Counter(isinstance(part, PictureSource) for learnt, part in parts if learnt)
    others = Counter(isinstance(part, PictureSource) for learnt, part in parts if not learnt)
    yield f"lines: {reading.lines:,}, of which {len(reading.conversations):,} are good"
    yield f"to learn: {learnt[False]:,} texts, {learnt[True]:,} pictures"
    yield f"to read: {others[False]:,} texts, {others[True]:,} pictures"


def _lengths(conversations: Sequence[Conversation], ruler: Ruler) -> Iterator[str]:
    if not conversations:
        return
    lengths: list[Length] = [ruler.length(conversation) for conversation in conversations]
    tokens = sorted(length.tokens for length in lengths)
    longest = max(range(len(lengths)), key=lambda place: lengths[place].tokens)
    yield (
        f"tokens a conversation: {tokens[0]:,} to {tokens[-1]:,}, half of them up to "
        f"{median(tokens):,.0f}; {sum(tokens):,} in all"
    )
    yield f"the longest: {conversations[longest].place}"
    positions = max(length.positions for length in lengths)
    yield f"positions: up to {positions:,} of the {ruler.positions:,} that the checkpoint has"
    alone = sum(count > FineTuning.batch_tokens for count in tokens)
    if alone:
        yield f"longer than {FineTuning.batch_tokens:,} tokens, each a step by itself: {alone:,}"


def _pictures(conversations: Sequence[Conversation], ruler: Ruler) -> Iterator[str]:
    given = [picture.size for c in conversations for picture in c.pictures()]
    if not given:
        return
    sizes: Counter[Size] = Counter(ruler.size(size) for size in given)
    told = [f"{_shown(size)} ({count:,})" for size, count in sizes.most_common(_SIZES)]
    more = f" and {len(sizes) - _SIZES} other sizes" if len(sizes) > _SIZES else ""
    yield f"pictures after resizing, width x height: {', '.join(told)}{more}"
    shrunk = [size for size in given if ruler.size(size)[0] < size[0]]
    if shrunk:
        largest = max(shrunk, key=lambda size: size[0] * size[1])
        yield (
            f"of them {len(shrunk):,} are made smaller, the largest from {_shown(largest)} to "
            f"{_shown(ruler.size(largest))}; nothing is cut off"
        )
    grown = sum(ruler.size(size)[0] > size[0] for size in given)
    if grown:
        yield f"of them {grown:,} are made larger"


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _say(lines: Iterator[str] | Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
