"""The loop: read the prompt, write, draw, read what was drawn, write on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auto_interleaved.options.generation import AS_INPUT, GenerationOptions
from auto_interleaved.options.idle_options import warn_of_idle_options
from auto_interleaved.options.seeds import Randomness
from auto_interleaved.options.sizes import Size, read_size, tell_of_size
from auto_interleaved.run.asks import EncodeImage, Work, ask
from auto_interleaved.run.contexts import Contexts, ReadImage, empty_contexts
from auto_interleaved.run.expectations import TEXT_POSITIONS, reason_of_end, warn_of_long_prompt
from auto_interleaved.run.memory import Budget, Step
from auto_interleaved.run.painter import Painter, blank_image
from auto_interleaved.run.progress import Progress
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.standing import Standing, reader_of
from auto_interleaved.run.writer import Writer
from data.data_utils import pil_img2rgb
from data.output import FinishReason, Segment
from data.prompts import ImageInput, ImageRequest, PromptPart, TextInput
from data.protocols import Protocol
from inferencer import GEN_THINK_SYSTEM_PROMPT, InterleaveInferencer
from modeling.bagel.bagel import execution_device
from modeling.decoding import choice

_IMAGE_POSITIONS = 2  # a latent block and a vision block


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run goes by, all of it checked.

    Attributes:
        options: the caller's.
        protocol: when to draw, when to stop.
        image_shape: (height, width) of images where neither the options nor an input image say.
        progress: keyword arguments for tqdm.
    """

    options: GenerationOptions
    protocol: Protocol
    image_shape: tuple[int, int]
    progress: Mapping[str, Any]


