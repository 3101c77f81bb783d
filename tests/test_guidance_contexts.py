"""What is drawn over: each preset's contexts equal ones that are built by hand from the verbs.

A context is spelled as the blocks it holds: S the protocol's system prompt, G the instruction to
think, T0 and T1 the caller's texts, I0 the caller's image, P the plan, W1 to W3 the texts that were
written, D1 and D2 the images that were drawn. `-latent` and `-vision` read half of an image.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from data.data_utils import pil_img2rgb
from data.output import InterleavedOutput
from data.protocols import PROTOCOLS, EveryText, Marker, Protocol, Sampled
from inferencer import GEN_THINK_SYSTEM_PROMPT
from modeling.context import Context
from tests.builders import BOS, START, picture
from tests.scripted import (
    Drawn,
    Said,
    ScriptedInferencer,
    Seen,
    asks,
    encoded,
    frame,
    generate,
    says,
    toy_parts,
)

T0, T1, I0 = "Look at this.", "Then go on.", picture(24, 16)
HISTORY = [T0, I0, T1]
WRITTEN = ("One", "Two", "Three")
GRID = (2, 2)  # of the images drawn
PLAN = says("plan")

# What texts are written over, and what the two images are drawn over: everything, without text,
# without images.
COMMON = {
    "views": ("S T0 I0 T1", "S T0 I0 T1 W1 D1", "S T0 I0 T1 W1 D1 W2 D2"),
    1: ("S T0 I0 T1 W1", "S T0 I0 T1", "S T0 T1 W1"),
    2: ("S T0 I0 T1 W1 D1 W2", "S T0 I0 T1 W1 D1", "S T0 T1 W1 W2"),
}
TABLE: dict[str, dict[Any, tuple[str, str, str]]] = {
    "native": COMMON,
    "bagel": COMMON,
    "every-block": COMMON,
    "zebra-cot": COMMON
    | {
        "views": (
            "S T0 I0-vision T1",
            "S T0 I0-vision T1 W1 D1-vision",
            "S T0 I0-vision T1 W1 D1-vision W2 D2-vision",
        )
    },
    "mathcanvas": COMMON
    | {
        1: ("S T0 I0 T1 W1", "I0", "S T0 T1 W1"),
        2: ("S T0 I0 T1 W1 D1 W2", "I0 D1", "S T0 T1 W1 W2"),
    },
    "thinkmorph": COMMON
    | {
        1: ("S T0 I0 T1 W1", "S T0 I0", "S T0 T1"),
        2: ("S T0 I0 T1 W1 D1 W2", "S T0 I0", "S T0 T1"),
    },
    "twiff": COMMON
    | {
        1: ("S T0 I0 T1 W1", "S T0 I0", "S T0 T1 W1"),
        2: ("S T0 I0 T1 W1 D1 W2", "S T0 I0 T1 W1 D1", "S T0 I0 T1 W1 W2"),
    },
}


def asking(protocol: Protocol, text: str) -> Said:
    """Write a text and ask for an image in the protocol's own way."""
    trigger = protocol.trigger
    if isinstance(trigger, Marker):
        return says(text + str(trigger.pattern))
    if isinstance(trigger, EveryText):
        return says(text)
    assert isinstance(trigger, Sampled)
    return asks(text) if trigger.in_text else says(text, then=START)


def run(
    protocol: Protocol, prompt: Any = HISTORY, *first: Said, **options: Any
) -> tuple[ScriptedInferencer, InterleavedOutput]:
    """Write, draw, write, draw, write."""
    texts = [*first, *(asking(protocol, text) for text in WRITTEN)]
    inferencer = ScriptedInferencer(*texts, protocol=protocol)
    return inferencer, generate(inferencer, prompt, max_images=2, num_timesteps=2, **options)


