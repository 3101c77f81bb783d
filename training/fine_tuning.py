"""Teaching any BAGEL checkpoint to interleave: to write vision_start where a picture belongs."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from training.beginning import Beginning, begin
from training.checkpointing import compute_again
from training.deciding import teach_decision
from training.decoder import accelerator, train_decoder
from training.drawn import Drawn
from training.held_out import HeldOut
from training.lora import add_lora, save_adapter
from training.partial_states import save_learnt_alone
from training.plan import require_device
from training.task import FineTuning
from training.taught import complete


def fine_tune(task: FineTuning, device: str) -> None:
    """Fine-tune, or go on fine-tuning; what was learnt is in `task.output`.

    Everything is checked before the first step: arguments, places, every line of the data and the
    header of every picture, and whether the model has positions for each conversation.

    Args:
        task: what to teach.
        device: where, unless accelerate's own launcher says.

    Raises:
        FileNotFoundError: the checkpoint, the data or an image is not there.
        ValueError: a line is bad, or a conversation too long, and `task.skip_bad` is not set.
        ImportError: an extra that the task needs is not installed.
        NotANumberError, Interrupted: see `train_decoder`.
    """
    if task.trainable == "decision":
        return teach_decision(task, device)
    require_device(device)
    task.require_places()
    runner = accelerator(device)
    at_first = begin(task, runner.device)
    model = _learning(task, at_first)
    if not all(parameter.requires_grad for parameter in model.parameters()):
        save_learnt_alone(runner)
    mine = at_first.conversations[runner.process_index :: runner.num_processes]
    others = at_first.lessons.once(at_first.held_out) if at_first.held_out else []
    prepared = train_decoder(
        model,
        [torch.optim.AdamW(_learnt(model), betas=(0.9, 0.95), weight_decay=0.0)],
        partial(at_first.lessons.forever, mine or at_first.conversations),
        at_first.special,
        task.plan(),
        task.output / "state",
        runner,
        held_out=HeldOut(others, at_first.special) if others else None,
        drawn=_drawn(task, at_first),
    )
    if task.lora is not None:
        return save_adapter(task, prepared, runner)
    beside = task.output / "weights.partial"
    runner.save_model(prepared, str(beside), max_shard_size="10GB")
    runner.wait_for_everyone()
    if runner.is_main_process:
        complete(task.checkpoint, beside, task.output)
    return None


def _learning(task: FineTuning, at_first: Beginning) -> nn.Module:
    """Return the model with gradients where something is learnt."""
    model: nn.Module = at_first.checkpoint.model
    if task.lora is not None:
        model = add_lora(at_first.checkpoint.model, task.lora)
    else:
        model.requires_grad_(True)
    if task.trainable == "text":
        _freeze_drawing(model)
    if task.checkpointing:
        compute_again(at_first.checkpoint.model)
    return model


def _drawn(task: FineTuning, at_first: Beginning) -> Drawn | None:
    if not task.draw_every:
        return None
    conversations = at_first.held_out or at_first.conversations
    return Drawn(at_first.checkpoint, conversations, task.output / "stories", task.draw_every)


def _learnt(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _freeze_drawing(model: nn.Module) -> None:
    """Leave everything as it is that only drawing goes through."""
    drawing = ("_moe_gen", "time_embedder", "vae2llm", "llm2vae")
    for name, parameter in model.named_parameters():
        if any(part in name for part in drawing):
            parameter.requires_grad_(False)
