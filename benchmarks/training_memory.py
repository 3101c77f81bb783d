"""The most memory that steps of training take, beside what `train.py --plan` works out for them.

python -m benchmarks.training_memory

Each way of training takes two steps on a model with random weights, in a process of its
own; its memory at most is compared with its memory before the model was there. The plan's allowance
for a GPU's libraries is left out of both.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import torch

from benchmarks.models import Shape, build_shape
from benchmarks.table import head, show
from data.packing import LatentPart, Part, SpecialIds, TextPart, pack
from training.checkpointing import compute_again
from training.decoder import accelerator
from training.footprint import PREDICTED, Shapes, Way, footprint
from training.lora import add_lora
from training.task import Lora

SHAPE = Shape(
    decoder={
        "vocab_size": 16384,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1 << 15,
    },
    vision={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 14,
    },
    autoencoder={"ch": 32},
    latent_side=16,
)
FLOAT, HALF = Way(bytes_per_weight=4), Way(bytes_per_weight=2)
WAYS = {
    "all, float32": FLOAT,
    "all, float32, checkpointing": replace(FLOAT, checkpointing=True),
    "all, bfloat16": HALF,
    "all, bfloat16, checkpointing": replace(HALF, checkpointing=True),
    "rank 16 on bfloat16": replace(HALF, learns="lora", rank=16),
    "rank 16 on bfloat16, checkpointing": replace(HALF, learns="lora", rank=16, checkpointing=True),
}
SPECIAL = SpecialIds(bos=1, eos=2, start_of_image=3, end_of_image=4)


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def batch(tokens: int) -> Any:
    """Return so many tokens: one half are noised pictures; one in `PREDICTED` of all is learnt."""
    rng, length = Random(0), 64
    parts: list[Part] = []
    for number in range(tokens // (2 * length)):
        ids = tuple(rng.randrange(5, 90) for _ in range(length - 2))
        parts.append(TextPart(ids=ids, loss=not number % (PREDICTED // 2)))
        parts.append(LatentPart(latent=torch.randn(length, 64), grid=(8, 8), time=0.5))
    return pack([parts], SPECIAL)


def trained(way: Way, tokens: int) -> int:
    """Take two steps; return the bytes that they took at most."""
    runner = accelerator("cpu")
    before = peak()
    dtype = torch.float32 if way.bytes_per_weight == 4 else torch.bfloat16
    model = build_shape(SHAPE, "cpu", dtype).model.requires_grad_(True)
    wrapped = add_lora(model, Lora(rank=way.rank)) if way.learns == "lora" else model
    if way.checkpointing:
        compute_again(model)
    learnt = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    # As on a GPU: all weights of a step together.
    optimizer = torch.optim.AdamW(learnt, foreach=True)
    wrapped, optimizer = runner.prepare(wrapped, optimizer)
    for _ in range(2):
        losses = wrapped(batch(tokens))
        runner.backward(losses.ce.mean() + losses.mse.mean())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return peak() - before


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--alone", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.alone:
        print(trained(WAYS[given.alone], given.tokens))
        return
    shapes = Shapes.of(build_shape(SHAPE, "cpu", torch.bfloat16).model)
    print(head("Memory of training", "cpu", torch.float32))
    rows = []
    for name, way in WAYS.items():
        command = [sys.executable, "-m", "benchmarks.training_memory", "--alone", name]
        command += ["--tokens", str(given.tokens)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured = int(done.stdout.split()[-1])
        taken = footprint(shapes, way, given.tokens)
        planned = taken.total - taken.besides
        rows.append([name, f"{measured / 1e9:.2f}", f"{planned / 1e9:.2f}", planned / measured])
        print(*rows[-1], file=sys.stderr)
    columns = ("", "measured, GB", "planned, GB", "planned / measured")
    show(f"{shapes.total / 1e6:.0f} M weights, {given.tokens:,} tokens", columns, rows)


if __name__ == "__main__":
    main()
