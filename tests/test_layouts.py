"""Layouts: what judges read, made from a folder of results, and what they would miss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from auto_interleaved.layouts.check import main as check
from auto_interleaved.layouts.fields import fields_of
from auto_interleaved.layouts.table import LAYOUTS
from auto_interleaved.runner.prompt_files import seed_of
from auto_interleaved.terminal.command_line import run as run_command_line
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from tests.builders import picture
from tests.scripted import Failing, toy_writer

SHORT = {"max_text_length": 3, "max_interleaved_blocks": 2, "num_timesteps": 2}
FLAGS = [
    word for key, value in SHORT.items() for word in (f"--{key.replace('_', '-')}", str(value))
]

# A line as each benchmark has it; fields that no run needs are named like options here and there.
RECORDS: dict[str, dict[str, Any]] = {
    "opening": {
        "total_uid": "0101001",
        "seed": "not an option",
        "conversations": [
            {"input": [{"text": "Look.", "image": "seen.png"}, {"text": "And?", "image": None}]},
            {"output": [{"text": "gold", "image": "gold.jpg"}]},
        ],
    },
    "isg": {
        "id": "0001",
        "Category": "how-to",
        "Query": [
            {"type": "text", "content": "Look."},
            {"type": "image", "content": "seen.png"},
        ],
        "Golden": [{"type": "text", "content": "gold"}],
    },
    "mmie": {
        "id": "m1",
        "question": [{"text": "Look.", "image": "seen.png"}, {"text": "Go on.", "image": None}],
        "answer": [{"text": "gold", "image": None}],
        "model": "gt",
    },
    "comm": {"id": "c1", "prompt": "Go on.", "images": ["seen.png"], "task": "continuation"},
    "plain": {"id": "p1", "prompt": "Go on.", "answer": 4},
    "weave": {
        "id": "w1",
        "images": ["seen.png"],
        "turns": [
            {"prompt": "Draw.", "gold": "golds/first.png"},
            {"prompt": "Again.", "gold": "golds/second.jpg"},
        ],
    },
    "risebench": {
        "index": "temporal_1",
        "category": "temporal",
        "instruction": "Later.",
        "image": "seen.png",
        "think": "no option either",
    },
    "mmmg": {"id": "q1", "query": "Draw.", "top_k": None},
    "unimmmu": {"id": "case_1", "prompt": "Solve.", "images": ["seen.png"]},
}
# What the toy's two texts with two pictures become.
FILES = {
    "opening": {
        "gen_outputs/toy_output/0101001.json",
        "gen_outputs/toy_output/0101001-o-0.jpg",
        "gen_outputs/toy_output/0101001-o-1.jpg",
    },
    "isg": {"toy.jsonl", "images/0001_0.png", "images/0001_1.png"},
    "mmie": {"data.json", "images/m1_0.png", "images/m1_1.png"},
    "comm": {"toy.jsonl", "images/c1_0.png", "images/c1_1.png"},
    "plain": {"toy.jsonl", "images/p1_0.png", "images/p1_1.png"},
    "weave": {"seen_1.txt", "seen_2.txt", "imgs/first.png", "imgs/second.jpg"},
    "risebench": {"outputs/toy/images/temporal/temporal_1.png"},
    "mmmg": {"toy.json", "images/q1_0.png", "images/q1_1.png"},
    "unimmmu": {
        "case_1/model_text.txt",
        "case_1/model_image_01.png",
        "case_1/model_image_02.png",
        "case_1/result.json",
    },
}
EVERY = [(layout, name) for layout, names in FILES.items() for name in sorted(names)]
PICTURES = {layout: name for layout, name in EVERY if name.endswith((".png", ".jpg"))}
ANSWERED = ("conversations", "answer", "output", "gt_answer", "model")


def toy() -> AutoInterleavedInferencer:
    return toy_writer(protocol="every-block", image_shape=(8, 8))


def unloadable() -> Any:
    raise AssertionError("the model was loaded")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(16, 8).save("seen.png")


def run(
    layout: str, *arguments: str, model: Callable[[], Any] = toy, prompts: str = "prompts.json"
) -> int:
    line = ["--prompts", prompts, "--output", "out", "--model", "some/toy", *FLAGS]
    return run_command_line([*line, "--layout", layout, *arguments], lambda *_, **__: model())


def checked(layout: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = check([layout, f"out_{layout}", "--prompts", "prompts.json", "--model", "some/toy"])
    return code, capsys.readouterr().out


def write(*records: Any, name: str = "prompts.json") -> None:
    Path(name).write_text(json.dumps(records, indent=1))


def files(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def laid_out(layout: str) -> dict[str, bytes]:
    found = files(f"out_{layout}")
    return {name: content for name, content in found.items() if not name.startswith(".")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_what_its_judge_reads(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    assert laid_out(layout).keys() == FILES[layout]
    assert checked(layout, capsys) == (0, "1 case, no faults\n")
    for name in FILES[layout]:
        if name.endswith((".png", ".jpg")):
            with Image.open(f"out_{layout}/{name}") as opened:
                assert opened.format == ("PNG" if name.endswith(".png") else "JPEG")


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("opening", "gen_outputs/toy_output/0101001.json"),
        ("isg", "toy.jsonl"),
        ("mmie", "data.json"),
        ("comm", "toy.jsonl"),
        ("unimmmu", "case_1/result.json"),
    ],
)
def test_the_fields_of_a_line_are_passed_through_untouched(layout: str, name: str) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    kept = json.loads(laid_out(layout)[name])
    kept = kept[0] if isinstance(kept, list) else kept
    own = {key: value for key, value in RECORDS[layout].items() if key not in ANSWERED}
    assert own.items() <= kept.items()
    if layout == "mmie":
        assert kept["gt_answer"] == RECORDS["mmie"]["answer"]
        assert kept["model"] == "toy"
    if layout == "opening":
        assert kept["conversations"][0] == RECORDS["opening"]["conversations"][0]


def test_answers_keep_their_order() -> None:
    write(RECORDS["isg"])
    assert run("isg") == 0
    output = json.loads(laid_out("isg")["toy.jsonl"])["output"]
    kept = InterleavedOutput.load("out/0001")
    assert [part["content"] for part in output if part["type"] == "text"] == [
        item for item in kept if isinstance(item, str)
    ]
    assert [part["type"] for part in output] == [
        "text" if isinstance(item, str) else "image" for item in kept
    ]
    assert [part["content"] for part in output if part["type"] == "image"] == [
        "images/0001_0.png",
        "images/0001_1.png",
    ]


def test_markers_stand_where_the_pictures_do() -> None:
    write(RECORDS["mmmg"])
    assert run("mmmg") == 0
    [entry] = json.loads(laid_out("mmmg")["toy.json"])
    texts = [item for item in InterleavedOutput.load("out/q1") if isinstance(item, str)]
    begun, between, *_ = [*texts, ""]
    first = "<image_begin><image_0><image_end>"
    assert entry["response"].startswith(f"{begun}{first}{between}<image_begin><image_1>")
    assert entry["image_list"] == ["images/q1_0.png", "images/q1_1.png"]


def test_the_picture_that_is_judged_is_the_last() -> None:
    write(RECORDS["risebench"])
    assert run("risebench") == 0
    name = "outputs/toy/images/temporal/temporal_1.png"
    with Image.open(f"out_risebench/{name}") as opened:
        assert opened.tobytes() == InterleavedOutput.load("out/temporal_1").images[-1].tobytes()


def test_the_same_command_on_a_finished_folder_writes_the_layout_again() -> None:
    write(RECORDS["unimmmu"])
    assert run("unimmmu") == 0
    before, results = laid_out("unimmmu"), files("out")
    shutil.rmtree("out_unimmmu")
    assert run("unimmmu", model=unloadable) == 0
    assert laid_out("unimmmu") == before
    assert files("out") == results


def test_one_folder_of_results_is_read_by_several_judges() -> None:
    write({"id": 1, "prompt": "Draw.", "category": "one"})
    assert run("unimmmu") == 0
    for layout in ("isg", "comm", "mmie", "mmmg", "opening", "risebench", "weave"):
        assert run(layout, model=unloadable) == 0, layout


def test_what_is_not_ours_stays_and_what_is_stale_goes() -> None:
    write(RECORDS["unimmmu"])
    assert run("unimmmu") == 0
    Path("out_unimmmu/case_1/score.json").write_text("{}")
    code = run("unimmmu", "--overwrite", "--max-images", "1")
    assert code == 0
    assert Path("out_unimmmu/case_1/score.json").exists()
    assert not Path("out_unimmmu/case_1/model_image_02.png").exists()


def test_what_failed_is_left_out_and_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS["isg"], {**RECORDS["isg"], "id": "0002", "Query": [{"type": "image"}]})
    assert run("isg") == 1
    assert "isg would miss: 0002: there is no answer to it" in capsys.readouterr().err
    code, told = checked("isg", capsys)
    assert code == 1
    assert "0002: there is no answer to it" in told


def test_a_limit_asks_for_the_limited_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS["isg"], {**RECORDS["isg"], "id": "0002"})
    assert run("isg", "--limit", "1") == 0
    assert checked("isg", capsys)[0] == 1
    assert run("isg") == 0
    assert checked("isg", capsys)[0] == 0


# What a judge would miss.


@pytest.mark.parametrize(("layout", "name"), EVERY)
def test_a_missing_file_is_told(layout: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    Path(f"out_{layout}", name).unlink()
    code, told = checked(layout, capsys)
    assert code == 1
    assert Path(name).name in told or "without a gap" in told or "tells of" in told


@pytest.mark.parametrize(("layout", "name"), PICTURES.items())
def test_a_picture_that_was_cut_is_told(
    layout: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    path = Path(f"out_{layout}", name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, told = checked(layout, capsys)
    assert code == 1
    assert f"{name} is no readable picture" in told


def edit(file: str, change: Callable[[Any], None]) -> None:
    path = Path(file)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value) if path.suffix == ".jsonl" else json.dumps(value, indent=1))


def _opening(value: Any) -> None:
    value["conversations"][1]["output"].reverse()


def _lines(value: Any) -> None:
    value["output"].reverse()


def _list(value: Any) -> None:
    value[0]["answer"].reverse()


def _markers(value: Any) -> None:
    value[0]["response"] = value[0]["response"].replace("<image_1>", "<image_0>", 1)


def _told(value: Any) -> None:
    value["output"].reverse()


@pytest.mark.parametrize(
    ("layout", "name", "change"),
    [
        ("opening", "gen_outputs/toy_output/0101001.json", _opening),
        ("isg", "toy.jsonl", _lines),
        ("comm", "toy.jsonl", _lines),
        ("mmie", "data.json", _list),
        ("mmmg", "toy.json", _markers),
        ("unimmmu", "case_1/result.json", _told),
    ],
)
def test_an_unordered_step_is_told(
    layout: str, name: str, change: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    edit(f"out_{layout}/{name}", change)
    code, told = checked(layout, capsys)
    assert code == 1
    assert "out of order" in told or "markers name" in told or "in another order" in told


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_id_without_a_result_is_told(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS[layout])
    assert run(layout) == 0
    other = json.loads(json.dumps(RECORDS[layout]).replace("seen.png", "other.png"))
    id_field = next(place for place in LAYOUTS[layout].fields["id"] if place in other)
    write(RECORDS[layout], {**other, id_field: "another"})
    code, told = checked(layout, capsys)
    assert code == 1
    assert told.startswith("another: ")


# How lines are read.


def test_lists_and_lines_say_the_same() -> None:
    records = [RECORDS["risebench"], {**RECORDS["risebench"], "index": 2}]
    write(*records)
    Path("prompts.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert run("risebench") == 0
    assert run("risebench", prompts="prompts.jsonl", model=unloadable) == 0


def test_a_field_may_be_anywhere() -> None:
    write({"data": {"uid": 7}, "ask": ["no", "Draw."], "pics": "seen.png", "group": "g"})
    places = ("id=data.uid", "prompt=ask.1", "images=pics", "category=group")
    assert run("risebench", "--fields", *places) == 0
    assert laid_out("risebench").keys() == {"outputs/toy/images/g/7.png"}
    assert len(InterleavedOutput.load("out/7").segments) > 2


@pytest.mark.parametrize("layout", ["isg", "weave", "plain"])
def test_what_is_appended_follows_each_prompt(layout: str) -> None:
    plain, asked = (fields_of(LAYOUTS[layout], (), text) for text in (None, " <|vision_start|>"))
    for before, after in zip(
        plain.question(RECORDS[layout]).turns, asked.question(RECORDS[layout]).turns, strict=True
    ):
        if isinstance(before["prompt"], str):
            assert after["prompt"] == before["prompt"] + " <|vision_start|>"
        else:
            assert after["prompt"] == [
                *before["prompt"],
                {"type": "text", "text": " <|vision_start|>"},
            ]
        assert after["images"] == before["images"]


def test_a_run_sees_what_the_line_shows() -> None:
    """Steps of texts and pictures become a flat prompt, in order."""
    write(RECORDS["opening"])
    assert run("opening") == 0
    seed = seed_of("0101001", 0)
    prompt = ["Look.", Path("seen.png"), "And?"]
    alone = toy().auto_interleaved_generation(prompt, seed=seed, **SHORT)
    assert InterleavedOutput.load("out/0101001") == alone


@pytest.mark.parametrize(
    ("record", "arguments", "message"),
    [
        ({"id": 1, "text": "Draw."}, (), '"Query" or "query" or "prompt"'),
        ({"id": 1, "text": "Draw."}, (), "--fields prompt=NAME"),
        ({"Query": "Draw."}, (), 'has no "id"'),
        ({"id": 1, "Query": "Draw."}, ("--fields", "prompt=ask"), 'has no "ask"'),
        ({"id": 1, "Query": "Draw.", "images": ["no.png"]}, (), 'no file "no.png"'),
        ({"id": 1.5, "Query": "Draw."}, (), "id must be a string or a whole number"),
        ([], (), "got []"),
        ({"id": 1, "Query": [{"type": "image", "content": "no.png"}]}, (), "no.png"),
    ],
)
def test_a_bad_line_is_told_before_the_model_is_loaded(
    record: Any, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(record)
    assert run("isg", *arguments, model=unloadable) == 1
    told = capsys.readouterr().err
    assert message.replace('"', "'") in told.replace('"', "'")
    assert "prompts.json, entry 1: " in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fields", "promt=ask"), 'did you mean "prompt"?'),
        (("--fields", "prompt"), "must be NAME=FIELD"),
        (("--layout", "rise"), "invalid choice"),
    ],
)
def test_bad_arguments_about_layouts_are_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(RECORDS["isg"])
    assert run("isg", *arguments, model=unloadable) == 2
    assert message in capsys.readouterr().err


def test_fields_need_a_layout_and_a_layout_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS["isg"])
    line = ["--prompts", "prompts.json", "--output", "out", "--fields", "id=index"]
    assert run_command_line(line, lambda *_, **__: unloadable()) == 2
    assert "--fields goes with --layout" in capsys.readouterr().err
    assert run_command_line(["Draw.", "--layout", "isg"], lambda *_, **__: unloadable()) == 2
    assert "--layout goes with --prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("weave", {"id": "w2"}),  # with the same first image
        ("isg", {"id": "0001"}),
        ("risebench", {"index": "temporal_1"}),
    ],
)
def test_two_that_lead_to_one_file_are_refused(
    layout: str, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write(RECORDS[layout], {**RECORDS[layout], **change})
    assert run(layout, model=toy if layout != "weave" else unloadable) in (1, 2)
    told = capsys.readouterr().err
    assert "has one place" in told or "stands on line 1 already" in told


@pytest.mark.parametrize("category", ["..", "a/b", ".hidden", ""])
def test_a_category_that_leads_elsewhere_is_refused(
    category: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write({**RECORDS["risebench"], "category": category})
    assert run("risebench", model=unloadable) == 1
    assert "category" in capsys.readouterr().err


# Talks.


def test_each_turn_sees_what_came_before() -> None:
    write(RECORDS["weave"])
    assert run("weave") == 0
    session = toy().start_session(seed=seed_of("w1", 0), **SHORT)
    first, second = session.send([Path("seen.png"), "Draw."]), session.send("Again.")
    kept = InterleavedOutput.load("out/w1")
    assert kept == [*first, *second]
    assert kept.config["turns"] == (len(first), len(second))
    with Image.open("out_weave/imgs/first.png") as opened:
        assert opened.tobytes() == first.images[-1].tobytes()


def test_a_talk_may_be_a_list_of_messages() -> None:
    said = [
        {"role": "user", "content": "Draw."},
        {"role": "assistant", "content": [{"type": "image", "path": "golds/first.png"}]},
        {"role": "user", "content": "Again."},
        {"role": "assistant", "content": [{"type": "image", "path": "golds/second.jpg"}]},
    ]
    talk = {"id": "w1", "images": ["seen.png"], "messages": said}
    questions = [
        fields_of(LAYOUTS["weave"], ()).question(record) for record in (talk, RECORDS["weave"])
    ]
    assert questions[0].golds == questions[1].golds == ("first.png", "second.jpg")
    assert questions[0].turns == questions[1].turns


def test_talks_go_beside_a_batch() -> None:
    write(RECORDS["weave"], {"id": 2, "prompt": "Draw."}, {"id": 3, "prompt": "Look."})
    assert run("weave", "--batch-size", "2") == 0
    assert {"seen_1.txt", "seen_2.txt", "2_1.txt", "3_1.txt"} <= laid_out("weave").keys()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_talk_that_was_cut_short_is_kept_and_done_again(at: int, error: BaseException) -> None:
    write(RECORDS["weave"])
    assert run("weave") == 0
    whole, results = laid_out("weave"), files("out")
    shutil.rmtree("out")
    shutil.rmtree("out_weave")
    assert run("weave", model=lambda: Failing(at, error)) == 1
    kept = InterleavedOutput.load("out/w1")
    assert len(kept.images) == at - 1
    assert kept.finish_reason == ("error" if isinstance(error, RuntimeError) else "interrupted")
    assert not (Path("out_weave").exists() and laid_out("weave"))
    assert run("weave") == 0
    assert laid_out("weave") == whole
    assert files("out") == results


def test_a_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write(RECORDS["isg"])
    Path("out_isg").write_text("in the way")
    assert run("isg", model=unloadable) == 2
    assert "out_isg" in capsys.readouterr().err
