"""The direct driver: one run, each ask answered at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from auto_interleaved.run.asks import (
    Ask,
    DecodeImage,
    DecodePreview,
    Drawing,
    Drawings,
    EncodeImage,
    Forget,
    NextStep,
    NextSteps,
    NextToken,
    ReadIds,
    ReadLatent,
    ReadVision,
    Result,
    Text,
    Work,
)
from data.output.events import Event
from modeling.bagel.drawing import Branches, Canvas
from modeling.context import Context, without
from modeling.flow import FlowStep
from modeling.together import Sheet
from modeling.verbs import Verbs


def drive(work: Work[Result], answer: Callable[[Ask[Any]], Any]) -> Generator[Event, None, Result]:
    """Answer what a run asks, and pass its events on.

    Args:
        work: a run, or a part of one.
        answer: computes; what it raises is raised where the run asked.

    Returns:
        What the work returns.
    """
    item: Event | Ask[Any] | None = None
    try:
        item = next(work)
        while True:
            if isinstance(item, Ask):
                item = _answered(work, item, answer)
                continue
            try:
                yield item
            except GeneratorExit:
                raise
            except BaseException as error:  # thrown in by who consumes the events
                item = work.throw(error)
            else:
                item = next(work)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        item = None  # the traceback of an error keeps this frame, and a question keeps contexts
        work.close()


def _answered(
    work: Work[Result], question: Ask[Any], answer: Callable[[Ask[Any]], Any]
) -> Event | Ask[Any]:
    """Answer a question, and return what the run says next.

    A frame of its own, which holds neither the question nor the answer while the run goes on:
    contexts live as long as they are held.
    """
    try:
        reply = [answer(question)]
    except BaseException as error:
        del question
        return work.throw(error)
    del question
    return work.send(reply.pop())


class Direct:
    """Computes what is asked by the verbs of one inferencer.

    Args:
        verbs: the model and everything around it.
    """

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs

    def drive(self, work: Work[Result]) -> Generator[Event, None, Result]:
        """Drive a run to its end; see `drive`."""
        return drive(work, self.answer)

    def answer(self, question: Ask[Any]) -> Any:  # noqa: C901 - one line a kind of ask
        """Compute what is asked for."""
        verbs = self._verbs
        match question:
            case NextToken(text=text):
                return self._next_token(text)
            case NextStep(drawing=drawing, changed=changed):
                return self._next_step(drawing, changed)
            case NextSteps(drawing=drawings):
                return self._next_steps(drawings)
            case ReadIds(ids=ids, context=context):
                return verbs.read_ids(ids, context)
            case ReadLatent(latent=latent, grid=grid, context=context):
                return verbs.read_latent(latent, grid, context)
            case ReadVision(picture=picture, context=context):
                return verbs.read_vision(picture, context)
            case Forget(contexts=contexts, spans=spans):
                return without(contexts, spans)
            case EncodeImage(picture=picture):
                return verbs.encode_image(picture)
            case DecodeImage(latent=latent, shape=shape):
                return verbs.decode_image(latent, shape)
            case DecodePreview(latent=latent, shape=shape):
                return verbs.preview_image(latent, shape)
        raise TypeError(f"a run asked for what no driver knows: {type(question).__name__}")

    def _next_token(self, text: Text) -> tuple[int, Context]:
        if text.state is None:
            text.state = self._verbs.write(text.context, text.choose, text.at_most)
        pair: tuple[int, Context] = next(text.state)
        return pair

    def _next_step(self, drawing: Drawing, changed: Any) -> FlowStep:
        if drawing.state is None:
            drawing.state = self._verbs.draw_latent(
                drawing.shape,
                drawing.full,
                drawing.without_text,
                drawing.without_images,
                drawing.options,
                drawing.generator,
            )
            step: FlowStep = next(drawing.state)
        else:
            step = drawing.state.send(changed)
        return step

    def _next_steps(self, drawings: Drawings) -> list[FlowStep]:
        if drawings.state is None:
            drawings.state = sheet_of(self._verbs, drawings.each)
        steps: list[FlowStep] = drawings.state.step()
        return steps


def sheet_of(verbs: Verbs, drawings: Sequence[Drawing]) -> Sheet:
    """Begin drawings of one shape in one draft."""
    shape, options = drawings[0].shape, drawings[0].options
    noises = [verbs.initial_noise(shape, drawing.generator) for drawing in drawings]
    over = [Branches.of(d.full, d.without_text, d.without_images, options) for d in drawings]
    canvas = Canvas.of(verbs.model, verbs.model.latent_grid(*shape), verbs.markers)
    return Sheet(canvas, over, noises, options)
