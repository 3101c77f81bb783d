"""The models that lmms-eval loads; its own page is docs/lmms-eval.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from auto_interleaved.harness.samples import Answers, Sample, keyed, prompt_of, stages_of
from auto_interleaved.harness.settings import Settings
from auto_interleaved.runner.processes import Processes
from auto_interleaved_inference import AutoInterleavedInferencer
from modeling.checkpoint import BUNDLED_MODEL
from modeling.progress import Bar

try:
    from lmms_eval.api.model import lmms as _Model
except ImportError:  # importing needs no harness; being loaded by one does
    _Model = object


class AutoInterleavedModel(_Model):
    """A model for tasks that give a context and visuals, visual chains of thought included.

    Args:
        **given: see `Settings`.
    """

    is_simple = True

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._settings = Settings.of(given)
        self._processes = Processes()
        self._rank, self._world_size = self._processes.index, self._processes.count
        loading = dict(self._settings.loading)
        if "device_map" not in loading:
            name = loading.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
            loading["device"] = self._processes.device(name)
        inferencer = AutoInterleavedInferencer.from_pretrained(
            self._settings.pretrained or BUNDLED_MODEL, **loading
        )
        inferencer.set_progress_bar_config(disable=True)
        self.device = inferencer.model.device
        self.batch_size = self._settings.batch_size
        self._answers = Answers(inferencer, self._settings)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests in their order."""
        with self._counting(len(requests)) as count:
            return self._answers.to(self._samples(requests), count)

    def generate_visual_cot(self, requests: Sequence[Any]) -> list[str]:
        """Answer each request after a picture was drawn for it."""
        with self._counting(len(requests)) as count:
            return self._answers.after_drawing(self._stages(requests), count)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not to be had: texts are written here, not weighed."""
        raise NotImplementedError("likelihoods are not told; choose tasks that generate")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not to be had: such tasks are made of functions that each round is asked of."""
        raise NotImplementedError("tasks of several rounds are not run; choose tasks of one")

    def _samples(self, requests: Sequence[Any]) -> Iterator[Sample]:
        """Yield what requests ask, each made when it is its turn: pictures take memory."""
        for key, (context, said, to_visual, document, task, split) in _keyed(requests):
            visuals = to_visual and to_visual(self.task_dict[task][split][document])
            prompt = prompt_of(context, visuals)
            yield Sample(key=key, prompt=prompt, options=self._settings.options_of(said))

    def _stages(self, requests: Sequence[Any]) -> Iterator[tuple[Sample, str]]:
        for key, (context, said, to_visual, document, task, split) in _keyed(requests):
            visuals = to_visual and to_visual(self.task_dict[task][split][document])
            drawing, question = stages_of(context)
            prompt = prompt_of(drawing, visuals)
            options = self._settings.options_of(said)
            yield Sample(key=key, prompt=prompt, options=options), question

    def _counting(self, total: int) -> _Counting:
        return _Counting(total, shown=self._rank == 0)


class AutoInterleavedChatModel(AutoInterleavedModel):
    """A model for tasks that give messages, with pictures in their places."""

    is_simple = False

    def _samples(self, requests: Sequence[Any]) -> Iterator[Sample]:
        for key, (_, to_messages, said, document, task, split) in _keyed(requests):
            messages = to_messages(self.task_dict[task][split][document])
            yield Sample(key=key, prompt=messages, options=self._settings.options_of(said))


def _keyed(requests: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each request's key and arguments, of which the last three name its document."""
    names = ((task, split, document) for *_, document, task, split in (r.args for r in requests))
    yield from zip(keyed(names), (request.args for request in requests), strict=True)


class _Counting:
    """A bar over the samples; its call counts one."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._bar = Bar(total=total, desc="samples", disable=None if shown else True)

    def __enter__(self) -> _Counting:
        return self

    def __call__(self) -> None:
        self._bar.update()

    def __exit__(self, *raised: object) -> None:
        self._bar.close()
