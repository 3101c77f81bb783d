"""What other code sets for the whole process, or around a call, changes nothing that is made."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2TokenizerFast

from auto_interleaved_inference import AutoInterleavedInferencer
from data.output.events import Finished, ImagePreview
from inferencer import InterleaveInferencer
from modeling.flow import ImageOptions, schedule
from modeling.inference import _tell_once
from tests.builders import TOKENIZER, picture, toy_bagel, toy_inferencer
from tests.checkpoints import inferencer_of, load_golden_checkpoint
from tests.scripted import SHORT, arguments_of, pixels, toy_parts, toy_writer


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_dtype_and_device(dtype: torch.dtype, device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        with default_dtype(dtype):
            yield
    finally:
        torch.set_default_device(None)


Setting = Callable[[], AbstractContextManager[Any]]
SETTINGS: dict[str, Setting] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16 and meta": lambda: default_dtype_and_device(torch.float16, "meta"),
    "with meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
settings = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))

PICTURE = picture()
PROMPT = ["Go.", PICTURE]
BABBLE: dict[str, Any] = {
    **SHORT,
    "protocol": "every-block",
    "max_interleaved_blocks": 2,
    "max_text_length": 6,
    "max_think_token_n": 5,
}
HOT: dict[str, Any] = {
    "do_sample": True,
    "text_temperature": 1.5,
    "top_p": 0.9,
    "top_k": 50,
    "repetition_penalty": 1.2,
}


def told(inferencer: AutoInterleavedInferencer, **options: Any) -> list[Any]:
    """Run, and return all that was made."""
    inferencer.set_progress_bar_config(disable=True)
    previews, output = [], None
    for event in inferencer.stream(PROMPT, **{"seed": 5} | BABBLE | options):
        if isinstance(event, ImagePreview):
            previews.append(event.image.tobytes())
        if isinstance(event, Finished):
            output = event.output
    assert output is not None
    if output.error is not None:
        raise output.error
    return [[s.token_ids for s in output.segments], pixels(output), previews]


@cache
def stretched() -> InterleaveInferencer:
    """Return a toy model whose images share its whole position table."""
    return toy_inferencer(toy_bagel(interpolate_pos=True))


def tiled() -> AutoInterleavedInferencer:
    inferencer = toy_writer()
    inferencer.vae_tile = 8
    return inferencer


def by_hand(parts: InterleaveInferencer) -> list[Any]:
    """Use the published verbs."""
    torch.manual_seed(3)
    context = parts.update_context_image(PICTURE, parts.init_gen_context())
    longer = parts.update_context_text("a red circle", context)
    image = parts.gen_image((8, 8), longer, 4.0, 2.0, context, context, num_timesteps=3)
    understood = parts.interleave_inference(
        ["What?", PICTURE], understanding_output=True, max_think_token_n=4
    )
    return [image.tobytes(), parts.gen_text(longer, 5), understood]


RUNS: dict[str, Callable[[], Any]] = {
    "sampled": lambda: told(toy_writer(), think=True, preview_every=1, **HOT),
    "extrapolated": lambda: told(
        toy_writer(), enable_taylorseer=True, num_timesteps=8, image_feedback="pixels"
    ),
    "published protocol": lambda: told(toy_writer(), protocol="bagel"),
    "in tiles": lambda: told(tiled(), image_shape=(24, 24), max_interleaved_blocks=1),
    "stretched": lambda: told(
        AutoInterleavedInferencer(*arguments_of(stretched())), max_interleaved_blocks=1
    ),
    "by hand": lambda: by_hand(toy_parts()),
    "times": lambda: [schedule(11, 3.0), ImageOptions(cfg_interval=(0.4, 0.7)).guided(0.7)],
}


@cache
def undisturbed(name: str) -> Any:
    torch.manual_seed(0)
    return RUNS[name]()


@settings
@pytest.mark.parametrize("name", RUNS)
def test_a_setting_around_a_call_changes_nothing(name: str, setting: Setting) -> None:
    expected = undisturbed(name)
    torch.manual_seed(0)
    with setting():
        assert RUNS[name]() == expected


@settings
def test_a_stream_may_be_read_in_and_out_of_a_setting(
    setting: Setting,
) -> None:
    """Keys and values that were written within are read without, and the other way round."""

    def events() -> Iterator[Any]:
        return toy_writer().stream(PROMPT, **BABBLE, **HOT, seed=5)

    stream, kinds = events(), []
    while True:
        with setting():
            within = list(islice(stream, 1))
        without = list(islice(stream, 2))
        kinds += [*within, *without]
        if not without:
            break
    output = kinds[-1].output
    assert output.error is None
    *_, finished = events()
    assert output.text == finished.output.text
    assert pixels(output) == pixels(finished.output)


LAYER_ON_DISK = {"device_map": {"": "cpu", "language_model.model.layers.1": "disk"}}


@pytest.mark.parametrize(
    ("name", "place"),
    [("float16 and meta", {}), ("inference mode", {}), ("float16 and meta", LAYER_ON_DISK)],
    ids=["defaults", "inference mode", "defaults, a layer on disk"],
)
def test_a_setting_around_loading_changes_nothing(
    name: str, place: dict[str, Any], tmp_path: Path
) -> None:
    def loaded() -> InterleaveInferencer:
        folder = {"offload_folder": tmp_path} if place else {}
        return inferencer_of(load_golden_checkpoint(dtype=torch.float32, **place, **folder))

    def read(parts: InterleaveInferencer) -> list[Any]:
        context = parts.update_context_image(PICTURE, parts.init_gen_context())
        image = parts.gen_image((16, 16), context, cfg_text_scale=1.0, num_timesteps=2)
        return [image.tobytes(), parts.gen_text(context, 3)]

    torch.manual_seed(1)
    expected = read(loaded())
    with SETTINGS[name]():
        parts = loaded()
        torch.manual_seed(1)
        assert read(parts) == expected
    torch.manual_seed(1)
    assert read(parts) == expected


def test_autocast_around_a_call_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    _tell_once.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            by_hand(toy_parts())
    [message] = caplog.messages
    assert "autocast has no effect" in message
    assert "dtype=torch.bfloat16" in message


def both_ways(encode: Callable[..., list[int]]) -> set[tuple[bool, tuple[int, ...]]]:
    """Encode a text with special tokens read and split, in two threads at once."""
    found: set[tuple[bool, tuple[int, ...]]] = set()

    def read(split: bool) -> None:
        for _ in range(400):
            found.add((split, tuple(encode("a <|vision_start|> b", split_special_tokens=split))))

    threads = [threading.Thread(target=read, args=(split,)) for split in (False, True)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return found


@pytest.mark.parametrize("whose", ["the verbs'", "the tokenizer's", "transformers' own"])
def test_threads_that_read_special_tokens_otherwise_do_not_disturb_each_other(whose: str) -> None:
    """The tokenizers library has that as a setting of the tokenizer, which threads share."""
    parts = toy_inferencer()
    encode = parts.tokenizer.encode if whose == "the tokenizer's" else parts.encode_text
    if whose == "transformers' own":
        parts.tokenizer = Qwen2TokenizerFast.from_pretrained(TOKENIZER)
    assert len(both_ways(encode)) == 2
