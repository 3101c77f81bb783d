"""What a harness asks and reads, without one: prompts, options, seeds, answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from auto_interleaved.harness.lmms import AutoInterleavedChatModel, AutoInterleavedModel
from auto_interleaved.harness.samples import Answers, Sample, keyed, prompt_of, stages_of
from auto_interleaved.harness.settings import Settings
from auto_interleaved.runner.prompt_files import seed_of
from data.output.result_folders import folder_name
from tests.builders import picture
from tests.scripted import toy_writer

SHORT = {"max_text_length": 3, "max_interleaved_blocks": 2, "num_timesteps": 2}


def answers(tmp_path: Path, **given: Any) -> Answers:
    toy = toy_writer(protocol="every-block", image_shape=(8, 8))
    return Answers(toy, Settings.of({"output_dir": str(tmp_path / "drawn"), **given}))


def samples(*prompts: Any, options: dict[str, Any] | None = None) -> list[Sample]:
    given = options or SHORT
    return [
        Sample(key=f"task/test/{number}", prompt=prompt, options=given)
        for number, prompt in enumerate(prompts)
    ]


def nothing() -> None: ...


def test_visuals_stand_where_the_context_says_or_before_it() -> None:
    one, two = picture(8, 8), picture(16, 8)
    assert prompt_of("What is it?", [one]) == [one, "What is it?"]
    assert prompt_of("<image> and <image>?", [one, two]) == [one, " and ", two, "?"]
    assert prompt_of("Nothing.", None) == ["Nothing."]
    assert prompt_of("<image>", ["a.png"]) == [Path("a.png")]


@pytest.mark.parametrize(
    ("context", "visuals", "message"),
    [
        ("<image> <image>", [Image.new("RGB", (8, 8))], "2 times, and there are 1"),
        ("<image>", [], "1 times, and there are 0"),
        ("Listen.", [{"array": []}], "must be pictures, got dict"),
    ],
)
def test_visuals_that_do_not_fit_are_refused(
    context: str, visuals: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_of(context, visuals)


def test_a_chain_of_thought_says_what_to_draw_and_what_to_answer() -> None:
    tagged = "[GEN_PROMPT]Sketch {question}[/GEN_PROMPT] [QUESTION] How many? [/QUESTION]"
    assert stages_of(tagged) == ("Sketch How many?", "How many?")
    drawing, question = stages_of("How many?")
    assert question == "How many?"
    assert drawing.endswith("How many?")


def test_what_comes_again_has_a_key_and_so_a_seed_of_its_own() -> None:
    keys = keyed([("t", "test", 0), ("t", "test", 1), ("t", "test", 0)])
    assert keys == ["t/test/0", "t/test/1", "t/test/0/2"]


def test_answers_do_not_depend_on_their_batch_nor_their_order(tmp_path: Path) -> None:
    options = {**SHORT, "do_sample": True, "text_temperature": 2.0}
    asked = samples("One.", "Two.", "Three.", options=options)
    alone = answers(tmp_path, results="text").to(asked, nothing)
    together = answers(tmp_path, results="text", batch_size=3).to(asked, nothing)
    backwards = answers(tmp_path, results="text").to(asked[::-1], nothing)
    assert alone == together == backwards[::-1]
    assert len(set(alone)) > 1
    other = answers(tmp_path, results="text", seed=1).to(asked, nothing)
    assert other != alone


def test_a_sample_is_a_run_with_its_own_seed(tmp_path: Path) -> None:
    [told] = answers(tmp_path).to(samples("Draw."), nothing)
    toy = toy_writer(protocol="every-block", image_shape=(8, 8))
    alone = toy.auto_interleaved_generation("Draw.", seed=seed_of("task/test/0", 0), **SHORT)
    found = json.loads(told)
    assert found["text"] == alone.text
    assert len(found["images"]) == 2
    for path, image in zip(found["images"], alone.images, strict=True):
        with Image.open(path) as opened:
            assert opened.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("results", "max_images", "is_json"),
    [("auto", 2, True), ("auto", 0, False), ("json", 0, True), ("text", 2, False)],
)
def test_answers_have_the_form_that_is_asked_for(
    results: str, max_images: int, is_json: bool, tmp_path: Path
) -> None:
    asked = samples("Draw.", options={**SHORT, "max_images": max_images})
    [told] = answers(tmp_path, results=results).to(asked, nothing)
    assert told.startswith('{"text"') == is_json


def test_a_sample_that_fails_costs_no_other_one_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = samples("One.", [Path("nowhere.png")], "Three.")
    with caplog.at_level(logging.ERROR, "auto_interleaved"):
        told = answers(tmp_path, batch_size=3).to(asked, nothing)
    assert told[1] == ""
    assert told[0] != "" != told[2]
    assert "task/test/1 failed" in caplog.text


def test_in_two_stages_the_picture_stands_before_the_question(tmp_path: Path) -> None:
    shown = picture(16, 8)
    [sample] = samples([shown, "Sketch it."])
    [told] = answers(tmp_path).after_drawing([(sample, "How many?")], nothing)
    toy = toy_writer(protocol="every-block", image_shape=(8, 8))
    drawn = toy.auto_interleaved_generation(
        [shown, "Sketch it.", "<|vision_start|>"],
        seed=seed_of("task/test/0/drawn", 0),
        **{**SHORT, "max_images": 1, "max_interleaved_blocks": 1},
    )
    answer = toy.auto_interleaved_generation(
        [shown, drawn.images[0], "How many?"],
        seed=seed_of("task/test/0", 0),
        **{**SHORT, "max_images": 0},
    )
    assert told == answer.text
    assert (tmp_path / "drawn" / f"{folder_name('task/test/0/drawn')}_0.png").is_file()


def test_what_the_model_is_told_goes_before_what_a_task_says() -> None:
    settings = Settings.of({"max_text_length": 7, "do_sample": True})
    said = {"max_new_tokens": 16, "do_sample": False, "temperature": 0.5, "num_beams": 1}
    assert settings.options_of(said) == {
        "max_text_length": 7,
        "do_sample": True,
        "text_temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"max_new_tokens": 16, "temperature": 0, "top_p": None}, {"max_text_length": 16}),
        ({"do_sample": True, "temperature": 0}, {}),
        (
            {"do_sample": True, "temperature": 0.7},
            {"do_sample": True, "text_temperature": 0.7},
        ),
        ({"until": ["\n\n"], "image_aspect_ratio": "pad"}, {}),
    ],
)
def test_a_task_says_how_text_is_written(said: dict[str, Any], options: dict[str, Any]) -> None:
    assert Settings.of({}).options_of(said) == options


def test_pairs_have_a_colon_between_their_numbers() -> None:
    settings = Settings.of({"image_shape": "512:256", "cfg_interval": "0.4:1.0", "seed": 3})
    assert settings.options == {"image_shape": (512, 256), "cfg_interval": (0.4, 1.0)}
    assert settings.seed == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_timestep": 3}, "num_timesteps"),
        ({"protocol": "zebra"}, "unknown protocol"),
        ({"results": "xml"}, "results must be one of"),
        ({"num_timesteps": "many"}, "num_timesteps must be"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        AutoInterleavedModel(pretrained="/no/such/checkpoint", **given)


def test_the_models_are_of_the_kinds_that_a_registry_looks_for() -> None:
    assert AutoInterleavedModel.is_simple
    assert not AutoInterleavedChatModel.is_simple
    for name in ("generate_until", "generate_visual_cot", "loglikelihood"):
        assert callable(getattr(AutoInterleavedModel, name))
