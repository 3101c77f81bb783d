"""Seconds of a story with four pictures, end to end, and where they go.

python -m benchmarks.story --model mid
python -m benchmarks.story --model bundled
python -m benchmarks.story --model 7b --device cuda --dtype bfloat16

The protocol is every-block: each text is followed by a picture, and a last text ends the story.
Ours is the auto-interleaved inferencer, once with latents fed back (its default) and once with
pixels, and twice with less of the older images kept ("context" is what the last text is written
over); the naive way reads everything anew before each text and each picture, and the plain one does
so with the kernels that PyTorch picks by itself, as published scripts do. "Reading" is the prompt,
what was written where another context needs it, and the pictures. The roofline is the
bytes of writing over the measured bandwidth, and the products of the rest over the FLOP/s of a
large one, at the texts' full length.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image

from auto_interleaved_inference import AutoInterleavedInferencer
from benchmarks import naive, naive_story
from benchmarks.flow import num_guided
from benchmarks.image_into_context import drawn_picture, flops, num_patches
from benchmarks.models import build
from benchmarks.naive_story import Plan
from benchmarks.roofline import (
    bandwidth,
    block_flops,
    counted_flops,
    flow_flops,
    matmul_rate,
    token_bytes,
)
from benchmarks.table import Clock, head, parser, seconds, show
from modeling.context import Context
from modeling.flow import FlowStep, ImageOptions

PROMPT = "Tell a story of a small red fox who looks for the sea, and draw it."
PARTS = ("writing", "drawing", "decoding pixels", "reading")


class TimedInferencer(AutoInterleavedInferencer):
    """An inferencer whose verbs are timed, each under the name of a part.

    Tokens and steps are not waited for one by one: what a text or a picture left to the device is
    waited for at its end.
    """

    clock: Clock
    context_length: int  # of the context that the newest text was written over

    @classmethod
    def of(cls, inferencer: AutoInterleavedInferencer) -> TimedInferencer:
        """Return one around the same model."""
        made = cls(
            inferencer.model,
            inferencer.vae_model,
            inferencer.tokenizer,
            inferencer.vae_transform,
            inferencer.vit_transform,
            inferencer.new_token_ids,
            protocol="every-block",
            image_shape=inferencer.image_shape,
        )
        made.set_progress_bar_config(disable=True)
        made.clock = Clock()
        return made

    def write(self, *arguments: Any, **named: Any) -> Iterator[tuple[int, Context]]:
        """Write."""
        self.context_length = arguments[0].length
        return self._each("writing", super().write(*arguments, **named))

    def draw_latent(
        self, *arguments: Any, **named: Any
    ) -> Generator[FlowStep, torch.Tensor | None, None]:
        """Draw."""
        return self._each("drawing", super().draw_latent(*arguments, **named))

    def decode_image(self, *arguments: Any, **named: Any) -> Image.Image:
        """Decode."""
        with self.clock("decoding pixels"):
            return super().decode_image(*arguments, **named)

    def encode_image(self, *arguments: Any, **named: Any) -> Any:
        """Encode."""
        with self.clock("reading"):
            return super().encode_image(*arguments, **named)

    def read_ids(self, *arguments: Any, **named: Any) -> Any:
        """Read a text."""
        with self.clock("reading"):
            return super().read_ids(*arguments, **named)

    def read_latent(self, *arguments: Any, **named: Any) -> Context:
        """Read latents."""
        with self.clock("reading"):
            return super().read_latent(*arguments, **named)

    def read_vision(self, *arguments: Any, **named: Any) -> Context:
        """Read vision features."""
        with self.clock("reading"):
            return super().read_vision(*arguments, **named)

    def _each(self, part: str, items: Any) -> Generator[Any, Any, None]:
        answer = None
        try:
            while True:
                with self.clock(part, wait=False):
                    try:
                        item = next(items) if answer is None else items.send(answer)
                    except StopIteration:
                        return
                answer = yield item
        finally:
            with self.clock(part):
                items.close()


@dataclass(frozen=True, kw_only=True)
class Told:
    """A story, and the seconds that its parts took.

    Attributes:
        items: texts and pictures in turn.
        counts: tokens of each text.
        parts: seconds of each of `PARTS`.
        total: seconds of everything.
        context: tokens of the context that the last text was written over; None: not measured.
    """

    items: Sequence[str | Image.Image | None]
    counts: list[int]
    parts: dict[str, float]
    total: float
    context: int | None = None


def tell(inferencer: AutoInterleavedInferencer, plan: Plan, **options: str) -> Told:
    """Tell a story our way; `options` are of `auto_interleaved_generation`."""
    timed = TimedInferencer.of(inferencer)
    passed = seconds(
        lambda: timed.auto_interleaved_generation(
            plan.prompt,
            max_text_length=plan.text_length,
            max_images=plan.num_images,
            max_interleaved_blocks=plan.num_images + 1,
            seed=plan.seed,
            on_error="raise",
            **options,
            **vars(plan.image_options),
        )
    )
    output = timed.last_output
    assert output is not None
    made = [part for part in output.segments if part.role == "generated"]
    return Told(
        items=[part.text or "" if part.kind == "text" else part.image for part in made],
        counts=[len(part.token_ids) for part in made if part.kind == "text"],
        parts=timed.clock.seconds,
        total=passed,
        context=timed.context_length,
    )


def tell_naively(inferencer: AutoInterleavedInferencer, plan: Plan) -> Told:
    """Tell it the slow way."""
    clock = Clock()
    told: list[Any] = []
    passed = seconds(lambda: told.extend(naive_story.tell(inferencer, plan, clock)))
    items, counts = told
    return Told(items=items, counts=counts, parts=clock.seconds, total=passed)


def tell_plainly(inferencer: AutoInterleavedInferencer, plan: Plan) -> Told:
    """Tell it the slow way, with PyTorch's own choice of kernels."""
    with naive.plainly():
        return tell_naively(inferencer, plan)


