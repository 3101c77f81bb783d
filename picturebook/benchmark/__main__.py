"""How often the picture-book model is right, judged by pixels and words, with 95% intervals.

python -m picturebook.benchmark --stories 100 --json figures.json
python -m picturebook.benchmark --model runs/picturebook --held-out-only --settings latent,pixels
python -m picturebook.benchmark --server http://127.0.0.1:8000/v1 --extra '{"num_timesteps": 20}'

One table for combinations that training saw, one for combinations held out from it, one for the
prompts that must work word for word; a column for every setting. Samples come from generators that
training never uses. Intervals are Wilson's 95%. What is counted are stories, pictures, questions or
edits; n says how many. Pictures of one story hang together, as do stories of the same prompt, which
get the same texts: the intervals are as wide as that asks for (see `picturebook.benchmark.rates`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks.table import head, show
from modeling.checkpoint import BUNDLED_MODEL
from picturebook.benchmark.measures import (
    answer_by_vision,
    answer_in_loop,
    count_stories,
    edit_at_once,
    edit_in_loop,
    evaluate_captions,
    evaluate_edits,
    evaluate_questions,
    tell_stories,
)
from picturebook.benchmark.rates import Counts
from picturebook.benchmark.samples import Samples, draw_samples, verbatim_samples
from picturebook.benchmark.served import Served

UNGUIDED = {"cfg_text_scale": 1.0, "cfg_img_scale": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "latent": {},
    "pixels": {"image_feedback": "pixels"},
    "unguided": UNGUIDED,
    "pixels-unguided": {"image_feedback": "pixels", **UNGUIDED},
    "taylorseer": {"enable_taylorseer": True},
    "older-seen": {"image_memory": "vision"},
    "older-forgotten": {"image_memory": "text"},
}
IN_LOOP_ONLY = ("image_feedback", "image_memory")
WANTED = {
    "structure": 99,
    "text does what was asked": 95,
    "picture matches its text": 95,
    "earlier things kept": 95,
    "traits kept": 90,
    "understanding": 95,
    "edit": 90,
}


def measure(
    inferencer: AutoInterleavedInferencer,
    samples: Samples,
    *,
    seed: int,
    options: dict[str, Any],
    problems: int,
) -> Counts:
    """Count everything that depends on how pictures are drawn and fed back."""
    at_once = {name: value for name, value in options.items() if name not in IN_LOOP_ONLY}
    told = tell_stories(inferencer, samples.stories, seed=seed, **options)
    planned = tell_stories(inferencer, samples.plans, seed=seed, think=True, **options)
    wrong = [each for each in [*told, *planned] if each.judgement.problems]
    for each in wrong[:problems]:
        print(f"{each.story.prompt!r}: {'; '.join(each.judgement.problems)}", file=sys.stderr)
    counts = count_stories(told)
    counts |= {f"thinking: {name}": rate for name, rate in count_stories(planned).items()}
    counts["caption drawn"] = evaluate_captions(inferencer, samples.captions, seed=seed, **at_once)
    for name, draw, chosen in (
        ("edit, in the loop", edit_in_loop, options),
        ("edit, at once", edit_at_once, at_once),
    ):
        counts[name] = evaluate_edits(inferencer, samples.edits, draw, seed=seed, **chosen)
    return counts


def measure_server(served: Served, samples: Samples, given: argparse.Namespace) -> Counts:
    """Count what can be asked of any server: stories, edits, questions, all in the loop.

    A marker in a prompt that asks for a picture in its place means nothing to others.
    """
    stories = [each for each in samples.stories if given.markers or not each.request.in_place]
    told = tell_stories(served, stories, seed=given.seed)
    wrong = [each for each in told if each.judgement.problems]
    for each in wrong[: given.problems]:
        print(f"{each.story.prompt!r}: {'; '.join(each.judgement.problems)}", file=sys.stderr)
    counts = count_stories(told)
    edits = evaluate_edits(served, samples.edits, edit_in_loop, seed=given.seed)
    questions = evaluate_questions(served, samples.questions, answer_in_loop)
    return {**counts, "edit, in the loop": edits, "understanding, in the loop": questions}


def measure_understanding(inferencer: AutoInterleavedInferencer, samples: Samples) -> Counts:
    """Count right answers, which no setting changes: nothing is drawn."""
    return {
        f"understanding, {name}": evaluate_questions(inferencer, samples.questions, ask)
        for name, ask in (("in the loop", answer_in_loop), ("by vision", answer_by_vision))
    }


def rows_of(columns: Sequence[Counts]) -> list[list[str]]:
    """Arrange counts as rows: a figure, what is wanted of it, and its rate in each setting."""
    names = [name for name in columns[0] if any(column[name].count for column in columns[:1])]
    wanted = {name: WANTED.get(name, WANTED.get(name.split(",")[0])) for name in names}
    return [
        [
            name,
            "" if wanted[name] is None else f"{wanted[name]}%",
            *(str(column[name]) if name in column else "" for column in columns),
        ]
        for name in names
    ]


def plain(counts: Counts) -> dict[str, dict[str, Any]]:
    """Return counts as JSON holds them."""
    return {
        name: {
            "right": rate.right,
            "count": rate.count,
            "units": len(rate.units),
            "share": rate.share,
            "interval": rate.interval,
        }
        for name, rate in counts.items()
        if rate.count
    }


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    for name, default in (("stories", 100), ("questions", 200), ("edits", 100), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--settings", default="latent,pixels,unguided,taylorseer")
    parser.add_argument("--held-out-only", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: as stored")
    parser.add_argument("--num-timesteps", type=int, default=20)
    parser.add_argument("--timestep-shift", type=float, default=2.0)
    parser.add_argument("--cfg-text-scale", type=float, default=2.5)
    parser.add_argument("--cfg-img-scale", type=float, default=1.0)
    parser.add_argument("--problems", type=int, default=0, help="show so many that are wrong")
    parser.add_argument("--json", type=Path)
    add_server(parser)
    given = parser.parse_args(arguments)
    given.settings = given.settings.split(",")
    unknown = [name for name in given.settings if name not in SETTINGS]
    if unknown:
        parser.error(f"--settings are some of {', '.join(SETTINGS)}; got {', '.join(unknown)}")
    return given


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about a server that is measured in the place of a model."""
    group = parser.add_argument_group("another system: any OpenAI-compatible server")
    group.add_argument("--server", metavar="URL", help="such as http://127.0.0.1:8000/v1")
    group.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    group.add_argument("--server-model", metavar="NAME", help="default: the first that it has")
    group.add_argument(
        "--extra", type=json.loads, default={}, metavar="JSON", help="fields for every request"
    )
    group.add_argument(
        "--markers", action="store_true", help="also prompts that mark where pictures go"
    )
    group.add_argument(
        "--kept", type=Path, metavar="FOLDER", help="answers; none is asked for twice"
    )


