"""The real lmms-eval with the bundled model: its figure is the one of our own benchmark."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageChops

from auto_interleaved.runner.prompt_files import seed_of
from data.data_utils import pil_img2rgb
from data.output.result_folders import folder_name
from picturebook import Question, render, sample_question
from picturebook.benchmark.measures import answer_in_loop, evaluate_questions
from tests.bundled import bundled

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "tests" / "lmms_eval_tasks"
PYTHON = Path(os.environ.get("LMMS_EVAL_PYTHON", ROOT / ".venv-lmms" / "bin" / "python"))
NUM_QUESTIONS = 24
ARGUMENTS = "max_images=0,output_dir=pictures"

# Slow: the harness imports for half a minute, and needs an environment of its own.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="no lmms-eval: see requirements-lmms-eval.txt, LMMS_EVAL_PYTHON"
    ),
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Question]]:
    """A folder as the tasks read it, and the questions in it."""
    folder, rng, lines = tmp_path_factory.mktemp("lmms"), Random("lmms-eval"), []
    asked = [sample_question(rng, held_out=True) for _ in range(NUM_QUESTIONS)]
    for number, each in enumerate(asked):
        render(each.scene).save(folder / f"{number}.png")
        line = {"number": number, "question": each.question, "answer": each.answer}
        lines.append(json.dumps({**line, "image": f"{number}.png"}))
    (folder / "questions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    subprocess.run(  # the entry points, as an installation has them
        [str(PYTHON), "setup.py", "-q", "egg_info", "--egg-base", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder, asked


def evaluate(
    folder: Path, task: str, model: str = "auto_interleaved", arguments: str = ARGUMENTS, *more: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run lmms-eval; return its figures and what it says of each sample."""
    given = ["--model", model, "--model_args", arguments, "--tasks", task, "--device", "cpu", *more]
    places = ["--include_path", str(TASKS), "--output_path", f"out_{task}_{model}", "--log_samples"]
    done = subprocess.run(
        [str(PYTHON), "-m", "lmms_eval", *given, *places],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), "OMP_NUM_THREADS": "1"}
        | {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(Path(folder, f"out_{task}_{model}").rglob("*results.json"))
    assert found, done.stdout + done.stderr  # it ends with 0 whatever happened
    [samples] = Path(folder, f"out_{task}_{model}").rglob("*samples*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(found[0].read_text())["results"][task], rows


@pytest.mark.parametrize("model", ["auto_interleaved", "auto_interleaved_chat"])
def test_its_figure_is_that_of_our_own_benchmark(
    model: str, questions: tuple[Path, list[Question]]
) -> None:
    folder, asked = questions
    figures, rows = evaluate(folder, "picturebook_questions", model, ARGUMENTS, "--batch_size", "8")
    own = evaluate_questions(bundled(), asked, answer_in_loop)
    assert figures["right,none"] == pytest.approx(own.share)
    answers = {row["doc_id"]: row["filtered_resps"] for row in rows}
    assert [answers[number] for number in range(NUM_QUESTIONS)] == [
        answer_in_loop(bundled(), question) for question in asked
    ]


def test_pictures_are_drawn_and_then_the_question_is_answered(
    questions: tuple[Path, list[Question]],
) -> None:
    folder, asked = questions
    arguments = "num_timesteps=3,output_dir=pictures"
    figures, _ = evaluate(
        folder, "picturebook_visual_cot", "auto_interleaved", arguments, "--limit", "3"
    )
    assert figures["answered,none"] == 1
    key = "picturebook_visual_cot/test/0"
    alone = bundled().auto_interleaved_generation(
        [pil_img2rgb(render(asked[0].scene)), "Draw a red circle.", "<|vision_start|>"],
        seed=seed_of(f"{key}/drawn", 0),
        num_timesteps=3,
        max_images=1,
        max_interleaved_blocks=1,
    )
    with Image.open(folder / "pictures" / f"{folder_name(f'{key}/drawn')}_0.png") as drawn:
        apart = ImageChops.difference(drawn.convert("RGB"), alone.images[0])
    assert max(high for _, high in apart.getextrema()) <= 1
