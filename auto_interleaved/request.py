"""What a command line asks for, checked as far as that goes without a model."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from auto_interleaved.arguments import ArgumentError, in_flags, parse
from auto_interleaved.options import GenerationOptions, make_options
from data.output import InterleavedOutput
from data.output.segments import describe_error
from data.prompts import ImageInput, parse_prompt

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
    """

    prompt: str | list[str | Image.Image]
    options: GenerationOptions
    model: str
    loading: Mapping[str, Any]
    output: Path


def read_request(arguments: Sequence[str] | None) -> Request:
    """Read a command line and check it.

    Args:
        arguments: the words after the program's name; None takes the process's own.

    Raises:
        ArgumentError: if something in it cannot be.
        SystemExit: with status 0, after help or the list of protocols was shown.
    """
    given, options = parse(arguments)
    checked = _options(options)
    return Request(
        prompt=_prompt(given.prompt, given.image, checked.split_special_tokens),
        options=checked,
        output=_output(given.output),
        model=given.model,
        loading={
            "device": _device(given.device),
            "dtype": None if given.dtype is None else getattr(torch, given.dtype),
            "revision": given.revision,
            "local_files_only": given.local_files_only,
        },
    )


def _options(given: Mapping[str, Any]) -> GenerationOptions:
    """Make options; without a seed, one is drawn, so that every run can be had again."""
    try:
        return make_options({"seed": secrets.randbelow(_MAX_DRAWN_SEED + 1), **given})
    except (TypeError, ValueError) as error:
        raise ArgumentError(in_flags(str(error))) from error


def _prompt(
    text: str, files: Sequence[str], split_special_tokens: bool
) -> str | list[str | Image.Image]:
    pictures = [_picture(file) for file in files]
    text = _standard_input() if text == "-" else text
    prompt: str | list[str | Image.Image] = [*pictures, text] if pictures else text
    try:
        parse_prompt(prompt, split_special_tokens=split_special_tokens)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    return prompt


def _picture(file: str) -> Image.Image:
    if not os.path.isfile(file):  # pathlib's raises on what is too long for a name
        raise ArgumentError(f"--image: there is no file {file!r}; the prompt goes before --image")
    try:
        (part,) = parse_prompt(Path(file))
    except ValueError as error:
        reason = describe_error(error.__cause__ or error)
        raise ArgumentError(f"--image: {file!r} is no readable picture ({reason})") from error
    assert isinstance(part, ImageInput)
    return part.image


def _standard_input() -> str:
    try:
        return sys.stdin.read().rstrip("\n")  # as a shell does with what a command writes
    except UnicodeDecodeError as error:
        raise ArgumentError(f"the prompt on standard input is not {error.encoding}") from error


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except Exception as error:  # its type depends on the device and on how torch was built
        reason = textwrap.shorten(str(error), width=100, placeholder=" ...")
        raise ArgumentError(f"--device: {name!r} cannot be used here ({reason})") from error
    return name


def _output(name: str) -> Path:
    """Check that a result can be saved, by saving an empty one beside its place."""
    try:
        target = Path(name).expanduser()
        folder = target.parent if target.suffix else target
        if folder is not target and target.is_dir():
            raise IsADirectoryError("it is a folder")
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as trial:
            place = Path(trial, target.name)
            _try_to_save(place, shown_as=target)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"--output: {name!r} cannot be written ({reason})") from error
    return target


def _try_to_save(place: Path, *, shown_as: Path) -> None:
    try:
        InterleavedOutput().save(place)
    except ValueError as error:
        raise ArgumentError(f"--output: {error}".replace(str(place), str(shown_as))) from error
