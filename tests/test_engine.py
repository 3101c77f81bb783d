"""The write-or-draw loop: what follows what, and that nothing is computed twice."""

import logging

import pytest
import torch
from torch import nn

from auto_interleaved_inference import AutoInterleavedInferencer
from data.protocols import PROTOCOLS
from modeling.flow import schedule
from tests.builders import BOS, EOS, START, picture, teach, toy_bagel, toy_inferencer
from tests.scripted import (
    SHAPE,
    Said,
    ScriptedInferencer,
    arguments_of,
    asks,
    counted,
    encoded,
    events_of,
    frame,
    generate,
    layout,
    says,
    toy_parts,
    toy_writer,
)

NOTHING = Said((EOS,))
AT_ONCE = Said((START,))
LATENT_TOKENS = VISION_TOKENS = 2 + 2 * 2  # of an image of 8 x 8 pixels, markers included


def layout_of(*script: Said, prompt: object = "Tell me.", **options: object) -> list[str]:
    return layout(generate(ScriptedInferencer(*script), prompt, **options))


# What follows what.


def test_text_and_images_alternate_as_the_model_asks_for_them() -> None:
    script = (asks("One"), asks("Two"), says("Three"))
    assert layout_of(*script) == ["One", "*", "Two", "*", "Three"]


def test_an_image_may_be_asked_for_after_the_end_of_a_text() -> None:
    assert layout_of(says("One", then=START), says("Two")) == ["One", "*", "Two"]


def test_an_image_may_come_before_the_first_word() -> None:
    assert layout_of(AT_ONCE, says("One")) == ["*", "One"]
    assert layout_of(Said((EOS,), then=START), says("One")) == ["*", "One"]


def test_an_image_may_follow_an_image() -> None:
    assert layout_of(asks("One"), AT_ONCE, AT_ONCE, says("Two")) == ["One", "*", "*", "*", "Two"]


def test_a_run_in_which_nothing_is_said_is_an_empty_list() -> None:
    assert layout_of(NOTHING) == []


def test_texts_that_follow_each_other_are_set_off_by_a_line_break() -> None:
    more = says("One", then=BOS)
    assert layout_of(more, says("Two", then=BOS), says("Three")) == ["One\nTwo\nThree"]


def test_only_texts_that_say_something_are_set_off() -> None:
    silent = Said((EOS,), then=BOS)
    assert layout_of(silent, says("One")) == ["One"]
    assert layout_of(says("One", then=BOS), silent, says("Two")) == ["One\nTwo"]
    assert layout_of(says("One", then=BOS), NOTHING) == ["One"]
    assert layout_of(asks("One"), silent, says("Two")) == ["One", "*", "Two"]


def test_a_text_after_an_image_begins_without_a_line_break() -> None:
    script = (says("One", then=BOS), asks("Two"), says("Three", then=BOS), says("Four"))
    assert layout_of(*script) == ["One\nTwo", "*", "Three\nFour"]


def test_a_token_that_ends_everything_is_not_asked_what_comes_next() -> None:
    over = Said((*encoded("One"), toy_parts().tokenizer.pad_token_id), then=START)
    assert layout_of(over) == ["One"]


def test_a_text_may_be_ended_by_the_token_that_begins_the_next() -> None:
    impatient = Said((*encoded("One"), BOS), then=BOS)
    assert layout_of(impatient, says("Two")) == ["One\nTwo"]


def test_an_end_marker_in_a_text_is_kept_and_not_shown() -> None:
    end_of_image = toy_parts().new_token_ids["end_of_image"]
    output = generate(
        ScriptedInferencer(Said((*encoded("One"), end_of_image, *encoded("Two"), EOS))), "Tell me."
    )
    assert output == ["OneTwo"]
    assert output.segments[-1].token_ids == (*encoded("One"), end_of_image, *encoded("Two"))


