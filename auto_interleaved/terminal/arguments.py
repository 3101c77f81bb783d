"""The command line's arguments: which there are, and how a line of them is read.

The options of a run are made from the fields of `GenerationOptions`: names, types, choices and
defaults are theirs.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from decimal import Decimal
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from auto_interleaved.options.generation import ALIASES, AS_INPUT, SIDES, GenerationOptions
from auto_interleaved.options.spellings import nearest_option
from auto_interleaved.runner.prompt_arguments import add_many
from auto_interleaved.terminal.help_texts import OPTIONS, describe_protocols
from auto_interleaved.terminal.loading_arguments import Group, add_loading, add_spreading
from data.wording import one_line, shown

PROGRAM = "auto-interleaved"
DEFAULT_OUTPUT = "story.html"

_METAVARS: Mapping[str, str | tuple[str, ...]] = {
    "protocol": "NAME",
    "image_shape": tuple(side.upper() for side in SIDES),
    "cfg_interval": ("LOW", "HIGH"),
    "stop_strings": "TEXT",
}

_USAGE = f"""{PROGRAM} PROMPT [--model DIR] [--image FILE ...] [options]
       {PROGRAM} --prompts FILE.jsonl --output FOLDER [options]
       {PROGRAM} serve [--model DIR] [options]
       {PROGRAM} page [--model DIR] [options]
       {PROGRAM} plan --memory BYTES [--model DIR] [options]"""
_DESCRIPTION = "Writes a text with pictures: the model decides when to draw, and sees what it drew."
_EPILOG = f"""\
other libraries' spellings:
  --num-inference-steps, --temperature, --max-new-tokens, --height and --width

examples:
  {PROGRAM} "Write a short story about a robot's adventure in space with illustrations."
  {PROGRAM} "The story of a fox, with pictures." --model BAGEL-7B-MoT
  {PROGRAM} "Make it winter." --model BAGEL-7B-MoT --image garden.jpg
  {PROGRAM} "A lighthouse: <|vision_start|>" --model BAGEL-7B-MoT --seed 7
  {PROGRAM} - --model BAGEL-7B-MoT --output report.md < prompt.txt
  {PROGRAM} --prompts prompts.jsonl --output results/

exit status:
  0  done
  1  failed or told to stop; what existed by then is saved
  2  bad arguments; nothing was computed
"""


class ArgumentError(ValueError):
    """The user asked for what cannot be; the message is one sentence for them."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read a command line.

    Args:
        arguments: the words after the program's name; None takes the process's own.

    Returns:
        The arguments about files and loading, all of them set; and the options of the run, only
        those that were given, under the names that they were given by.

    Raises:
        ArgumentError: if an argument is missing or unknown, or its value of a wrong type.
        SystemExit: with status 0, after help or the list of protocols was shown.
    """
    parser = _parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise _unknown(unknown[0], re.findall(r"--[a-z-]+", parser.format_help()))
    names = (*(entry.name for entry in fields(GenerationOptions)), *ALIASES, *SIDES)
    given = {name: value for name, value in vars(namespace).items() if name in names}
    for name in given:
        delattr(namespace, name)
    return namespace, given


def in_flags(message: str) -> str:
    """Put a message of the library into the command line's words: `top_k` becomes `--top-k`."""
    names = [entry.name for entry in fields(GenerationOptions)]
    unmistakable = [name for name in names if "_" in name]  # "seed" and "think" are words too
    message = re.sub(rf"\b(set )?({'|'.join(names)})=(True|False)\b", _switch, message)
    message = message.replace(f"image_shape={AS_INPUT!r}", "--input-size")
    message = re.sub(r"\bimage_shape=\((\d+), (\d+)\)", r"--image-shape \1 \2", message)
    message = re.sub(rf"\b({'|'.join(names)})='([\w-]+)'", r"--\1 \2", message)
    return re.sub(rf"\b(?:{'|'.join(unmistakable)})\b", lambda match: _flag(match[0]), message)


def _switch(match: re.Match[str]) -> str:
    flag = _flag(match[2])
    return f"leave {flag} out" if match[3] == "False" else f"{match[1] or ''}{flag}"


