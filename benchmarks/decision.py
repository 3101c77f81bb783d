"""How many conversations teach the bundled model to ask for pictures, where it had forgotten to.

python -m benchmarks.decision --stories 100

The rows of its head that say what follows a text, and what ends one, are set to zero: it then never
asks. `train.py --trainable decision` learns them anew from so many conversations of the picture
book, all of combinations that training may see. What is told with them are stories of held-out
combinations. Structure: texts and pictures take turns and the story ends by itself. The same: texts
and pictures are those of the model that forgot nothing, to the bit.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from safetensors.torch import load_file, save_file

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.table import head, show
from modeling.checkpoint import BUNDLED_MODEL
from modeling.checkpoint.decision import HEAD
from picturebook import Story, sample_story
from picturebook.benchmark.measures import ToldStory, tell_stories
from picturebook.benchmark.rates import Rate
from picturebook.training.conversations import stories, write
from train import main as train
from training.deciding import TOKENS

COUNTS = (1, 8, 32, 128, 512)
OPTIONS: dict[str, Any] = {
    "cfg_text_scale": 2.5,
    "cfg_img_scale": 1.0,
    "num_timesteps": 20,
    "timestep_shift": 2.0,
    "max_text_length": 100,  # no text of the book is half as long
}


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a number of conversations taught.

    Attributes:
        structure: how often a story's structure is right.
        same: how often its texts and pictures are those of the model that forgot nothing.
        seconds: of learning, everything included.
        size: bytes of the decision's file.
    """

    structure: Rate
    same: Rate
    seconds: float = 0.0
    size: int = 0


def forget(directory: Path) -> Path:
    """Write the bundled model without what it knows of when to draw and when a text ends."""
    shutil.copytree(BUNDLED_MODEL, directory)
    weights = load_file(directory / "ema.safetensors")
    known = AutoInterleavedInferencer.from_pretrained().tokenizer.get_vocab()
    weights[HEAD][[known[token] for token in TOKENS]] = 0
    save_file(weights, directory / "ema.safetensors")
    return directory


def loaded(checkpoint: Path, **loading: Any) -> AutoInterleavedInferencer:
    """Return an inferencer that shows no bar."""
    inferencer = AutoInterleavedInferencer.from_pretrained(checkpoint, **loading)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def compared(told: Sequence[ToldStory], wanted: Sequence[ToldStory], **known: Any) -> Taught:
    """Count what is right about stories, and which are as wanted."""
    return Taught(
        structure=Rate.of([each.judgement.structure] for each in told),
        same=Rate.of(
            [list(mine.output) == list(other.output)]
            for mine, other in zip(told, wanted, strict=True)
        ),
        **known,
    )


def taught(
    checkpoint: Path, number: int, samples: Sequence[Story], wanted: Sequence[ToldStory]
) -> Taught:
    """Teach a checkpoint with so many conversations, and let it tell stories."""
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data", Path(folder) / "decision"
        write(data, stories(Random("benchmarks.decision")), number)
        flags = [f"--data={data}", f"--checkpoint={checkpoint}", f"--output={output}"]
        started = time.perf_counter()
        if train([*flags, "--trainable=decision", "--device=cpu"]):
            raise RuntimeError("training ended early")
        seconds = time.perf_counter() - started
        told = tell_stories(loaded(checkpoint, decision=output), samples, **OPTIONS)
        size = (output / "decision.safetensors").stat().st_size
    return compared(told, wanted, seconds=seconds, size=size)


def row(name: str, one: Taught) -> list[object]:
    """Return a line of the table."""
    seconds = f"{one.seconds:.0f}" if one.seconds else ""
    return [name, one.structure, one.same, seconds, f"{one.size:,}" if one.size else ""]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stories", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, metavar="N")
    given = parser.parse_args(arguments)
    rng = Random("benchmarks.decision held out")
    samples = [sample_story(rng, held_out=True) for _ in range(given.stories)]
    whole = loaded(BUNDLED_MODEL)
    print(head("Conversations until it asks for pictures", whole.model.device, whole.model.dtype))
    wanted = tell_stories(whole, samples, **OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = forget(Path(folder) / "forgot")
        before = compared(tell_stories(loaded(checkpoint), samples, **OPTIONS), wanted)
        rows = [row("as bundled", compared(wanted, wanted)), row("forgot", before)]
        for number in given.counts:
            rows.append(row(f"{number:,}", taught(checkpoint, number, samples, wanted)))
            logging.getLogger(__name__).info("%s", rows[-1])
    columns = ("conversations", "structure", "the same", "seconds", "bytes")
    show(f"{given.stories} stories of held-out combinations", columns, rows)


if __name__ == "__main__":
    main()