def chosen_samples(given: argparse.Namespace) -> dict[str, Samples]:
    """Return what is measured, by the title of its table."""
    novel = {"Held-out combinations": draw_samples(given, held_out=True)}
    if given.held_out_only:
        return novel
    familiar = {"Trained combinations": draw_samples(given, held_out=False)}
    return {**familiar, **novel, "Word for word": verbatim_samples(given)}


def measured(
    inferencer: AutoInterleavedInferencer,
    samples: Samples,
    given: argparse.Namespace,
    base: dict[str, Any],
) -> dict[str, Counts]:
    """Return all counts of one table by setting; understanding stands in the first."""
    columns: dict[str, Counts] = {}
    for name in given.settings:
        started, options = time.perf_counter(), {**base, **SETTINGS[name]}
        columns[name] = measure(
            inferencer, samples, seed=given.seed, options=options, problems=given.problems
        )
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    columns[given.settings[0]] |= measure_understanding(inferencer, samples)
    return columns


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the tables."""
    given = parsed(arguments)
    if given.server is not None:
        main_of_server(given)
        return
    logging.getLogger("auto_interleaved").setLevel(logging.ERROR)  # endings are counted below
    dtype = getattr(torch, given.dtype) if given.dtype else None
    inferencer = AutoInterleavedInferencer.from_pretrained(given.model, dtype=dtype)
    inferencer.set_progress_bar_config(disable=True)
    inferencer.sample_posterior = False  # as it was trained; it compares calls, not draws
    sampling = ("num_timesteps", "timestep_shift", "cfg_text_scale", "cfg_img_scale")
    base = {name: getattr(given, name) for name in sampling}
    print(head("Picture book", inferencer.model.device, inferencer.model.dtype))
    print(f"{', '.join(f'{name} {value:g}' for name, value in base.items())}\n")
    groups: dict[str, Any] = {}
    for title, samples in chosen_samples(given).items():
        columns = measured(inferencer, samples, given, base)
        show(f"### {title}\n", ("", "wanted", *columns), rows_of(list(columns.values())))
        groups[title] = {name: plain(counts) for name, counts in columns.items()}
    write_record(given.json, {"options": base, "groups": groups})


def main_of_server(given: argparse.Namespace) -> None:
    """Measure a server and print the same tables."""
    served = Served(
        given.server,
        given.api_key,
        model=given.server_model,
        extra=given.extra,
        kept=given.kept,
    )
    print(f"## Picture book\n\n{served.model} at {given.server}, {json.dumps(given.extra)}\n")
    groups: dict[str, Any] = {}
    for title, samples in chosen_samples(given).items():
        counts = measure_server(served, samples, given)
        show(f"### {title}\n", ("", "wanted", served.model), rows_of([counts]))
        groups[title] = {served.model: plain(counts)}
    write_record(given.json, {"server": given.server, "options": given.extra, "groups": groups})


def write_record(file: Path | None, record: dict[str, Any]) -> None:
    """Write figures as JSON, where that is asked for."""
    if file is not None:
        file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
