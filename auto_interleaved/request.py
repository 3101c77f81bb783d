"""What a command line asks for, checked as far as that goes without a model."""

from __future__ import annotations

import os
import secrets
import sys
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
from data.output.locks import MOVES, staging
from data.output.names import format_of
from data.output.segments import describe_error
from data.picture_names import names_picture
from data.prompts import ImageInput, check_prompt, parse_prompt
from data.wording import shown
from modeling.checkpoint.keywords import checked_device

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
    output: str


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
            "base": given.base,
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


def _device(name: str | None) -> str:
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
