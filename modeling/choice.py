"""The choice of the next token from its logits, without a look at them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modeling.numbers import NotANumberError, advice_on, require_within

if TYPE_CHECKING:
    from modeling.bagel.bagel import Bagel

Processor = Callable[[Tensor, Tensor], Tensor]

TEMPERATURES = (1e-10, 1e10)  # beyond these, scores leave float32
PENALTIES = (1e-6, 1e6)
# In the place of an id: the model gave logits, or the caller's processor scores, without one.
_NO_LOGIT, _NO_SCORE = -1, -2


@dataclass(frozen=True, eq=False, kw_only=True)
class Choice:
    """How the next id is picked, on the device that the logits are on.

    Attributes:
        processors: change scores (1, vocabulary), one after the other.
        do_sample: draw from the distribution; False takes the likeliest id.
        generator: where randomness comes from; None is torch's global one for the device.
        is_watched: whether a processor is the caller's own, who may count its calls.
    """

    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    do_sample: bool = False
    generator: torch.Generator | None = None
    is_watched: bool = False

    def __call__(self, written: Tensor, logits: Tensor) -> Tensor:
        """Pick an id without a look at it.

        Args:
            written: (written,) ids so far.
            logits: (vocabulary,).

        Returns:
            A (1,) id, or a negative number where no id has a probability: the largest logit is no
            number then, as one nan makes it.
        """
        if not (self.processors or self.do_sample):
            likeliest = logits.argmax(-1, keepdim=True)
            return torch.where(_finite(logits.gather(-1, likeliest)), likeliest, _NO_LOGIT)
        # Copies, because a processor may write into what it is given.
        ids, scores = written.to(logits.device, copy=True), logits.to(torch.float32, copy=True)
        scores = self.processors(ids[None], scores[None])[0]
        if self.do_sample:
            probabilities = scores.softmax(-1)
            # What torch.multinomial does, without its checks, for which the host would wait.
            picked = (probabilities / self._noise(probabilities)).argmax(-1, keepdim=True)
        else:
            picked = scores.argmax(-1, keepdim=True)
        none: int | Tensor = _NO_LOGIT
        if self.is_watched:
            was_usable = _finite(logits.amax(-1, keepdim=True))
            none = torch.where(was_usable, _NO_SCORE, _NO_LOGIT).to(picked)
        return torch.where(_finite(scores.amax(-1, keepdim=True)), picked, none)

    def source(self, device: torch.device) -> torch.Generator | None:
        """Return the generator that moves when logits on a device are drawn from; None if none."""
        if self.generator is not None or not self.do_sample:
            return self.generator if self.do_sample else None
        if device.type == "cuda":
            return torch.cuda.default_generators[device.index]
        return torch.default_generator

    def _noise(self, like: Tensor) -> Tensor:
        device = like.device if self.generator is None else self.generator.device
        noise = torch.empty_like(like, device=device).exponential_(generator=self.generator)
        if noise.device == like.device:
            return noise
        if noise.device.type == "cpu":
            noise = noise.pin_memory()  # else the copy would wait for all that was begun before
        return noise.to(like.device, non_blocking=True)


greedy = Choice()


def _finite(numbers: Tensor) -> Tensor:
    return numbers.abs() < math.inf  # which nan is not; isfinite takes twice the operations


def choice(  # noqa: PLR0913 - the usual knobs of sampling
    *,
    do_sample: bool,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    logits_processor: Processor | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """Say how the next id is picked.

    Args:
        do_sample: draw from the distribution; False takes the likeliest id.
        temperature: above 0; below 1 sharpens. Plays no part without sampling, as top_k and top_p.
        top_k: draw among so many likeliest ids; 0 is all.
        top_p: draw among the likeliest ids that together have this probability; 1 is all.
        repetition_penalty: above 1 makes ids less likely that were written before.
        logits_processor: called with ids (1, written) and scores (1, vocabulary) before all
            others, as transformers' processors are; returns scores. One or a LogitsProcessorList.
        generator: where randomness comes from; None is torch's global generator.

    Raises:
        ValueError: if a number is out of range.
    """
    if do_sample:
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature must be above 0 when sampling, got {temperature}; "
                "for the likeliest token set do_sample=False"
            )
        require_within("temperature", temperature, *TEMPERATURES)
    require_within("repetition_penalty", repetition_penalty, *PENALTIES)
    processors = LogitsProcessorList(_each(logits_processor))
    is_watched = bool(processors)
    if repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if do_sample:
        processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            processors.append(TopPLogitsWarper(top_p))
    return Choice(
        processors=processors, do_sample=do_sample, generator=generator, is_watched=is_watched
    )


def _each(processor: Processor | None) -> list[Processor]:
    # A list within a list would be called with what its members do not take.
    if isinstance(processor, LogitsProcessorList):
        return [_Checked(member) for member in processor]
    return [] if processor is None else [_Checked(processor)]


class _Checked:
    """A processor of the caller's, whose answers may be anything."""

    def __init__(self, processor: Processor) -> None:
        self._call = LogitsProcessorList([processor])  # which knows processors' conventions

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        shape = tuple(scores.shape)
        changed = self._call(ids, scores)
        is_scores = isinstance(changed, Tensor) and changed.is_floating_point()
        if not is_scores or changed.shape != shape:
            given = type(changed).__name__
            if isinstance(changed, Tensor):
                given = f"{changed.dtype} of shape {tuple(changed.shape)}"
            raise (ValueError if is_scores else TypeError)(
                f"logits_processor must return scores as it is given them, floating point of shape "
                f"{shape}; {self._name} returned {given}"
            )
        return changed.to(scores)

    @property
    def _name(self) -> str:
        [processor] = self._call
        return getattr(processor, "__qualname__", type(processor).__qualname__)


def likeliest(model: Bagel, logits: Tensor) -> int:
    """Return the likeliest id after what was read, by (vocabulary,) logits.

    Raises:
        NotANumberError: if no id has a probability.
    """
    id_ = int(greedy(logits[:0], logits))
    if id_ < 0:
        raise no_id(model, id_, "after a text that was read")
    return id_


def no_id(model: Bagel, id_: int, when: str) -> NotANumberError:
    """Return the error for a negative number in the place of an id."""
    if id_ == _NO_SCORE:
        advice = "it must leave one id at least whose score is a number, and give none nan"
        return NotANumberError(
            f"what the logits processor returned {when}, so that no id has a probability", advice
        )
    what = f"the logits {when}, so that no id has a probability"
    return NotANumberError(what, advice_on(model))
