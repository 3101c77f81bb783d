"""Teaching the decoder: one loop for the bundled model and for any checkpoint.

Accelerate decides where and on how many processes it runs: one core, several (`torchrun
--nproc-per-node 2 train.py ...`), a GPU, or a sharded model by `accelerate launch`.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from data.packing import SpecialIds, pack
from modeling.bagel import Bagel
from training.drawn import Drawn, is_sharded
from training.held_out import HeldOut
from training.optimizing import Average
from training.plan import NotANumberError, Plan
from training.samples import Batch
from training.states import States
from training.stopping import Interrupted, Stopping

logger = logging.getLogger("auto_interleaved.training")

REPORT_EVERY = 50  # steps

# Of one process for another: while one trains the autoencoder the others have nothing to do.
_PATIENCE = timedelta(days=2)


def accelerator(device: str) -> Accelerator:
    """Return what runs the loop: mixed precision in bfloat16 on this device."""
    # A batch without pictures, or without texts to learn, leaves parameters without a gradient.
    uneven = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision="bf16",
        cpu=torch.device(device).type == "cpu",
        kwargs_handlers=[uneven, InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def train_decoder(  # noqa: PLR0913 - what, from what, how, with what, where to
    model: Bagel,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Callable[[int], Iterable[Batch]],
    special: SpecialIds,
    plan: Plan,
    state: Path,
    runner: Accelerator,
    *,
    average: Average | None = None,
    held_out: HeldOut | None = None,
    drawn: Drawn | None = None,
) -> nn.Module:
    """Train, or go on training, a decoder and everything that feeds it.

    Args:
        model: the model; trained in place unless it is sharded.
        optimizers: of its parameters.
        batches: given the step to begin at, the batches from there on, each a list of sequences;
            every process has its own.
        special: ids that frame texts and images.
        plan: how long and how fast.
        state: the directory of the state to resume from.
        runner: see `accelerator`.
        average: follows the weights.
        held_out: what the model is tested with before the first step and with every report.
        drawn: stories that the model tells meanwhile, where a process has the whole of it.

    Returns:
        The model as accelerate prepared it.

    Raises:
        NotANumberError: a loss, a gradient or a weight became no finite number. The step that it
            happened in is not taken, and the last saved state is left as it is.
        Interrupted: a signal asked for the end; the state was saved.
        ValueError: what there is to go on from is another training's, or damaged.
    """
    model, *optimizers = runner.prepare(model, *optimizers)
    course = _Course(
        model=model,
        optimizers=optimizers,
        special=special,
        plan=plan,
        states=States(state, runner),
        runner=runner,
        average=average,
        held_out=held_out,
        drawn=drawn,
    )
    course.resume()
    course.run(iter(batches(course.progress.step)))
    return model


class _Progress:
    """The steps done so far, as part of a saved state."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


