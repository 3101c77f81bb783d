"""What low-rank changes learn beside full training, on the bundled picture-book model.

python -m benchmarks.lora --steps 300

Twelve of the twenty-four kinds of things exchange their pictures: what is called a cat is drawn as
a bird from now on. Of this world the bundled model knows the other half. It is taught the whole
from stories, each time with as many steps and as many tokens a step. Captions of exchanged things
hold combinations of words that no training saw; the others have no such thing. A picture is right
if it shows what the caption means in this world.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.table import head, show
from modeling.checkpoint import BUNDLED_MODEL
from picturebook import Caption, Scene, Story, judge_picture, sample_caption
from picturebook.benchmark.measures import draw_caption
from picturebook.benchmark.rates import Rate
from picturebook.training.conversations import stories, write
from picturebook.world import FREE_KINDS

# Each takes the place of the one before it.
DRAWN_AS = dict(zip(FREE_KINDS, (*FREE_KINDS[1:], FREE_KINDS[0]), strict=True))
OPTIONS = {"num_timesteps": 20, "timestep_shift": 2.0, "cfg_text_scale": 2.5, "cfg_img_scale": 1.0}
WAYS: dict[str, list[str]] = {
    "all weights": ["--learning-rate=3e-4"],
    "rank 4": ["--lora-rank=4", "--learning-rate=2e-3"],
    "rank 16": ["--lora-rank=16", "--learning-rate=2e-3"],
    "rank 16, text": ["--lora-rank=16", "--lora-targets=text", "--learning-rate=2e-3"],
    "rank 16, drawing": ["--lora-rank=16", "--lora-targets=drawing", "--learning-rate=2e-3"],
}


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a way of training learnt, and what it took.

    Attributes:
        exchanged, others: right pictures of captions with a thing whose picture is another, and of
            captions without.
        seconds: of training.
        state: bytes of a saved state.
    """

    exchanged: Rate
    others: Rate
    seconds: float = 0.0
    state: int = 0


def in_this_world(scene: Scene) -> Scene:
    """Return what is drawn where words say a scene."""
    things = tuple(replace(t, kind=DRAWN_AS.get(t.kind, t.kind)) for t in scene.things)
    return replace(scene, things=things)


def retold(story: Story) -> Story:
    """Return a story with the pictures of this world and the words of the other."""
    steps = tuple(replace(step, scene=in_this_world(step.scene)) for step in story.steps)
    return replace(story, steps=steps)


def drawn(rng: Random, *, exchanged: bool) -> Caption:
    """Draw a caption, with a thing whose picture is another one's or without."""
    while True:
        caption = sample_caption(rng, held_out=exchanged)
        if (in_this_world(caption.scene) != caption.scene) == exchanged:
            return caption


def tested(inferencer: AutoInterleavedInferencer, captions: Sequence[Caption]) -> tuple[Rate, Rate]:
    """Return how often pictures are right, with exchanged things and without."""
    inferencer.set_progress_bar_config(disable=True)
    right: dict[bool, list[list[bool]]] = {True: [], False: []}
    for seed, caption in enumerate(captions):
        picture = draw_caption(inferencer, caption, seed=seed, **OPTIONS)
        meant = in_this_world(caption.scene)
        right[meant != caption.scene].append([judge_picture(picture, meant).matches_text])
    return Rate.of(right[True]), Rate.of(right[False])


def trained(flags: Sequence[str], output: Path) -> tuple[float, int]:
    """Train in a process of its own; return its seconds and a state's bytes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "train.py", *flags, f"--output={output}"], check=True)
    seconds = time.perf_counter() - started
    state = sum(file.stat().st_size for file in (output / "state").rglob("*") if file.is_file())
    return seconds, state


def learnt(flags: Sequence[str], captions: Sequence[Caption]) -> Learnt:
    """Train one way and test what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        seconds, state = trained(flags, output)
        if any(flag.startswith("--lora") for flag in flags):
            inferencer = AutoInterleavedInferencer.from_pretrained(adapter=output)
        else:
            inferencer = AutoInterleavedInferencer.from_pretrained(output)
        exchanged, others = tested(inferencer, captions)
    return Learnt(exchanged=exchanged, others=others, seconds=seconds, state=state)


def row(name: str, one: Learnt) -> list[object]:
    """Return a line of the table."""
    seconds, state = f"{one.seconds:.0f}", f"{one.state / 1e6:.1f}"
    return [name, one.exchanged, one.others, *((seconds, state) if one.state else ("", ""))]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("steps", 300), ("stories", 2000), ("captions", 200)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    given = parser.parse_args(arguments)
    rng = Random("benchmarks.lora captions")
    captions = [drawn(rng, exchanged=number % 2 == 0) for number in range(given.captions)]
    bundled = AutoInterleavedInferencer.from_pretrained()
    print(head("Low-rank changes", bundled.model.device, bundled.model.dtype))
    exchanged, others = tested(bundled, captions)
    rows = [row("as bundled", Learnt(exchanged=exchanged, others=others))]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), map(retold, stories(Random("benchmarks.lora"))), given.stories)
        shared = [f"--data={folder}", f"--checkpoint={BUNDLED_MODEL}", "--device=cpu"]
        shared += [f"--steps={given.steps}", "--batch-tokens=4096", "--held-out=0.02"]
        for name in given.ways:
            rows.append(row(name, learnt([*shared, *WAYS[name]], captions)))
            print(*rows[-1], file=sys.stderr)
    columns = ("", "exchanged", "others", "seconds", "state, MB")
    show(f"{given.steps} steps", columns, rows)


if __name__ == "__main__":
    main()
