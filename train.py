"""Trains the picture-book model from nothing, or teaches a checkpoint of yours to interleave.

python train.py --output runs/picturebook
python train.py --output runs/mine --checkpoint BAGEL-7B-MoT --data stories/

`--data` is a directory of *.jsonl files of conversations (docs/training.md). Stopped at any time,
the same command goes on where it was. Several processes or GPUs share the work under
`torchrun --nproc-per-node N train.py ...` or `accelerate launch train.py ...`.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path
from typing import get_args

import torch

from modeling.checkpoint import BUNDLED_MODEL
from training.fine_tuning import FineTuning, Trainable, fine_tune
from training.picturebook_model import Budget, train_picturebook


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    _add_fine_tuning(parser.add_argument_group("teaching a checkpoint"))
    group = parser.add_argument_group("the picture-book model from nothing")
    group.add_argument("--start-from", type=Path, help="a picture-book checkpoint to go on from")
    for entry in fields(Budget):
        flag = "--" + entry.name.replace("_", "-")
        group.add_argument(flag, type=int, help=f"default {entry.default}")
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    output, device = given.pop("output"), given.pop("device")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("auto_interleaved").setLevel(logging.INFO)
    fine_tuning = {e.name for e in fields(FineTuning)} - {"batch_tokens"}
    if "data" not in given:
        if stray := fine_tuning & given.keys():
            parser.error(f"--{sorted(stray)[0].replace('_', '-')} needs --data")
        start_from = given.pop("start_from", None)
        train_picturebook(output, Budget(**given), device, start_from)
        return 0
    if stray := given.keys() - fine_tuning - {"batch_tokens"}:
        parser.error(f"--{sorted(stray)[0].replace('_', '-')} does not go with --data")
    given["dtype"] = getattr(torch, given.get("dtype", "float32"))
    fine_tune(FineTuning(**{"checkpoint": BUNDLED_MODEL, **given}, output=output), device)
    return 0


def _add_fine_tuning(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", type=Path, help="a directory of *.jsonl files")
    group.add_argument("--checkpoint", type=Path, help="where to begin; default: the bundled model")
    group.add_argument("--steps", type=int, help="default 1000")
    group.add_argument("--learning-rate", type=float, help="default 1e-5")
    group.add_argument("--trainable", choices=get_args(Trainable), help="default all")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the weights; default float32"
    )


if __name__ == "__main__":
    raise SystemExit(main())
