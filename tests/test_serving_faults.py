"""Load and faults: a hundred at once, clients that go away, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving import DRAW, STORY, Running, alone, decoded, running, same, wait_until

ROOT = Path(__file__).parent.parent
SHORT: dict[str, Any] = {"num_timesteps": 3, "max_interleaved_blocks": 2, "max_images": 1}
LONG: dict[str, Any] = {"num_timesteps": 200}


def chat(prompt: str, **given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **given}


def test_a_hundred_clients_at_once_get_what_each_gets_alone() -> None:
    asked = [(prompt, seed) for prompt in (STORY, DRAW) for seed in range(5)] * 10
    options = {"content_format": "parts", "do_sample": True, "text_temperature": 1.0}

    async def all_at_once(url: str) -> list[Any]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:
            bodies = [chat(prompt, seed=seed, **SHORT, **options) for prompt, seed in asked]
            posts = [client.post(f"{url}/v1/chat/completions", json=body) for body in bodies]
            return [answer.json() for answer in await asyncio.gather(*posts)]

    with running(max_running=16, max_waiting=100) as server:
        answers = asyncio.run(all_at_once(server.url))
        assert server.worker.outstanding == 0
    given = {**SHORT, "do_sample": True, "text_temperature": 1.0}
    expected = {pair: alone(pair[0], seed=pair[1], **given) for pair in set(asked)}
    assert len({output.text for output in expected.values()}) > 5
    for pair, answer in zip(asked, answers, strict=True):
        content = answer["choices"][0]["message"]["content"]
        items = [
            part["text"] if part["type"] == "text" else decoded(part["image_url"]["url"])
            for part in content
        ]
        assert same(items, expected[pair])


def test_who_comes_when_too_many_wait_is_told_when_to_come_again() -> None:
    with running(max_running=1, max_waiting=1) as server:
        client = server.client()
        streams = [
            client.chat.completions.create(
                model="picturebook",
                messages=[{"role": "user", "content": STORY}],
                stream=True,
                extra_body=LONG,
            )
            for _ in range(2)
        ]
        assert httpx.get(f"{server.url}/ready").status_code == 503
        assert httpx.get(f"{server.url}/health").status_code == 200
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(
                model="picturebook", messages=[{"role": "user", "content": "Go."}]
            )
        assert raised.value.response.headers["retry-after"] == "5"
        assert raised.value.code == "queue_full"
        for stream in streams:
            stream.close()
        wait_until(lambda: server.worker.outstanding == 0)
        assert httpx.get(f"{server.url}/ready").status_code == 200


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(served: Running, path: str, stream: bool) -> None:
    body = chat(STORY, **LONG) if path.startswith("chat") else {"input": STORY, **LONG}
    rounds: list[int] = []
    if stream:
        with httpx.stream("POST", f"{served.url}/v1/{path}", json=body | {"stream": True}) as told:
            next(told.iter_lines())
            wait_until(lambda: served.worker.state.running == 1)
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/{path}", json=body, timeout=0.5)
    rounds.append(served.worker.state.rounds)
    wait_until(lambda: served.worker.outstanding == 0, 10)
    rounds.append(served.worker.state.rounds)
    assert rounds[1] - rounds[0] < 100  # of about 800; the rest is the way of the news
    told = httpx.get(f"{served.url}/metrics").text
    assert 'runs_total{reason="interrupted"}' in told


def test_a_stream_is_kept_alive_while_nothing_is_told() -> None:
    with running(keep_alive_seconds=0.05) as server:
        body = chat(DRAW, num_timesteps=120, max_images=1, stream=True)
        told = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).text
        between = told.partition('"content":"."')[2].partition('"images"')[0]
        assert ": still at it\n\n" in between
        answer = server.client().chat.completions.create(  # which clients take no notice of
            model="picturebook",
            messages=[{"role": "user", "content": DRAW}],
            stream=True,
            extra_body={"num_timesteps": 60, "max_images": 1},
        )
        assert len(list(answer)) > 5


def test_a_request_whose_time_is_over_gives_what_it_has() -> None:
    with running(max_seconds=0.5) as server:
        told = httpx.post(f"{server.url}/v1/chat/completions", json=chat(STORY, **LONG)).json()
        [choice] = told["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["native_finish_reason"] == "time_limit"
        assert choice["message"]["content"].startswith("Once")


# Processes.


@contextmanager
def process(*flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the command; yield its URL."""
    words = [sys.executable, "auto_interleaved_inference.py", "serve", "--port", "0", *flags]
    with subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stderr is not None
        try:
            lines = []
            while len(lines) < 3:
                lines.append(started.stderr.readline())
                assert lines[-1], "it ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
            assert found is not None, lines
            yield found[0], started
        finally:
            started.kill()


def in_the_background(url: str, body: dict[str, Any]) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []

    def ask() -> None:
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60
        ) as answer:
            got.extend(answer.iter_lines())

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, got


def test_a_server_that_is_told_to_stop_ends_what_runs_and_refuses_more() -> None:
    with process() as (url, server):
        thread, got = in_the_background(url, chat(STORY, num_timesteps=60))
        wait_until(lambda: any('"content":"Once"' in line for line in got))
        server.send_signal(signal.SIGTERM)

        def refused() -> bool:
            answer = httpx.get(f"{url}/ready")
            return answer.status_code == 503

        wait_until(refused, 5)
        answer = httpx.post(f"{url}/v1/chat/completions", json=chat("Go."))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "stopping"
        thread.join(60)
        assert got[-2] == "data: [DONE]" or "data: [DONE]" in got
        assert any('"finish_reason":"stop"' in line for line in got)
        assert server.wait(20) == 0


def test_what_does_not_end_in_time_is_told_what_it_has() -> None:
    with process("--drain-seconds", "0.3") as (url, server):
        thread, got = in_the_background(url, chat(STORY, **LONG))
        wait_until(lambda: any('"content":"Once"' in line for line in got))
        started = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert time.monotonic() - started < 15
        thread.join(30)
        told = [json.loads(line[6:]) for line in got if line.startswith("data: {")]
        assert told[-1]["error"]["code"] == "stopping"
        assert told[-2]["choices"][0]["native_finish_reason"] == "stopping"
        assert got[-2:] == ["data: [DONE]", ""]


def test_the_command_says_in_three_lines_what_to_type_and_it_works() -> None:
    """What curl is told to send is sent, as it stands."""
    with subprocess.Popen(
        [sys.executable, "auto_interleaved_inference.py", "serve", "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as server:
        assert server.stderr is not None
        try:
            first, second, third = (server.stderr.readline() for _ in range(3))
            assert "/docs" in first
            assert third.startswith("client = openai.OpenAI(base_url=")
            done = subprocess.run(
                second, shell=True, capture_output=True, text=True, timeout=60, check=True
            )
            assert done.stdout.rstrip().endswith("data: [DONE]")
            assert '"images"' in done.stdout
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
