"""Drawing images: steps become events, previews and bars; the results wait to be read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby

import torch
from PIL import Image
from torch import Generator, Tensor

from auto_interleaved.options.generation import GenerationOptions
from auto_interleaved.options.seeds import Randomness
from auto_interleaved.run.asks import (
    DecodeImage,
    DecodePreview,
    Drawing,
    Drawings,
    EncodeImage,
    NextStep,
    NextSteps,
    Work,
    ask,
)
from auto_interleaved.run.choosing import Chooser
from auto_interleaved.run.contexts import ReadImage
from auto_interleaved.run.piece import Answers, Piece, Place, changed_latent, resized
from auto_interleaved.run.progress import Progress
from auto_interleaved.run.record import RunRecord
from data.output.events import ImageDone, ImagePreview, ImageStarted, ImageStep
from data.understanding import Understanding
from inferencer import InterleaveInferencer
from modeling.flow import FlowStep, schedule
from modeling.numbers import all_numbers

BLANK = 1, 1  # (width, height): the transforms make it as small as images can be


class Painter:
    """Draws images over contexts.

    Args:
        inferencer: the verbs.
        options: sampling, feedback, previews and the callback.
        randomness: where noise comes from.
        progress: the bars.
        record: where the segments go.
        understanding: how the model is asked which candidate is the best.
    """

    def __init__(  # noqa: PLR0913 - one collaborator each
        self,
        inferencer: InterleaveInferencer,
        options: GenerationOptions,
        randomness: Randomness,
        progress: Progress,
        record: RunRecord,
        understanding: Understanding | None = None,
    ) -> None:
        self._inferencer = inferencer
        self._count = options.num_candidates
        self._chooser = Chooser(inferencer, options.choose, understanding or Understanding())
        self._options = options
        self._randomness = randomness
        self._progress = progress
        self._record = record

    def draw(self, place: Place) -> Work[ReadImage]:
        """Draw an image, put it in its place in the record, and return it."""
        [image] = yield from self.draw_together([place])
        self._record.place_image()
        return image

    def draw_together(self, places: Sequence[Place]) -> Work[list[ReadImage]]:
        """Draw images that need not see one another; those of one size go together.

        In the record they wait for `place_image`. A failure leaves segments that say so, and goes
        on to the caller.
        """
        images: list[ReadImage] = []
        for _, group in groupby(places, lambda place: place.shape):
            images += yield from self._draw_group(list(group))
        return images

    def foretell(self, places: Sequence[Place], *, longest: int) -> Work[None]:
        """Do what drawing does to memory; a text that nobody knows has so many ids at most."""
        for (height, width), together in groupby(places, lambda place: place.shape):
            group = list(together)
            with closing(self._begun(group, [None] * len(group) * self._count)) as drawings:
                yield from self._next(drawings)
            for place in group:
                picture = Image.new("L", (width, height))
                yield from self._chooser.foretold(picture, self._count, place.text, longest)

    def _draw_group(self, places: Sequence[Place]) -> Work[list[ReadImage]]:
        first = self._record.num_images
        pieces = [self._piece(first + number, place) for number, place in enumerate(places)]
        started = time.perf_counter()
        self._record.waiting += [piece.told for piece in pieces]
        try:
            for piece in pieces:
                height, width = piece.shape
                seed = piece.seeds[0]
                yield ImageStarted(index=piece.index, height=height, width=width, seed=seed)
            images = yield from self._finished(pieces, places)
        except BaseException as error:
            for piece in pieces:
                piece.end(started, error)
            self._record.place_images()
            raise
        for piece in pieces:
            piece.end(started)
        for piece in pieces:
            yield ImageDone(index=piece.index, segment=piece.told()[0])
        return images

    def _finished(self, pieces: Sequence[Piece], places: Sequence[Place]) -> Work[list[ReadImage]]:
        """Sample the candidates of all, decode and choose."""
        with pieces[0].answers:
            latents = yield from self._sample(pieces, places)
        images = []
        for piece, own in zip(pieces, latents, strict=True):
            with piece.answers:
                images.append((yield from self._finish(piece, own)))
        return images

    def feed_back(self, image: ReadImage) -> Work[ReadImage]:
        """Return a drawn image as it is to be read."""
        if self._options.image_feedback == "latent":
            return image
        picture = self._inferencer.vae_transform.resize_transform(image.picture)
        latent, grid = yield from ask(EncodeImage(picture=picture))
        return replace(image, picture=picture, latent=latent, grid=grid)

    def _piece(self, index: int, place: Place) -> Piece:
        seeds = [self._randomness.image_seed(index, number) for number in range(self._count)]
        return Piece(index, place, seeds)

    def _begun(self, places: Sequence[Place], generators: Sequence[Generator | None]) -> Drawings:
        """Return drawings for each place, as many as there are candidates."""
        options = self._options.image_options()
        repeated = [place for place in places for _ in range(self._count)]
        return Drawings(
            each=[
                Drawing(
                    shape=place.shape,
                    full=place.contexts.full,
                    without_text=place.contexts.without_text,
                    without_images=place.contexts.without_images,
                    options=options,
                    generator=generator,
                )
                for place, generator in zip(repeated, generators, strict=True)
            ]
        )

    @staticmethod
    def _next(drawings: Drawings, changed: Tensor | None = None) -> Work[list[FlowStep]]:
        """Take a step of all; what is changed is a single one."""
        if len(drawings.each) == 1:
            return [(yield from ask(NextStep(drawings.each[0], changed)))]
        return (yield from ask(NextSteps(drawings)))

    def _sample(self, pieces: Sequence[Piece], places: Sequence[Place]) -> Work[list[list[Tensor]]]:
        """Return the latents of each image's candidates."""
        options, count = self._options, self._count
        num_steps = options.num_timesteps - 1
        every = options.preview_every or num_steps + 1
        generators = [
            self._randomness.for_image(piece.index, number)
            for piece in pieces
            for number in range(count)
        ]
        changed = None
        with (
            self._progress.image(pieces[0].index, num_steps) as bar,
            closing(self._begun(places, generators)) as drawings,
        ):
            for number in range(1, num_steps + 1):
                steps = yield from self._next(drawings, changed)
                changed = self._call_back(pieces[0].answers, steps[0])
                latents = [step.latent for step in steps] if changed is None else [changed]
                bar.update()
                for piece in pieces:
                    yield ImageStep(index=piece.index, step=number, num_steps=num_steps)
                if number % every == 0:
                    for piece, step in zip(pieces, steps[::count], strict=True):
                        yield (yield from self._preview(piece, step.clean, number))
        for _ in pieces:
            self._progress.image_done()
        return [latents[first : first + count] for first in range(0, len(latents), count)]

    def _preview(self, piece: Piece, clean: Tensor, number: int) -> Work[ImagePreview]:
        preview = yield from ask(DecodePreview(latent=clean, shape=piece.shape))
        return ImagePreview(index=piece.index, step=number, image=preview)

    def _finish(self, piece: Piece, latents: Sequence[Tensor]) -> Work[ReadImage]:
        """Decode the candidates of an image, and choose one."""
        pictures: list[Image.Image] = []
        for latent in latents:
            pictures.append((yield from ask(DecodeImage(latent=latent, shape=piece.shape))))
            piece.pictures.append(resized(pictures[-1], piece.size))
        chosen = yield from self._chooser.chosen(pictures, piece.text or "")
        piece.chosen = chosen
        grid = self._inferencer.model.latent_grid(*piece.shape)
        return ReadImage(picture=pictures[chosen], latent=latents[chosen], grid=grid, drawn=True)

    def _call_back(self, answers: Answers, step: FlowStep) -> Tensor | None:
        """Show a step to the caller, in diffusers' convention; return what it changed."""
        options = self._options
        if options.callback_on_step_end is None:
            return None
        index = step.index - 1
        time = schedule(options.num_timesteps, options.timestep_shift)[index]
        shown = all_numbers(step.latent)
        answer = options.callback_on_step_end(
            self._inferencer, index, time, {"latents": step.latent}
        )
        changed = changed_latent(answer, step.latent)
        # It may also have written into what it was shown.
        answers.note(shown, all_numbers(step.latent if changed is None else changed))
        return changed


def blank_image(*, seen: bool) -> Work[ReadImage]:
    """Make a blank picture, to be read where a model asks for one and texts alone are wanted.

    The model was taught to go on after a picture: with nothing in its place it turns in circles,
    with a blank one it comes to its end.

    Args:
        seen: whether it is read through the vision encoder; else by its latents.
    """
    picture = Image.new("RGB", BLANK, "white")
    latent, grid = torch.empty(0, device="cpu"), (0, 0)
    if not seen:
        latent, grid = yield from ask(EncodeImage(picture=picture))
    return ReadImage(picture=picture, latent=latent, grid=grid, drawn=True)
