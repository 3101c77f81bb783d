"""Writes a checkpoint that needs nothing beside it: with a decision and adapters in its weights.

python -m training.merge --checkpoint BAGEL-7B-MoT --decision runs/decision --output BAGEL-drawing

The weights are taken as they are stored, and stay in that dtype; it needs memory for one model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import save_torch_state_dict

from modeling.checkpoint import load_checkpoint
from modeling.checkpoint.adapters import merge_adapters
from modeling.checkpoint.files import locate
from modeling.checkpoint.weights import open_weights
from training.plan import require_output
from training.task import OTHER_WEIGHTS
from training.taught import complete

_DONE, _FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge; return 0, or 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m training.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--decision", type=Path, metavar="PATH")
    parser.add_argument("--adapter", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(arguments)
    if given.decision is None and given.adapter is None:
        parser.error("there is nothing to merge; give --decision, --adapter or both")
    try:
        merge(given.checkpoint, given.output, given.decision, given.adapter)
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"training.merge: error: {error}\n")
        return _FAILED
    sys.stdout.write(f"{given.output}\n")
    return _DONE


def merge(
    checkpoint: Path, output: Path, decision: Path | None, adapters: Sequence[Path] | None
) -> None:
    """Write a checkpoint with a decision and adapters in its weights.

    Args:
        checkpoint: the directory that they were learnt on.
        output: the directory of the new one.
        decision: see `load_checkpoint`.
        adapters: see `load_checkpoint`.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `load_checkpoint`; or the output is another
            checkpoint's.
    """
    require_output(output, checkpoint)
    other = next((name for name in OTHER_WEIGHTS if (output / name).exists()), None)
    if other is not None:
        raise ValueError(f"output must be a new directory, and {output} holds {other}")
    stored = open_weights(locate(checkpoint).weights)
    loaded = load_checkpoint(checkpoint, decision=decision, adapter=adapters, dtype=stored.dtype)
    merge_adapters(loaded.model)
    # The fixed tables are computed where a file lacks them.
    state = {name: t for name, t in loaded.model.state_dict().items() if name in stored.tensors}
    beside = output / "weights.partial"
    beside.mkdir(exist_ok=True)
    save_torch_state_dict(state, beside, max_shard_size="10GB")
    complete(checkpoint, beside, output, loaded.protocol)


if __name__ == "__main__":
    raise SystemExit(main())
