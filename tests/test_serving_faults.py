"""Load and faults: a hundred at once, clients that go away, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serving import DRAW, STORY, Running, alone, decoded, running, same, wait_until

ROOT = Path(__file__).parent.parent
SHORT: dict[str, Any] = {"num_timesteps": 2, "max_text_length": 12, "max_images": 1}
LONG: dict[str, Any] = {"num_timesteps": 200}


def chat(prompt: str, **given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **given}


def test_a_hundred_clients_at_once_get_what_each_gets_alone() -> None:
    pairs = [(prompt, seed) for prompt in (STORY, DRAW) for seed in range(4)]
    asked = (pairs * 13)[:100]
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
    expected = {pair: alone(pair[0], seed=pair[1], **given) for pair in pairs}
    assert len({output.text for output in expected.values()}) > 4
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
            lines = told.iter_lines()  # kept, as the connection is closed with it
            next(lines)
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
    """Also where steps of a picture, of which no client hears, come more often than that."""
    with running(keep_alive_seconds=0.02) as server:
        body = chat(DRAW, num_timesteps=50, max_images=1, stream=True)
        told = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).text
        between = told.partition('"content":"."')[2].partition('"images"')[0]
        assert ": still at it\n\n" in between
        answer = server.client().chat.completions.create(  # which clients take no notice of
            model="picturebook",
            messages=[{"role": "user", "content": DRAW}],
            stream=True,
            extra_body={"num_timesteps": 30, "max_images": 1},
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


def in_the_background(url: str, body: dict[str, Any]) -> tuple[threading.Thread, list[str]]:
    got: list[str] = []

    def ask() -> None:
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=120
        ) as answer:
            got.extend(answer.iter_lines())

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, got


def test_the_command_says_what_to_type_and_ends_what_runs_when_it_is_told_to_stop() -> None:
    """What curl is told to send is sent, as it stands."""
    words = [sys.executable, "auto_interleaved_inference.py", "serve", "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            first, second, third = (server.stderr.readline() for _ in range(3))
            [url] = re.findall(r"(http://127.0.0.1:\d+)/docs", first)
            assert third.startswith(f'client = openai.OpenAI(base_url="{url}/v1"')
            if shutil.which("curl"):
                told = subprocess.check_output(second, shell=True, text=True, timeout=120)
                assert told.rstrip().endswith("data: [DONE]")
                assert '"images"' in told
            thread, got = in_the_background(url, chat(STORY, num_timesteps=60))
            wait_until(lambda: any('"content":"Once"' in line for line in got))
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{url}/ready").status_code == 503, 5)
            refused = httpx.post(f"{url}/v1/chat/completions", json=chat("Go."))
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "stopping"
            thread.join(120)
            assert "data: [DONE]" in got
            assert any('"finish_reason":"stop"' in line for line in got)
            assert server.wait(20) == 0
        finally:
            server.kill()


def test_what_does_not_end_in_time_is_told_what_it_has() -> None:
    with running(drain_seconds=0.2) as server:
        thread, got = in_the_background(server.url, chat(STORY, **LONG))
        wait_until(lambda: any('"content":"Once"' in line for line in got))
        server.server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        told = [json.loads(line[6:]) for line in got if line.startswith("data: {")]
        assert told[-1]["error"]["code"] == "stopping"
        assert told[-2]["choices"][0]["native_finish_reason"] == "stopping"
        assert got[-2:] == ["data: [DONE]", ""]
        wait_until(lambda: server.server.should_exit)
