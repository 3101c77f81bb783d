"""What lmms-eval finds under the entry point group `lmms_eval.models`."""

from __future__ import annotations

from typing import Any

_MODULE = "auto_interleaved.harness.lmms"


def manifests() -> list[Any]:
    """Return the models: one for tasks that give texts and visuals, one for chat messages.

    Visual chains of thought are asked of the first alone: lmms-eval has no messages for them.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="auto_interleaved", simple_class_path=f"{_MODULE}.AutoInterleavedModel"
        ),
        ModelManifest(
            model_id="auto_interleaved_chat",
            chat_class_path=f"{_MODULE}.AutoInterleavedChatModel",
        ),
    ]
