"""Reading: the parts of a prompt one after another, and pictures once they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auto_interleaved.options.generation import AS_INPUT
from auto_interleaved.options.sizes import Size, read_size, tell_of_size
from auto_interleaved.run.apart import Inputs, ReadInput, find_places
from auto_interleaved.run.asks import Work
from auto_interleaved.run.contexts import Contexts, Reader, ReadImage, empty_contexts
from auto_interleaved.run.expectations import TEXT_POSITIONS
from auto_interleaved.run.memory import Budget, Step
from auto_interleaved.run.painter import Painter, blank_image
from auto_interleaved.run.piece import Place
from auto_interleaved.run.record import RunRecord
from auto_interleaved.run.setting import Setting
from auto_interleaved.run.standing import Standing
from auto_interleaved.run.writer import Writer
from data.output import FinishReason, Segment
from data.prompts import ImageInput, ImageRequest, PromptPart, TextInput
from inferencer import GEN_THINK_SYSTEM_PROMPT, InterleaveInferencer

_IMAGE_POSITIONS = 2  # a latent block and a vision block


class Reading:
    """Reads a prompt, and draws and writes what that asks for; knows what each part takes.

    Args:
        inferencer: the verbs.
        setting: what the run goes by.
        record: where the segments go.
        start: where the run begins.
        reader: which context reads what.
        writer: writes the plan.
        painter: draws.
        budget: foretells memory.

    Attributes:
        input_size: (width, height) of the caller's last image.
    """

    def __init__(  # noqa: PLR0913 - one collaborator each
        self,
        inferencer: InterleaveInferencer,
        setting: Setting,
        record: RunRecord,
        start: Standing,
        *,
        reader: Reader,
        writer: Writer,
        painter: Painter,
        budget: Budget,
    ) -> None:
        self._inferencer = inferencer
        self._setting = setting
        self._record = record
        self._start = start
        self._reader = reader
        self._writer = writer
        self._painter = painter
        self._budget = budget
        self._max_images = setting.max_images
        self.input_size = start.input_size
        self._inputs = Inputs(inferencer.vae_transform)
        self._encoded: dict[str, list[int]] = {}
        self._blank: ReadImage | None = None
        self._ready: list[ReadImage] | None = None  # drawn before their places are reached

    def positions(self, parts: Sequence[PromptPart]) -> int:
        """Return how many positions texts and images of a prompt take, after what was read."""
        taken = self._start.position + sum(len(self._ids(text)) for text in self._instructions())
        for part in parts:
            images = _IMAGE_POSITIONS if isinstance(part, ImageInput) else 0
            taken += len(self._ids_of(part)) + images
        return taken

    def steps(self, parts: Sequence[PromptPart]) -> Iterator[Step]:
        """Yield what is done before the model writes, as far as memory goes."""
        for text in self._instructions():
            yield self._budget.instruction(self._ids(text))
        apart, text, size = False, "", self.input_size  # the nearest, as the run will know them
        for number, part in enumerate(parts):
            if isinstance(part, TextInput):
                text = part.text.strip() or text
            elif isinstance(part, ImageInput):
                size = part.image.size
            elif self._draws_apart and not apart:
                apart = True
                yield self._apart(parts[number:], text, size)
            if isinstance(part, ImageRequest):
                yield self._drawn(size) if apart else self.drawing(text, size)
            else:
                yield self._step(part)

    def read(self, parts: Sequence[PromptPart]) -> Work[tuple[Contexts, FinishReason | None]]:
        """Read the caller's texts and images, and draw where the caller asked for it.

        Returns:
            Contexts; and why the run ends here, if it does.
        """
        contexts, think = (yield from self._instructed()), self._setting.options.think
        for number, part in enumerate(parts):
            if think and isinstance(part, ImageRequest):  # a plan comes before all that is made
                if not self.fits_text(contexts, self._budget.plan()):
                    return contexts, "context_full"
                contexts, think = (yield from self._writer.think(contexts)), False
            if isinstance(part, ImageRequest):
                contexts, reason = yield from self._draw_asked(contexts, parts[number:])
                if reason is not None:
                    return contexts, reason
                continue
            ids = self._ids_of(part)
            if not self._fits(contexts, len(ids) or _IMAGE_POSITIONS, self._step(part)):
                return contexts, "context_full"
            if isinstance(part, TextInput):
                contexts = yield from self._read_text(contexts, part.text, ids)
            else:
                contexts = yield from self._read_image(contexts, part)
        if think:
            if not self.fits_text(contexts, self._budget.plan()):
                return contexts, "context_full"
            contexts = yield from self._writer.think(contexts)
        return contexts, None

    def see(self, contexts: Contexts, image: ReadImage) -> Work[Contexts]:
        """Read a drawn image."""
        image = yield from self._painter.feed_back(image)
        read = yield from self._reader.read_image(contexts, image)
        self._record.image_tokens += read.full.length - contexts.full.length
        return (yield from self._reader.forget_images(read))

    def read_instead(self, contexts: Contexts) -> Work[Contexts]:
        """Read a blank picture where one is asked for and texts alone are wanted."""
        if self._blank is None:
            self._blank = yield from blank_image(seen=self._setting.protocol.reads_vision)
        return (yield from self._reader.read_instead(contexts, self._blank))

    def place(self, contexts: Contexts) -> Place:
        """Return where an image would stand now."""
        return self._place(contexts, self._record.last_text, self.input_size)

    def fits_text(self, contexts: Contexts, step: Step) -> bool:
        """Say whether positions and memory are left for writing."""
        return self._fits(contexts, TEXT_POSITIONS, step)

    def fits_image(self, contexts: Contexts) -> bool:
        """Say whether positions and memory are left for an image, or for what is read instead."""
        step = self.drawing(self._record.last_text, self.input_size)
        return self._fits(contexts, _IMAGE_POSITIONS, step)

    def drawing(self, text: str | None, size: Size | None) -> Step:
        """Return what an image that is asked for does to contexts, drawn or not.

        Args:
            text: what it is to show; None where that is not known.
            size: of the caller's last image.
        """
        if self._max_images:
            return self._budget.drawing(self._shape(size), text)
        return self._budget.instead()

    def _step(self, part: TextInput | ImageInput) -> Step:
        """Return what a part of the prompt does to contexts, as far as memory goes."""
        if isinstance(part, TextInput):
            return self._budget.text(self._ids_of(part))
        return self._budget.image(part.image.size)

    def _drawn(self, size: Size | None) -> Step:
        return self._budget.drawn(self._shape(size))

    def _fits(self, contexts: Contexts, positions: int, step: Step) -> bool:
        """Say whether so many positions are left, and memory for a step."""
        # No context has come further than the full one.
        if contexts.full.position + positions > self._inferencer.max_positions:
            return False
        return self._budget.allows(contexts, step)

    def _draw_asked(
        self, contexts: Contexts, rest: Sequence[PromptPart]
    ) -> Work[tuple[Contexts, FinishReason | None]]:
        """Draw and read the image that the rest of a prompt begins with asking for."""
        if self._draws_apart and self._ready is None:
            step = self._apart(rest, self._record.last_text, self.input_size)
            if not self._fits(contexts, _IMAGE_POSITIONS, step):
                return contexts, "context_full"
            places = self._places(self.place(contexts), rest, self._inputs.encoded)
            self._ready = yield from self._painter.draw_together((yield from places))
        if self._ready:
            if not self._fits(contexts, _IMAGE_POSITIONS, self._drawn(self.input_size)):
                return contexts, "context_full"
            self._record.place_image()
            return (yield from self.see(contexts, self._ready.pop(0))), None
        if not self.fits_image(contexts):
            return contexts, "context_full"
        if not self._max_images:
            return (yield from self.read_instead(contexts)), None
        if self._record.num_images >= self._max_images:
            return contexts, "max_images"
        image = yield from self._painter.draw(self.place(contexts))
        return (yield from self.see(contexts, image)), None

    @property
    def _draws_apart(self) -> bool:
        """Whether images that the prompt asks for need not see one another."""
        return self._setting.options.independent_images and bool(self._max_images)

    def _apart(self, rest: Sequence[PromptPart], text: str, size: Size | None) -> Step:
        """Return what drawing all images of a prompt's rest does, as far as memory goes."""
        return self._budget.apart(
            lambda contexts, read: self._places(self._place(contexts, text, size), rest, read)
        )

    def _places(
        self, first: Place, rest: Sequence[PromptPart], read: ReadInput
    ) -> Work[list[Place]]:
        """Return where the rest of a prompt asks for images, each over the prompt alone."""
        return find_places(
            first,
            rest,
            reader=self._reader,
            ids_of=self._ids_of,
            read=read,
            fitted=self._after,
            room=self._max_images - self._record.num_images,
        )

    def _after(self, place: Place, size: Size) -> Place:
        return self._place(place.contexts, place.text, size)

    def _place(self, contexts: Contexts, text: str | None, size: Size | None) -> Place:
        """Return where an image stands after a text, and an image of the caller's of some size."""
        resized = size if self._setting.options.image_shape == AS_INPUT else None
        return Place(contexts=contexts, shape=self._shape(size), size=resized, text=text)

    def _shape(self, size: Size | None) -> tuple[int, int]:
        """Return the (height, width) of pictures after an image of the caller's of some size."""
        options = self._setting.options
        if options.drawn_shape is not None or size is None:
            return options.drawn_shape or self._setting.image_shape
        width, height = read_size(self._inferencer.vae_transform, size)
        return height, width

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
        image = yield from self._inputs.last(part)
        read = yield from self._reader.read_image(contexts, image)
        self._record.segments.append(Segment(kind="image", role="prompt", image=part.image))
        self._record.prompt_tokens += read.full.length - contexts.full.length
        if self._setting.options.image_shape is None:
            tell_of_size(part.image.size, image.picture.size)
        self.input_size = part.image.size
        return (yield from self._reader.forget_images(read))
