"""What a checkpoint's training takes, worked out from shapes alone: `python train.py --plan`.

python train.py --plan --checkpoint BAGEL-7B-MoT --memory 80GB --cards 8

Counted are weights, gradients, AdamW's states, activations and what a step needs besides. Nothing
is trained, and no weight is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils import convert_file_size_to_int

from modeling.bagel import Bagel
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from training.footprint import Shapes, Way, footprint, longest
from training.plan import require_count
from training.task import FineTuning

GIGA = 10**9
CARDS = ((1, 24 * GIGA), (1, 80 * GIGA), (8, 80 * GIGA))


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to train on.

    Attributes:
        number: of cards.
        memory: bytes of each.
    """

    number: int
    memory: int

    def __str__(self) -> str:
        return f"{self.number} x {self.memory / GIGA:g} GB"


def ways(rank: int) -> dict[str, Way]:
    """Return ways of training by the flags that ask for them."""
    lora = f"--lora-rank {rank}"
    half = Way(bytes_per_weight=2)
    few = replace(half, quantized=True)
    again = replace(half, learns="lora", rank=rank, checkpointing=True)
    return {
        "--trainable decision --quantize nf4": replace(few, learns="decision"),
        "--trainable decision": replace(half, learns="decision"),
        f"{lora} --quantize nf4 --checkpointing": replace(again, quantized=True),
        f"{lora} --checkpointing": again,
        "--trainable text --dtype bfloat16 --checkpointing": replace(
            half, learns="text", checkpointing=True
        ),
        "--dtype bfloat16 --checkpointing": replace(half, learns="all", checkpointing=True),
        "--checkpointing": Way(bytes_per_weight=4, learns="all", checkpointing=True),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what fits; return 0, or 1 if there is no such checkpoint."""
    given = _parsed(arguments)
    try:
        require_count("batch_tokens", given.batch_tokens)
        require_count("cards", given.cards)
        require_count("lora_rank", given.lora_rank)
        model = load_checkpoint(given.checkpoint).model
    except (OSError, ValueError) as error:
        sys.stderr.write(f"train.py: error: {error}\n")
        return 1
    known = [Card(number=number, memory=memory) for number, memory in CARDS]
    cards = known if given.memory is None else [Card(number=given.cards, memory=given.memory)]
    for line in report(model, cards, given.batch_tokens, given.lora_rank):
        sys.stdout.write(f"{line}\n")
    return 0


def report(model: Bagel, cards: Sequence[Card], tokens: int, rank: int) -> list[str]:
    """Return lines that say what a model's training takes.

    Args:
        model: only its shapes are looked at.
        cards: what there is to train on.
        tokens: tokens a step and card.
        rank: of low-rank changes.
    """
    shapes = Shapes.of(model)
    lines = [
        f"{shapes.total / 1e9:,.3g} billion weights; {tokens:,} tokens a step and card",
        "",
    ]
    for card in cards:
        lines += [f"{card}", ""]
        for flags, way in ways(rank).items():
            # What is quantised, or learnt at once, lies whole on each card.
            whole = way.quantized or way.learns == "decision"
            spread = way if whole else replace(way, cards=card.number)
            lines.append(f"  {_fits(shapes, spread, tokens, card)}  {flags}")
        lines.append("")
    return lines[:-1]


def _fits(shapes: Shapes, way: Way, tokens: int, card: Card) -> str:
    total = footprint(shapes, way, tokens).total
    size = f"{total / GIGA:7.1f} GB"
    if total <= card.memory:
        return f"fits           {size}"
    most = longest(shapes, way, card.memory)
    return f"{most:6,} tokens  {size}" if most else f"does not fit   {size}"


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py --plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_MODEL, metavar="DIR")
    parser.add_argument(
        "--memory",
        type=_number_of_bytes,
        metavar="BYTES",
        help="of a card, such as 80GB; default: 24GB, 80GB, and 80GB on 8 cards",
    )
    parser.add_argument("--cards", type=int, default=1, help="default %(default)s")
    parser.add_argument("--lora-rank", type=int, default=16, help="default %(default)s")
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=FineTuning.batch_tokens,
        help="tokens a step and card; default %(default)s",
    )
    return parser.parse_args(arguments)


def _number_of_bytes(text: str) -> int:
    try:
        return int(convert_file_size_to_int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a size such as 80GB, got {text!r}") from None
