"""A real toy model whose words are given: all it reads, computes and draws is real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from data.output.events import Event, Finished
from inferencer import InterleaveInferencer
from modeling.bagel import Bagel
from modeling.context import Context
from modeling.decoding import Choice, choice
from modeling.flow import FlowStep, ImageOptions
from tests.builders import BOS, EOS, START, toy_bagel, toy_inferencer

SHAPE = (8, 8)
SHORT: dict[str, Any] = {"num_timesteps": 3, "image_shape": SHAPE, "max_text_length": 30}
ENDOFTEXT = 499  # the toy tokenizer's padding, another way to say that all is said
SILENCE = ENDOFTEXT  # a next token that asks for nothing


@dataclass(frozen=True)
class Said:
    """A text that the model is to write.

    Attributes:
        ids: what it samples, the token that ends the text included.
        then: the likeliest id after the text's eos.
    """

    ids: tuple[int, ...]
    then: int = SILENCE


def encoded(text: str) -> tuple[int, ...]:
    return tuple(toy_parts().encode_text(text))


def says(text: str, then: int = SILENCE) -> Said:
    """Write a text and end it."""
    return Said((*encoded(text), EOS), then)


def asks(text: str) -> Said:
    """Write a text and ask for an image within it."""
    return Said((*encoded(text), START))


@dataclass(frozen=True, eq=False)
class Seen:
    """A copy of what a context holds, which keeps no storage alive."""

    length: int
    position: int
    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, context: Context) -> Seen:
        rows = [context.rows(layer) for layer in range(context.store.num_layers)]
        held = [row for row in rows if row is not None]
        return cls(
            context.length,
            context.position,
            torch.cat([k.flatten() for k, _ in held] or [torch.empty(0)]),
            torch.cat([v.flatten() for _, v in held] or [torch.empty(0)]),
        )


@dataclass(eq=False)
class Drawn:
    """One call of `draw_latent`."""

    full: Seen
    without_text: Seen
    without_images: Seen
    options: ImageOptions
    latent: Tensor | None = None


class ScriptedInferencer(AutoInterleavedInferencer):
    """Writes a script instead of what it would say by itself, and remembers what it worked over.

    A text that is not in the script is an error of the run.
    """

    def __init__(
        self, *script: Said, parts: InterleaveInferencer | None = None, **named: Any
    ) -> None:
        super().__init__(*arguments_of(parts or toy_parts()), **named)
        self.set_progress_bar_config(disable=True)
        self.script = iter(script)
        self.views: list[Seen] = []
        self.drawn: list[Drawn] = []
        self._then = SILENCE

    def write(
        self, context: Context, choose: Choice, at_most: int | None = None
    ) -> Iterator[tuple[int, Context]]:
        said = next(self.script, None)
        if said is None:
            raise AssertionError("the script is over")
        self.views.append(Seen.of(context))
        self._then = said.then

        def script(written: Tensor, scores: Tensor) -> Tensor:
            chosen = torch.full_like(scores, -torch.inf)
            chosen[:, said.ids[written.shape[1]]] = 0
            return chosen

        return super().write(context, choice(do_sample=False, logits_processor=script), at_most)

    def read_ids(self, ids: Sequence[int], context: Context) -> tuple[Context, int]:
        return super().read_ids(ids, context)[0], self._then

    def draw_latent(  # noqa: PLR0913 - the verb's own signature
        self,
        image_shape: tuple[int, int],
        full: Context,
        without_text: Context | None,
        without_images: Context | None,
        options: ImageOptions,
        generator: torch.Generator | None = None,
    ) -> Generator[FlowStep, Tensor | None, None]:
        assert without_text is not None
        assert without_images is not None
        drawn = Drawn(Seen.of(full), Seen.of(without_text), Seen.of(without_images), options)
        self.drawn.append(drawn)
        steps = super().draw_latent(
            image_shape, full, without_text, without_images, options, generator
        )
        return _watched(steps, drawn)


def _watched(
    steps: Generator[FlowStep, Tensor | None, None], drawn: Drawn
) -> Generator[FlowStep, Tensor | None, None]:
    answer = None
    try:
        while True:
            step = steps.send(answer)
            drawn.latent = step.latent
            answer = yield step
    except StopIteration:
        return
    finally:
        steps.close()


@cache
def toy_parts() -> InterleaveInferencer:
    """Build the toy model once; nothing that is run over it changes it.

    Its published calls take the mean of an image that is read, as the loop does.
    """
    parts = toy_inferencer(toy_bagel())
    parts.sample_posterior = False
    return parts


def arguments_of(parts: InterleaveInferencer) -> tuple[Any, ...]:
    """Return what an inferencer is made of, in the constructor's order."""
    return (
        parts.model,
        parts.vae_model,
        parts.tokenizer,
        parts.vae_transform,
        parts.vit_transform,
        parts.new_token_ids,
    )


def toy_writer(**named: Any) -> AutoInterleavedInferencer:
    """Return an inferencer that writes what the toy model says by itself, which is babble."""
    inferencer = AutoInterleavedInferencer(*arguments_of(toy_parts()), **named)
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def generate(inferencer: AutoInterleavedInferencer, prompt: Any, **options: Any) -> Any:
    """Run with short defaults, and refuse a run that failed."""
    output = inferencer.auto_interleaved_generation(prompt, **SHORT | options)
    if output.error is not None:
        raise output.error
    return output


def events_of(
    inferencer: AutoInterleavedInferencer, prompt: Any, **options: Any
) -> tuple[list[Event], InterleavedOutput]:
    """Stream with short defaults; return all events, and the output that they end in."""
    events = list(inferencer.stream(prompt, **SHORT | options))
    finished = events[-1]
    assert isinstance(finished, Finished)
    if finished.output.error is not None:
        raise finished.output.error
    return events, finished.output


def layout(output: Sequence[Any]) -> list[str]:
    """Return an output's texts as they are, and "*" for each image."""
    return [item if isinstance(item, str) else "*" for item in output]


def pixels(output: InterleavedOutput) -> list[bytes]:
    """Return the pixels of every image, to be compared exactly."""
    return [image.tobytes() for image in output.images]


@contextmanager
def counted(model: Bagel) -> Iterator[Counter[str]]:
    """Count the calls of the decoder, the tokens in its first layer, and the rows of latents."""
    counts: Counter[str] = Counter()

    def count(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        text, latent = arguments[:2]
        counts["calls"] += 1
        counts["tokens"] += len(text) + (0 if latent is None else len(latent))
        counts["image rows"] += 0 if latent is None else len(text) // 2  # each has two markers

    hook = model.language_model.model.layers[0].register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def frame(ids: Sequence[int]) -> list[int]:
    """Return a text block's ids."""
    return [BOS, *ids, EOS]


class Failing(AutoInterleavedInferencer):
    """Writes at random, and fails or is told to stop at the n-th picture."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__(*arguments_of(toy_writer()), protocol="every-block", image_shape=(8, 8))
        self.set_progress_bar_config(disable=True)
        self._left, self._error = at, error

    def decode_images(self, *arguments: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise self._error
        return super().decode_images(*arguments)
