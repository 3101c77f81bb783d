"""The command line's arguments about the checkpoint: which one, what lies beside it, and where."""

from __future__ import annotations

from typing import Any, Protocol

from modeling.checkpoint import BUNDLED_MODEL
from modeling.checkpoint.settings import DTYPES


class Group(Protocol):
    """A part of the parser that has a heading in the help text."""

    def add_argument(self, *flags: str, **settings: Any) -> Any:
        """Add an argument, as argparse does."""


def add_loading(group: Group) -> None:
    """Add the arguments by which a checkpoint is found and loaded."""
    group.add_argument(
        "--model",
        default=str(BUNDLED_MODEL),
        metavar="DIR",
        help="the checkpoint: a directory or a hub id (default: the small picture-book model that "
        "comes with the library)",
    )
    group.add_argument(
        "--base",
        metavar="DIR",
        help="the checkpoint that has what this one lacks: a directory or a hub id",
    )
    group.add_argument(
        "--decision", metavar="PATH", help="what was learnt for it about when to draw"
    )
    group.add_argument(
        "--adapter",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="folders in peft's layout; all of them count",
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help="such as cpu, cuda, cuda:1 or mps (default: cuda where there is one)",
    )
    group.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: as the checkpoint says)"
    )
    group.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit on the hub (default: main)"
    )
    group.add_argument("--local-files-only", action="store_true", help="download nothing")


def add_spreading(group: Group) -> None:
    """Add the argument by which processes share a run."""
    group.add_argument(
        "--spread-guidance",
        action="store_true",
        help="under torchrun or accelerate launch: compute each guidance branch of a picture in a "
        "process of its own, each on its own GPU",
    )
