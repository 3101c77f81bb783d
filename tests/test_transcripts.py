"""A chat in one string, as chat templates write it, is its messages."""

import logging

import pytest

from tests.prompt_samples import START, message, read
from tests.scripted import ScriptedInferencer

TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nDraw a cat.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (TEMPLATE, ["You are a helpful assistant.", "Draw a cat."]),
        ("<|im_start|>user\nHello<|im_end|>", ["Hello"]),
        ("<|im_start|>user Hello<|im_end|>", ["Hello"]),
        ("\n <|im_start|>developer\nHello\n\nyou<|im_end|>\n\n", ["Hello\n\nyou"]),
        ("<|im_start|>Hello<|im_end|>", ["Hello"]),
        ("<|im_start|>username<|im_end|>", ["username"]),
        ("<|im_start|>user\na<|im_end|><|im_start|>assistant\nOnce", ["a", "Once"]),
        (f"<|im_start|>user\na{START}b<|im_end|>", ["a", None, "b"]),
    ],
)
def test_a_transcript_is_read_as_its_messages(text: str, messages: list, caplog) -> None:
    """Its markers were read character by character: 22 of them instead of two tokens."""
    assert read(text) == read(["a", text])[1:] == messages
    assert read([message({"type": "text", "text": text})]) == messages
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        "What does <|im_start|> mean?",
        "Hello<|im_end|>",
        "<|im_start|> and <|im_end|> are markers.",
        "<|im_start|>user\nHello<|im_end|> and more",
        "<|im_start|>user\nHello\n<|im_start|>assistant\n",
        "<|im_start|>is a marker",
        "Hello<|endoftext|>",
        "What is <|image_pad|>?",
    ],
)
def test_other_markers_stay_characters_with_a_warning(text: str, caplog) -> None:
    assert read(text) == [text]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "read as plain characters; give chat messages instead" in record.getMessage()


@pytest.mark.parametrize("text", [TEMPLATE, "Hello<|im_end|>"])
def test_who_asks_for_characters_gets_them_without_a_warning(text: str, caplog) -> None:
    assert read(text, split_special_tokens=True) == [text]
    assert not caplog.records


def test_the_loop_reads_a_transcript_as_it_reads_the_messages() -> None:
    def prompt_of(prompt: object) -> list:
        output = ScriptedInferencer([[]]).auto_interleaved_generation(prompt, max_images=0)
        return [s.token_ids for s in output.segments if s.role == "prompt"]

    chat = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Draw a cat."},
    ]
    assert prompt_of(TEMPLATE) == prompt_of(chat) != []