class Run:
    """One prompt's way through the model.

    `work` is the engine: it tells of events, asks a driver for whatever is to be computed, and
    returns why it ended. Whatever ends it, `record` holds everything that was made.

    Args:
        inferencer: the verbs.
        setting: what the run goes by.
        record: where the segments go.
        start: where it begins, if another may go on where it ends; None: it begins with nothing,
            and nothing is kept of it.

    Attributes:
        end: where it ended, if it began with a `start`; None until then, and if it failed.
    """

    def __init__(
        self,
        inferencer: InterleaveInferencer,
        setting: Setting,
        record: RunRecord,
        start: Standing | None = None,
    ) -> None:
        options = setting.options
        self._inferencer = inferencer
        self._setting = setting
        self._record = record
        self._keeps = start is not None
        self._start = start or Standing()
        self.end: Standing | None = None
        self._reader = reader_of(start, setting.protocol, options.image_memory)
        self._progress = Progress(setting.progress)
        self._randomness = randomness = Randomness(options.seed, options.generator)
        choose = choice(
            do_sample=options.do_sample,
            temperature=options.text_temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            logits_processor=options.logits_processor,
            generator=randomness.for_texts(inferencer.model.device),
        )
        self._writer = Writer(inferencer, self._reader, setting.protocol, options, choose, record)
        self._painter = Painter(inferencer, options, randomness, self._progress, record)
        self._budget = Budget(inferencer, options, self._reader, self._painter, start)
        self._shape = options.drawn_shape or setting.image_shape
        self._encoded: dict[str, list[int]] = {}
        self._blank: ReadImage | None = None
        self._size: Size | None = None  # (width, height) that pictures are resized to
        self._input_size: Size | None = None
        if self._start.input_size is not None:
            self._follow(self._start.input_size)
        limits = (options.max_images, setting.protocol.max_images)
        self._max_images = min((n for n in limits if n is not None), default=math.inf)

    def work(self, parts: Sequence[PromptPart]) -> Work[FinishReason]:
        """Read the prompt and generate; return why it ended."""
        warn_of_idle_options(self._setting.options, self._setting.protocol)
        self._record.seed = self._randomness.recorded(
            execution_device(self._inferencer.model.language_model.lm_head)
        )
        try:
            reason, contexts = yield from self._generate(parts)
        finally:
            self._progress.close()
        if self._keeps:
            self.end = Standing.of(contexts, self._input_size)
        return reason

    def check_positions(self, parts: Sequence[PromptPart]) -> None:
        """Refuse a prompt that the model has no positions for.

        Raises:
            ValueError: if it is longer than the model was made to read.
        """
        taken = self._start.position + sum(len(self._ids(text)) for text in self._instructions())
        for part in parts:
            images = _IMAGE_POSITIONS if isinstance(part, ImageInput) else 0
            taken += len(self._ids_of(part)) + images
        limit = self._inferencer.max_positions
        if taken > limit:
            raise ValueError(
                f"the prompt must take at most {limit} positions, which the model was made for, "
                f"got {taken}{self._start.told}; shorten its texts"
            )

    def check_memory(self, parts: Sequence[PromptPart]) -> None:
        """Refuse a prompt whose first parts, up to where an image is asked for, do not fit.

        Raises:
            ValueError: if `max_context_memory` is too little for them.
        """
        if self._setting.options.max_context_memory is None:
            return
        first = itertools.takewhile(lambda part: not isinstance(part, ImageRequest), parts)
        self._budget.check(list(self._reading(first)))

    def most_memory(self, parts: Sequence[PromptPart]) -> int:
        """Return the most bytes that contexts can come to take from the prompt to the last text."""
        options = self._setting.options
        rounds = [self._budget.writing(), self._drawing()] * options.max_interleaved_blocks
        plan = [self._budget.plan()] if options.think else []
        return self._budget.most([*self._reading(parts), *plan, *rounds])

    def _reading(self, parts: Iterable[PromptPart]) -> Iterator[Step]:
        """Yield what is read before the model writes, as far as memory goes."""
        for text in self._instructions():
            yield self._budget.instruction(self._ids(text))
        for part in parts:
            yield self._step(part, self._ids_of(part))

    def _step(self, part: PromptPart, ids: Sequence[int]) -> Step:
        """Return what a part of the prompt does to contexts, as far as memory goes."""
        if isinstance(part, TextInput):
            return self._budget.text(ids)
        if isinstance(part, ImageInput):
            return self._budget.image(part.image.size)
        return self._drawing()

    def _drawing(self) -> Step:
        """Return what an image that is asked for does to contexts, drawn or not."""
        return self._budget.drawing(self._shape) if self._max_images else self._budget.instead()

    def _read_instead(self, contexts: Contexts) -> Work[Contexts]:
        """Read a blank picture where one is asked for and texts alone are wanted."""
        if self._blank is None:
            self._blank = yield from blank_image(seen=self._setting.protocol.reads_vision)
        return (yield from self._reader.read_instead(contexts, self._blank))

    def _read(self, parts: Sequence[PromptPart]) -> Work[tuple[Contexts, FinishReason | None]]:
        """Read the caller's texts and images, and draw where the caller asked for it."""
        contexts, think = (yield from self._instructed()), self._setting.options.think
        for part in parts:
            if think and isinstance(part, ImageRequest):  # a plan comes before all that is made
                if not self._fits(contexts, TEXT_POSITIONS, self._budget.plan()):
                    return contexts, "context_full"
                contexts, think = (yield from self._writer.think(contexts)), False
            ids = self._ids_of(part)
            if not self._fits(contexts, len(ids) or _IMAGE_POSITIONS, self._step(part, ids)):
                return contexts, "context_full"
            if isinstance(part, TextInput):
                contexts = yield from self._read_text(contexts, part.text, ids)
            elif isinstance(part, ImageInput):
                contexts = yield from self._read_image(contexts, part)
            elif not self._max_images:
                contexts = yield from self._read_instead(contexts)
            elif self._record.num_images >= self._max_images:
                return contexts, "max_images"
            else:
                image = yield from self._painter.draw(contexts, self._shape, self._size)
                contexts = yield from self._see(contexts, image)
        if think:
            if not self._fits(contexts, TEXT_POSITIONS, self._budget.plan()):
                return contexts, "context_full"
            contexts = yield from self._writer.think(contexts)
        return contexts, None

    def _instructions(self) -> list[str]:
        """Return what is said before the caller's first word."""
        plan = GEN_THINK_SYSTEM_PROMPT if self._setting.options.think else None
        texts = [text for text in (self._setting.protocol.system_prompt, plan) if text is not None]
        known = self._start.instructions
        return [text for text in texts if tuple(self._ids(text)) not in known]

    def _instructed(self) -> Work[Contexts]:
        """Return contexts that hold what is said before the caller's first word."""
        nothing = empty_contexts(self._inferencer.model.new_context())
        contexts = yield from self._start.resumed(nothing)
        for text in self._instructions():
            ids = self._ids(text)
            contexts = yield from self._reader.instruct(contexts, ids)
            self._record.prompt_tokens += len(ids)
        return contexts

    def _generate(self, parts: Sequence[PromptPart]) -> Work[tuple[FinishReason, Contexts]]:
        """Read, then write and draw in rounds until the model, the protocol or a limit ends it."""
        options = self._setting.options
        # Nobody but this frame may hold contexts: keys and values live as long as they are held.
        contexts, reason = yield from self._read(parts)
        if reason is not None:
            return reason, contexts
        pending: ReadImage | None = None  # drawn, and read only if the run goes on
        told = separator = ""  # the last text, and what sets the next one off from it
        in_text = True  # whether that belongs to the next one
        for _ in range(options.max_interleaved_blocks):
            if pending is not None:
                contexts = yield from self._see(contexts, pending)
                pending, in_text = None, False
                separator = "" if told[-1:].isspace() else separator
            if not self._fits(contexts, TEXT_POSITIONS, self._budget.writing()):
                if not (self._record.num_texts or self._record.num_images):
                    warn_of_long_prompt(contexts.full.position, self._inferencer.max_positions)
                return "context_full", contexts
            written = yield from self._writer.write(contexts, separator, in_text=in_text)
            contexts, verdict = written.contexts, written.verdict
            if written.text:
                told, separator, in_text = written.text, "\n", True
            del written
            if verdict == "draw":
                reason = self._refusal(contexts)
                if reason is not None:
                    return reason, contexts
                if self._max_images:
                    pending = yield from self._painter.draw(contexts, self._shape, self._size)
                else:
                    contexts = yield from self._read_instead(contexts)
            elif verdict != "more":
                done = bool(contexts.num_images) or not self._max_images
                protocol = self._setting.protocol
                reason = reason_of_end(verdict, parts, protocol, is_illustrated=done)
                return reason, contexts
        if pending is not None and self._keeps:
            contexts = yield from self._see(contexts, pending)  # whoever goes on has seen it
        return "max_blocks", contexts

    def _refusal(self, contexts: Contexts) -> FinishReason | None:
        """Say why no further image may start, or none be read in its place, if so."""
        if self._max_images and self._record.num_images >= self._max_images:
            return "max_images"
        step = self._drawing()
        return None if self._fits(contexts, _IMAGE_POSITIONS, step) else "context_full"

    def _fits(self, contexts: Contexts, positions: int, step: Step) -> bool:
        """Say whether so many positions are left, and memory for a step."""
        # No context has come further than the full one.
        if contexts.full.position + positions > self._inferencer.max_positions:
            return False
        return self._budget.allows(contexts, step)

    def _ids_of(self, part: PromptPart) -> list[int]:
        """Return the ids of a text; an image has none."""
        return self._ids(part.text) if isinstance(part, TextInput) else []

    def _ids(self, text: str) -> list[int]:
        # What the caller asked for by <|vision_start|> is out already; the rest is characters.
        if text not in self._encoded:
            self._encoded[text] = self._inferencer.encode_text(text)
        return [self._inferencer.bos, *self._encoded[text], self._inferencer.eos]

    def _read_text(self, contexts: Contexts, text: str, ids: list[int]) -> Work[Contexts]:
        contexts = yield from self._reader.read_text(contexts, ids)
        segment = Segment(kind="text", role="prompt", text=text, token_ids=tuple(ids[1:-1]))
        self._record.segments.append(segment)
        self._record.prompt_tokens += len(ids)
        return contexts

    def _read_image(self, contexts: Contexts, part: ImageInput) -> Work[Contexts]:
        resize = self._inferencer.vae_transform.resize_transform
        picture = resize(pil_img2rgb(part.image))
        latent, grid = yield from ask(EncodeImage(picture=picture))
        image = ReadImage(picture=picture, latent=latent, grid=grid, drawn=False)
        read = yield from self._reader.read_image(contexts, image)
        self._record.segments.append(Segment(kind="image", role="prompt", image=part.image))
        self._record.prompt_tokens += read.full.length - contexts.full.length
        if self._setting.options.image_shape is None:
            tell_of_size(part.image.size, picture.size)
        self._follow(part.image.size)
        return (yield from self._reader.forget_images(read))

    def _follow(self, size: Size) -> None:
        """Let pictures from now on be as large as an input image, if they are to be."""
        options = self._setting.options
        if options.image_shape == AS_INPUT:
            self._size = size
        width, height = read_size(self._inferencer.vae_transform, size)
        self._shape = options.drawn_shape or (height, width)
        self._input_size = size

    def _see(self, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
        """Read a drawn image."""
        image = yield from self._painter.feed_back(image)
        read = yield from self._reader.read_image(contexts, image)
        self._record.image_tokens += read.full.length - contexts.full.length
        return (yield from self._reader.forget_images(read))
