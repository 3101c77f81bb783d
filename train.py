"""Trains the picture-book model from nothing: `python train.py --output runs/picturebook`.

Stopped at any time, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

import torch

from training.picturebook_model import Budget, train_picturebook


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for entry in fields(Budget):
        flag = "--" + entry.name.replace("_", "-")
        parser.add_argument(flag, type=int, default=entry.default, help=f"default {entry.default}")
    given = vars(parser.parse_args(arguments))
    output, device = given.pop("output"), given.pop("device")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_picturebook(output, Budget(**given), device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
