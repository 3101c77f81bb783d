"""Samples of a harness: what each asks, run in batches, and answers as the harness reads them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from auto_interleaved.harness.settings import Settings
from auto_interleaved.runner.prompt_files import seed_of
from data.output import InterleavedOutput
from data.output.atomic import put_file
from data.output.result_folders import folder_name
from data.prompts import Prompt
from data.wording import shown_error

_logger = logging.getLogger("auto_interleaved")

_PLACE = "<image>"  # in a context: where a visual stands
_DRAW = "<|vision_start|>"
_DRAWING = re.compile(r"\[GEN_PROMPT\](.*?)\[/GEN_PROMPT\]", re.DOTALL)
_QUESTION = re.compile(r"\[QUESTION\](.*?)\[/QUESTION\]", re.DOTALL)
_ASK_TO_DRAW = "Draw a picture that helps to answer this question: {question}"
_AHEAD = 16  # batches whose prompts, with their pictures, are in memory at a time


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request.

    Attributes:
        key: what tells it apart: task, split, number of the document, and which time it is asked.
        prompt: as `AutoInterleavedInferencer.stream` takes it.
        options: of its run, without a seed.
    """

    key: str
    prompt: Prompt
    options: Mapping[str, Any]


def prompt_of(context: str, visuals: Sequence[Any] | None) -> list[Any]:
    """Return a context with its visuals: where it says `<image>`, else before it.

    Raises:
        ValueError: if it says so another number of times than there are visuals, or one of them is
            no picture.
    """
    pictures = [_picture(visual) for visual in visuals or ()]
    if _PLACE not in context:
        return [*pictures, context]
    texts = context.split(_PLACE)
    if len(texts) != len(pictures) + 1:
        raise ValueError(
            f"the context says {_PLACE} {len(texts) - 1} times, and there are {len(pictures)} "
            "visuals"
        )
    parts = [part for pair in zip(texts, [*pictures, ""], strict=True) for part in pair]
    return [part for part in parts if not isinstance(part, str) or part.strip()]


def stages_of(context: str) -> tuple[str, str]:
    """Return what a visual chain of thought asks to draw, and the question to answer then."""
    drawing, question = _DRAWING.search(context), _QUESTION.search(context)
    asked = question[1].strip() if question else context
    told = drawing[1].strip() if drawing else _ASK_TO_DRAW
    return told.replace("{question}", asked), asked


def keyed(names: Iterable[tuple[str, str, Any]]) -> list[str]:
    """Return a key for each (task, split, document); one that comes again has its number too."""
    times: dict[str, int] = {}
    keys = []
    for task, split, document in names:
        key = f"{task}/{split}/{document}"
        times[key] = times.get(key, 0) + 1
        keys.append(key if times[key] == 1 else f"{key}/{times[key]}")
    return keys


class Answers:
    """Runs samples and tells what came of them in the harness's words.

    Args:
        inferencer: an `AutoInterleavedInferencer`.
        settings: of the model.
    """

    def __init__(self, inferencer: Any, settings: Settings) -> None:
        self._inferencer = inferencer
        self._settings = settings

    def to(self, samples: Iterable[Sample], count: Callable[[], None]) -> list[str]:
        """Answer samples, in their order, each by a seed of its own.

        Args:
            samples: made as they are needed.
            count: is called once for each that is done.
        """
        answers = []
        for few in self._few(samples):
            for sample, output in zip(few, self._outputs(few), strict=True):
                answers.append(self._told(sample, output))
                count()
        return answers

    def after_drawing(
        self, samples: Iterable[tuple[Sample, str]], count: Callable[[], None]
    ) -> list[str]:
        """Answer in two stages: a picture is drawn for a sample, then its question is asked.

        The picture stands right before the question, and goes to the folder of pictures.

        Args:
            samples: each with what is asked once the picture is there.
            count: is called once for each that is done.
        """
        answers = []
        for few in self._few(samples):
            drawings = [_drawing(sample) for sample, _ in few]
            drawn = self._outputs(drawings)
            asked = []
            for (sample, question), drawing, output in zip(few, drawings, drawn, strict=True):
                pictures = output.images[:1]
                self._saved(drawing, pictures)
                prompt = [*_before(sample.prompt), *pictures, question]
                options = {**sample.options, "max_images": 0}
                asked.append(Sample(key=sample.key, prompt=prompt, options=options))
            for sample, output in zip(asked, self._outputs(asked), strict=True):
                answers.append(self._told(sample, output))
                count()
        return answers

    def _few(self, samples: Iterable[Any]) -> Iterator[list[Any]]:
        rest = iter(samples)
        while few := list(islice(rest, self._settings.batch_size * _AHEAD)):
            yield few

    def _outputs(self, samples: Sequence[Sample]) -> list[InterleavedOutput]:
        each = [{**sample.options, "seed": self._seed(sample)} for sample in samples]
        outputs: list[InterleavedOutput] = self._inferencer.generate_batch(
            [sample.prompt for sample in samples],
            max_batch_size=self._settings.batch_size,
            each=each,
        )
        for sample, output in zip(samples, outputs, strict=True):
            if output.error is not None:
                _logger.error("%s failed: %s", sample.key, shown_error(output.error))
        return outputs

    def _seed(self, sample: Sample) -> int:
        return seed_of(sample.key, self._settings.seed)

    def _told(self, sample: Sample, output: InterleavedOutput) -> str:
        paths = self._saved(sample, output.images)
        if self._settings.results == "text" or not (paths or self._settings.results == "json"):
            return output.text
        return json.dumps({"text": output.text, "images": paths}, ensure_ascii=False)

    def _saved(self, sample: Sample, pictures: Sequence[Image.Image]) -> list[str]:
        folder, paths = self._settings.pictures, []
        for number, picture in enumerate(pictures):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{folder_name(sample.key)}_{number}.png"
            put_file(path, buffer.getvalue())
            paths.append(str(path))
        return paths


def _drawing(sample: Sample) -> Sample:
    """Return what draws a sample's picture: asked for after its prompt, and nothing else."""
    options = {**sample.options, "max_images": 1, "max_interleaved_blocks": 1}
    assert isinstance(sample.prompt, list)
    return Sample(key=f"{sample.key}/drawn", prompt=[*sample.prompt, _DRAW], options=options)


def _before(prompt: Prompt) -> list[Any]:
    """Return the pictures of a prompt."""
    assert isinstance(prompt, list)
    return [part for part in prompt if not isinstance(part, str)]


def _picture(visual: Any) -> Image.Image | Path:
    if isinstance(visual, Image.Image):
        return visual
    if isinstance(visual, str | Path):
        return Path(visual)
    raise ValueError(f"visuals must be pictures, got {type(visual).__name__}")
