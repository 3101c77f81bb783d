"""Checkpoints: a directory or a hub id in, everything that an inferencer needs out."""

from pathlib import Path

from modeling.checkpoint.load import Checkpoint, load_checkpoint

__all__ = ["BUNDLED_MODEL", "Checkpoint", "load_checkpoint"]

BUNDLED_MODEL = Path(__file__).with_name("picturebook")
"""The picture-book model that comes with the library, see docs/bundled-model.md."""
