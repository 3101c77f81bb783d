"""The command `plan`: its arguments, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auto_interleaved.terminal.arguments import (
    PROGRAM,
    ArgumentError,
    HelpFormatter,
    Parser,
    number_of_bytes,
    whole_number,
)
from auto_interleaved.terminal.screen import Screen
from modeling.checkpoint import BUNDLED_MODEL
from modeling.planning.described import Described
from modeling.planning.plan import FORMATS, Fit, Need, Planner, best
from modeling.planning.stages import Size

_DESCRIPTION = (
    "Says what of a checkpoint fits into how much memory, and how to load it. Nothing is loaded: "
    "shapes tell."
)
_EPILOG = f"""\
examples:
  {PROGRAM} plan --model BAGEL-7B-MoT --memory 24GB
  {PROGRAM} plan --model BAGEL-7B-MoT --memory 80GB --pictures 12 --image-shape 1024 1024
  {PROGRAM} plan --memory 2GB --device cpu

exit status:
  0  something fits
  1  nothing does
  2  bad arguments
"""
_COLUMNS = ("weights", "pictures", "decoded", "weights GB", "work GB", "GB a picture", "kept", "")


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A plan that is asked for.

    Attributes:
        model: a directory or a hub id that is in the hub's cache.
        base: the checkpoint that has what this one lacks.
        shape: (height, width) of the pictures; None tries several.
        need: what is to fit.
    """

    model: str
    base: str | None
    shape: Size | None
    need: Need

    @classmethod
    def read(cls, words: Sequence[str]) -> PlanRequest:
        """Read the words after `plan`.

        Raises:
            ArgumentError: if something in them cannot be.
            SystemExit: with status 0, after help was shown.
        """
        given = _parser().parse_args(words)
        for name in ("memory", "pictures"):
            if getattr(given, name) < 1:
                raise ArgumentError(f"--{name} must be at least 1")
        if given.text < 0:
            raise ArgumentError("--text must be at least 0")
        need = Need(
            memory=given.memory, device=given.device, pictures=given.pictures, text=given.text
        )
        shape = None if given.image_shape is None else (given.image_shape[0], given.image_shape[1])
        return cls(model=given.model, base=given.base, shape=shape, need=need)


def _parser() -> Parser:
    parser = Parser(
        prog=f"{PROGRAM} plan",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--memory", type=number_of_bytes, required=True, metavar="BYTES", help="such as 24GB"
    )
    parser.add_argument(
        "--model",
        default=str(BUNDLED_MODEL),
        metavar="DIR",
        help="the checkpoint: a directory, or a hub id that was downloaded (default: the bundled "
        "model)",
    )
    parser.add_argument("--base", metavar="DIR", help="the checkpoint that has what this one lacks")
    parser.add_argument(
        "--device", choices=tuple(FORMATS), default="cuda", help="default: %(default)s"
    )
    parser.add_argument(
        "--image-shape",
        type=whole_number,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the pictures (default: the checkpoint's own, and smaller ones)",
    )
    parser.add_argument(
        "--pictures",
        type=whole_number,
        default=4,
        metavar="N",
        help="that a story is to keep in what it has read (default: %(default)s)",
    )
    parser.add_argument(
        "--text",
        type=whole_number,
        default=500,
        metavar="N",
        help="tokens of each of its texts (default: %(default)s)",
    )
    return parser


def run_plan(request: PlanRequest, screen: Screen) -> int:
    """Show what fits, and how to load what is best of it.

    Returns:
        0 if something fits, else 1.

    Raises:
        ArgumentError: if there is no such checkpoint, or it draws no such pictures.
    """
    with screen.waiting("working it out"):
        try:
            described = Described.read(request.model, request.base)
        except (OSError, ValueError) as error:
            raise ArgumentError(f"--model: {error}") from error
        try:
            described.model.latent_grid(*(request.shape or described.image_shape))
        except ValueError as error:
            raise ArgumentError(f"--image-shape: {error}") from error
        fits = Planner(described, request.need).fits(request.shape)
    screen.say(_table(fits, request.need))
    chosen = best(fits)
    if chosen is None:
        screen.say("\nNothing fits. Give more memory, or fewer --pictures or a smaller --text.\n")
        return 1
    screen.say(f"\n{_call(chosen, request)}\n")
    return 0


def _table(fits: Sequence[Fit], need: Need) -> str:
    rows = [_COLUMNS, *(_row(fit) for fit in fits)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"{need.memory / 1e9:.3g} GB on {need.device}; a story of {need.pictures} pictures"
    return "\n".join([f"{head} and texts of {need.text} tokens:", "", *lines]) + "\n"


def _row(fit: Fit) -> tuple[str, ...]:
    weights = f"{fit.weights / 1e9:.3g}"
    if fit.loading > fit.weights:
        weights += f", loading {fit.loading / 1e9:.3g}"
    return (
        f"{fit.form.name}, offloaded" if fit.elsewhere else fit.form.name,
        f"{fit.shape[0]} x {fit.shape[1]}",
        "whole" if fit.tile is None else f"vae_tile {fit.tile}",
        f"{weights}, host {fit.elsewhere / 1e9:.3g}" if fit.elsewhere else weights,
        f"{fit.work / 1e9:.3g}",
        f"{fit.picture / 1e9:.2g}",
        str(fit.pictures),
        "fits" if fit.fits else "-",
    )


def _call(fit: Fit, request: PlanRequest) -> str:
    """Return what to paste."""
    if fit.form.name in ("int8", "nf4"):
        return (
            f"python examples/published_startup.py {request.model} text-to-image PROMPT "
            f"--quantize {fit.form.name}\n\n"
            "(weights by bitsandbytes; hand what its start() returns to AutoInterleavedInferencer)"
        )
    keywords = [f"dtype={str(fit.form.dtype).removeprefix('torch.')!r}"]
    if request.base is not None:
        keywords.append(f"base={request.base!r}")
    if fit.elsewhere:
        on_device = f"{fit.weights // 10**6}MB"
        keywords += ["device_map='auto'", f"max_memory={{0: '{on_device}', 'cpu': '{_host(fit)}'}}"]
    else:
        keywords.append(f"device={request.need.device!r}")
    if fit.form.name == "fp8":
        keywords.append("fp8=True")
    model = "" if Path(request.model) == BUNDLED_MODEL else f"{request.model!r}, "
    lines = [
        "from auto_interleaved_inference import AutoInterleavedInferencer",
        "",
        f"inferencer = AutoInterleavedInferencer.from_pretrained({model}{', '.join(keywords)})",
    ]
    if fit.tile is not None:
        lines.append(f"inferencer.vae_tile = {fit.tile}")
    options = f"image_shape={fit.shape}, max_context_memory={fit.context}"
    return "\n".join(
        [*lines, f"output = inferencer.auto_interleaved_generation(PROMPT, {options})"]
    )


def _host(fit: Fit) -> str:
    return f"{fit.elsewhere * 11 // 10**10 + 1}GB"
