"""A server under load: time to the first token and the first picture, and what it holds.

python -m benchmarks.serving --model bundled
python -m benchmarks.serving --model bundled --soak 5000

Latencies: so many clients at once, each with one streamed chat completion after another; the server
is a process of its own, as a user starts it. `--soak` instead sends so many short requests of every
format (texts alone, pictures, responses that go on from one another, clients that go away) and
tells what the process holds.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.table import head, parser, show

CLIENTS = (1, 8, 32)
PROMPTS = (
    "Write a short story about a robot's adventure in space with illustrations.",
    "Create a recipe for chocolate chip cookies with images showing key steps.",
    "Explain the water cycle with diagrams for each stage.",
    "Draw a red circle, then add a blue square to its right.",
)
AT_ONCE = 8  # clients of the soak


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Seconds from a request's beginning.

    Attributes:
        token: to its first token.
        picture: to its first picture.
        whole: to its end.
    """

    token: float
    picture: float
    whole: float


@contextmanager
def server(model: str, *flags: str) -> Iterator[tuple[str, int]]:
    """Run a server; yield its URL and the number of its process."""
    named = [] if model == "bundled" else ["--model", model]
    words = [sys.executable, "auto_interleaved_inference.py", "serve", "--port", "0", *named]
    # What it says goes to a file: nobody reads on from a pipe, and a full one would stop it.
    with (
        tempfile.TemporaryFile("w+") as notes,
        subprocess.Popen([*words, *flags], stderr=notes) as process,
    ):
        try:
            found = None
            while found is None:
                time.sleep(0.1)
                if process.poll() is not None:
                    raise SystemExit("the server did not start")
                notes.seek(0)
                found = re.search(r"http://127\.0\.0\.1:\d+.*\n", notes.read())
            yield found[0].partition("/docs")[0], process.pid
        finally:
            process.terminate()


async def told(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answered:
    """Return how long a streamed chat completion took."""
    started, token, picture = time.perf_counter(), 0.0, 0.0
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                passed = time.perf_counter() - started
                token = token or (passed if choice["delta"].get("content") else 0.0)
                picture = picture or (passed if choice["delta"].get("images") else 0.0)
    return Answered(token=token, picture=picture, whole=time.perf_counter() - started)


async def measured(url: str, clients: int, requests: int, timesteps: int) -> list[Answered]:
    """Let clients ask at once, each one question after another."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=2**24) as session:

        async def ask(number: int) -> list[Answered]:
            answered = []
            for turn in range(max(1, requests // clients)):
                place = number + turn * clients
                body = {
                    "messages": [{"role": "user", "content": PROMPTS[place % len(PROMPTS)]}],
                    "stream": True,
                    "seed": place,
                    "num_timesteps": timesteps,
                }
                answered.append(await told(session, url, body))
            return answered

        return sum(await asyncio.gather(*map(ask, range(clients))), [])


async def soak(url: str, pid: int, requests: int) -> None:
    """Send short requests of every kind, and print what the process holds meanwhile."""
    print("| requests | MB resident | slowest answer, s |\n| --- | --- | --- |")
    print(f"| 0 | {resident(pid):.0f} | |", flush=True)
    numbers = iter(range(requests))
    done, slowest = 0, 0.0
    previous: dict[int, str | None] = {}

    async def ask(client: int) -> None:
        nonlocal done, slowest
        for number in numbers:
            started = time.perf_counter()
            await one(session, url, number, client, previous)
            slowest = max(slowest, time.perf_counter() - started)
            done += 1
            if done % max(1, requests // 20) == 0:
                print(f"| {done} | {resident(pid):.0f} | {slowest:.2f} |", flush=True)
                slowest = 0.0

    async with aiohttp.ClientSession(read_bufsize=2**24) as session:
        await asyncio.gather(*map(ask, range(AT_ONCE)))
        async with session.get(f"{url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    print(
        "\n" + "\n".join(line for line in lines if re.match(r"\w+(kept|shared|picture)\w* ", line))
    )


async def one(
    session: aiohttp.ClientSession,
    url: str,
    number: int,
    client: int,
    previous: dict[int, str | None],
) -> None:
    """Send one request of a kind that its number decides."""
    prompt = f"{PROMPTS[number % len(PROMPTS)]} Number {number // 10}."
    short = {"num_timesteps": 2, "max_text_length": 12, "max_interleaved_blocks": 2}
    messages = [{"role": "user", "content": prompt}]
    kind = number % 5
    if kind == 0:
        body = {**short, "input": prompt, "previous_response_id": previous.get(client)}
        if number % 8 == 0:  # a talk ends, another begins
            body["previous_response_id"] = None
        async with session.post(f"{url}/v1/responses", json=body) as answer:
            known = await answer.json()
            previous[client] = known["id"] if answer.status == 200 else None
    elif kind == 1:
        body = {**short, "prompt": prompt, "response_format": "url"}
        async with session.post(f"{url}/v1/images/generations", json=body) as answer:
            answer.raise_for_status()
            await answer.read()
    elif kind == 2:  # goes away after the first words
        body = {**short, "messages": messages, "stream": True, "num_timesteps": 50}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            await answer.content.readline()
            answer.close()
    else:
        alone = {"max_images": 0} if kind == 3 else {}
        body = {**short, **alone, "messages": messages, "stream": kind == 4}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            await answer.read()


def resident(pid: int) -> float:
    """Return what a process holds, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def percentile(values: list[float], part: float) -> float:
    """Return the value below which such a part of them lies; 0 of none."""
    known = sorted(value for value in values if value)
    return known[min(len(known) - 1, int(part * len(known)))] if known else 0.0


def main() -> None:
    """Print the tables."""
    command_line = parser(__doc__, repeats=1)
    command_line.add_argument("--timesteps", type=int, default=20, help="default: %(default)s")
    command_line.add_argument(
        "--requests", type=int, default=64, help="a row; default: %(default)s"
    )
    command_line.add_argument("--soak", type=int, help="requests to send, for memory alone")
    arguments = command_line.parse_args()
    print(head(f"Serving, {arguments.model}", arguments.device, arguments.dtype))
    with server(arguments.model, "--device", arguments.device, "--max-running", "32") as (url, pid):
        if arguments.soak:
            asyncio.run(soak(url, pid, arguments.soak))
            return
        asyncio.run(measured(url, 1, 4, arguments.timesteps))  # warm up
        rows = []
        for clients in CLIENTS:
            started = time.perf_counter()
            answers = asyncio.run(measured(url, clients, arguments.requests, arguments.timesteps))
            rate = 60 * len(answers) / (time.perf_counter() - started)
            row: list[float] = [clients, len(answers)]
            for name in ("token", "picture", "whole"):
                values = [getattr(answer, name) for answer in answers]
                row += [statistics.median(values), percentile(values, 0.95)]
            rows.append([*row, rate])
    columns = ("clients", "answers", "token p50", "p95", "picture p50", "p95", "whole p50", "p95")
    show(
        f"Seconds to the first token, the first picture and the end; {arguments.timesteps} points "
        "an image:\n",
        (*columns, "answers a minute"),
        rows,
    )


if __name__ == "__main__":
    main()
