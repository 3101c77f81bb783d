"""Everything that only a GPU can tell, in an order of worth, in one command.

python -m benchmarks.gpu --minutes 25 --output runs/gpu
python -m benchmarks.gpu --minutes 5 --output runs/rehearsal --device cpu --model bundled

Each step is a process of its own with a bound on its time: what crashes, hangs or runs out of
memory costs nobody else anything, and a step's output is on disk as it appears. Steps that the
remaining minutes do not hold are left out. At the end `summary.md` has the tables, the list of what
failed with the end of what it said, and what was left out; the exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.table import MODELS

_ROOT = Path(__file__).parents[1]
_LAST_LINES = 60  # of what a failed step said


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    Attributes:
        name: also of the file that its output goes to.
        command: for this Python.
        seconds: after which it is killed.
    """

    name: str
    command: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step.

    Attributes:
        state: "passed", "left out", or how it failed.
    """

    step: Step
    state: str
    seconds: float
    said: str

    @property
    def failed(self) -> bool:
        """Whether it ran and did not come to a good end."""
        return self.state not in ("passed", "left out")


def steps_for(model: str, device: str, dtype: str) -> list[Step]:
    """Return all steps, the most telling first."""
    small = ("--device", device)
    large = ("--model", model, "--device", device, "--dtype", dtype)
    smaller = ("--side", "512") if model == "7b" else ()  # others draw nothing so large

    def measured(name: str, seconds: float, script: str, *options: str) -> Step:
        command = ("-m", f"benchmarks.{script}", *options)
        return Step(name=name, command=command, seconds=seconds)

    return [
        Step(name="tests", command=("-m", "pytest", "-m", "gpu", "-q", "-rs"), seconds=240),
        measured("recorded-bundled", 90, "recorded", "--model", "bundled", *small),
        measured("recorded", 150, "recorded", *large),
        measured("decode", 150, "decode", *large, "--repeats", "1", "--tokens", "64"),
        measured("batch", 150, "batch", *large, "--writing", "--repeats", "1"),
        measured("story", 240, "story", *large, "--only-ours"),
        measured("flow-1024", 240, "flow", *large, "--repeats", "1", "--longest", "8192"),
        measured("flow-512", 150, "flow", *large, "--repeats", "2", *smaller),
        measured("image-into-context", 150, "image_into_context", *large, "--repeats", "2"),
        measured("options", 240, "options", *large),
        measured("nf4", 150, "options", *large, "--quantize", "nf4"),
        measured("memory", 150, "memory", *large),
    ]


def run(step: Step, directory: Path, seconds_left: float) -> Outcome:
    """Run a step; what it says is in its file as soon as it says it."""
    path, started = directory / f"{step.name}.txt", time.monotonic()
    state, command = "passed", [sys.executable, "-u", "-X", "faulthandler", *step.command]
    with path.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                cwd=_ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=min(step.seconds, seconds_left),
            )
            if done.returncode:
                state = f"failed, exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            state = "ran out of time"
    said = path.read_text(encoding="utf-8", errors="replace")
    return Outcome(step=step, state=state, seconds=time.monotonic() - started, said=said)


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return a page: what passed, what each step measured, what failed and how."""
    outcomes = list(outcomes)
    lines = ["# On a GPU", "", "| step | state | seconds |", "| --- | --- | --- |"]
    lines += [f"| {o.step.name} | {o.state} | {o.seconds:.0f} |" for o in outcomes]
    for outcome in outcomes:
        if outcome.state == "left out":
            continue
        command = " ".join(outcome.step.command)
        lines += ["", f"`python {command}`", ""]
        if not outcome.failed:
            lines += [outcome.said.strip()]
        else:
            last = outcome.said.rstrip().splitlines()[-_LAST_LINES:]
            lines += [f"{outcome.state.capitalize()}; the end of what it said:", ""]
            lines += ["```text", *last, "```"]
    return "\n".join(lines) + "\n"


def run_all(steps: list[Step], directory: Path, minutes: float) -> list[Outcome]:
    """Run steps while minutes are left; the summary is on disk after each."""
    directory.mkdir(parents=True, exist_ok=True)
    ends, outcomes = time.monotonic() + 60 * minutes, list[Outcome]()
    for step in steps:
        left = ends - time.monotonic()
        if left < min(step.seconds, 60) / 2:
            outcome = Outcome(step=step, state="left out", seconds=0, said="")
        else:
            outcome = run(step, directory, left)
        print(f"{step.name}: {outcome.state}, {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        (directory / "summary.md").write_text(summary(outcomes), encoding="utf-8")
    return outcomes


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25, help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--model", choices=MODELS, default="7b", help="default: %(default)s")
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--dtype", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--only", help="names of steps, with commas between them")
    arguments = parser.parse_args()
    dtype = arguments.dtype or ("float32" if arguments.device == "cpu" else "bfloat16")
    steps = steps_for(arguments.model, arguments.device, dtype)
    if arguments.only:
        wanted = arguments.only.split(",")
        unknown = [name for name in wanted if name not in {step.name for step in steps}]
        if unknown:
            names = ", ".join(step.name for step in steps)
            parser.error(f"--only: there is no step {', '.join(unknown)}; there are {names}")
        steps = [step for step in steps if step.name in wanted]
    outcomes = run_all(steps, arguments.output, arguments.minutes)
    print(f"{arguments.output / 'summary.md'}")
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