@dataclass(kw_only=True, eq=False)
class _Course:
    """One training: where it stands, and how it goes on by one step."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    special: SpecialIds
    plan: Plan
    states: States
    runner: Accelerator
    average: Average | None
    held_out: HeldOut | None
    drawn: Drawn | None
    progress: _Progress = field(default_factory=_Progress)
    saved: int = 0  # the step of the newest saved state
    saved_at: float = field(default_factory=time.monotonic)
    sums: list[Tensor] = field(default_factory=list)  # losses since the last report

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        parts = [self.progress] if self.average is None else [self.progress, self.average]
        self.runner.register_for_checkpointing(*parts)
        if self.states.load():
            self.saved = self.progress.step
            left = max(0, self.plan.steps - self.saved)
            self._tell(f"goes on after step {self.saved}; {left} steps are left")

    def run(self, batches: Iterator[Batch]) -> None:
        """Take all the steps that are left."""
        with Stopping() as stopping:
            if self.held_out is not None and self.progress.step < self.plan.steps:
                self._tell(f"step {self.progress.step}{self._tested()}")
            while self.progress.step < self.plan.steps:
                self._step(self._next(batches, stopping))
                self._draw()
            self.save()

    def _draw(self) -> None:
        """Let the first process tell stories; the others wait at their next step."""
        step = self.progress.step
        if self.drawn is None or not self.drawn.is_due(step) or not self.runner.is_main_process:
            return
        if is_sharded(self.model):
            self._tell("no stories, as no process has the whole model")
            self.drawn = None
        else:
            self.drawn.tell(step)

    def save(self) -> None:
        """Save the state, unless it is saved already or its weights are no numbers."""
        if self.progress.step == self.saved:
            return
        wrong = not_finite(self.runner.unwrap_model(self.model))
        if self._any(wrong is not None)[0]:
            raise NotANumberError(
                f"after step {self.progress.step}, {wrong or 'a tensor'} of the weights holds "
                f"values that are no finite numbers{self._what_is_left()}"
            )
        self.states.save()
        self.saved, self.saved_at = self.progress.step, time.monotonic()

    def _next(self, batches: Iterator[Batch], stopping: Stopping) -> Batch:
        """Return the next batch, or save and raise if this or any other process cannot go on."""
        batch, failure = None, None
        try:
            batch = stopping.unless_stopped(partial(next, batches))
        except Exception as error:
            failure = error
        due = time.monotonic() - self.saved_at > 60 * self.plan.save_every
        stop, failed, due = self._any(stopping.signal is not None, failure is not None, due)
        if stop or failed or due:
            self.save()
        if failure is not None:
            raise failure
        if failed:
            raise RuntimeError("another process could not make its batch; see what it says")
        if stop:
            by = stopping.signal or signal.SIGTERM
            raise Interrupted(
                f"stopped by {by.name} after step {self.progress.step} of {self.plan.steps}; "
                "the same command goes on from there",
                by,
            )
        assert batch is not None
        return batch

    def _step(self, sequences: Batch) -> None:
        try:
            losses, norm = self._gradients(sequences)
        except Exception:
            if self.runner.num_processes == 1:  # others do not know of it
                self.save()
            raise
        self._require_numbers(losses, norm)
        self._update()
        self.sums.append(losses)
        if self.progress.step % REPORT_EVERY == 0 or self.progress.step == self.plan.steps:
            self._report()

    def _gradients(self, sequences: Batch) -> tuple[Tensor, Tensor]:
        """Return the text loss and the picture loss, and the norm of the gradients."""
        losses = self.model(pack(sequences, self.special).to(self.runner.device))
        # The mean of nothing is not a number; its sum is a zero that still has a gradient.
        ce, mse = (x.mean() if x.numel() else x.sum() for x in (losses.ce, losses.mse))
        self.runner.backward(self.plan.mse_weight * mse + self.plan.ce_weight * ce)
        norm = self.runner.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        return torch.stack([ce.detach(), mse.detach()]), torch.as_tensor(
            0.0 if norm is None else norm
        )

    def _update(self) -> None:
        """Take the step that the gradients ask for."""
        step = self.progress.step
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step = step + 1
        if self.average is not None:
            self.average.update(self.runner.unwrap_model(self.model), step)

    def _require_numbers(self, losses: Tensor, norm: Tensor) -> None:
        values = [*losses.tolist(), float(norm)]
        if not self._any(not all(map(math.isfinite, values)))[0]:
            return
        wrong = not_finite(self.runner.unwrap_model(self.model))
        if not self.saved and not self._any(wrong is not None)[0]:
            self.save()
        cause = "" if wrong is None else f"; {wrong} of the weights holds values that are none"
        raise NotANumberError(
            f"step {self.progress.step + 1} is not taken, as its loss is no finite number (texts "
            f"{values[0]:.4g}, pictures {values[1]:.4g}, gradient {values[2]:.4g}){cause}"
            f"{self._what_is_left()}"
        )

    def _what_is_left(self) -> str:
        if self.saved:
            return (
                f". The state of step {self.saved} is kept in {self.states.place}: the same "
                "command with a smaller --learning-rate goes on from there, another --output "
                "begins again"
            )
        if not self.progress.step:
            return ", before anything was learnt: look at the checkpoint and the pictures"
        return ". Nothing was saved; begin again with a smaller --learning-rate"

    def _report(self) -> None:
        mean = torch.stack(self.sums).mean(0)
        self.sums.clear()
        ce, mse = self.runner.reduce(mean, "mean").tolist()
        self._tell(f"step {self.progress.step} ce {ce:.4f} mse {mse:.4f}{self._tested()}")

    def _tested(self) -> str:
        if self.held_out is None:
            return ""
        ce, mse = self.held_out.losses(self.model, self.runner.device)
        return f" held-out ce {ce:.4f} mse {mse:.4f}"

    def _tell(self, message: str) -> None:
        if self.runner.is_main_process:
            logger.info("%s", message)

    def _any(self, *flags: bool) -> list[bool]:
        """Return which flags are raised in any process."""
        if self.runner.num_processes == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.float32, device=self.runner.device)
        return (self.runner.reduce(raised, "sum") > 0).tolist()


def not_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter that holds infinity or no number, if one does."""
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        if not torch.isfinite(local.detach()).all():
            return name
    return None
