"""The command line's arguments about files of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auto_interleaved.layouts.table import LAYOUTS


def add_many(group: Any, whole_number: Callable[[str], int]) -> None:
    """Add them to a group of a parser, numbers being read as the other arguments' are."""
    group.add_argument(
        "--prompts",
        metavar="FILE",
        help="instead of PROMPT: lines of JSON, each with an id, a prompt or messages, images, and "
        "options of its own; results go to a folder, --output, and what is there already is not "
        "done again. Works under torchrun and accelerate launch, too",
    )
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="whose judge is to read the results: FILE is the benchmark's own, and what the judge "
        "reads is written beside --output, in a folder of that name and this",
    )
    group.add_argument(
        "--fields",
        nargs="+",
        action="extend",
        metavar="NAME=FIELD",
        help="with --layout: where the benchmark's lines have the id, prompt, images, ... if not "
        "in the usual place, such as prompt=instruction",
    )
    group.add_argument(
        "--append",
        metavar="TEXT",
        help="with --layout: follows each prompt; <|vision_start|> asks for a picture there",
    )
    group.add_argument("--overwrite", action="store_true", help="do again what is there already")
    group.add_argument(
        "--limit", type=whole_number, metavar="N", help="the first so many lines only"
    )
    group.add_argument(
        "--ids", nargs="+", action="extend", metavar="ID", help="the prompts of these ids only"
    )
    group.add_argument(
        "--batch-size",
        type=whole_number,
        metavar="N",
        help="so many prompts at a time in each process, which is faster; pictures then may differ "
        "by a level from those of one at a time (default: 1)",
    )
    group.add_argument(
        "--threads",
        type=whole_number,
        metavar="N",
        help="on a CPU: threads of each process; the last bits of a picture depend on how many "
        "there are, and on nothing else of how a file is run (default: 1)",
    )
    group.add_argument(
        "--timings",
        metavar="FILE",
        help="how long each prompt took goes there, as lines of JSON; the results do not tell, so "
        "that equal runs leave equal folders",
    )
