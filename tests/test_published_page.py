"""A Gradio script as published ones are: a model built by hand, three modes, one function each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.data_utils import pil_img2rgb
from inferencer import InterleaveInferencer
from tests.test_published_startup import EXAMPLE, example, typed

__all__ = ["EXAMPLE", "example"]

gradio = pytest.importorskip("gradio", reason="gradio is in requirements-page.txt")
pytestmark = pytest.mark.slow  # Gradio alone takes seconds to import


def set_seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def published_page(inferencer: InterleaveInferencer) -> Any:
    """Return a page of three modes, each of which hands everything over by name."""

    def text_to_image(prompt: str, think: bool, seed: int, steps: int, scale: float) -> Any:
        set_seed(seed)
        result = inferencer(
            text=prompt,
            think=think,
            max_think_token_n=8,
            do_sample=False,
            text_temperature=0.3,
            cfg_text_scale=scale,
            cfg_interval=[0.4, 1.0],
            timestep_shift=3.0,
            num_timesteps=int(steps),
            cfg_renorm_min=0.0,
            cfg_renorm_type="global",
            image_shapes=(32, 48),
        )
        return result["image"], result.get("text", None)

    def understand(image: Image.Image, prompt: str) -> str:
        image = pil_img2rgb(image)
        result = inferencer(
            image=image,
            text=prompt,
            think=False,
            understanding_output=True,
            do_sample=False,
            text_temperature=0.3,
            max_think_token_n=8,
        )
        return result["text"]

    def edit(image: Image.Image, prompt: str, seed: int, steps: int) -> Any:
        set_seed(seed)
        result = inferencer(
            image=pil_img2rgb(image),
            text=prompt,
            think=False,
            cfg_text_scale=4.0,
            cfg_img_scale=2.0,
            cfg_interval=[0.0, 1.0],
            timestep_shift=3.0,
            num_timesteps=int(steps),
            cfg_renorm_min=0.0,
            cfg_renorm_type="text_channel",
        )
        return result["image"], result.get("text", "")

    with gradio.Blocks(analytics_enabled=False) as page, gradio.Tabs():
        with gradio.Tab("text to image"):
            prompt, think = gradio.Textbox(), gradio.Checkbox()
            numbers = [gradio.Slider(0, 1000, 7), gradio.Slider(2, 100, 4), gradio.Slider(1, 8, 4)]
            gradio.Button().click(
                text_to_image,
                [prompt, think, *numbers],
                [gradio.Image(), gradio.Textbox()],
                api_name="draw",
            )
        with gradio.Tab("edit"):
            inputs = [
                gradio.Image(type="pil"),
                gradio.Textbox(),
                gradio.Number(7),
                gradio.Number(4),
            ]
            gradio.Button().click(edit, inputs, [gradio.Image(), gradio.Textbox()], api_name="edit")
        with gradio.Tab("understanding"):
            inputs = [gradio.Image(type="pil"), gradio.Textbox()]
            gradio.Button().click(understand, inputs, gradio.Textbox(), api_name="ask")
    return page


def test_a_published_page_runs(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio_client import Client, handle_file

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    inferencer = example.start(example.parse(typed(tmp_path)))
    Image.new("RGB", (48, 32), "green").save(tmp_path / "green.png")
    page = published_page(inferencer)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(url, verbose=False, download_files=str(tmp_path))
        image, thought = client.predict("A boat.", True, 7, 4, 4.0, api_name="/draw")
        assert Image.open(image).size == (48, 32)
        assert thought
        image, _ = client.predict("A boat.", False, 7, 4, 4.0, api_name="/draw")
        again, _ = client.predict("A boat.", False, 7, 4, 4.0, api_name="/draw")
        assert Image.open(image).tobytes() == Image.open(again).tobytes()
        file = handle_file(tmp_path / "green.png")
        edited, _ = client.predict(file, "Make it red.", 7, 4, api_name="/edit")
        assert Image.open(edited).size == (48, 32)
        assert isinstance(client.predict(file, "What is it?", api_name="/ask"), str)
    finally:
        page.close()
