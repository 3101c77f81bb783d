"""Rows of tables become conversations, one after another."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.output_samples import picture
from training.conversations import read_conversations
from training.pictures import PictureSource
from training.rows import main, write


def png(seed: int) -> dict[str, bytes]:
    file = io.BytesIO()
    picture(seed, (8, 4)).save(file, "PNG")
    return {"bytes": file.getvalue()}


ROW: dict[str, Any] = {
    "Question": "How many? <image_start>[problem_image_1]<image_end>",
    "Trace": "THOUGHT 0: I count [1].\n<image_start>[reasoning_image_1]<image_end>\nThree.",
    "Final Answer": "3",
    "problem_image_1": png(1),
    "reasoning_image_1": png(2),
    "reasoning_image_2": None,
}


def said(folder: Path) -> list[list[str | tuple[int, int]]]:
    [conversation] = read_conversations(folder)
    return [
        [part.size if isinstance(part, PictureSource) else part for part in message.parts]
        for message in conversation.messages
    ]


def test_columns_are_said_in_order_and_marks_are_pictures(tmp_path: Path) -> None:
    assert write([ROW], ["Question"], ["Trace", "Final Answer"], tmp_path) == 1
    assert said(tmp_path) == [
        ["How many?", (8, 4)],
        ["THOUGHT 0: I count [1].", (8, 4), "Three.", "3"],
    ]
    saved = Image.open(tmp_path / "pictures" / "0000001_user_1.png")
    assert saved.tobytes() == picture(1, (8, 4)).tobytes()


def test_a_picture_s_own_column_may_be_said_and_one_that_is_not_there_is_passed_over(
    tmp_path: Path,
) -> None:
    write([ROW], ["problem_image_1"], ["Final Answer", "reasoning_image_2"], tmp_path)
    assert said(tmp_path) == [[(8, 4)], ["3"]]


def test_rows_are_taken_one_after_another(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for number in range(3):
            assert len(list((tmp_path / "pictures").iterdir())) == 2 * number
            yield ROW

    assert write(rows(), ["Question"], ["Trace"], tmp_path) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "x"}, r"row 2: there is no column 'Trace'; there are Question"),
        ({**ROW, "Trace": 3}, "'Trace' holds neither text nor a picture"),
        ({**ROW, "Trace": {"bytes": b"x"}}, "'Trace' holds no picture that can be read"),
    ],
)
def test_a_bad_row_is_told_and_those_before_it_are_kept(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write([ROW, row], ["Question"], ["Trace"], tmp_path)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_files_are_streamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra `train`)")
    file = str(tmp_path / "rows.parquet")
    datasets.Dataset.from_list([ROW] * 5).to_parquet(file)
    output = tmp_path / "stories"
    flags = ["--ask", "Question", "--answer", "Trace", f"--output={output}", "--limit=2"]
    assert main([file, *flags]) == 0
    assert capsys.readouterr().out == f"2 conversations in {output / 'rows.jsonl'}\n"
    assert len(read_conversations(output)) == 2
    assert main([file, "other.json", *flags]) == 1
    assert "files must be of one kind" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing.parquet"), *flags]) == 1
