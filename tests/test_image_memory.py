"""What older images leave behind: all of themselves, what was seen of them, or nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_interleaved.run.contexts import Contexts, Reader, ReadImage, empty_contexts
from data.data_utils import pil_img2rgb
from data.output import InterleavedOutput
from data.protocols import PROTOCOLS
from modeling import attention
from modeling.context import Context, without
from modeling.flow import ImageOptions
from tests.builders import noise_of, picture, read_ids
from tests.driving import done
from tests.scripted import ScriptedInferencer, Seen, encoded, frame, generate, pixels, toy_parts
from tests.test_guidance_contexts import HISTORY, TABLE, ByHand, asking, run

IMAGES = ("I0", "D1", "D2")  # in the order they are read
LOSSY = ("vision", "text")


def left_of(spelling: str, newest: str, policy: str) -> str:
    """Spell a context once images older than the newest are forgotten."""
    words = []
    for word in spelling.split():
        name, _, half = word.partition("-")
        older = name in IMAGES and IMAGES.index(name) < IMAGES.index(newest)
        if policy == "all" or not older:
            words.append(word)
        elif policy == "vision" and half != "latent":
            words.append(f"{name}-vision")
    return " ".join(words)


def assert_left(seen: Seen, spelling: str, newest: str, policy: str, by_hand: ByHand) -> None:
    assert seen.length == by_hand.context(left_of(spelling, newest, policy)).length
    assert seen.position == by_hand.context(spelling).position


@pytest.mark.parametrize("policy", ["all", *LOSSY])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_context_has_lost_what_the_policy_says_and_kept_its_position(
    name: str, policy: str
) -> None:
    protocol = PROTOCOLS[name]
    inferencer, output = run(protocol, image_memory=policy)
    by_hand = ByHand(inferencer, protocol, output)
    for view, spelling, newest in zip(inferencer.views, TABLE[name]["views"], IMAGES, strict=True):
        assert_left(view, spelling, newest, policy, by_hand)
    for index in (1, 2):
        drawn, newest = inferencer.drawn[index - 1], IMAGES[index - 1]
        three = (drawn.full, drawn.without_text, drawn.without_images)
        for seen, spelling in zip(three, TABLE[name][index], strict=True):
            assert_left(seen, spelling, newest, policy, by_hand)


def test_where_everything_is_remembered_the_contexts_are_those_that_were_read() -> None:
    for read, kept in stages("native", "all"):
        assert kept.each == read.each
        assert all(a is b for a, b in zip(kept.each, read.each, strict=True))


@pytest.mark.parametrize("policy", LOSSY)
def test_a_run_with_one_image_at_a_time_forgets_nothing(policy: str) -> None:
    """The newest image is whole, whoever made it."""
    outputs: list[InterleavedOutput] = []
    for image_memory in ("all", policy):
        texts = [asking(PROTOCOLS["native"], text) for text in ("One", "Two")]
        options = {"image_memory": image_memory, "max_images": 1, "num_timesteps": 3, "seed": 1}
        outputs.append(generate(ScriptedInferencer(*texts), HISTORY, **options))
    assert pixels(outputs[0]) == pixels(outputs[1])


@pytest.mark.parametrize("policy", LOSSY)
def test_pictures_after_two_images_differ_from_those_of_a_full_memory(policy: str) -> None:
    """It is lossy."""
    outputs = [run(PROTOCOLS["native"], seed=3, image_memory=m)[1] for m in ("all", policy)]
    assert outputs[0].images[0].tobytes() == outputs[1].images[0].tobytes()
    assert outputs[0].images[1].tobytes() != outputs[1].images[1].tobytes()


def test_the_usage_counts_what_was_read_forgotten_or_not() -> None:
    usages = [run(PROTOCOLS["native"], image_memory=m)[1].usage for m in ("all", *LOSSY)]
    assert len({(u.prompt_tokens, u.image_tokens) for u in usages}) == 1
    prompt = [*HISTORY, *HISTORY]
    usages = [run(PROTOCOLS["native"], prompt, image_memory=m)[1].usage for m in ("all", *LOSSY)]
    assert len({(u.prompt_tokens, u.image_tokens) for u in usages}) == 1


# The contexts themselves.


def image_of(seed: int, *, drawn: bool) -> ReadImage:
    image = pil_img2rgb(picture(16, 8, seed))
    latent, grid = toy_parts().encode_image(image)
    return ReadImage(picture=image, latent=latent, grid=grid, drawn=drawn)


def stages(name: str, policy: Any) -> Iterator[tuple[Contexts, Contexts]]:
    """Yield contexts after each image of a story: as it was read, and once older ones are gone."""
    verbs, reader = toy_parts(), Reader(PROTOCOLS[name], policy)
    nothing = empty_contexts(verbs.model.new_context())
    contexts = done(verbs, reader.read_text(nothing, frame(encoded("Once"))))
    for seed, drawn in enumerate((False, False, True, True, True)):
        if drawn:
            ids = frame(encoded(f"Text {seed}"))
            after, _ = verbs.read_ids(ids, contexts.view)
            contexts = done(verbs, reader.keep_text(contexts, ids, after))
        read = done(verbs, reader.read_image(contexts, image_of(seed, drawn=drawn)))
        contexts = done(verbs, reader.forget_images(read))
        yield read, contexts


@pytest.mark.parametrize("policy", LOSSY)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_contexts_that_were_equal_or_shared_a_store_still_do(name: str, policy: str) -> None:
    for read, kept in stages(name, policy):
        for a in range(4):
            for b in range(4):
                same = read.each[a] == read.each[b]
                assert (kept.each[a] == kept.each[b]) == same
                shared = read.each[a].store is read.each[b].store
                assert (kept.each[a].store is kept.each[b].store) == shared


@pytest.mark.parametrize("policy", LOSSY)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_kept_is_what_was_read_slot_by_slot(name: str, policy: str) -> None:
    """And the newest image lies where it is said to lie, whole."""
    for read, kept in stages(name, policy):
        for before, after in zip(read.each, kept.each, strict=True):
            lost: set[int] = set()
            for old, new in zip(
                read.images.get(before, ()), kept.images.get(after, ()), strict=True
            ):
                for half in ("latent", "vision"):
                    slots, moved = getattr(old, half), getattr(new, half)
                    newest = old.number == read.num_images
                    gone = not newest and (policy == "text" or half == "latent")
                    lost |= set(slots) if gone else set()
                    assert len(moved) == (0 if gone else len(slots))
                    assert rows(after)[list(moved)].equal(rows(before)[list(slots)][: len(moved)])
            held = [slot for slot in range(before.length) if slot not in lost]
            assert rows(after).equal(rows(before)[held])
            assert after.position == before.position


def rows(context: Context) -> Tensor:
    """Return keys and values of all layers, a row a slot."""
    layers = [context.rows(layer) for layer in range(context.store.num_layers)]
    if not context.length:
        return torch.empty(0, 1)
    return torch.cat([rows.flatten(1) for pair in layers if pair for rows in pair], dim=1)


def test_memory_does_not_grow_with_images_that_leave_nothing() -> None:
    lengths = {policy: [] for policy in ("all", *LOSSY)}
    for policy, counted in lengths.items():
        for _, kept in stages("native", policy):
            counted.append(kept.full.length - kept.without_images.length)
    image = 2 + 8 + 2 + 8  # tokens in either kind of block
    assert lengths["all"] == [image * n for n in range(1, 6)]
    assert lengths["vision"] == [image + image // 2 * n for n in range(5)]
    assert lengths["text"] == [image] * 5


# An oracle: attention over everything, with the forgotten slots masked out.


def forgotten(monkeypatch: pytest.MonkeyPatch, length: int, slots: range) -> None:
    """Let nobody look at some slots of contexts that are at least this long."""
    attend = attention.attend

    def masked(
        query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Any = None
    ) -> Tensor:
        assert mask is None
        allowed = torch.ones(len(query), len(key), dtype=torch.bool)
        if causal:
            allowed = allowed.tril(len(key) - len(query))
        if len(key) > length:
            allowed[:, slots.start : slots.stop] = False
        return attend(query, key, value, mask=allowed)

    monkeypatch.setattr(attention, "attend", masked)


def read_story() -> tuple[Context, range]:
    """Read a text, an image, a text; return the context and where the image lies."""
    verbs = toy_parts()
    context = read_ids(verbs.model, verbs.new_context(), frame(encoded("Once upon a time")))
    start = context.length
    context = verbs.update_context_image(picture(32, 16), context)
    slots = range(start, context.length)
    return read_ids(verbs.model, context, frame(encoded("there was"))), slots


def test_what_is_read_after_forgetting_never_looks_at_what_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy_parts().model
    everything, slots = read_story()
    [shorter] = without([everything], [[slots]])
    block = model.text_block(frame(encoded("a fox")))
    after, hidden = model.read(shorter, block)
    forgotten(monkeypatch, everything.length, slots)
    expected, expected_hidden = model.read(everything, block)
    torch.testing.assert_close(hidden, expected_hidden, atol=1e-5, rtol=0)
    new = slice(everything.length, None)
    torch.testing.assert_close(
        rows(after)[shorter.length :], rows(expected)[new], atol=1e-5, rtol=0
    )


def test_what_is_drawn_after_forgetting_never_looks_at_what_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verbs = toy_parts()
    everything, slots = read_story()
    [shorter] = without([everything], [[slots]])
    images = read_ids(verbs.model, verbs.new_context(), frame(encoded("a")))
    words = frame(encoded("a fox"))

    def drawn(before: Context) -> Tensor:
        full = read_ids(verbs.model, before, words)
        options = ImageOptions(num_timesteps=4, cfg_interval=(0.0, 1.0))
        generator = torch.Generator().manual_seed(7)
        steps = verbs.draw_latent((8, 16), full, before, images, options, generator)
        *_, last = steps
        return last.latent

    latent = drawn(shorter)
    unlike = drawn(everything)
    forgotten(monkeypatch, everything.length, slots)
    torch.testing.assert_close(latent, drawn(everything), atol=1e-5, rtol=0)
    assert (latent - unlike).abs().max() > 1e-2
    assert latent.shape == noise_of((2, 4)).shape
