"""What a device can do at best, measured, and what the model asks of it, counted."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import seconds
from modeling.bagel import Bagel
from modeling.linear import Linear

REPEATS = 7


Moving = tuple[int, Callable[[], Tensor]]  # bytes, and what moves so many


def bandwidth(device: torch.device | str, dtype: torch.dtype) -> float:
    """Measure bytes a second: the best of all `ways_to_move`."""
    return max(moved / _typical_seconds(run) for moved, run in ways_to_move(device, dtype))


def ways_to_move(
    device: torch.device | str, dtype: torch.dtype, *, megabytes: int = 256
) -> list[Moving]:
    """Return a copy, a triad, a sum and a product with a vector.

    The last two only read, as decoding does. Buffers are far larger than any cache.
    """
    side = int((megabytes * 2**20 / dtype.itemsize) ** 0.5)
    matrix, other, target = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))
    vector = torch.ones(side, device=device, dtype=dtype)
    size = matrix.numel() * dtype.itemsize
    return [
        (2 * size, lambda: target.copy_(matrix)),
        (3 * size, lambda: torch.add(matrix, other, alpha=3, out=target)),
        (size, matrix.sum),
        (size, lambda: matrix @ vector),
    ]


def matmul_rate(
    device: torch.device | str, dtype: torch.dtype, *, side: int | None = None
) -> float:
    """Measure FLOP/s of a large matrix product, by PyTorch's way or by ours."""
    n = side or (1024 if torch.device(device).type == "cpu" else 8192)
    layer = Linear(n, n, bias=False, device=device, dtype=dtype)
    rows = torch.randn(n, n, device=device, dtype=dtype)
    ways: tuple[Callable[[], Tensor], ...] = (lambda: layer(rows), lambda: rows @ layer.weight)
    with torch.inference_mode():
        return 2 * n**3 / min(_typical_seconds(run) for run in ways)


def _typical_seconds(run: Callable[[], object]) -> float:
    run()
    return statistics.median(seconds(run) for _ in range(REPEATS))


def token_bytes(model: Bagel, context_length: int) -> int:
    """Return the bytes read to write a token: text weights, vocabulary head, keys and values."""
    decoder = model.language_model.model
    tensors = [p for name, p in decoder.layers.named_parameters() if "moe_gen" not in name]
    tensors += [*decoder.norm.parameters(), *model.language_model.lm_head.parameters()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return weights + context_length * model.bytes_per_token


def block_flops(model: Bagel, *, num_text: int, num_latent: int, context_length: int) -> int:
    """Count the decoder's linear layers and attention for a block after a context."""
    config, layers = model.language_model.config, model.language_model.model.layers
    matrices = [(name, p.numel()) for name, p in layers.named_parameters() if p.ndim == 2]
    latent = sum(size for name, size in matrices if "moe_gen" in name)
    text = sum(size for name, size in matrices if "moe_gen" not in name)
    queries = num_text + num_latent
    attention = queries * (context_length + queries) * config.hidden_size * len(layers)
    return 2 * (num_text * text + num_latent * latent) + 4 * attention


def flow_flops(model: Bagel, num_latent: int, context_length: int) -> int:
    """Count one evaluation of one branch's velocity."""
    ends = sum(layer.weight.numel() for layer in (model.vae2llm, model.llm2vae))
    decoder = block_flops(model, num_text=2, num_latent=num_latent, context_length=context_length)
    return decoder + 2 * num_latent * ends


def vision_flops(model: Bagel, num_patches: int) -> int:
    """Count the vision encoder and its connector."""
    modules: tuple[nn.Module, ...] = (model.vit_model, model.connector)
    tables = [p for name, p in model.vit_model.named_parameters() if "position_embedding" in name]
    size = sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)
    linear = size - sum(p.numel() for p in tables)
    config = model.vit_model.config
    attention = num_patches**2 * config.hidden_size * config.num_hidden_layers
    return 2 * num_patches * linear + 4 * attention


def counted_flops(run: Callable[[], object]) -> int:
    """Count the products and convolutions of a call; on a CPU attention is not seen."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
