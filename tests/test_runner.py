"""Files of prompts to folders of results: any number of processes, any end, the same files."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_interleaved.runner.plans import make_plan
from auto_interleaved.runner.processes import Processes
from auto_interleaved.runner.prompt_files import seed_of
from auto_interleaved.runner.runner import run_jobs
from auto_interleaved.terminal.arguments import ArgumentError
from auto_interleaved.terminal.command_line import run as run_command_line
from auto_interleaved.terminal.request import ManyRequest, read_request
from auto_interleaved.terminal.screen import Screen
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from data.output.result_folders import ResultFolder, folder_name, id_of
from tests.builders import picture
from tests.scripted import Failing, toy_writer

ROOT = Path(__file__).parents[1]
SHORT = ["--max-text-length", "3", "--max-interleaved-blocks", "2", "--num-timesteps", "2"]
LINES: list[dict[str, Any]] = [
    {"id": "one", "prompt": "Tell me."},
    {"id": "set/2", "prompt": "And then?", "num_timesteps": 3, "do_sample": True},
    {"id": 3, "messages": [{"role": "user", "content": "Once more."}], "seed": 11},
    {"id": "four", "prompt": "Look.", "images": ["seen.png"]},
    {"id": "..", "prompt": "The last.", "max_images": 0},
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What LINES leave when nothing is in the way."""
    place = tmp_path_factory.mktemp("sound")
    write(LINES, place / "prompts.jsonl")
    picture(16, 8).save(place / "seen.png")
    line = ["--prompts", f"{place}/prompts.jsonl", "--output", f"{place}/out", *SHORT]
    assert run_command_line(line, lambda *_, **__: toy()) == 0
    return files(place / "out")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(16, 8).save("seen.png")
    write(LINES)


def write(lines: list[Any], name: str | Path = "prompts.jsonl") -> None:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    Path(name).write_text("".join(f"{text}\n" for text in texts))


def toy() -> AutoInterleavedInferencer:
    return toy_writer(protocol="every-block", image_shape=(8, 8))


