"""Files of prompts: a line of JSON for each, read and checked before there is a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from auto_interleaved.layouts.cases import Question
from auto_interleaved.layouts.fields import Fields
from auto_interleaved.options.generation import ALIASES, SIDES, GenerationOptions, make_options
from auto_interleaved.options.seeds import ANY_SEED, Seed
from auto_interleaved.options.spellings import unknown_option
from auto_interleaved.runner.prompt_parts import prompt_of
from auto_interleaved.terminal.help_texts import FOR_PROGRAMS_ONLY
from data.jsonl import Entry, Line, read_lines, read_records, require_file
from data.output.result_folders import folder_name
from data.output.strangers import plain
from data.prompts import Prompt, check_prompt
from data.wording import did_you_mean, shown

_FIELDS = ("id", "prompt", "messages", "images")
_MEANT = {  # what other files call them
    **dict.fromkeys(("text", "instruction", "question", "input", "content", "caption"), "prompt"),
    **dict.fromkeys(("conversation", "conversations", "chat"), "messages"),
    **dict.fromkeys(("image", "image_path", "picture", "pictures", "files"), "images"),
    **dict.fromkeys(("uid", "key", "name", "index", "idx", "prompt_id"), "id"),
}
_SEED_BITS = 53  # a whole number that every reader of JSON keeps


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt of a file.

    Attributes:
        id: a string or a whole number, as the file says; no other prompt has it.
        line: where it stands, counted from 1.
        place: the same in words.
        prompt: as `AutoInterleavedInferencer.stream` takes it, its pictures still files.
        later: of a talk, what is said after the answer to the prompt, one after another.
        question: what a layout's files are made for; None where no layout is asked for.
        options: of its run, with a seed of its own.
        request: what fixes its result, in 16 digits: another prompt or other options have others.
    """

    id: str | int
    line: int
    place: str
    prompt: Prompt
    options: GenerationOptions
    request: str
    later: tuple[Prompt, ...] = ()
    question: Question | None = None

    @property
    def folder(self) -> str:
        """The name of the folder that its result goes to."""
        return folder_name(self.id)

    def fault(self) -> BadLine | None:
        """Read the prompt, its pictures included; return what is wrong with it."""
        try:
            for prompt in (self.prompt, *self.later):
                check_prompt(prompt, split_special_tokens=self.options.split_special_tokens)
        except (TypeError, ValueError) as error:
            return BadLine.of(error, self.id, self.line, self.place)
        return None


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that cannot be run.

    Attributes:
        id: its id, as far as it has one.
        line: where it stands, counted from 1.
        error: what is wrong, with the line's number before it.
    """

    id: str | int | None
    line: int
    error: Exception

    @classmethod
    def of(cls, error: Exception, identity: str | int | None, line: int, place: str) -> BadLine:
        """Make one of what went wrong."""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return cls(id=identity, line=line, error=kind(f"{place}: {error}"))


def read_prompts(
    file: Path,
    options: GenerationOptions,
    model: str | None = None,
    layout: Fields | None = None,
) -> list[Job | BadLine]:
    """Read a file of prompts; of pictures it is only seen whether they are there.

    A line is `{"id": ..., "prompt": ...}` or `{"id": ..., "messages": [...]}`; beside it there may
    be "images", a list of paths, and options of its own. Paths begin at the file's folder. A
    layout's lines are the benchmark's own, and may be the entries of one JSON list.

    Args:
        file: lines of JSON.
        options: of prompts that do not say otherwise; each prompt's seed is derived from this seed
            and its id.
        model: a name of the model, which is a part of what fixes a result.
        layout: how the lines of a benchmark are read.

    Returns:
        What each line that is not blank says, in order.

    Raises:
        ValueError: it holds no lines of JSON at all.
        OSError: it cannot be read.
    """
    require_file(file)
    entries: list[Job | BadLine] = []
    places: dict[str, int] = {}  # the line that each id stands on
    for line in read_lines(file) if layout is None else read_records(file):
        identity: str | int | None = None
        try:
            record = _record(line)
            question = None if layout is None else layout.question(record)
            identity = _identity(record) if question is None else question.id
            if str(identity) in places:
                raise ValueError(
                    f"the id {shown(identity)} stands on line {places[str(identity)]} already; "
                    "each prompt needs an id of its own"
                )
            places[str(identity)] = line.number
            asked = _contents(record) if question is None else question.turns
            own = {} if question else {k: v for k, v in record.items() if k not in _FIELDS}
            chosen = _options(own, identity, options)
            job = _job(identity, line, asked, chosen, model)
            entries.append(replace(job, question=question))
        except (TypeError, ValueError, OSError) as error:
            entries.append(BadLine.of(error, identity, line.number, line.name))
    if not entries:
        raise ValueError(f"{file} holds no prompts; write a line of JSON for each")
    return entries


def seed_of(identity: str | int, seed: Seed | None) -> int:
    """Return a prompt's seed: the same wherever, whenever and by whomever it is run."""
    digest = hashlib.sha256(f"{seed}\n{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def _record(line: Line | Entry) -> Mapping[str, Any]:
    record = line.value()
    if not isinstance(record, dict):
        raise ValueError(f'must be {{"id": ..., "prompt": ...}}, got {shown(record)}')
    return record


def _identity(record: Mapping[str, Any]) -> str | int:
    if "id" not in record:
        near = next((key for key in record if _MEANT.get(key) == "id"), None)
        raise ValueError(
            'has no "id", which names its folder and tells prompts apart'
            + (f'; rename "{near}"' if near else "")
        )
    identity = record["id"]
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise TypeError(f"id must be a string or a whole number, got {shown(identity)}")
    folder_name(identity)  # raises where it can name none
    return identity


def _contents(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [{key: record.get(key) for key in _FIELDS[1:]}]


def _job(
    identity: str | int,
    line: Line | Entry,
    asked: Sequence[Mapping[str, Any]],
    options: GenerationOptions,
    model: str | None,
) -> Job:
    content = asked[0] if len(asked) == 1 else asked
    fixed = json.dumps([content, plain(vars(options)), model], sort_keys=True)
    prompts = [prompt_of(turn, line.file.absolute().parent) for turn in asked]
    return Job(
        id=identity,
        line=line.number,
        place=line.name,
        prompt=prompts[0],
        options=options,
        request=hashlib.sha256(fixed.encode()).hexdigest()[:16],
        later=tuple(prompts[1:]),
    )


def _options(
    own: Mapping[str, Any], identity: str | int, shared: GenerationOptions
) -> GenerationOptions:
    """Put a prompt's own options over those of all."""
    known = [entry.name for entry in fields(GenerationOptions)]
    for key in own:
        if key in FOR_PROGRAMS_ONLY:
            raise TypeError(f"{key} cannot be given in a file, only in a program; leave it out")
        near = did_you_mean(_MEANT.get(key, key), _FIELDS)
        if key not in (*known, *ALIASES, *SIDES) and near:
            raise TypeError(f"there is no field {shown(key)}{near}")
        if key not in (*known, *ALIASES, *SIDES):
            raise TypeError(unknown_option(key, [*known, *ALIASES, *SIDES]))
    if own.get("seed") == ANY_SEED:
        raise ValueError("seed must not be -1, any seed, as results are to be had again")
    checked = make_options(own)
    names = {"image_shape" if key in SIDES else ALIASES.get(key, key) for key in own}
    changes = {name: getattr(checked, name) for name in names}
    if changes.get("seed") is None:
        changes["seed"] = seed_of(identity, shared.seed)
    return replace(shared, **changes)
