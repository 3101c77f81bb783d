"""The loop: read the prompt, write, draw, read what was drawn, write on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from auto_interleaved.options.idle_options import warn_of_idle_options
from auto_interleaved.options.seeds import Randomness
from auto_interleaved.run.asks import Work
from auto_interleaved.run.contexts import Contexts, ReadImage
from auto_interleaved.run.expectations import reason_of_end, warn_of_long_prompt
from auto_interleaved.run.memory import Budget
from auto_interleaved.run.painter import Painter
from auto_interleaved.run.progress import Progress
from auto_interleaved.run.reading import Reading
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.setting import Setting
from auto_interleaved.run.standing import Standing, reader_of
from auto_interleaved.run.writer import Writer
from data.output import FinishReason
from data.prompts import ImageInput, ImageRequest, PromptPart
from inferencer import InterleaveInferencer
from modeling.bagel.bagel import execution_device
from modeling.decoding import choice


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
        reader = reader_of(start, setting.protocol, options.image_memory)
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
        self._writer = Writer(inferencer, reader, setting.protocol, options, choose, record)
        self._painter = Painter(
            inferencer, options, randomness, self._progress, record, setting.understanding
        )
        self._budget = Budget(inferencer, options, reader, self._painter, start)
        self._reading = Reading(
            inferencer,
            setting,
            record,
            self._start,
            reader=reader,
            writer=self._writer,
            painter=self._painter,
            budget=self._budget,
        )

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
            self.end = Standing.of(contexts, self._reading.input_size)
        return reason

    def check_positions(self, parts: Sequence[PromptPart]) -> None:
        """Refuse a prompt that the model has no positions for.

        Raises:
            ValueError: if it is longer than the model was made to read.
        """
        taken, limit = self._reading.positions(parts), self._inferencer.max_positions
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
        self._budget.check(list(self._reading.steps(list(first))))

    def most_memory(self, parts: Sequence[PromptPart]) -> int:
        """Return the most bytes that contexts can come to take from the prompt to the last text."""
        options = self._setting.options
        sizes = [part.image.size for part in parts if isinstance(part, ImageInput)]
        last = sizes[-1] if sizes else self._start.input_size
        one_round = [self._budget.writing(), self._reading.drawing(None, last)]
        plan = [self._budget.plan()] if options.think else []
        rounds = one_round * options.max_interleaved_blocks
        return self._budget.most([*self._reading.steps(parts), *plan, *rounds])

    def _generate(self, parts: Sequence[PromptPart]) -> Work[tuple[FinishReason, Contexts]]:
        """Read, then write and draw in rounds until the model, the protocol or a limit ends it."""
        options, reading = self._setting.options, self._reading
        # Nobody but this frame may hold contexts: keys and values live as long as they are held.
        contexts, reason = yield from reading.read(parts)
        if reason is not None:
            return reason, contexts
        pending: ReadImage | None = None  # drawn, and read only if the run goes on
        told = separator = ""  # the last text, and what sets the next one off from it
        in_text = True  # whether that belongs to the next one
        for _ in range(options.max_interleaved_blocks):
            if pending is not None:
                contexts = yield from reading.see(contexts, pending)
                pending, in_text = None, False
                separator = "" if told[-1:].isspace() else separator
            if not reading.fits_text(contexts, self._budget.writing()):
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
                if self._setting.max_images:
                    pending = yield from self._painter.draw(reading.place(contexts))
                else:
                    contexts = yield from reading.read_instead(contexts)
            elif verdict != "more":
                done = bool(contexts.num_images) or not self._setting.max_images
                protocol = self._setting.protocol
                reason = reason_of_end(verdict, parts, protocol, is_illustrated=done)
                return reason, contexts
        if pending is not None and self._keeps:
            contexts = yield from reading.see(contexts, pending)  # whoever goes on has seen it
        return "max_blocks", contexts

    def _refusal(self, contexts: Contexts) -> FinishReason | None:
        """Say why no further image may start, or none be read in its place, if so."""
        if self._setting.max_images and self._record.num_images >= self._setting.max_images:
            return "max_images"
        return None if self._reading.fits_image(contexts) else "context_full"