# What the caller asks for.


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A cat.<|vision_start|>", ["*", "One"]),
        ("A cat.<|vision_start|>A dog.", ["*", "One"]),
        ("A cat.<|vision_start|>A dog.<|vision_start|>", ["*", "*", "One"]),
        ("<|vision_start|>", ["*", "One"]),
        ("<|vision_start|><|vision_start|>", ["*", "*", "One"]),
        ([picture(), "<|vision_start|>"], ["*", "One"]),
        ("A cat.<|vision_start|><|vision_end|>A dog.", ["*", "One"]),
    ],
)
def test_a_request_in_the_prompt_is_drawn_before_the_first_word(
    prompt: object, expected: list[str]
) -> None:
    assert layout_of(says("One"), prompt=prompt) == expected


def test_after_a_request_the_model_goes_on_by_itself() -> None:
    script = (asks("One"), says("Two"))
    assert layout_of(*script, prompt="A cat.<|vision_start|>") == ["*", "One", "*", "Two"]


def test_a_marker_that_is_merely_quoted_draws_nothing() -> None:
    inferencer = ScriptedInferencer(asks("One"), NOTHING)
    prompt = "The token <|vision_start|> starts an image."
    output = generate(inferencer, prompt, split_special_tokens=True)
    assert layout(output) == ["One", "*"]
    prompt_ids = output.segments[0].token_ids
    assert START not in prompt_ids
    assert toy_parts().tokenizer.decode(prompt_ids) == prompt


def test_other_special_tokens_in_a_prompt_are_characters_too() -> None:
    output = generate(ScriptedInferencer(NOTHING), "Say <|im_end|>.", max_images=0)
    assert EOS not in output.segments[0].token_ids


@pytest.mark.parametrize(
    "prompt",
    [
        picture(),
        [picture(), picture(8, 16)],
        [{"role": "user", "content": [{"type": "image", "image": picture()}]}],
    ],
)
def test_a_prompt_of_images_alone_is_enough(prompt: object) -> None:
    assert layout_of(asks("One"), says("Two"), prompt=prompt) == ["One", "*", "Two"]


def test_the_prompt_is_recorded_and_not_part_of_the_list() -> None:
    prompt = ["A cat.", picture(), "A dog.<|vision_start|>A cow."]
    output = generate(ScriptedInferencer(says("One")), prompt)
    assert layout(output) == ["*", "One"]
    assert [(s.kind, s.role) for s in output.segments] == [
        ("text", "prompt"),
        ("image", "prompt"),
        ("text", "prompt"),
        ("image", "generated"),
        ("text", "prompt"),
        ("text", "generated"),
    ]


# Sizes.


def test_the_last_input_image_sets_the_size() -> None:
    prompt = [picture(24, 16), "Wider.", picture(28, 8), "Draw."]
    output = generate(ScriptedInferencer(asks("One"), NOTHING), prompt, image_shape=None)
    assert [image.size for image in output.images] == [(28, 8)]


def test_an_input_image_is_resized_before_its_size_counts() -> None:
    prompt = [picture(90, 30), "Draw."]
    output = generate(ScriptedInferencer(asks("One"), NOTHING), prompt, image_shape=None)
    resized = toy_parts().vae_transform.resize_transform(picture(90, 30))
    assert resized.size != (90, 30)
    assert output.images[0].size == resized.size


def test_a_size_that_is_given_goes_before_an_input_image() -> None:
    output = generate(
        ScriptedInferencer(asks("One"), NOTHING), [picture(24, 16), "Draw."], image_shape=(8, 12)
    )
    assert [image.size for image in output.images] == [(12, 8)]


def test_without_either_an_inferencer_has_a_size_of_its_own() -> None:
    for given, expected in ((None, (32, 32)), ((8, 16), (16, 8))):
        inferencer = ScriptedInferencer(asks("One"), NOTHING, image_shape=given)
        assert generate(inferencer, "Draw.", image_shape=None).images[0].size == expected


def test_a_request_takes_the_size_of_the_image_before_it() -> None:
    prompt = ["<|vision_start|>", picture(24, 16), "<|vision_start|>"]
    inferencer = ScriptedInferencer(NOTHING, image_shape=(8, 8))
    output = generate(inferencer, prompt, image_shape=None)
    assert [image.size for image in output.images] == [(8, 8), (24, 16)]


# Nothing is computed twice.

