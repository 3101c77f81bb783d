"""Low-rank changes to a checkpoint's linear layers: put in, and saved in peft's layout."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from modeling.bagel import Bagel
from modeling.checkpoint.adapters import CONFIG_FILE, WEIGHTS_FILE, require_peft
from modeling.checkpoint.settings import SETTINGS_FILE
from training.states import replace_file
from training.task import FineTuning, Lora
from training.taught import TAUGHT_PROTOCOL, write_card, write_text

logger = logging.getLogger("auto_interleaved.training")

FILES = (WEIGHTS_FILE, CONFIG_FILE)  # the one that says what the other is last
# The decoder has two sets of each; the vision encoder, whose names are alike, is left alone.
_LAYERS = r"language_model\.model\.layers\.\d+\."
_TEXT = r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_DRAWING = r"(self_attn\.[qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)"
TARGETS = {
    "text": _LAYERS + _TEXT,
    "drawing": _LAYERS + _DRAWING,
    "both": f"{_LAYERS}({_TEXT}|{_DRAWING})",
}


def add_lora(model: Bagel, lora: Lora) -> nn.Module:
    """Freeze a model and put low-rank changes into it, which are nothing at first.

    Args:
        model: changed in place; its linear layers may be quantised.
        lora: how large, and where.

    Returns:
        The same model as peft wraps it; the changes are float32, and all that has gradients.

    Raises:
        ImportError: peft is not installed.
    """
    peft = require_peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        target_modules=TARGETS[lora.targets],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # all processes begin alike, and a run is repeated
        return peft.get_peft_model(model.requires_grad_(False), config)


def save_adapter(task: FineTuning, prepared: nn.Module, runner: Accelerator) -> None:
    """Write what was learnt to the task's output, with a card; all processes together."""
    assert task.lora is not None
    state = runner.get_state_dict(prepared)
    runner.wait_for_everyone()
    if not runner.is_main_process:
        return
    wrapped: Any = runner.unwrap_model(prepared)
    wrapped.peft_config["default"].base_model_name_or_path = str(task.checkpoint)
    beside = task.output / "adapter.partial"
    wrapped.save_pretrained(str(beside), state_dict=state, save_embedding_layers=False)
    for name in FILES:
        replace_file(task.output / name, lambda place, name=name: _copy(beside / name, place))
    shutil.rmtree(beside)
    write_text(task.output / SETTINGS_FILE, json.dumps({"protocol": TAUGHT_PROTOCOL}) + "\n")
    plan = task.plan()
    facts = {
        "checkpoint": str(task.checkpoint),
        "decision": "none" if task.decision is None else str(task.decision),
        "rank": task.lora.rank,
        "alpha": wrapped.peft_config["default"].lora_alpha,
        "targets": task.lora.targets,
        "steps": plan.steps,
        "learning_rate": plan.learning_rate,
        "quantised": task.quantize or "no",
    }
    write_card(task.output, "Low-rank changes", "adapter", facts)
    logger.info("saved %s", task.output)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
