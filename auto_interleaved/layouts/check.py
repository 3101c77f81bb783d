"""Looks at a layout as its judge would, and tells what that would miss.

python -m auto_interleaved.layouts.check risebench results_risebench --prompts data.json --model M
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from auto_interleaved.layouts.cases import Question
from auto_interleaved.layouts.fields import Fields, fields_of
from auto_interleaved.layouts.table import LAYOUTS
from auto_interleaved.layouts.writing import faults_of, model_name
from data.jsonl import read_records, require_file
from modeling.checkpoint import BUNDLED_MODEL


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a layout's folder.

    Returns:
        0; 1 if the judge would miss something. Bad arguments end in argparse's 2.
    """
    parser = argparse.ArgumentParser(prog="python -m auto_interleaved.layouts.check")
    parser.add_argument("layout", choices=LAYOUTS, help="whose judge")
    parser.add_argument("folder", type=Path, help="what the judge is given")
    parser.add_argument("--prompts", type=Path, required=True, help="the benchmark's own file")
    parser.add_argument(
        "--model", default=str(BUNDLED_MODEL), help="as it was run: a directory or a hub id"
    )
    parser.add_argument("--fields", nargs="+", action="extend", default=[], metavar="NAME=FIELD")
    given = parser.parse_args(arguments)
    try:
        questions = read_questions(given.prompts, fields_of(LAYOUTS[given.layout], given.fields))
        if not given.folder.is_dir():
            raise ValueError(f"there is no folder {given.folder}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    faults = faults_of(given.layout, questions, given.folder, model_name(given.model))
    for fault in faults:
        sys.stdout.write(f"{fault}\n")
    found = f"{len(faults)} faults" if len(faults) > 1 else "1 fault" if faults else "no faults"
    sys.stdout.write(f"{len(questions)} {'case' if len(questions) == 1 else 'cases'}, {found}\n")
    return 1 if faults else 0


def read_questions(file: Path, fields: Fields) -> list[Question]:
    """Read the questions of a benchmark's file.

    Raises:
        ValueError: if a line asks nothing, or something in it is of another type.
        OSError: if the file cannot be read.
    """
    require_file(file)
    questions = []
    for entry in read_records(file):
        try:
            record = entry.value()
            if not isinstance(record, dict):
                raise TypeError("it is no object")
            questions.append(fields.question(record))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, {entry.name}: {error}") from error
    return questions


if __name__ == "__main__":
    sys.exit(main())