def measure(
    inferencer: AutoInterleavedInferencer, plan: Plan, *, repeats: int, only_ours: bool = False
) -> list[tuple[str, Told]]:
    """Tell the story in all ways, in turn; of each way the telling of median length."""
    ways: dict[str, Callable[[], Told]] = {
        "ours": partial(tell, inferencer, plan),
        "ours, pixels fed back": partial(tell, inferencer, plan, image_feedback="pixels"),
        "ours, older images seen": partial(tell, inferencer, plan, image_memory="vision"),
        "ours, older images forgotten": partial(tell, inferencer, plan, image_memory="text"),
        "naive": partial(tell_naively, inferencer, plan),
        "plain": partial(tell_plainly, inferencer, plan),
    }
    if only_ours:
        ways = {"ours": ways["ours"]}
    rounds = [[way() for way in ways.values()] for _ in range(repeats)]
    stories = []
    for name, tellings in zip(ways, zip(*rounds, strict=True), strict=True):
        middle = statistics.median_low(telling.total for telling in tellings)
        stories.append((name, next(told for told in tellings if told.total == middle)))
    return stories


def roofline(inferencer: AutoInterleavedInferencer, plan: Plan, counts: list[int]) -> list[float]:
    """Return the seconds that each of `PARTS` takes at best, for texts of so many tokens."""
    model, drawn = inferencer.model, drawn_picture(inferencer)
    num_latent, num_vision = len(drawn.latent), num_patches(inferencer, drawn)
    steps, guided = plan.image_options.num_timesteps - 1, num_guided(plan.image_options)
    moved = drawing = reading = 0
    prompt = length = len(inferencer.encode_text(plan.prompt)) + 2
    texts = length  # what the context without images holds
    for index, count in enumerate(counts):
        moved += (count + 1) * token_bytes(model, length + count // 2)
        length, texts = length + count + 2, texts + count + 2
        if index == plan.num_images:
            break
        branches = [(steps, length), (guided, length - count - 2)]
        branches += [(guided, texts)] if index else []  # at first it equals the full one
        drawing += sum(times * flow_flops(model, num_latent, after) for times, after in branches)
        reading += flops(inferencer, drawn, length)
        reading += block_flops(model, num_text=count + 2, num_latent=0, context_length=texts)
        length += num_latent + num_vision + 4
    reading += block_flops(model, num_text=prompt, num_latent=0, context_length=0)
    decode = partial(inferencer.decode_image, drawn.latent, inferencer.image_shape)
    decoding = plan.num_images * counted_flops(decode)
    rate = matmul_rate(model.device, model.dtype)
    return [
        moved / bandwidth(model.device, model.dtype),
        *(work / rate for work in (drawing, decoding, reading)),
    ]


def row(name: str, told: Told) -> tuple[object, ...]:
    """Return a row of the table."""
    pictures = sum(not isinstance(item, str) for item in told.items)
    parts = [told.parts.get(part, 0.0) for part in PARTS]
    context = "" if told.context is None else told.context
    other = told.total - sum(parts)
    return name, sum(told.counts), pictures, context, *parts, other, told.total


def main() -> None:
    """Print the table."""
    command_line = parser(__doc__, repeats=1)
    command_line.add_argument("--images", type=int, default=4, help="default: %(default)s")
    command_line.add_argument("--text-length", type=int, help="tokens; default: 32, on a GPU 128")
    command_line.add_argument("--timesteps", type=int, help="default: 6, on a GPU 50")
    command_line.add_argument("--only-ours", action="store_true", help="leave the other ways out")
    arguments = command_line.parse_args()
    slow = torch.device(arguments.device).type == "cpu"
    plan = Plan(
        prompt=PROMPT,
        num_images=arguments.images,
        text_length=arguments.text_length or (32 if slow else 128),
        image_options=ImageOptions(num_timesteps=arguments.timesteps or (6 if slow else 50)),
        seed=0,
    )
    inferencer = build(arguments.model, arguments.device, arguments.dtype)
    warm_up = Plan(**vars(plan) | {"num_images": 1, "image_options": ImageOptions(num_timesteps=2)})
    only_ours = arguments.only_ours
    measure(inferencer, warm_up, repeats=1, only_ours=only_ours)
    stories = measure(inferencer, plan, repeats=arguments.repeats, only_ours=only_ours)
    best = roofline(inferencer, plan, stories[0][1].counts)
    height, width = inferencer.image_shape
    title = head(f"Story, {arguments.model}", arguments.device, arguments.dtype)
    show(
        f"{title}\n{plan.num_images} pictures of {height} x {width} pixels in "
        f"{plan.image_options.num_timesteps - 1} steps, texts of at most {plan.text_length} "
        f"tokens, default guidance; median of {arguments.repeats}; seconds:\n",
        ("way", "tokens", "pictures", "context", *PARTS, "other", "total"),
        [
            *(row(name, told) for name, told in stories),
            ("roofline", sum(stories[0][1].counts), plan.num_images, "", *best, 0.0, sum(best)),
        ],
    )
    if not only_ours:
        ours, *_, naively, plainly = (told.total for _, told in stories)
        print(f"naive over ours: {naively / ours:.3g}; plain over ours: {plainly / ours:.3g}")


if __name__ == "__main__":
    main()
