"""Stories that a model tells while it is taught, on a page that grows."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from modeling.checkpoint import Checkpoint
from training.conversations import Conversation
from training.lines import one_line
from training.taught import write_text

logger = logging.getLogger("auto_interleaved.training")

INDEX = "index.html"
MOST = 4  # prompts
_SHOWN = 25  # of the newest times, on the page; earlier ones lie beside it
_OPTIONS: dict[str, Any] = {"num_timesteps": 25, "max_images": 4, "seed": 0}
_STORY = re.compile(r"(\d+)_\d+\.html")
_HEAD = """<!DOCTYPE html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="60">
<title>Stories while it learns</title>
<style>body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem; }
section > div { display: flex; flex-wrap: wrap; gap: 2rem; } div > div { flex: 1 1 20rem; }</style>
"""


class Drawn:
    """Lets a model tell the same stories every so many steps.

    Args:
        checkpoint: whose model is trained.
        conversations: whose prompts are answered, the first `MOST` of them.
        folder: where the stories and their page go.
        every: steps between two times.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        conversations: Sequence[Conversation],
        folder: Path,
        every: int,
    ) -> None:
        shape = checkpoint.settings.get("image_shape")
        self._inferencer = AutoInterleavedInferencer(
            checkpoint.model,
            checkpoint.vae_model,
            checkpoint.tokenizer,
            checkpoint.vae_transform,
            checkpoint.vit_transform,
            checkpoint.new_token_ids,
            image_shape=None if shape is None else tuple(shape),
        )
        self._inferencer.set_progress_bar_config(disable=True)
        self._conversations = [c for c in conversations if prompt_of(c) is not None][:MOST]
        self._folder = folder
        self._every = every

    def is_due(self, step: int) -> bool:
        """Return whether stories are told after this step."""
        return step % self._every == 0

    def tell(self, step: int) -> None:
        """Tell the stories and show them on the page; training goes on whatever happens here."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number, conversation in enumerate(self._conversations):
                prompt: Any = prompt_of(conversation)
                output = self._inferencer.auto_interleaved_generation(prompt, **_OPTIONS)
                output.save(self._folder / f"{step:06d}_{number}.html")
            write_text(self._folder / INDEX, _page(self._folder))
        except (
            Exception
        ) as error:  # a full disk, a picture that is gone, a model that is no use yet
            logger.warning("no stories after step %d: %s", step, one_line(error))


def is_sharded(model: nn.Module) -> bool:
    """Return whether no process has a whole model, so that none can tell a story."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def prompt_of(conversation: Conversation) -> list[dict[str, Any]] | None:
    """Return what is said before the first answer, as chat messages; None if nothing is."""
    messages: list[dict[str, Any]] = []
    for message in conversation.messages:
        if message.role == "assistant":
            break
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part.open()}
            for part in message.parts
        ]
        messages.append({"role": message.role, "content": content})
    return messages or None


def _page(folder: Path) -> str:
    by_step: dict[int, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if (match := _STORY.fullmatch(file.name)) is not None:
            by_step.setdefault(int(match[1]), []).append(file)
    newest = sorted(by_step, reverse=True)[:_SHOWN]
    return _HEAD + "\n".join(_section(step, by_step[step]) for step in newest)


def _section(step: int, files: Iterable[Path]) -> str:
    stories = "".join(_story(file) for file in files)
    return f"<section><h2>After {step:,} steps</h2><div>{stories}</div></section>"


def _story(file: Path) -> str:
    told = InterleavedOutput.load(file)
    asked = next((s.text for s in told.segments if s.role == "prompt" and s.text), file.stem)
    return f'<div><a href="{file.name}">{escape(asked)}</a>{told._repr_html_()}</div>'