@dataclass(frozen=True)
class Ran:
    code: int
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line with the toy model."""

    def run_and_read(*arguments: str, model: Callable[[], Any] = toy, output: str = "out") -> Ran:
        line = ["--prompts", "prompts.jsonl", "--output", output, *SHORT, *arguments]
        code = run_command_line(line, lambda *_, **__: model())
        shown = capsys.readouterr()
        assert shown.out == ""
        return Ran(code, shown.err)

    return run_and_read


def unloadable() -> Any:
    raise AssertionError("the model was loaded")


def files(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def table(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_bytes().splitlines()]


def statuses(folder: str = "out") -> dict[Any, str]:
    return {row["id"]: row["status"] for row in table(folder)}


# What there is afterwards.


def test_each_prompt_has_a_folder_with_what_it_gives_alone(run: Run) -> None:
    assert run("--seed", "5").code == 0
    options = {"max_text_length": 3, "max_interleaved_blocks": 2, "num_timesteps": 2}
    alone = toy().auto_interleaved_generation("Tell me.", **options, seed=seed_of("one", 5))
    kept = InterleavedOutput.load("out/one")
    assert len(kept.images) == 2
    assert kept == alone
    assert kept.finish_reason == alone.finish_reason
    assert [segment.token_ids for segment in kept.segments] == [s.token_ids for s in alone.segments]


def test_a_batch_leaves_the_same_texts_seeds_and_table(run: Run) -> None:
    assert run().code == run("--batch-size", "3", output="batch").code == 0
    assert files("out").keys() == files("batch").keys()
    for name in ("one", "set%2F2", "four"):
        alone, beside = (InterleavedOutput.load(f"{folder}/{name}") for folder in ("out", "batch"))
        assert [s.token_ids for s in beside.segments] == [s.token_ids for s in alone.segments]
        assert beside.seeds == alone.seeds
    assert [row["id"] for row in table("batch")] == [row["id"] for row in table()]


def test_an_interrupted_batch_keeps_what_exists_and_goes_on(
    run: Run, sound: dict[str, bytes]
) -> None:
    options = ("--batch-size", "3")
    done = run(*options, model=lambda: Failing(4, KeyboardInterrupt()))
    assert done.code == 1
    assert "interrupted" in statuses().values()
    assert run(*options).code == 0
    assert set(statuses().values()) == {"done"}
    assert files("out").keys() == sound.keys()


def test_the_table_tells_of_all_in_the_order_of_the_file(run: Run) -> None:
    assert run().code == 0
    rows = table()
    assert [row["id"] for row in rows] == [line["id"] for line in LINES]
    assert {row["status"] for row in rows} == {"done"}
    for row in rows:
        kept = InterleavedOutput.load(f"out/{row['folder']}")
        assert [item.get("text") for item in row["items"]] == [
            item if isinstance(item, str) else None for item in kept
        ]
        images = [item["image"] for item in row["items"] if "image" in item]
        assert len(images) == len(kept.images)
        assert all((Path("out") / image).is_file() for image in images)
        assert row["seed"] == kept.seed


@pytest.mark.parametrize("count", [1, 2])
def test_on_a_cpu_a_process_works_on_as_many_threads_as_are_asked_for(run: Run, count: int) -> None:
    """Launchers set other numbers than Python, and sums are rounded by how they are split."""
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(3)

    def model() -> Any:
        seen.append(torch.get_num_threads())
        return toy()

    try:
        run("--limit", "1", *(["--threads", str(count)] if count > 1 else []), model=model)
        assert (seen, torch.get_num_threads()) == ([count], 3)
    finally:
        torch.set_num_threads(before)


def test_nothing_else_is_left(run: Run) -> None:
    run()
    folders = {"one", "set%2F2", "3", "four", "%2E%2E"}
    assert set(os.listdir("out")) == {*folders, "results.jsonl"}
    assert not any(part.startswith("..") for part in files("."))


def test_seeds_come_from_ids_and_the_seed_of_all_or_are_a_prompts_own(run: Run) -> None:
    run("--seed", "5")
    seeds = {row["id"]: row["seed"] for row in table()}
    assert seeds[3] == 11
    assert len(set(seeds.values())) == len(seeds)
    write(LINES[::-1])
    run("--seed", "5", "--limit", "2", output="turned")
    assert {row["id"]: row["seed"] for row in table("turned")} == {
        "..": seeds[".."],
        "four": seeds["four"],
    }
    run("--seed", "6", output="other")
    assert {row["seed"] for row in table("other")} & set(seeds.values()) == {11}


def test_options_of_a_prompt_go_before_those_of_all(run: Run) -> None:
    write([*LINES[:2], {"id": "size", "prompt": "x", "height": 16, "width": 12}])
    run("--temperature", "0.5", "--image-shape", "8", "12")
    kept = [InterleavedOutput.load(f"out/{name}") for name in ("one", "set%2F2", "size")]
    assert [output.config["num_timesteps"] for output in kept] == [2, 3, 2]
    assert [output.config["do_sample"] for output in kept] == [False, True, False]
    assert {output.config["text_temperature"] for output in kept} == {0.5}
    assert [output.images[0].size for output in kept] == [(12, 8), (12, 8), (12, 16)]


def test_pictures_are_found_from_the_files_own_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"type": "image", "path": "seen.png"}
    write(
        [
            {"id": "images", "prompt": "Look.", "images": "seen.png"},
            {"id": "list", "prompt": [seen, "Look."]},
            {"id": "chat", "messages": [{"role": "user", "content": [seen, "Look."][:1]}]},
            {
                "id": "url",
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "seen.png"}}],
                    }
                ],
            },
        ]
    )
    place = Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    line = ["--prompts", str(place / "prompts.jsonl"), "--output", "out", *SHORT]
    assert run_command_line(line, lambda *_, **__: toy()) == 0
    for name in ("images", "list", "chat", "url"):
        first = InterleavedOutput.load(f"out/{name}").segments[0]
        assert (first.role, first.kind, first.size) == ("prompt", "image", (8, 16)), name


def test_how_long_it_took_is_in_a_file_of_its_own(run: Run) -> None:
    assert run("--timings", "times.jsonl", "--limit", "2").code == 0
    assert run("--timings", "times.jsonl").code == 0
    times = [json.loads(line) for line in Path("times.jsonl").read_text().splitlines()]
    assert [time["id"] for time in times] == [line["id"] for line in LINES]
    assert all(time["seconds"] > 0 for time in times)
    kept = InterleavedOutput.load("out/one")
    assert {kept.usage.seconds, *(segment.seconds for segment in kept.segments)} == {0.0}


@pytest.mark.parametrize("line", ["\ufeff" + json.dumps(LINES[0]), json.dumps(LINES[0]) + "\r\n\n"])
def test_files_are_read_as_programs_write_them(run: Run, line: str) -> None:
    write([line, '{"id": "u", "prompt": "one\u2028two\u2029three\u0085four"}'])
    assert run().code == 0
    assert InterleavedOutput.load("out/u").segments[0].text == "one\u2028two\u2029three\u0085four"


# Names.


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.text(min_size=1, max_size=12), st.integers()))
def test_a_folders_name_is_safe_everywhere_and_gives_its_id_back(identity: str | int) -> None:
    try:
        name = folder_name(identity)
    except ValueError:  # half a character
        assert any("\ud800" <= character <= "\udfff" for character in str(identity))
        return
    assert id_of(name) == str(identity)
    assert re.fullmatch(r"[A-Za-z0-9_%-][A-Za-z0-9_.%-]*", name)
    assert not name.endswith(".")


@pytest.mark.parametrize("identity", ["results.jsonl", "parts", "NUL", "con.txt", "a.html", "~"])
def test_an_id_may_be_any_name(run: Run, identity: str) -> None:
    write([{"id": identity, "prompt": "Tell me.", "max_images": 0}])
    assert run().code == 0
    assert statuses() == {identity: "done"}
    [folder] = [name for name in os.listdir("out") if name != "results.jsonl"]
    assert folder.casefold().split(".")[0] not in ("nul", "con", "parts", "~")
    assert id_of(folder) == identity


# Bad lines and failures.


BAD: dict[str, Any] = {
    "not JSON": "{",
    'must be {"id": ..., "prompt": ...}, got [1]': [1],
    'has no "id"': {"prompt": "x"},
    'rename "uid"': {"uid": "a", "prompt": "x"},
    "id must not be empty": {"id": "", "prompt": "x"},
    "id must be a string or a whole number, got 1.5": {"id": 1.5, "prompt": "x"},
    "at most 200 are safe": {"id": "x" * 201, "prompt": "x"},
    "id must be whole characters": '{"id": "\\ud800", "prompt": "x"}',
    "the id 'one' stands on line 1 already": {"id": "one", "prompt": "x"},
    "stands twice in one object": '{"id": "a", "prompt": "x", "prompt": "y"}',
    'must have either "prompt" or "messages", got neither': {"id": "a"},
    "got prompt and messages": {"id": "a", "prompt": "x", "messages": []},
    "prompt must be a string or a list of parts, got 3": {"id": "a", "prompt": 3},
    "the prompt is empty": {"id": "a", "prompt": " "},
    'pictures go into "images"': {"id": "a", "prompt": "seen.png"},
    "messages must be a list of messages": {"id": "a", "messages": "x"},
    'did you mean "user"': {"id": "a", "messages": [{"role": "usr", "content": "x"}]},
    "images[0]: there is no file 'no.png'": {"id": "a", "prompt": "x", "images": ["no.png"]},
    "images[0] must be a path, got 3": {"id": "a", "prompt": "x", "images": [3]},
    "images must be a list of paths": {"id": "a", "prompt": "x", "images": {"a": 1}},
    "must be a readable image": {"id": "a", "prompt": "x", "images": ["prompts.jsonl"]},
    "images go with a prompt": {"id": "a", "messages": [], "images": ["seen.png"]},
    "unknown option 'num_timestep'; did you mean 'num_timesteps'": {
        "id": "a",
        "prompt": "x",
        "num_timestep": 3,
    },
    "there is no field 'promt'; did you mean \"prompt\"": {"id": "a", "promt": "x"},
    "there is no field 'image'; did you mean \"images\"": {"id": "a", "prompt": "x", "image": "y"},
    "num_timesteps must be at least 2": {"id": "a", "prompt": "x", "num_timesteps": 1},
    "seed must not be -1": {"id": "a", "prompt": "x", "seed": -1},
    "preview_every cannot be given in a file": {"id": "a", "prompt": "x", "preview_every": 1},
}


def test_bad_lines_are_found_before_the_model_is_loaded(run: Run) -> None:
    write([LINES[0]])
    run()
    bad = {
        message: {**line, "id": message[:20]}
        if isinstance(line, dict) and line.get("id") == "a"
        else line
        for message, line in BAD.items()
    }
    write([LINES[0], *bad.values()])
    done = run(model=unloadable)
    assert done.code == 1
    first, *others = table()
    assert first["status"] == "done"
    assert {(row["status"], row["folder"]) for row in others} == {("failed", None)}
    for number, (row, message) in enumerate(zip(others, BAD, strict=True), start=2):
        assert row["line"] == number
        assert row["error"]["message"].startswith(f"line {number}: ")
        assert message in row["error"]["message"]
    assert "auto-interleaved: prompts.jsonl, line 2: not JSON (" in done.err
    assert f"and {len(BAD) - 10} more bad lines" in done.err
    assert f"1 of {len(BAD) + 1} prompts are done (1 were before), {len(BAD)} failed" in done.err


def test_what_is_sound_is_done_beside_bad_lines(run: Run) -> None:
    write([LINES[0], "{", *LINES[1:]])
    done = run()
    assert done.code == 1
    assert "5 of 6 prompts are done, 1 failed" in done.err
    assert [row["status"] for row in table()] == ["done", "failed", *["done"] * 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "0"), "--limit must be at least 1, got 0"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("--ids", "on"), "there is no 'on' in prompts.jsonl; did you mean \"one\"?"),
        (("--seed", "-1"), "--seed: with --prompts it must not be -1"),
        (("--image", "seen.png"), "--image does not go with --prompts"),
        (("--timings", "no/times"), "--timings: 'no/times' cannot be written"),
        (("--output", "seen.png"), "--output: 'seen.png/' cannot be written"),
        (("--output", "story.html"), "--prompts needs --output"),
        (("--prompts", "no.jsonl"), "--prompts: there is no file or directory no.jsonl"),
        (("--prompts", "."), "is a directory, not a file of lines"),
    ],
)
def test_a_bad_argument_is_told_before_anything_is_done(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    done = run(*arguments, model=unloadable)
    assert done.code == 2
    assert message in done.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Tell me.", "--prompts", "prompts.jsonl"), "the prompts are in 'prompts.jsonl', got"),
        (("Tell me.", "--overwrite"), "--overwrite goes with --prompts, a file of prompts"),
        (("Tell me.", "--ids", "one"), "--ids goes with --prompts, a file of prompts"),
    ],
)
def test_one_prompt_and_a_file_of_them_are_told_apart(
    arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        read_request(arguments)


def test_a_failure_is_kept_and_costs_the_others_nothing(run: Run, sound: dict[str, bytes]) -> None:
    done = run(model=lambda: Failing(2, RuntimeError("the pencil broke")))
    assert done.code == 1
    assert "auto-interleaved: one failed: RuntimeError: the pencil broke" in done.err
    assert "4 of 5 prompts are done, 1 failed" in done.err
    row = table()[0]
    assert row["status"] == "failed"
    assert row["error"] == {"type": "RuntimeError", "message": "the pencil broke"}
    assert len(InterleavedOutput.load("out/one").images) == 1  # what was made before
    assert run().code == 0  # and it is tried again
    assert files("out") == sound


def test_what_the_model_refuses_is_a_failure_of_that_prompt(run: Run) -> None:
    write([{"id": "huge", "prompt": "x", "image_shape": [4096, 4096]}, LINES[0]])
    assert run().code == 1
    assert statuses() == {"huge": "failed", "one": "done"}
    assert "height must be" in table()[0]["error"]["message"]


def test_a_result_is_saved_while_the_next_one_is_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, decode = InterleavedOutput.save, AutoInterleavedInferencer.decode_images
    made_on = threading.Event()

    def save_after_the_next_began(output: InterleavedOutput, path: Any) -> Path:
        assert "one" not in str(path) or made_on.wait(timeout=60), "nobody went on"
        return save(output, path)

    def decode_and_tell(self: Any, *arguments: Any) -> Any:
        if self.last_output.config["seed"] != seed_of("one", 0):
            made_on.set()
        return decode(self, *arguments)

    monkeypatch.setattr(InterleavedOutput, "save", save_after_the_next_began)
    monkeypatch.setattr(AutoInterleavedInferencer, "decode_images", decode_and_tell)
    assert run().code == 0
    assert made_on.is_set()


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = InterleavedOutput.save

    def save_or_fail(output: InterleavedOutput, path: Any) -> Path:
        if "set%2F2" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(output, path)

    with monkeypatch.context() as patch:
        patch.setattr(InterleavedOutput, "save", save_or_fail)
        done = run()
    assert done.code == 1
    assert "takes no more results (No space left on device)" in done.err
    assert "2 of 5 prompts are done, 3 are left" in done.err, "the next one was made meanwhile"
    assert statuses() == {"one": "done", 3: "done"}
    assert run().code == 0
    assert set(statuses().values()) == {"done"}


# Going on.


def test_what_is_done_is_not_done_again(run: Run) -> None:
    assert run("--limit", "2").code == 0
    before = files("out")
    del before["results.jsonl"]
    assert run().code == 0
    assert before.items() <= files("out").items()
    whole = files("out")
    assert run(model=unloadable).code == 0
    assert files("out") == whole


def test_a_result_counts_only_if_all_of_it_is_there(run: Run, sound: dict[str, bytes]) -> None:
    run()
    image = Path("out/one/001_image.png")
    image.write_bytes(image.read_bytes()[:-1])
    Path("out/set%2F2/001_image.png").unlink()
    Path("out/3/result.json").write_text("{")
    Path("out/four").rename("out/five")
    done = run()
    assert "5 of 5 prompts are done (1 were before)" in done.err
    assert {name: data for name, data in files("out").items() if name[:4] != "five"} == sound


def test_ids_limit_and_overwrite_choose_what_is_done(run: Run) -> None:
    assert run("--ids", "four", "3").code == 0
    assert statuses() == {3: "done", "four": "done"}
    assert run("--limit", "1").code == 0
    assert statuses() == {"one": "done", 3: "done", "four": "done"}
    changed = run("--ids", "one", "--num-timesteps", "4", model=unloadable)
    assert 'other options or another model, and kept as they are: "one"' in changed.err
    assert run("--ids", "one", "--num-timesteps", "4", "--overwrite").code == 0
    counts = [InterleavedOutput.load(f"out/{n}").config["num_timesteps"] for n in ("one", "four")]
    assert counts == [4, 2]


def test_an_interruption_keeps_what_exists_and_the_same_command_goes_on(
    run: Run, sound: dict[str, bytes]
) -> None:
    done = run(model=lambda: Failing(4, KeyboardInterrupt()))
    assert done.code == 1
    assert "1 of 5 prompts are done, 4 are left" in done.err
    assert "the same command goes on with what is left" in done.err
    assert statuses() == {"one": "done", "set/2": "interrupted"}
    assert len(InterleavedOutput.load("out/set%2F2").images) == 1
    assert run().code == 0
    assert files("out") == sound


def test_an_interruption_replaces_no_result(run: Run) -> None:
    run()
    before = files("out/one")
    done = run("--overwrite", model=lambda: Failing(2, KeyboardInterrupt()))
    assert "the same command, without --overwrite, goes on" in done.err or "5 of 5" in done.err
    assert files("out/one") == before


def test_a_bar_tells_how_many_of_all_are_done() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Screen(None, stream).counting(4, "prompts", "prompt") as count:
        for number in (0, 2, 1, 4):
            count(number)
    shown = re.findall(r"prompts: .*?(\d/4)", stream.getvalue())
    assert shown[0] == "0/4"
    assert shown[-1] == "4/4"
    assert shown == sorted(shown)


# Several processes.


@pytest.fixture
def one_of_many(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Processes]:
    """Return what makes this process one of many, as accelerate sees it."""
    PartialState()

    def one_of(index: int, count: int) -> Processes:
        monkeypatch.setitem(PartialState._shared_state, "process_index", index)
        monkeypatch.setitem(PartialState._shared_state, "num_processes", count)
        return Processes()

    return one_of


def request(output: str) -> ManyRequest:
    read = read_request(["--prompts", "prompts.jsonl", "--output", output, *SHORT])
    assert isinstance(read, ManyRequest)
    return read


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_the_whole_in_order_and_fair(
    one_of_many: Callable[[int, int], Processes], count: int
) -> None:
    shares = [one_of_many(index, count).share(range(5)) for index in range(count)]
    assert [item for share in shares for item in share] == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_leaves_the_same_files(
    sound: dict[str, bytes], one_of_many: Callable[[int, int], Processes], count: int
) -> None:
    plan = make_plan(request("many"))
    for index in reversed(range(count)):
        results = ResultFolder(Path("many"), plan.run, index)
        run_jobs(toy(), one_of_many(index, count).share(plan.todo), results)
    assert results.num_noted() == len(LINES)
    results.conclude(plan.prompts)
    results.forget_parts()
    assert files("many") == sound


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05])
def test_a_killed_process_costs_what_it_was_doing(
    run: Run, sound: dict[str, bytes], seconds: float
) -> None:
    plan = make_plan(request("out"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        def noted(*_: object) -> None:
            os.write(writing, b".")

        run_jobs(toy(), plan.todo, ResultFolder(Path("out"), plan.run), report=noted)
        os._exit(0)
    os.read(reading, 1)  # the first is done
    signal.sigtimedwait([], seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(InterleavedOutput.load("out/one").images) == 2
    done = run()
    assert done.code == 0
    assert " were before)" in done.err
    assert files("out") == sound


@pytest.mark.slow
def test_two_processes_of_torchrun_do_as_one_does(tmp_path: Path) -> None:
    """The bundled model, four prompts; they find each other, share, and wait for each other."""
    stories = ["a fox", "a robot", "a cat", "a boat"]
    write([{"id": name, "prompt": f"The story of {name}, with pictures."} for name in stories])
    line = ["--prompts", "prompts.jsonl", "--num-timesteps", "3", "--max-images", "1"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "auto_interleaved_inference.py"), *line]
        + ["--output", "two"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("4 of 4 prompts are done") == 1
    load = AutoInterleavedInferencer.from_pretrained
    assert run_command_line([*line, "--output", "one"], load) == 0
    assert files("two") == files("one")
