"""Trains the picture-book model from nothing, or teaches a checkpoint of yours to interleave.

python train.py --output runs/picturebook
python train.py --output runs/mine --checkpoint BAGEL-7B-MoT --data stories/
python train.py --plan --checkpoint BAGEL-7B-MoT --memory 80GB

`--data` takes JSONL files of conversations, directories of them and patterns (docs/training.md).
`--plan` tells what fits into memory.
Stopped at any time, the same command goes on where it was. Several processes or GPUs share the
work under `torchrun --nproc-per-node N train.py ...` or `accelerate launch train.py ...`.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch

from modeling.checkpoint import BUNDLED_MODEL
from picturebook.training.model import Budget, train_picturebook
from training.bars import is_first_process
from training.capacity import main as show_plan
from training.fine_tuning import fine_tune
from training.stopping import Interrupted
from training.task import FineTuning, Lora, Quantization, Targets, Trainable

_FAILED = 1
_SHARED = {"batch_tokens", "save_every"}  # by both kinds of training
_LORA = {f"lora_{entry.name}" for entry in fields(Lora)}
# A decision is learnt at once, not in steps.
_OF_STEPS = {
    "steps",
    "learning_rate",
    "batch_tokens",
    "save_every",
    "checkpointing",
    "draw_every",
}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train.

    Returns:
        0, or 128 and the number of the signal that stopped it after its state was saved.
    """
    if "--plan" in (sys.argv[1:] if arguments is None else arguments):
        return show_plan(arguments)
    given = {k: v for k, v in vars(_parse(arguments)).items() if v is not None}
    output, device = given.pop("output"), given.pop("device")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    level = logging.INFO if is_first_process() else logging.ERROR
    logging.getLogger("auto_interleaved").setLevel(level)
    try:
        if "data" in given:
            fine_tune(_task({"checkpoint": BUNDLED_MODEL, **given, "output": output}), device)
        else:
            options = {
                name: given.pop(name) for name in ("start_from", "save_every") & given.keys()
            }
            train_picturebook(output, Budget(**given), device, **options)
    except Interrupted as stop:
        logging.getLogger("auto_interleaved.training").info("%s", stop)
        return 128 + stop.signal
    return 0


def _task(given: dict[str, Any]) -> FineTuning:
    options = dict(given)
    lora = {entry.name: options.pop(f"lora_{entry.name}", None) for entry in fields(Lora)}
    lora = {name: value for name, value in lora.items() if value is not None}
    if lora:
        if "rank" not in lora:
            raise ValueError(f"lora_{next(iter(lora))} needs --lora-rank, such as 16")
        options["lora"] = Lora(**lora)
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    return FineTuning(**options)


def run() -> int:
    """Do as `main`, and tell what was wrong in a line."""
    try:
        return main()
    except KeyboardInterrupt:
        return _tell("interrupted before the first step", 130)
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        logging.getLogger("auto_interleaved.training").debug("failed", exc_info=error)
        return _tell(f"error: {_in_flags(str(error))}", _FAILED)


def _tell(message: str, code: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"train.py: {message}\n")
    return code


def _in_flags(message: str) -> str:
    """Name arguments as the command line does, where a message begins with one."""
    names = {entry.name for entry in (*fields(FineTuning), *fields(Budget))}
    names |= {"start_from", "device", *_LORA}
    name = re.match(r"\w+", message)
    if name is None or name[0] not in names:
        return message
    return f"--{name[0].replace('_', '-')}{message[name.end() :]}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=_directory, required=True, help="where the checkpoint goes"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--save-every", type=float, metavar="MINUTES", help="between two saved states; default 10"
    )
    _add_fine_tuning(parser.add_argument_group("teaching a checkpoint"))
    group = parser.add_argument_group("the picture-book model from nothing")
    group.add_argument(
        "--start-from", type=_directory, help="a picture-book checkpoint to go on from"
    )
    for entry in fields(Budget):
        flag = "--" + entry.name.replace("_", "-")
        group.add_argument(flag, type=int, help=f"default {entry.default}")
    parsed = parser.parse_args(arguments)
    given = {name for name, value in vars(parsed).items() if value is not None}
    _require_one_kind(parser, given)
    if parsed.trainable == "decision" and (stray := given & _OF_STEPS):
        parser.error(
            f"--{sorted(stray)[0].replace('_', '-')} does not go with --trainable decision, which "
            "is learnt at once"
        )
    return parsed


def _directory(name: str) -> Path:
    if not name.strip():
        raise argparse.ArgumentTypeError("name a directory")
    return Path(name)


def _held_out(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value


def _require_one_kind(parser: argparse.ArgumentParser, given: set[str]) -> None:
    fine_tuning = {entry.name for entry in fields(FineTuning)} | _LORA
    if "data" not in given:
        stray, what = (fine_tuning - _SHARED - {"output"}) & given, "needs --data"
    else:
        stray, what = given - fine_tuning - {"device"}, "does not go with --data"
    if stray:
        parser.error(f"--{sorted(stray)[0].replace('_', '-')} {what}")


def _add_fine_tuning(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help='*.jsonl files, directories of them, or patterns such as "stories/**/*.jsonl"',
    )
    group.add_argument(
        "--checkpoint", type=_directory, help="where to begin; default: the bundled model"
    )
    group.add_argument("--steps", type=int, help="default 1000")
    group.add_argument("--learning-rate", type=float, help="default 1e-5; with LoRA 2e-4")
    group.add_argument(
        "--trainable",
        choices=get_args(Trainable),
        help="default all; decision: only the rows of the head that say when to draw",
    )
    group.add_argument(
        "--decision", type=_directory, metavar="PATH", help="one that was learnt, to begin with"
    )
    group.add_argument("--lora-rank", type=int, help="learn low-rank changes beside the weights")
    group.add_argument("--lora-alpha", type=float, help="default twice the rank")
    group.add_argument("--lora-targets", choices=get_args(Targets), help="default both")
    group.add_argument(
        "--quantize",
        choices=get_args(Quantization),
        help="hold the decoder's layers in 4 or 8 bits; with LoRA, or for a decision",
    )
    group.add_argument(
        "--checkpointing",
        action="store_true",
        default=None,
        help="compute activations again instead of keeping them: less memory, more time",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the weights; default float32, or as stored where they are not learnt",
    )
    group.add_argument(
        "--held-out",
        type=_held_out,
        metavar="FILE",
        help="conversations, or a share of --data such as 0.05, to test with and not to learn",
    )
    group.add_argument(
        "--draw-every",
        type=int,
        metavar="STEPS",
        help="after which it answers some prompts, on the page OUTPUT/stories/index.html",
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        default=None,
        help="leave out lines and pictures that cannot be read, instead of refusing the data",
    )


if __name__ == "__main__":
    raise SystemExit(run())
