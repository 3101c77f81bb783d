"""The picture book asked of a server: the same table as of a model that answers the same."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from picturebook import illustrated, judge_story, render, sample_edit, sample_question, sample_story
from picturebook.benchmark import __main__ as benchmark
from picturebook.benchmark.measures import (
    answer_in_loop,
    edit_in_loop,
    evaluate_edits,
    evaluate_questions,
    evaluate_stories,
)
from picturebook.benchmark.samples import draw_samples
from tests.bundled import SAMPLING, bundled

openai = pytest.importorskip("openai")

from picturebook.benchmark.served import Served  # noqa: E402 - it is of use with openai alone

Item = str | Image.Image | dict[str, Any]
Items = list[Any]
ROOT = Path(__file__).parents[1]


def part(item: Item) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    if isinstance(item, str):
        return {"type": "text", "text": item}
    buffer = io.BytesIO()
    item.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


class Recorded(ThreadingHTTPServer):
    """Answers prompts from what was recorded, in one of the ways that servers do.

    Attributes:
        way: "parts" knows the field; "apart" answers as if it were not there; "strict" refuses it.
    """

    def __init__(self, answers: dict[str, Items], way: str) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers, self.way, self.asked = answers, way, list[dict[str, Any]]()
        self.thought: str | None = None
        self.ending, self.own = "stop", "end_turn"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Answering(BaseHTTPRequestHandler):
    server: Recorded

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.reply({"object": "list", "data": [{"id": "recorded", "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**request, "key": self.headers["Authorization"]})
        if self.server.way == "strict" and "content_format" in request:
            error = {"message": "unknown field content_format", "type": "invalid_request_error"}
            self.reply({"error": error}, 400)
            return
        content = request["messages"][0]["content"]
        words = content if isinstance(content, str) else content[-1]["text"]
        parts = [part(item) for item in self.server.answers[words]]
        if request.get("stream"):
            self.stream(parts)
            return
        pictures = [each for each in parts if each["type"] == "image_url"]
        texts = "".join(each["text"] for each in parts if each["type"] == "text")
        message: dict[str, Any] = {"role": "assistant", "content": texts, "images": pictures}
        if self.server.way == "parts":
            message = {"role": "assistant", "content": parts}
        self.choose({"message": {**message, "reasoning_content": self.server.thought}})

    def choose(self, said: dict[str, Any]) -> None:
        endings = {"finish_reason": self.server.ending, "native_finish_reason": self.server.own}
        choice = {"index": 0, **endings, **said}
        self.reply({"id": "1", "object": "chat.completion", "created": 0, "choices": [choice]})

    def reply(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, parts: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        deltas: list[dict[str, Any]] = []
        for each in parts:
            if each["type"] == "text":
                half = len(each["text"]) // 2
                deltas += [{"content": each["text"][:half]}, {"content": each["text"][half:]}]
            else:
                deltas.append({"images": [each]})
        endings = [None] * len(deltas) + [self.server.ending]
        for delta, ending in zip([*deltas, {}], endings, strict=True):
            choice = {"index": 0, "delta": delta, "finish_reason": ending}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0}
            self.wfile.write(f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture(params=["parts", "apart", "strict"])
def server(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    yield from serving(request.param)


@pytest.fixture
def in_parts() -> Iterator[Recorded]:
    yield from serving("parts")


def serving(way: str) -> Iterator[Recorded]:
    with Recorded({}, way) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_a_server_answers_is_judged_in_its_order(server: Recorded) -> None:
    rng = Random(5)
    stories = [sample_story(rng, kind) for kind in ("composition", "adventure")]
    server.answers = {story.prompt: illustrated(story) for story in stories}
    served = Served(server.url)
    counts = evaluate_stories(served, stories)
    assert all(rate.share == 1 for rate in counts.values() if rate.count)
    assert counts["structure"].count == 2
    ways = ["content_format" in asked for asked in server.asked]
    assert ways == ([True, True] if server.way == "parts" else [True, False, False])
    server.answers[stories[0].prompt].sort(key=lambda item: not isinstance(item, str))
    assert evaluate_stories(served, stories)["structure"].share == 0.5


def test_edits_and_questions_show_the_server_their_pictures(server: Recorded) -> None:
    edit, question = sample_edit(Random(2)), sample_question(Random(2))
    server.answers = {
        edit.instruction: ["Here.", render(edit.after)],
        question.question: [question.answer],
    }
    served = Served(server.url)
    assert evaluate_edits(served, [edit], edit_in_loop).share == 1
    assert evaluate_questions(served, [question], answer_in_loop).share == 1
    for asked, scene in zip(
        (server.asked[0], server.asked[-1]), (edit.before, question.scene), strict=True
    ):
        assert asked["messages"][0]["content"][0] == part(render(scene))
    assert server.asked[0]["modalities"] == ["image", "text"]
    assert server.asked[-1]["modalities"] == ["text"]


@pytest.mark.parametrize("ending", ["length", "content_filter"])
def test_a_story_that_was_cut_has_no_structure(ending: str, server: Recorded) -> None:
    story = sample_story(Random(5), "adventure")
    server.answers, server.ending = {story.prompt: illustrated(story)}, ending
    assert evaluate_stories(Served(server.url), [story])["structure"].share == 0


def test_why_an_answer_ended_is_told_in_our_words_by_a_server_of_ours(in_parts: Recorded) -> None:
    in_parts.answers["Draw."] = ["No."]
    served = Served(in_parts.url)
    assert served.auto_interleaved_generation("Draw.").finish_reason == "stop"
    in_parts.own = "no_image"
    assert served.auto_interleaved_generation("Draw.").finish_reason == "no_image"


def test_pictures_of_another_size_are_brought_to_the_judges(in_parts: Recorded) -> None:
    story = sample_story(Random(5), "adventure")
    in_parts.answers[story.prompt] = [
        item if isinstance(item, str) else item.resize((256, 256), Image.Resampling.NEAREST)
        for item in illustrated(story)
    ]
    counts = evaluate_stories(Served(in_parts.url), [story])
    assert counts["picture matches its text"].share == 1


def test_what_is_asked_carries_key_model_seed_and_extra_fields(in_parts: Recorded) -> None:
    in_parts.answers["Draw."] = ["Done."]
    in_parts.thought = "A plan."
    served = Served(in_parts.url, "secret", model="other", extra={"num_timesteps": 20})
    output = served.auto_interleaved_generation("Draw.", seed=7, on_error="raise")
    assert list(output) == ["Done."]
    assert output.thoughts == ["A plan."]
    [asked] = in_parts.asked
    told = {name: asked[name] for name in ("key", "model", "seed", "num_timesteps")}
    assert told == {"key": "Bearer secret", "model": "other", "seed": 7, "num_timesteps": 20}


def test_what_was_answered_is_not_asked_for_again(in_parts: Recorded, tmp_path: Path) -> None:
    story = sample_story(Random(5), "adventure")
    in_parts.answers[story.prompt] = illustrated(story)
    first = Served(in_parts.url, kept=tmp_path).auto_interleaved_generation(story.prompt, seed=1)
    num_asked = len(in_parts.asked)
    again = Served(in_parts.url, kept=tmp_path)
    assert again.auto_interleaved_generation(story.prompt, seed=1) == first
    assert len(in_parts.asked) == num_asked
    again.auto_interleaved_generation(story.prompt, seed=2)
    assert len(in_parts.asked) == num_asked + 1


def test_a_picture_by_address_is_refused(in_parts: Recorded) -> None:
    address = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    in_parts.answers["Draw."] = ["Done.", address]
    with pytest.raises(ValueError, match="must come as data: URLs"):
        Served(in_parts.url).auto_interleaved_generation("Draw.")


def test_a_command_prints_a_table_with_intervals(
    in_parts: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--server", in_parts.url, "--held-out-only", "--json", str(tmp_path / "figures.json")]
    line += ["--stories", "6", "--questions", "3", "--edits", "2"]
    samples = draw_samples(benchmark.parsed(line), held_out=True)
    in_parts.answers = {story.prompt: illustrated(story) for story in samples.stories}
    in_parts.answers |= {edit.instruction: [render(edit.after)] for edit in samples.edits}
    in_parts.answers |= {each.question: [each.answer] for each in samples.questions}
    benchmark.main(line)
    shown = capsys.readouterr().out
    assert "recorded at http://127.0.0.1" in shown
    asked = [story for story in samples.stories if not story.request.in_place]
    assert f"n={len(asked)}" in shown
    assert "understanding, in the loop" in shown
    assert "100.0% [" in shown
    figures = json.loads((tmp_path / "figures.json").read_text())["groups"]
    [column] = figures["Held-out combinations"].values()
    assert column["edit, in the loop"]["count"] == 2
    assert column["structure"]["share"] == 1


def test_a_server_of_ours_has_the_figures_of_its_model(tmp_path: Path) -> None:
    """What goes over the wire and back is what the model answers at hand."""
    pytest.importorskip("auto_interleaved.serving")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "auto_interleaved_inference.py", "serve", "--port", str(port)]
    with subprocess.Popen(program, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/ready")
            story = sample_story(Random(5), "adventure")
            served = Served(f"{url}/v1", extra=SAMPLING)
            told = served.auto_interleaved_generation(story.prompt, seed=3)
        finally:
            process.terminate()
    own = bundled().auto_interleaved_generation(story.prompt, seed=3, **SAMPLING)
    assert [item if isinstance(item, str) else item.size for item in told] == [
        item if isinstance(item, str) else item.size for item in own
    ]
    assert told.finish_reason == own.finish_reason
    assert judge_story(story.request, list(told), "stop") == judge_story(
        story.request, list(own), "stop"
    )


def _wait_for(url: str) -> None:
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen(url) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the server is not ready")
