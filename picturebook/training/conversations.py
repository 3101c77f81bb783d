"""The picture book as a user's data: conversations in JSONL, with their pictures beside them.

python -m picturebook.training.conversations stories/ --stories 512
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from picturebook import Story, render, sample_story

PICTURES = "pictures"  # the folder beside the lines


def stories(rng: Random, wanted: Callable[[Story], bool] = lambda _: True) -> Iterator[Story]:
    """Yield stories whose pictures the model itself must ask for.

    Args:
        rng: the only source of chance.
        wanted: which of them.
    """
    while True:
        story = sample_story(rng)
        if not story.request.in_place and wanted(story):
            yield story


def write(directory: Path, drawn: Iterator[Story], number: int) -> Path:
    """Write conversations and their pictures.

    Args:
        directory: where to; it is made.
        drawn: the stories.
        number: how many of them.

    Returns:
        The file of lines.
    """
    (directory / PICTURES).mkdir(parents=True, exist_ok=True)
    path = directory / "stories.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index, story in zip(range(number), drawn):  # noqa: B905 - without end
            file.write(json.dumps(_conversation(directory, index, story)) + "\n")
    return path


def _conversation(directory: Path, index: int, story: Story) -> dict[str, Any]:
    parts: list[dict[str, str]] = []
    for number, step in enumerate(story.steps):
        name = f"{PICTURES}/{index:05d}_{number}.png"
        render(step.scene).save(directory / name)
        parts += [{"type": "text", "text": step.text}, {"type": "image", "path": name}]
    parts.append({"type": "text", "text": story.closing})
    asked = {"role": "user", "content": story.prompt}
    return {"messages": [asked, {"role": "assistant", "content": parts}]}


def main(arguments: list[str] | None = None) -> int:
    """Write conversations; return 0."""
    parser = argparse.ArgumentParser(
        prog="python -m picturebook.training.conversations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where they go")
    parser.add_argument("--stories", type=int, default=512, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    given = parser.parse_args(arguments)
    if given.stories < 1:
        parser.error(f"--stories must be at least 1, got {given.stories}")
    path = write(given.output, stories(Random(f"conversations {given.seed}")), given.stories)
    sys.stdout.write(f"{given.stories:,} conversations in {path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