class ByHand:
    """Builds contexts from what a run has read and made; common beginnings are read once."""

    def __init__(
        self, inferencer: ScriptedInferencer, protocol: Protocol, output: InterleavedOutput
    ) -> None:
        verbs = toy_parts()
        resized = verbs.vae_transform.resize_transform(pil_img2rgb(I0))
        images = zip(inferencer.drawn, output.images, strict=True)
        self.blocks: dict[str, tuple[Any, ...]] = {
            "S": encoded(protocol.system_prompt or ""),
            "G": encoded(GEN_THINK_SYSTEM_PROMPT),
            "T0": encoded(T0),
            "T1": encoded(T1),
            "I0": (*verbs.encode_image(resized), resized),
            "P": next((s.token_ids for s in output.segments if s.role == "thought"), ()),
            **{f"W{n}": ids for n, ids in enumerate(written_ids(output), start=1)},
            **{f"D{n}": (d.latent, GRID, image) for n, (d, image) in enumerate(images, start=1)},
        }
        self._contexts = {"": verbs.new_context()}

    def context(self, spelling: str) -> Context:
        if spelling not in self._contexts:
            before, _, word = spelling.rpartition(" ")
            self._contexts[spelling] = self._read(word, self.context(before))
        return self._contexts[spelling]

    def _read(self, word: str, context: Context) -> Context:
        verbs = toy_parts()
        name, _, half = word.partition("-")
        block = self.blocks[name]
        if not block:
            return context
        if isinstance(block[0], int):
            return verbs.read_ids(frame(block), context)[0]
        latent, grid, image = block
        if half != "vision":
            context = verbs.read_latent(latent, grid, context)
        return context if half == "latent" else verbs.read_vision(image, context)

    def assert_is(self, seen: Seen, spelling: str) -> None:
        expected = Seen.of(self.context(spelling))
        assert (seen.length, seen.position) == (expected.length, expected.position), spelling
        # Token by token and all at once differ by float32's rounding.
        torch.testing.assert_close(seen.keys, expected.keys, atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.values, expected.values, atol=1e-4, rtol=0)

    def assert_drawn_over(self, drawn: Drawn, *spellings: str) -> None:
        """Compare what one image was drawn over: everything, without text, without images."""
        seen = (drawn.full, drawn.without_text, drawn.without_images)
        for context, spelling in zip(seen, spellings, strict=True):
            self.assert_is(context, spelling)


def written_ids(output: InterleavedOutput) -> list[tuple[int, ...]]:
    return [s.token_ids for s in output.segments if (s.kind, s.role) == ("text", "generated")]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_preset_writes_and_draws_over_what_its_row_of_the_table_says(name: str) -> None:
    protocol = PROTOCOLS[name]
    inferencer, output = run(protocol)
    by_hand = ByHand(inferencer, protocol, output)
    assert len(inferencer.views) == 3
    for view, spelling in zip(inferencer.views, TABLE[name]["views"], strict=True):
        by_hand.assert_is(view, spelling)
    for index in (1, 2):
        by_hand.assert_drawn_over(inferencer.drawn[index - 1], *TABLE[name][index])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_without_any_image_guidance_against_images_has_nothing_to_work_on(name: str) -> None:
    """Then the context without images holds what the full one holds, and costs no evaluation."""
    protocol = PROTOCOLS[name]
    inferencer, _ = run(protocol, T0, max_interleaved_blocks=1)
    drawn = inferencer.drawn[0]
    if protocol.without_images == "inputs":
        assert drawn.without_images.length < drawn.full.length  # the written text is not there
    else:
        torch.testing.assert_close(drawn.without_images.keys, drawn.full.keys, atol=0, rtol=0)


def test_the_first_image_of_a_text_is_drawn_against_everything_but_the_last_text() -> None:
    inferencer, output = run(PROTOCOLS["native"], T0, max_interleaved_blocks=1)
    by_hand = ByHand(inferencer, PROTOCOLS["native"], output)
    by_hand.assert_drawn_over(inferencer.drawn[0], "T0 W1", "T0", "T0 W1")


def test_a_requested_image_is_drawn_over_the_prompt_up_to_its_place() -> None:
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, [f"{T0}<|vision_start|>{T1}"])
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_drawn_over(inferencer.drawn[0], "T0", "", "T0")
    by_hand.assert_is(inferencer.views[0], "T0 D1 T1")
    by_hand.assert_drawn_over(inferencer.drawn[1], "T0 D1 T1 W1", "T0 D1 T1", "T0 T1 W1")


def test_an_image_right_after_an_image_has_the_text_on_both_sides_of_text_guidance() -> None:
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, f"{T0}<|vision_start|><|vision_start|>")
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_drawn_over(inferencer.drawn[1], "T0 D1", "T0 D1", "T0")


