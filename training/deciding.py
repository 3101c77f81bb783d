"""Teaching a checkpoint nothing but when to draw: from conversations to a decision's file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch

from modeling.checkpoint.decision import DECISION_FILE, HEAD, PROTOCOL, Decision, fingerprint
from modeling.checkpoint.files import locate
from modeling.checkpoint.weights import DTYPES, open_weights
from training.bars import bar
from training.beginning import Beginning, begin
from training.conversations import Conversation
from training.decision import States, collect, learn, rightness
from training.plan import require_device
from training.states import replace_file
from training.task import FineTuning
from training.taught import write_card
from training.tokenizer import SPECIAL_TOKENS

logger = logging.getLogger("auto_interleaved.training")

# What may follow a text, and what ends one.
TOKENS = ("<|vision_start|>", "<|im_start|>", "<|endoftext|>", "<|im_end|>")
_TEXT_END = TOKENS.index("<|im_end|>")
assert set(TOKENS) < set(SPECIAL_TOKENS)


def teach_decision(task: FineTuning, device: str) -> None:
    """Learn a decision; its file and a card are in `task.output`.

    Args:
        task: what to teach.
        device: where the checkpoint runs.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `training.beginning.begin`; or no picture
            follows any text.
        FloatingPointError: the checkpoint's states are no numbers.
    """
    require_device(device)
    task.require_places()
    at_first = begin(task, torch.device(device))
    decision = learnt(task, at_first)
    replace_file(
        task.output / DECISION_FILE, lambda beside: beside.write_bytes(decision.to_bytes())
    )
    write_card(task.output, "When to draw", "decision", decision.card)
    logger.info("saved %s", task.output / DECISION_FILE)


def learnt(task: FineTuning, at_first: Beginning) -> Decision:
    """Learn a decision from what teaching begins from; see `teach_decision`."""
    checkpoint = at_first.checkpoint
    known = checkpoint.tokenizer.get_vocab()
    ids = {token: known[token] for token in TOKENS}
    places = list(ids.values())
    weights = open_weights(locate(task.checkpoint).weights)
    states = _seen(at_first, at_first.conversations, places)
    if not (states.labels == TOKENS.index("<|vision_start|>")).any():
        raise ValueError(
            "no picture follows any text of the data, so that nothing says when to draw one; "
            "give conversations whose answers have pictures"
        )
    old = checkpoint.model.language_model.lm_head.weight[places].detach().float().cpu()
    # As they will be stored and merged, so that what is counted is what will be.
    rows = learn(states, old).to(DTYPES[weights.tensors[HEAD].dtype])
    figures: dict[str, Any] = {"right": str(rightness(states, rows, _TEXT_END))}
    if at_first.held_out:
        others = _seen(at_first, at_first.held_out, places)
        figures["right_held_out"] = str(rightness(others, rows, _TEXT_END))
        figures["right_held_out_before"] = str(rightness(others, old, _TEXT_END))
    for name, value in figures.items():
        logger.info("%s: %s", name.replace("_", " "), value)
    card = {
        "checkpoint": str(task.checkpoint),
        "protocol": PROTOCOL,
        "tokens": json.dumps(ids),
        "conversations": len(at_first.conversations),
        "quantised": task.quantize or "no",
        **figures,
    }
    return Decision(
        ids=ids,
        rows=rows,
        vocabulary=weights.tensors[HEAD].shape[0],
        made_for=fingerprint(weights, places),
        card=card,
    )


def _seen(at_first: Beginning, conversations: Sequence[Conversation], ids: Sequence[int]) -> States:
    sequences = at_first.lessons.read(bar(conversations, "reading", "conversation"))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the little noise on pictures that are read
        return collect(at_first.checkpoint.model, sequences, at_first.special, ids)
