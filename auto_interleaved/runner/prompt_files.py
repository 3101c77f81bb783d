"""Files of prompts: a line of JSON for each, read and checked before there is a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from auto_interleaved.options.generation import ALIASES, SIDES, GenerationOptions, make_options
from auto_interleaved.options.seeds import ANY_SEED, Seed
from auto_interleaved.options.spellings import unknown_option
from auto_interleaved.terminal.help_texts import FOR_PROGRAMS_ONLY
from data.jsonl import Line, read_lines, require_file
from data.output.result_folders import folder_name
from data.output.strangers import plain
from data.picture_names import names_picture
from data.picture_sources import is_base64_picture, is_data_url
from data.prompts import Prompt, check_prompt
from data.wording import did_you_mean, shown

_FIELDS = ("id", "prompt", "messages", "images")
_MEANT = {  # what other files call them
    **dict.fromkeys(("text", "instruction", "question", "input", "content", "caption"), "prompt"),
    **dict.fromkeys(("conversation", "conversations", "chat"), "messages"),
    **dict.fromkeys(("image", "image_path", "picture", "pictures", "files"), "images"),
    **dict.fromkeys(("uid", "key", "name", "index", "idx", "prompt_id"), "id"),
}
_PICTURE_KEYS = ("image", "path", "url", "image_url", "source", "value", "content")
_SEED_BITS = 53  # a whole number that every reader of JSON keeps


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt of a file.

    Attributes:
        id: a string or a whole number, as the file says; no other prompt has it.
        line: where it stands, counted from 1.
        prompt: as `AutoInterleavedInferencer.stream` takes it, its pictures still files.
        options: of its run, with a seed of its own.
        request: what fixes its result, in 16 digits: another prompt or other options have others.
    """

    id: str | int
    line: int
    prompt: Prompt
    options: GenerationOptions
    request: str

    @property
    def folder(self) -> str:
        """The name of the folder that its result goes to."""
        return folder_name(self.id)

    def fault(self) -> BadLine | None:
        """Read the prompt, its pictures included; return what is wrong with it."""
        try:
            check_prompt(self.prompt, split_special_tokens=self.options.split_special_tokens)
        except (TypeError, ValueError) as error:
            return BadLine.of(error, self.id, self.line)
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
    def of(cls, error: Exception, identity: str | int | None, line: int) -> BadLine:
        """Make one of what went wrong."""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return cls(id=identity, line=line, error=kind(f"line {line}: {error}"))


def read_prompts(
    file: Path, options: GenerationOptions, model: str | None = None
) -> list[Job | BadLine]:
    """Read a file of prompts; of pictures it is only seen whether they are there.

    A line is `{"id": ..., "prompt": ...}` or `{"id": ..., "messages": [...]}`; beside it there may
    be "images", a list of paths, and options of its own. Paths begin at the file's folder.

    Args:
        file: lines of JSON.
        options: of prompts that do not say otherwise; each prompt's seed is derived from this seed
            and its id.
        model: a name of the model, which is a part of what fixes a result.

    Returns:
        What each line that is not blank says, in order.

    Raises:
        ValueError: it holds no lines of JSON at all.
        OSError: it cannot be read.
    """
    require_file(file)
    entries: list[Job | BadLine] = []
    places: dict[str, int] = {}  # the line that each id stands on
    for line in read_lines(file):
        identity: str | int | None = None
        try:
            record = _record(line)
            identity = _identity(record)
            if str(identity) in places:
                raise ValueError(
                    f"the id {shown(identity)} stands on line {places[str(identity)]} already; "
                    "each prompt needs an id of its own"
                )
            places[str(identity)] = line.number
            entries.append(_job(record, identity, line, options, model))
        except (TypeError, ValueError, OSError) as error:
            entries.append(BadLine.of(error, identity, line.number))
    if not entries:
        raise ValueError(f"{file} holds no prompts; write a line of JSON for each")
    return entries


def seed_of(identity: str | int, seed: Seed | None) -> int:
    """Return a prompt's seed: the same wherever, whenever and by whomever it is run."""
    digest = hashlib.sha256(f"{seed}\n{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def _record(line: Line) -> Mapping[str, Any]:
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


def _job(
    record: Mapping[str, Any],
    identity: str | int,
    line: Line,
    options: GenerationOptions,
    model: str | None,
) -> Job:
    own = {key: value for key, value in record.items() if key not in _FIELDS}
    chosen = _options(own, identity, options)
    content = {key: record.get(key) for key in _FIELDS[1:]}
    fixed = json.dumps([content, plain(vars(chosen)), model], sort_keys=True)
    return Job(
        id=identity,
        line=line.number,
        prompt=_prompt(content, line.file.absolute().parent),
        options=chosen,
        request=hashlib.sha256(fixed.encode()).hexdigest()[:16],
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


def _prompt(content: Mapping[str, Any], folder: Path) -> Prompt:
    given = [key for key in ("prompt", "messages") if content[key] is not None]
    images = [content["images"]] if isinstance(content["images"], str) else content["images"] or []
    if not isinstance(images, list):
        raise TypeError(f"images must be a list of paths, got {shown(images)}")
    if len(given) == 2 or not (given or images):
        found = " and ".join(given) or "neither"
        raise ValueError(f'must have either "prompt" or "messages", got {found}')
    value = content[given[0]] if given else []
    if given == ["messages"]:
        if not isinstance(value, list):
            raise TypeError(f"messages must be a list of messages, got {shown(value)}")
        if images:
            raise ValueError(
                "images go with a prompt; beside messages they must stand in one, as "
                '{"type": "image", "path": ...} in its content'
            )
        return [_located(message, folder) for message in value]
    if not isinstance(value, str | list):
        raise TypeError(f"prompt must be a string or a list of parts, got {shown(value)}")
    if isinstance(value, str):
        if names_picture(value):
            raise ValueError(
                f'prompt must be words, got the picture {shown(value)}; pictures go into "images"'
            )
        value = [value]
    return [*_pictures(images, folder), *(_located(part, folder) for part in value)]


def _pictures(images: Sequence[Any], folder: Path) -> Iterator[Mapping[str, Any]]:
    for number, image in enumerate(images):
        if not isinstance(image, str):
            raise TypeError(f"images[{number}] must be a path, got {shown(image)}")
        path = _path(image, folder)
        if not (_is_no_path(image) or _is_file(path)):
            raise ValueError(
                f"images[{number}]: there is no file {shown(image)} in {folder}, "
                "where relative paths begin"
            )
        yield {"type": "image", "path": path}


def _located(part: Any, folder: Path) -> Any:
    """Return a message or part with its pictures' paths from the root."""
    if not isinstance(part, Mapping):
        return part
    if "role" in part:
        content = part.get("content")
        if not isinstance(content, list):
            return part
        return {**part, "content": [_located(entry, folder) for entry in content]}
    if "image" not in str(part.get("type")):
        return part
    return _with_paths(part, folder)


def _with_paths(part: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    found = dict(part)
    for key in _PICTURE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping):  # some formats wrap what a part holds in an object
            found[key] = _with_paths(value, folder)
        elif isinstance(value, str):
            found[key] = _path(value, folder)
    return found


def _path(name: str, folder: Path) -> str:
    return name if _is_no_path(name) else os.path.join(folder, name)


def _is_no_path(name: str) -> bool:
    return is_data_url(name) or ":/" in name[:20] or is_base64_picture(name) or not name


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # with a zero in it
        return False