def test_inputs_that_end_in_an_image_leave_that_image_in_text_guidance() -> None:
    protocol = PROTOCOLS["thinkmorph"]
    inferencer, output = run(protocol, [T0, I0])
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_drawn_over(inferencer.drawn[0], "S T0 I0 W1", "S T0 I0", "S T0")


def test_a_plan_is_known_where_text_is_written_and_to_no_guidance() -> None:
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, HISTORY, PLAN, think=True)
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_is(inferencer.views[0], "G T0 I0 T1")
    by_hand.assert_is(inferencer.views[1], "G T0 I0 T1 P")
    planned = "G T0 I0 T1 P"
    by_hand.assert_drawn_over(inferencer.drawn[0], f"{planned} W1", planned, "G T0 T1 W1")
    seen = f"{planned} W1 D1"
    by_hand.assert_drawn_over(inferencer.drawn[1], f"{seen} W2", seen, "G T0 T1 W1 W2")


def test_a_requested_image_is_drawn_after_the_plan_which_only_the_full_context_holds() -> None:
    """As the published loop thinks: instruction, prompt, plan, image."""
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, f"{T0}<|vision_start|>{T1}", PLAN, think=True)
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_drawn_over(inferencer.drawn[0], "G T0 P", "G", "G T0")
    by_hand.assert_is(inferencer.views[1], "G T0 P D1 T1")


@pytest.mark.parametrize("name", ["zebra-cot", "thinkmorph"])
def test_a_plan_is_known_under_other_rules_too(name: str) -> None:
    protocol = PROTOCOLS[name]
    inferencer, output = run(protocol, HISTORY, PLAN, think=True)
    by_hand = ByHand(inferencer, protocol, output)
    image = "I0-vision" if name == "zebra-cot" else "I0"
    by_hand.assert_is(inferencer.views[1], f"S G T0 {image} T1 P")
    first = {
        "zebra-cot": ("S G T0 I0 T1 P W1", "S G T0 I0 T1 P", "S G T0 T1 W1"),
        "thinkmorph": ("S G T0 I0 T1 P W1", "S G T0 I0", "S G T0 T1"),
    }
    by_hand.assert_drawn_over(inferencer.drawn[0], *first[name])


@pytest.mark.parametrize(
    ("changes", "half"), [({"reads_vision": False}, "latent"), ({"reads_latent": False}, "vision")]
)
def test_a_drawn_image_may_re_enter_by_half_of_itself(changes: dict[str, bool], half: str) -> None:
    """The caller's images are read in full all the same."""
    protocol = replace(PROTOCOLS["native"], **changes)
    inferencer, output = run(protocol)
    by_hand = ByHand(inferencer, protocol, output)
    seen = f"T0 I0 T1 W1 D1-{half}"
    by_hand.assert_drawn_over(inferencer.drawn[1], f"{seen} W2", seen, "T0 T1 W1 W2")


def test_more_text_is_read_as_a_block_of_its_own() -> None:
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, T0, says("More", then=BOS))
    by_hand = ByHand(inferencer, protocol, output)
    by_hand.assert_is(inferencer.views[1], "T0 W1")
    by_hand.assert_drawn_over(inferencer.drawn[0], "T0 W1 W2", "T0 W1", "T0 W1 W2")


def test_pixels_that_are_fed_back_are_encoded_anew() -> None:
    protocol = PROTOCOLS["native"]
    inferencer, output = run(protocol, T0, image_feedback="pixels")
    by_hand = ByHand(inferencer, protocol, output)
    resized = toy_parts().vae_transform.resize_transform(output.images[0])
    by_hand.blocks["D1"] = (*toy_parts().encode_image(resized), resized)
    by_hand.assert_is(inferencer.views[1], "T0 W1 D1")


def test_pixels_too_few_for_the_transform_are_enlarged_before_they_are_read() -> None:
    """What was drawn keeps its size; what is read follows the transform's rule, as published."""
    inferencer, output = run(PROTOCOLS["native"], T0, image_feedback="pixels", image_shape=(4, 8))
    assert {image.size for image in output.images} == {(8, 4)}
    texts = len(frame(encoded(T0))) + len(frame(encoded("One")))
    latent_tokens = vision_tokens = 2 + 2 * 4  # 8 x 16 pixels, in tokens of 4 x 4
    assert inferencer.views[1].length == texts + latent_tokens + vision_tokens
