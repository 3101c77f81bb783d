"""Learning a decision: the rows of a head that say what follows a text, and nothing else.

The head is linear. All that these rows ever see are the states at which texts are written, and
those do not depend on them: so they are computed once, by a forward without gradients, and kept.
What is left is a regression with one minimum, of a few thousand numbers.

States at the ends of texts teach what follows, and where a text ends. States inside texts are
needed as well: a row that grows is a candidate everywhere, and a text must not stop, nor a picture
begin, in its middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from data.packing import Part, SpecialIds, pack
from modeling.bagel import Bagel
from modeling.bagel.training import writing_states

INSIDE = 256  # states inside texts that are kept of a conversation; more say little new
# By how much a row may change a logit before that needs evidence: a few more or fewer do not matter
# (docs/training.md).
_PRIOR = 10.0
_ITERATIONS = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """What the head saw where texts were written, and what came there.

    Attributes:
        hidden: (places, hidden), float32.
        others: (places,), what all other ids together weigh: the log of their summed exponentials.
        highest: (places,), the largest logit among all other ids.
        labels: (places,), which of the learnt ids came, their number for any other.
        weights: (places,), how many places each stands for.
    """

    hidden: Tensor
    others: Tensor
    highest: Tensor
    labels: Tensor
    weights: Tensor


@torch.no_grad()
def collect(
    model: Bagel,
    sequences: Iterable[Sequence[Part]],
    special: SpecialIds,
    ids: Sequence[int],
) -> States:
    """Run conversations through a model and keep what its head sees; memory of inference.

    Args:
        model: the model; it stays as it is.
        sequences: conversations, without noised copies of pictures.
        special: ids that frame texts and images.
        ids: what is learnt.
    """
    rng = Random(0)
    kept = [_states(model, sequence, special, ids, rng) for sequence in sequences]
    columns = zip(*kept, strict=True)
    hidden, others, highest, labels, weights = (torch.cat(column) for column in columns)
    return States(hidden=hidden, others=others, highest=highest, labels=labels, weights=weights)


def _states(
    model: Bagel, sequence: Sequence[Part], special: SpecialIds, ids: Sequence[int], rng: Random
) -> tuple[Tensor, ...]:
    batch = pack([sequence], special)
    labels = torch.full_like(batch.ce_labels, len(ids))
    for number, id_ in enumerate(ids):
        labels[batch.ce_labels == id_] = number
    inside = (labels == len(ids)).nonzero()[:, 0].tolist()
    chosen = sorted(rng.sample(inside, min(len(inside), INSIDE)))
    places = torch.cat(
        [(labels < len(ids)).nonzero()[:, 0], torch.tensor(chosen, dtype=torch.long)]
    )
    weights = torch.ones(len(places))
    if chosen:
        weights[-len(chosen) :] = len(inside) / len(chosen)
    states = writing_states(model, batch.to(model.device))[places.to(model.device)]
    logits = model.language_model.lm_head(states).float()
    logits[:, list(ids)] = -math.inf
    others, highest = logits.logsumexp(-1), logits.amax(-1)
    on_cpu = (states.float().cpu(), others.cpu(), highest.cpu())
    return *on_cpu, labels[places], weights


def learn(states: States, old: Tensor) -> Tensor:
    """Return the rows that explain states best and are not far from the old ones.

    Args:
        states: what the head saw, and what came.
        old: (ids, hidden), the rows to begin from, float32.

    Returns:
        (ids, hidden), float32.

    Raises:
        FloatingPointError: a state is no number.
    """
    if not all(values.isfinite().all() for values in (states.hidden, states.others, old)):
        raise FloatingPointError(
            "no decision can be learnt, as the checkpoint's states hold values that are no finite "
            "numbers; try --dtype float32"
        )
    change = torch.zeros_like(old, requires_grad=True)
    total = states.weights.sum()
    # The mean square of a state's length: a change of so many logits costs the same in any model.
    scale = states.hidden.square().sum(-1).mean() / (2 * _PRIOR**2)
    optimizer = torch.optim.LBFGS(
        [change],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = torch.cat([states.hidden @ (old + change).T, states.others[:, None]], dim=1)
        errors = F.cross_entropy(logits, states.labels, reduction="none")
        value = ((errors * states.weights).sum() + scale * change.square().sum()) / total
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return (old + change).detach()


@dataclass(frozen=True, kw_only=True)
class Rightness:
    """How often the likeliest id is the right one.

    Attributes:
        after_text: of what follows a text.
        text_ends: of the ends of texts.
        inside: places inside texts at which none of the learnt ids is the likeliest.
    """

    after_text: tuple[int, int]
    text_ends: tuple[int, int]
    inside: tuple[int, int]

    def __str__(self) -> str:
        named = {
            "what follows a text": self.after_text,
            "ends of texts": self.text_ends,
            "places inside texts": self.inside,
        }
        return ", ".join(f"{name} {right:,} of {of:,}" for name, (right, of) in named.items())


def rightness(states: States, rows: Tensor, text_end: int) -> Rightness:
    """Count where rows choose right.

    Args:
        states: what the head saw, and what came.
        rows: (ids, hidden).
        text_end: the place of the id that ends a text among the ids.
    """
    logits = torch.cat([states.hidden @ rows.float().T, states.highest[:, None]], dim=1)
    right = logits.argmax(-1) == states.labels
    inside, ends = states.labels == len(rows), states.labels == text_end

    def counted(chosen: Tensor) -> tuple[int, int]:
        return int(right[chosen].sum()), int(chosen.sum())

    return Rightness(
        after_text=counted(~(inside | ends)), text_ends=counted(ends), inside=counted(inside)
    )