class Parser(argparse.ArgumentParser):
    """A parser that raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise an ArgumentError."""
        raise ArgumentError(message.removeprefix("argument "))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room for long flags, and does not break them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROGRAM,
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    names = dict.fromkeys(("input", "loading", *OPTIONS))
    groups = {name: parser.add_argument_group(name) for name in names}
    _add_input(groups["input"])
    add_loading(groups["loading"])
    add_spreading(groups["loading"])
    groups["output"].add_argument(
        "--output",
        default=DEFAULT_OUTPUT,
        metavar="PATH",
        help="where the result goes: a page (.html), .md, .json, or a folder (other names); an "
        "earlier result there is replaced (default: %(default)s)",
    )
    _add_options(groups)
    add_many(parser.add_argument_group("many prompts"), whole_number)
    return parser


def _add_input(group: Group) -> None:
    group.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to write about; - reads stdin"
    )
    group.add_argument(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="pictures to start from; they are read before the prompt",
    )
    group.add_argument(
        "--list-protocols",
        action="version",  # it shows a text and exits
        version=describe_protocols(),
        help="show the presets of --protocol and exit",
    )


def _add_options(groups: Mapping[str, Group]) -> None:
    entries = {entry.name: entry for entry in fields(GenerationOptions)}
    types = get_type_hints(GenerationOptions)
    for group, texts in OPTIONS.items():
        for name, text in texts.items():
            groups[group].add_argument(
                _flag(name),
                default=argparse.SUPPRESS,
                help=text.replace("%", "%%") + _default(entries[name]),
                **_reading(name, types[name]),
            )
    groups["drawing"].add_argument(
        "--input-size",
        dest="image_shape",
        action="store_const",
        const=AS_INPUT,
        default=argparse.SUPPRESS,
        help="give pictures the size of the last input picture: they are drawn at the nearest that "
        "the model draws, and resized",
    )
    hidden = {alias: _reading(name, types[name]) for alias, name in ALIASES.items()}
    for name, reading in {**hidden, **{side: _reading(side, int) for side in SIDES}}.items():
        groups["drawing"].add_argument(
            _flag(name), default=argparse.SUPPRESS, help=argparse.SUPPRESS, **reading
        )


def _reading(name: str, annotation: Any) -> dict[str, Any]:
    """Return what tells argparse to read values of a type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if NoneType in inner:
        return _reading(name, next(kind for kind in inner if kind is not NoneType))
    if annotation is bool:
        return {"action": "store_true"}
    if origin is Literal:
        return {"choices": inner}
    if origin is not tuple:
        read, metavar = _READERS.get(name, _READERS.get(annotation, (str, None)))
        return {"type": read, "metavar": _METAVARS.get(name, metavar)}
    several = {"nargs": "+", "action": "extend"} if inner[-1] is ... else {"nargs": len(inner)}
    return {**_reading(name, inner[0]), **several}


def whole_number(text: str) -> int:
    """Read a whole number of a command line."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {shown(text)}") from None


def real_number(text: str) -> float:
    """Read a number of a command line."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {shown(text)}") from None


def number_of_bytes(text: str) -> int:
    """Read a number of bytes of a command line, such as 8GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?", text, flags=re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be bytes, such as 8GB or 512MiB, got {shown(text)}")
    number, unit, binary = match.groups()
    power = "_kmgt".index(unit.lower()) if unit else 0
    return int(Decimal(number) * (1024 if binary else 1000) ** power)


# By the name of an option, or by its type.
_READERS: Mapping[Any, tuple[Callable[[str], Any], str | None]] = {
    "max_context_memory": (number_of_bytes, "BYTES"),
    int: (whole_number, "N"),
    float: (real_number, "X"),
}


def _default(entry: Field[Any]) -> str:
    if any(entry.default is nothing for nothing in (None, False, ())):
        return ""
    values = entry.default if isinstance(entry.default, tuple) else (entry.default,)
    return f" (default: {' '.join(map(str, values))})"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _unknown(word: str, flags: Sequence[str]) -> ArgumentError:
    if not word.startswith("-"):
        return ArgumentError(
            f"a prompt of several words goes in quotes; got {shown(word)} beside it"
        )
    name = word.partition("=")[0]
    near = difflib.get_close_matches(name, flags, n=1, cutoff=0.7)
    meant = nearest_option(name, [entry.name for entry in fields(GenerationOptions)])
    if meant is not None and _flag(meant) in flags:
        near = [_flag(meant)]
    remedy = f"did you mean {near[0]}?" if near else f"{PROGRAM} --help shows them all"
    return ArgumentError(f"there is no option {one_line(word)}; {remedy}")