STORY = ("One", "Two words", "Three", "Four")


def test_every_token_of_a_story_is_computed_once() -> None:
    """Beside the context without images, which reads every text after the first image again."""
    inferencer = ScriptedInferencer(*(asks(text) for text in STORY), says("End"))
    with counted(inferencer.model) as counts:
        output = generate(inferencer, "Tell me.")
    texts = {text: len(frame(encoded(text))) for text in ("Tell me.", *STORY, "End")}
    full = sum(texts.values()) + 4 * (LATENT_TOKENS + VISION_TOKENS)
    without_images = texts["Two words"] + texts["Three"] + texts["Four"] + texts["End"]
    # The first image's context without images is the full one: two branches, then three.
    evaluations = 2 * (2 + 3 + 3 + 3)
    assert layout(output) == ["One", "*", "Two words", "*", "Three", "*", "Four", "*", "End"]
    assert counts["tokens"] == full + without_images + evaluations * LATENT_TOKENS
    assert output.usage.image_tokens == 4 * (LATENT_TOKENS + VISION_TOKENS)


def test_a_story_takes_no_more_calls_of_the_decoder_than_it_has_tokens_and_blocks() -> None:
    inferencer = ScriptedInferencer(*(asks(text) for text in STORY), says("End"))
    with counted(inferencer.model) as counts:
        generate(inferencer, "Tell me.")
    prompt, again, image_blocks, steps = 1, 4, 4 * 2, 4 * 2  # the branches of a step are one call
    # bos and each sampled id one by one, then eos.
    written = sum(len(encoded(text)) + 2 for text in (*STORY, "End"))
    assert counts["calls"] == prompt + written + again + image_blocks + steps


def test_outside_the_guidance_interval_one_branch_is_computed() -> None:
    inferencer = ScriptedInferencer(asks("One"), NOTHING)
    times = schedule(5, 3.0)[:-1]
    guided = sum(0.8 < time <= 1.0 for time in times)
    assert 0 < guided < len(times)
    with counted(inferencer.model) as counts:
        generate(inferencer, [picture(), "Go."], num_timesteps=5, cfg_interval=(0.8, 1.0))
    # The clean latent of the input image and of the drawn one are rows of images as well.
    assert counts["image rows"] == 2 + 3 * guided + (len(times) - guided)


def test_an_image_that_ends_the_run_is_not_read() -> None:
    inferencer = ScriptedInferencer(asks("One"))
    with counted(inferencer.model) as counts:
        output = generate(inferencer, "Tell me.", max_interleaved_blocks=1)
    texts = len(frame(encoded("Tell me."))) + len(frame(encoded("One")))
    assert counts["tokens"] == texts + 2 * 2 * LATENT_TOKENS
    assert output.usage.image_tokens == 0
    assert output.usage.images == 1


def test_sampled_latents_re_enter_without_being_encoded() -> None:
    encodings = []
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), NOTHING)
    hook = inferencer.vae_model.encoder.register_forward_hook(
        lambda module, inputs, output: encodings.append(output)
    )
    try:
        generate(inferencer, "Tell me.")
        assert not encodings
        inferencer.script = iter((asks("One"), asks("Two"), NOTHING))
        generate(inferencer, "Tell me.", image_feedback="pixels")
        assert len(encodings) == 2
    finally:
        hook.remove()


def test_an_image_that_ends_the_run_is_not_encoded_either() -> None:
    encodings = []
    inferencer = ScriptedInferencer(asks("One"))
    hook = inferencer.vae_model.encoder.register_forward_hook(
        lambda module, inputs, output: encodings.append(output)
    )
    try:
        generate(inferencer, "Tell me.", image_feedback="pixels", max_interleaved_blocks=1)
    finally:
        hook.remove()
    assert not encodings


class Noting(ScriptedInferencer):
    """Notes what is tokenised."""

    tokenised: tuple[str, ...] = ()

    def encode_text(self, text: str, *, split_special_tokens: bool = True) -> list[int]:
        self.tokenised += (text,)
        return super().encode_text(text, split_special_tokens=split_special_tokens)


