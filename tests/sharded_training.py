"""Runs train.py in float32; sharded, on processes without GPUs, where accelerate is told to.

accelerate shards on GPUs alone, though PyTorch shards anywhere, and asks what kind of processes
there are at a single place. There it is told that they had GPUs.
"""

import sys
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from train import main
from training import decoder


class Exact(Accelerator):
    """Computes in the dtype of the weights, and draws the same noise in every process."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "mixed_precision": "no"})

    def prepare(self, *parts: Any, **settings: Any) -> Any:
        """Prepare, and begin with the same noise however much was drawn for that."""
        prepared = super().prepare(*parts, **settings)
        torch.manual_seed(0)
        return prepared


if __name__ == "__main__":
    torch.set_num_threads(1)
    decoder.Accelerator = Exact
    state = PartialState(cpu=True)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    raise SystemExit(main(sys.argv[1:]))
