"""What is to be done of a file of prompts: what is done is found in the folder of results alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from auto_interleaved.layouts.cases import Question
from auto_interleaved.layouts.writing import require_apart
from auto_interleaved.runner.prompt_files import BadLine, Job, read_prompts
from auto_interleaved.terminal.arguments import ArgumentError
from auto_interleaved.terminal.request import ManyRequest
from data.output.result_folders import Id, ResultFolder, Row, failed_row
from data.wording import did_you_mean, shown


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        run: a name for this run of the program.
        prompts: for the table: each line's id, or the row of a bad one.
        chosen: the lines that are meant, the bad ones included.
        todo: what is to be run.
        bad: what cannot be.
        done: ids that are done already.
        changed: those of them that were asked for otherwise.
        questions: for a layout, what each line asks.
    """

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    prompts: dict[int, Id | Row] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)
    todo: list[Job] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    done: list[Id] = field(default_factory=list)
    changed: list[Id] = field(default_factory=list)
    questions: dict[int, Question] = field(default_factory=dict)


def make_plan(request: ManyRequest) -> Plan:
    """Read and check the prompts, and see which are done.

    Raises:
        ArgumentError: if there are none, or not those that are asked for.
    """
    try:
        entries = read_prompts(request.file, request.options, request.model, request.layout)
        jobs = [entry for entry in entries if isinstance(entry, Job)]
        questions = {job.line: job.question for job in jobs if job.question is not None}
        if request.layout is not None:
            require_apart(request.layout.layout, questions.values())
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--prompts: {error}") from error
    plan = Plan(prompts={job.line: job.id for job in jobs}, questions=questions)
    results = ResultFolder(request.output, plan.run)
    for entry in _chosen(entries, request):
        plan.chosen.add(entry.line)
        row = None if isinstance(entry, BadLine) or request.overwrite else results.row(entry.id)
        if isinstance(entry, Job) and row is not None and row["status"] == "done":
            plan.done.append(entry.id)
            if row["request"] != entry.request:
                plan.changed.append(entry.id)
            continue
        fault = entry if isinstance(entry, BadLine) else entry.fault()
        if fault is not None:
            plan.bad.append(fault)
            plan.prompts[fault.line] = failed_row(fault.id, fault.error)
        elif isinstance(entry, Job):
            plan.todo.append(entry)
    return plan


def _chosen(entries: Sequence[Job | BadLine], request: ManyRequest) -> list[Job | BadLine]:
    chosen = list(entries)
    if request.ids is not None:
        known = [str(entry.id) for entry in entries if entry.id is not None]
        for wanted in request.ids:
            if wanted not in known:
                near = did_you_mean(wanted, known)
                raise ArgumentError(f"--ids: there is no {shown(wanted)} in {request.file}{near}")
        chosen = [entry for entry in entries if str(entry.id) in request.ids]
    return chosen[: request.limit]