def test_what_was_written_is_never_tokenised() -> None:
    inferencer = Noting(asks("One"), says("Two", then=START), says("Three"))
    generate(inferencer, "Tell me.")
    assert inferencer.tokenised == ("Tell me.",)


def test_ids_that_no_tokenizer_would_choose_stay_as_they_were_sampled() -> None:
    """`O` and `ne` are what "One" becomes; three single letters say the same."""
    letters = tuple(id_ for letter in "One" for id_ in encoded(letter))
    assert letters != encoded("One")
    output = generate(ScriptedInferencer(Said((*letters, START)), NOTHING), "Tell me.")
    assert layout(output) == ["One", "*"]
    assert output.segments[1].token_ids == letters


@pytest.mark.parametrize("name", ["native", "zebra-cot", "every-block"])
def test_special_ids_are_the_ones_that_the_inferencer_was_given(name: str) -> None:
    bos, eos, start, end = 10, 11, 12, 13
    parts = toy_inferencer(
        toy_parts().model,
        bos_token_id=bos,
        eos_token_id=eos,
        start_of_image=start,
        end_of_image=end,
    )
    script = {
        "native": (Said((*encoded("One"), start)), Said((*encoded("Two"), eos), then=start)),
        "zebra-cot": (Said((*encoded("One"), eos), then=start),) * 2,
        "every-block": (Said((*encoded("One"), eos)),) * 2,
    }[name]
    inferencer = ScriptedInferencer(*script, Said((eos,)), parts=parts, protocol=name)
    embedded: list[int] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        embedded.extend(inputs[0].tolist())

    hook = inferencer.model.language_model.model.embed_tokens.register_forward_pre_hook(note)
    try:
        output = generate(inferencer, "Tell me.", max_images=2)
    finally:
        hook.remove()
    assert layout(output) == ["One", "*", "Two" if name == "native" else "One", "*"]
    assert not {BOS, EOS, START} & set(embedded)
    assert {bos, eos, start, end} <= set(embedded)


def test_the_usual_id_means_nothing_where_another_is_given() -> None:
    parts = toy_inferencer(toy_parts().model, start_of_image=12)
    inferencer = ScriptedInferencer(asks("One"), parts=parts)  # goes on: the script is too short
    output = inferencer.auto_interleaved_generation("Tell me.", num_timesteps=2)
    assert output.finish_reason == "error"
    assert not output.images


# The model's own choices.


def taught(*ids: int) -> AutoInterleavedInferencer:
    """Return an inferencer whose model writes these ids after "Go." by itself."""
    parts = toy_inferencer(toy_bagel())
    teach(parts.model, parts.update_context_text("Go.", parts.new_context()), list(ids))
    inferencer = AutoInterleavedInferencer(*arguments_of(parts))
    inferencer.set_progress_bar_config(disable=True)
    return inferencer


