"""What the task files ask lmms-eval to do with the picture book's questions."""

from pathlib import Path
from typing import Any

from PIL import Image

from picturebook import Question, judge_answer


def visuals(document: dict[str, Any]) -> list[Image.Image]:
    with Image.open(document["image"]) as opened:
        return [opened.convert("RGB")]


def staged(document: dict[str, Any]) -> str:
    question = document["question"]
    return f"[GEN_PROMPT]Draw a red circle.[/GEN_PROMPT][QUESTION]{question}[/QUESTION]"


def judged(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    asked = Question(scene=None, question=document["question"], answer=document["answer"])
    return {"right": float(judge_answer(asked, results[0]).correct)}


def answered(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    drawn = Path("pictures").glob(f"*%2F{document['number']}%2Fdrawn_0.png")
    return {"answered": float(bool(results[0]) and len(list(drawn)) == 1)}
