"""Checkpoints: a directory or a hub id in, everything that an inferencer needs out."""

from modeling.checkpoint.load import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]