def without_images(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores.index_fill(1, torch.tensor([START]), float("-inf"))


def test_a_model_draws_where_it_samples_the_token() -> None:
    output = generate(taught(*encoded("One"), START), "Go.", max_interleaved_blocks=1)
    assert layout(output) == ["One", "*"]


def test_a_model_draws_where_the_token_is_its_own_choice_after_its_text() -> None:
    output = generate(taught(*encoded("One"), EOS, START), "Go.", max_interleaved_blocks=1)
    assert layout(output) == ["One", "*"]
    assert output.finish_reason == "max_blocks"


def test_what_restricts_a_text_does_not_restrict_what_comes_after_it() -> None:
    inferencer = taught(*encoded("One"), EOS, START)
    output = generate(inferencer, "Go.", max_interleaved_blocks=1, logits_processor=without_images)
    assert layout(output) == ["One", "*"]


def test_a_model_that_would_say_anything_else_after_its_text_is_done() -> None:
    output = generate(taught(*encoded("One"), EOS, *encoded("!")), "Go.", max_images=0)
    assert (output, output.finish_reason) == (["One"], "stop")


# A plan.


def test_a_plan_is_kept_apart_from_what_is_returned() -> None:
    inferencer = ScriptedInferencer(says("I shall"), asks("One"), says("Two"))
    output = generate(inferencer, "Tell me.", think=True)
    assert layout(output) == ["One", "*", "Two"]
    assert [thought for thought in output.thoughts] == ["I shall"]
    assert output.usage.thought_tokens == len(encoded("I shall"))
    assert output.usage.text_tokens == len(encoded("One")) + len(encoded("Two"))


def test_a_plan_that_never_ends_is_cut_at_its_limit() -> None:
    rambling = Said(encoded("on and on") * 20)
    inferencer = ScriptedInferencer(rambling, says("One"))
    output = generate(inferencer, "Tell me.", think=True, max_think_token_n=7)
    assert output.usage.thought_tokens == 7
    assert layout(output) == ["One"]
    # What follows was written over the plan with an eos behind it.
    before, after = inferencer.views
    assert after.length == before.length + 7 + 2


def test_a_plan_does_not_count_as_a_text_or_a_round() -> None:
    inferencer = ScriptedInferencer(says("I shall"), asks("One"))
    events, output = events_of(inferencer, "Tell me.", think=True, max_interleaved_blocks=1)
    assert layout(output) == ["One", "*"]
    assert {event.block for event in events if hasattr(event, "block")} == {0}


# Limits of a text.


def test_a_text_that_is_cut_at_its_limit_is_closed_for_what_follows() -> None:
    inferencer = ScriptedInferencer(Said(encoded("One") * 9), NOTHING, protocol="every-block")
    generate(inferencer, "Tell me.", max_text_length=3, max_images=1)
    first, second = inferencer.views
    assert second.length == first.length + 3 + 2 + LATENT_TOKENS + VISION_TOKENS


def test_a_text_of_one_token_is_possible() -> None:
    script = (Said(encoded("a") * 9), Said(encoded("b") * 9))
    inferencer = ScriptedInferencer(*script, protocol="every-block")
    output = generate(inferencer, "Tell me.", max_text_length=1, max_interleaved_blocks=2)
    assert layout(output) == ["a", "*", "b", "*"]


def test_the_marker_may_come_right_at_the_limit() -> None:
    ids = encoded("One")
    assert layout_of(asks("One"), NOTHING, max_text_length=len(ids) + 1) == ["One", "*"]


# Beside the loop.


def test_the_model_needs_no_script() -> None:
    """What a random model babbles goes through the same loop."""
    output = generate(toy_writer(protocol="every-block"), "Hello.", max_interleaved_blocks=3)
    assert len(output.images) == 3
    assert all(image.size == (SHAPE[1], SHAPE[0]) for image in output.images)


def test_what_was_read_and_made_is_counted() -> None:
    inferencer = ScriptedInferencer(asks("One"), says("Two"), protocol="native")
    output = generate(inferencer, ["A cat.", picture(8, 8)])
    usage = output.usage
    assert usage.prompt_tokens == len(frame(encoded("A cat."))) + LATENT_TOKENS + VISION_TOKENS
    assert usage.text_tokens == len(encoded("One")) + len(encoded("Two"))
    assert (usage.images, usage.image_tokens) == (1, LATENT_TOKENS + VISION_TOKENS)
    assert usage.seconds > 0


def test_instructions_are_counted_as_read() -> None:
    prompt_tokens = []
    for protocol in ("native", "bagel"):
        output = generate(ScriptedInferencer(NOTHING), "A cat.", protocol=protocol)
        prompt_tokens.append(output.usage.prompt_tokens)
    instruction = PROTOCOLS["bagel"].system_prompt
    assert instruction
    assert prompt_tokens[1] - prompt_tokens[0] == len(frame(encoded(instruction)))


def test_image_guidance_that_cannot_work_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inferencer = ScriptedInferencer(asks("One"), asks("Two"), NOTHING)
    with caplog.at_level(logging.WARNING, "auto_interleaved"):
        generate(inferencer, "Tell me.", cfg_text_scale=1.0, cfg_img_scale=2.0)
    assert [record.getMessage() for record in caplog.records] == [
        "cfg_img_scale=2.0 has no effect while cfg_text_scale is at most 1"
    ]
