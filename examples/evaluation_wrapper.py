"""A wrapper for a benchmark suite, which hands over requests and wants texts, in batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from PIL import Image

# A script finds modules beside itself; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_interleaved_inference import AutoInterleavedInferencer
from inferencer import InterleaveInferencer
from modeling.bagel.qwen2_navit import NaiveCache
from modeling.checkpoint import BUNDLED_MODEL


@dataclass(frozen=True)
class Request:
    """A question about a picture, and how long its answer may be."""

    image: Image.Image
    question: str
    max_new_tokens: int = 24


class BagelForSuites:
    """Answers requests, several at once, through the model's own calls."""

    def __init__(self, parts: InterleaveInferencer, batch_size: int = 4) -> None:
        self.parts = parts
        self.batch_size = batch_size

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Answer in the order of the requests."""
        starts = range(0, len(requests), self.batch_size)
        batches = (requests[start : start + self.batch_size] for start in starts)
        return [answer for batch in batches for answer in self._answers(batch)]

    def _answers(self, batch: Sequence[Request]) -> Iterator[str]:
        parts, model, ids = self.parts, self.parts.model, self.parts.new_token_ids
        cache = NaiveCache(model.config.llm_config.num_hidden_layers)
        lengths, ropes = [0] * len(batch), [0] * len(batch)
        images, questions = [r.image for r in batch], [r.question for r in batch]
        inputs, lengths, ropes = model.prepare_vit_images(
            lengths, ropes, images, parts.vit_transform, ids
        )
        model.forward_cache_update_vit(cache, **inputs)
        inputs, lengths, ropes = model.prepare_prompts(
            lengths, ropes, questions, parts.tokenizer, ids
        )
        model.forward_cache_update_text(cache, **inputs)
        # Every sample goes on to the longest limit: a batch ends with its first sample only.
        steps = model.generate_text(
            cache,
            **model.prepare_start_tokens(lengths, ropes, ids),
            max_length=1 + max(request.max_new_tokens for request in batch),
        )
        ends = (ids["eos_token_id"], ids["bos_token_id"])
        for request, column in zip(batch, steps[1:].T.tolist(), strict=True):
            written = takewhile(lambda id_: id_ not in ends, column[: request.max_new_tokens])
            yield parts.tokenizer.decode(list(written))


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask three questions about two plain pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=BUNDLED_MODEL, help="a checkpoint: directory or hub id")
    parser.add_argument("--output", default="answers.txt", help="where the answers go")
    given = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    suite = BagelForSuites(AutoInterleavedInferencer.from_pretrained(given.model, device=device))
    red, wide = (Image.new("RGB", size, "crimson") for size in ((64, 64), (96, 48)))
    requests = [
        Request(red, "Which colour?"),
        Request(wide, "What is it?"),
        Request(red, "Why?", 8),
    ]
    answers = suite.generate_until(requests)
    lines = [f"{r.question} {answer}" for r, answer in zip(requests, answers, strict=True)]
    Path(given.output).write_text("\n".join(lines), encoding="utf-8")
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
