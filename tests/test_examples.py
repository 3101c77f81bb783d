"""The examples do what they say, on a toy checkpoint."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image, ImageChops

from data.output import InterleavedOutput
from inferencer import InterleaveInferencer
from tests.command_lines import drawing_checkpoint

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = ("one_call", "streaming", "input_image", "explicit_tokens", "own_protocol")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return drawing_checkpoint(tmp_path_factory.mktemp("model") / "golden")


def example(name: str) -> Callable[[list[str]], int]:
    """Return an example's `main`."""
    return module_of(name).main


def module_of(name: str) -> ModuleType:
    """Import an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def run(name: str, model: str, output: Path) -> InterleavedOutput:
    """Run an example and read what it saved."""
    assert example(name)(["--model", model, "--output", str(output)]) == 0
    return InterleavedOutput.load(output)


def kinds(output: InterleavedOutput) -> list[str]:
    return ["text" if isinstance(item, str) else "image" for item in output]


def test_one_call_prints_and_saves_a_story(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = run("one_call", model, tmp_path / "story.html")
    assert kinds(saved) == ["text", "image", "text", "image"]
    shown = capsys.readouterr().out
    assert str(saved[0]) in shown
    assert "[a picture of (48, 32) pixels]" in shown
    assert "'max_blocks'" in shown


def test_streaming_shows_all_text_and_keeps_previews_and_pictures(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example("streaming")(["--model", model, "--output", str(tmp_path)])
    saved = InterleavedOutput.load(tmp_path / "story.html")
    shown = capsys.readouterr().out
    assert shown.startswith(f"{saved[0]}\n[picture 0]\n{saved[2]}\n[picture 1]\n")
    for index, image in enumerate(saved.images):
        assert len(list(tmp_path.glob(f"picture_{index}_step_*.png"))) == 4
        assert Image.open(tmp_path / f"picture_{index}.png").tobytes() == image.tobytes()


def test_a_picture_that_goes_in_gives_the_new_one_its_size(model: str, tmp_path: Path) -> None:
    saved = run("input_image", model, tmp_path / "continued.html")
    given = saved.segments[0].image
    assert given is not None
    assert given.getpixel((48, 32)) == (220, 20, 60)
    assert kinds(saved) == ["text", "image"]
    assert saved.images[0].size == given.size


def test_pictures_come_where_the_prompt_asks_for_them(model: str, tmp_path: Path) -> None:
    saved = run("explicit_tokens", model, tmp_path / "scenes.md")
    order = [(segment.role, segment.kind) for segment in saved.segments]
    assert order[:6] == [("prompt", "text"), ("generated", "image")] * 3
    assert kinds(saved) == ["image", "image", "image", "text"]


def test_a_story_becomes_a_strip_of_its_pictures(model: str, tmp_path: Path) -> None:
    path = tmp_path / "story.png"
    arguments = ["Red: <|vision_start|>blue: <|vision_start|>", "--model", model]
    assert example("picture_strip")([*arguments, "--output", str(path)]) == 0
    assert Image.open(path).width >= 2 * 192


def test_a_function_decides_when_to_draw_and_when_to_stop(model: str, tmp_path: Path) -> None:
    saved = run("own_protocol", model, tmp_path / "book.html")
    assert saved.config["protocol"] == "picture-book"
    assert kinds(saved) == ["text", "image", "text", "image", "text"]
    assert saved.finish_reason == "stop"


@pytest.mark.parametrize("name", SMALL)
def test_an_example_is_short_and_has_two_arguments(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    with pytest.raises(SystemExit, match="^0$"):
        example(name)(["--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert usage.endswith("[-h] [--model MODEL] [--output OUTPUT]")


# The published calls, as other people's scripts make them.


def test_an_evaluation_draws_a_batch_and_asks_about_each_picture(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example("published_batch")(["--model", model, "--output", str(tmp_path)]) == 0
    assert [Image.open(tmp_path / f"{n}.png").size for n in range(3)] == [(48, 32)] * 3
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_pictures_of_a_batch_are_those_of_each_prompt_alone(
    golden_inferencer: InterleaveInferencer,
) -> None:
    draw = module_of("published_batch").draw_batch
    prompts = ("a red circle on the grass", "a star")

    def drawn(*texts: str) -> list[Image.Image]:
        torch.manual_seed(7)
        return draw(golden_inferencer, texts, (32, 48), num_timesteps=4)

    together, alone = drawn(*prompts), drawn(prompts[0])
    assert ImageChops.difference(together[0], alone[0]).getextrema() <= ((0, 1),) * 3
    torch.manual_seed(7)
    context = golden_inferencer.init_gen_context()
    golden_inferencer.update_context_text(prompts[0], context)
    image = golden_inferencer.gen_image(
        (32, 48),
        context,
        cfg_text_precontext=golden_inferencer.init_gen_context(),
        cfg_img_scale=1.0,
        num_timesteps=4,
    )
    assert ImageChops.difference(image, alone[0]).getextrema() <= ((0, 1),) * 3


def test_a_loop_of_ones_own_tells_a_story(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example("own_loop")(["--model", model, "--output", str(tmp_path)]) == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["1.png", "3.png"]
    assert "tokens in the context, the next at position" in capsys.readouterr().out


def test_a_wrapper_answers_in_batches_as_one_by_one(
    golden_inferencer: InterleaveInferencer, model: str, tmp_path: Path
) -> None:
    wrapper = module_of("evaluation_wrapper")
    image = Image.new("RGB", (64, 48), "crimson")
    requests = [wrapper.Request(image, question, 9) for question in ("What?", "Which one is it?")]
    alone, together = (
        wrapper.BagelForSuites(golden_inferencer, size).generate_until(requests) for size in (1, 2)
    )
    assert alone == together
    answers = tmp_path / "answers.txt"
    assert example("evaluation_wrapper")(["--model", model, "--output", str(answers)]) == 0
    assert answers.read_text(encoding="utf-8").startswith("Which colour?")
