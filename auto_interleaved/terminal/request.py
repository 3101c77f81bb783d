"""What a command line asks for, checked as far as that goes without a model."""

from __future__ import annotations

import os
import secrets
import sys
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from auto_interleaved.drivers.peers import launched_rank, local_rank
from auto_interleaved.layouts.fields import Fields, fields_of
from auto_interleaved.layouts.table import LAYOUTS
from auto_interleaved.layouts.writing import layout_folder
from auto_interleaved.options.generation import GenerationOptions, make_options
from auto_interleaved.options.seeds import ANY_SEED
from auto_interleaved.terminal.arguments import (
    DEFAULT_OUTPUT,
    PROGRAM,
    ArgumentError,
    in_flags,
    parse,
)
from data.output import InterleavedOutput
from data.output.locks import MOVES, staging
from data.output.names import format_of
from data.output.segments import describe_error
from data.picture_names import names_picture
from data.prompts import ImageInput, check_prompt, parse_prompt
from data.wording import shown
from modeling.checkpoint.keywords import checked_device

_FOR_MANY = (
    *("overwrite", "limit", "ids", "batch_size", "threads", "timings"),
    *("layout", "fields", "append"),
)
_MAX_DRAWN_SEED = 10**6 - 1  # short enough to be typed


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A run of the command line.

    Attributes:
        prompt: the pictures and then the text, as `AutoInterleavedInferencer.stream` takes them.
        options: of the run.
        model: a directory or a hub id.
        loading: keyword arguments for `AutoInterleavedInferencer.from_pretrained`.
        output: where the result goes; it can be written there.
        spread: whether guidance is computed by all processes that a launcher started.
    """

    prompt: str | list[str | Image.Image]
    options: GenerationOptions
    model: str
    loading: Mapping[str, Any]
    output: str
    spread: bool

    @property
    def is_main(self) -> bool:
        """Whether this is the process that shows and saves."""
        return not (self.spread and launched_rank())


@dataclass(frozen=True, kw_only=True, eq=False)
class ManyRequest:
    """A file of prompts to be run.

    Attributes:
        file: the prompts.
        options: of every prompt that does not say otherwise.
        model: a directory or a hub id.
        loading: keyword arguments for `AutoInterleavedInferencer.from_pretrained`.
        output: the folder of the results; it can be written there.
        overwrite: whether to do again what is there.
        limit: how many lines at most; None for all.
        ids: of the prompts that are meant; None for all.
        batch_size: prompts under way at a time in each process.
        threads: of each process on a CPU.
        timings: a file that is told how long each took; None for none.
        layout: how a benchmark's lines are read, and what its judge reads; None for none.
    """

    file: Path
    options: GenerationOptions
    model: str
    loading: Mapping[str, Any]
    output: Path
    overwrite: bool
    limit: int | None
    ids: Sequence[str] | None
    batch_size: int
    threads: int
    timings: Path | None
    layout: Fields | None = None


def read_request(arguments: Sequence[str] | None) -> Request | ManyRequest:
    """Read a command line and check it.

    Args:
        arguments: the words after the program's name; None takes the process's own.

    Raises:
        ArgumentError: if something in it cannot be.
        SystemExit: with status 0, after help or the list of protocols was shown.
    """
    given, options = parse(arguments)
    _require_one_kind(given)
    if given.spread_guidance and launched_rank() is None:
        raise ArgumentError(
            "--spread-guidance needs several processes; start them so: "
            f"torchrun --nproc-per-node 3 --no-python {PROGRAM} PROMPT --spread-guidance"
        )
    loading = loading_of(given)
    if given.prompts is not None:
        return _many(given, options, loading)
    # Without a seed, one is drawn, so that every run can be had again.
    checked = _options({"seed": secrets.randbelow(_MAX_DRAWN_SEED + 1), **options})
    return Request(
        prompt=_prompt(given.prompt, given.image, checked.split_special_tokens),
        options=checked,
        output=_output(given.output),
        model=given.model,
        loading=loading,
        spread=given.spread_guidance,
    )


def loading_of(given: Namespace) -> dict[str, Any]:
    """Return what a model is loaded by.

    Raises:
        ArgumentError: if there is no such device.
    """
    return {
        "base": given.base,
        "decision": given.decision,
        "adapter": given.adapter,
        "device": _device(given.device, among=launched_rank() is not None),
        "dtype": None if given.dtype is None else getattr(torch, given.dtype),
        "revision": given.revision,
        "local_files_only": given.local_files_only,
    }


def _require_one_kind(given: Namespace) -> None:
    """Refuse what does not go together: one prompt, or a file of them."""
    if given.prompts is None:
        for name in _FOR_MANY:
            if getattr(given, name) not in (None, False):
                flag = name.replace("_", "-")
                raise ArgumentError(f"--{flag} goes with --prompts, a file of prompts")
        if given.prompt is None:
            raise ArgumentError(
                "no prompt is given; put it first, as --image takes all that follow it"
            )
        return
    if given.prompt is not None:
        raise ArgumentError(
            f"the prompts are in {shown(given.prompts)}, got {shown(given.prompt)} beside it; "
            "leave one of them out"
        )
    if given.image:
        raise ArgumentError('--image does not go with --prompts; a line has "images" of its own')


def _many(given: Namespace, options: Mapping[str, Any], loading: Mapping[str, Any]) -> ManyRequest:
    if given.output == DEFAULT_OUTPUT:
        raise ArgumentError("--prompts needs --output, the folder that the results go to")
    if options.get("seed") == ANY_SEED:
        raise ArgumentError(
            "--seed: with --prompts it must not be -1, any seed, as the same command is to go on "
            "where it was stopped"
        )
    counts = {
        "limit": given.limit,
        "batch-size": given.batch_size,
        "threads": given.threads,
    }
    for flag, number in counts.items():
        if number is not None and number < 1:
            raise ArgumentError(f"--{flag} must be at least 1, got {number}")
    return ManyRequest(
        file=Path(given.prompts),
        options=_options({"seed": 0, **options}),
        model=given.model,
        loading=loading,
        output=Path(_output(given.output.rstrip("/") + "/")).absolute(),
        overwrite=given.overwrite,
        limit=given.limit,
        ids=given.ids,
        batch_size=given.batch_size or 1,
        threads=given.threads or 1,
        timings=_timings(given.timings),
        layout=_layout(given),
    )


def _layout(given: Namespace) -> Fields | None:
    """Return how lines are read, once it is seen that what the judge reads can be written."""
    if given.layout is None:
        for flag in ("fields", "append"):
            if getattr(given, flag) is not None:
                raise ArgumentError(f"--{flag} goes with --layout, whose lines it is about")
        return None
    try:
        fields = fields_of(LAYOUTS[given.layout], given.fields or (), given.append)
    except ValueError as error:
        raise ArgumentError(f"--fields: {error}") from error
    _output(f"{layout_folder(Path(given.output).absolute(), given.layout)}/")
    return fields


def _timings(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name).absolute()
    try:
        with path.open("ab"):
            return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"--timings: {shown(name)} cannot be written ({reason})") from error


def _options(given: Mapping[str, Any]) -> GenerationOptions:
    try:
        return make_options(given)
    except (TypeError, ValueError) as error:
        raise ArgumentError(in_flags(str(error))) from error


def _prompt(
    text: str, files: Sequence[str], split_special_tokens: bool
) -> str | list[str | Image.Image]:
    pictures = [_picture(file) for file in files]
    text = _standard_input() if text == "-" else text
    if names_picture(text):
        raise ArgumentError(
            f"the prompt must be words, got the picture {shown(text)}; pictures go after --image"
        )
    prompt: str | list[str | Image.Image] = [*pictures, text] if pictures else text
    try:
        check_prompt(prompt, split_special_tokens=split_special_tokens)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    return prompt


def _picture(file: str) -> Image.Image:
    if not os.path.isfile(file):  # pathlib's raises on what is too long for a name
        raise ArgumentError(
            f"--image: there is no file {shown(file)}; the prompt goes before --image"
        )
    try:
        (part,) = parse_prompt(Path(file))
    except ValueError as error:
        reason = describe_error(error.__cause__ or error)
        raise ArgumentError(f"--image: {shown(file)} is no readable picture ({reason})") from error
    assert isinstance(part, ImageInput)
    return part.image


def _standard_input() -> str:
    try:
        if sys.stdin is None:
            raise ValueError("it is closed")
        return sys.stdin.read().rstrip("\n")  # as a shell does with what a command writes
    except UnicodeDecodeError as error:
        raise ArgumentError(f"the prompt on standard input is not {error.encoding}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"the prompt cannot be read from standard input ({reason}); write it instead of the -"
        ) from error


def _device(name: str | None, *, among: bool) -> str:
    if name is None and among and torch.cuda.is_available():  # each process has one of its own
        return f"cuda:{local_rank() % torch.cuda.device_count()}"
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        checked_device(name)
    except Exception as error:  # its type depends on the device and on how torch was built
        reason = textwrap.shorten(str(error), width=100, placeholder=" ...")
        raise ArgumentError(f"--device: {shown(name)} cannot be used here ({reason})") from error
    return name


def _output(name: str) -> str:
    """Check that a result can be saved, by saving an empty one beside its place."""
    try:
        target = str(Path(name).expanduser()) + "/" * name.endswith("/")
        is_folder = format_of(target) == ""
        if not is_folder and os.path.isdir(target):
            raise IsADirectoryError("it is a folder")
        folder = Path(target if is_folder else os.path.dirname(target))
        while not folder.exists():
            folder = folder.parent
        with staging(folder) as trial:
            InterleavedOutput().save(f"{trial / MOVES / Path(target).name}" + "/" * is_folder)
    except ValueError as error:
        raise ArgumentError(f"--output: {error}") from error
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"--output: {shown(name)} cannot be written ({reason})") from error
    return target
