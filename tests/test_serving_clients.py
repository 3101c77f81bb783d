"""Clients that people have: each gets texts and pictures in order."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from PIL import Image

from tests.serving import DRAW, FEW, Running, alone, decoded, same

LINE = 2**17  # bytes; what aiohttp's own reader of lines takes
LARGE: dict[str, Any] = {"image_shape": [64, 64], "num_timesteps": 3, "preview_every": 1}


def chat(**given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": DRAW}], "seed": 3, **FEW, **given}


def test_curl_reads_a_stream_line_by_line(served: Running) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    done = subprocess.run(
        [curl, "-sN", f"{served.url}/v1/chat/completions", "-H", "Content-Type: application/json",
         "-d", json.dumps(chat(stream=True))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    items: list[Any] = []
    for line in lines[:-1]:
        delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
        if delta.get("images"):
            items.append(decoded(delta["images"][0]["image_url"]["url"]))
        elif delta.get("content") and items and isinstance(items[-1], str):
            items[-1] += delta["content"]
        elif delta.get("content"):
            items.append(delta["content"].removeprefix("\n"))
    assert same(items, alone(DRAW, seed=3))


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_no_line_is_too_long_where_pictures_come_by_url(served: Running, path: str) -> None:
    """A client that stops at 128 KiB a line reads all, previews included."""
    large = {"image_delivery": "url", "stream": True, **LARGE}
    body = chat(**large)
    if path == "responses":
        body = {"input": DRAW, "seed": 3, "num_candidates": 1, **large}

    async def read() -> list[bytes]:
        async with (
            aiohttp.ClientSession(read_bufsize=LINE // 2) as session,
            session.post(f"{served.url}/v1/{path}", json=body) as answer,
        ):
            return [line async for line in answer.content]  # ValueError: Chunk too big

    lines = asyncio.run(read())
    told = b"".join(lines)
    assert max(map(len, lines)) < LINE
    assert told.count(b"image/jpeg") + told.count(b'"output_format":"jpeg"') >= 2
    urls = [word for word in told.decode().split('"') if "/pictures/" in word]
    names = list(dict.fromkeys(urls))
    images = [Image.open(io.BytesIO(httpx.get(url).content)) for url in names]
    expected = alone(DRAW, seed=3, num_timesteps=3)
    assert same(images, expected.images)  # type: ignore[arg-type]


def test_lines_stay_short_whatever_the_size_of_pictures_and_previews() -> None:
    """The largest lines are previews; they are at most 256 pixels a side, as JPEG."""
    from auto_interleaved.serving.pictures import Delivery, Shelf

    noise = Image.effect_noise((256, 256), 100).convert("RGB")
    shelf = Shelf(2**20, 60)
    delivery = Delivery(shelf=shelf, kind="url", base="http://127.0.0.1:8000")
    assert len(delivery.preview(noise).url) < LINE - 1000
    large = Image.effect_noise((512, 512), 100).convert("RGB")
    assert len(delivery.of(large).url) < 200
    assert shelf.nbytes > 2 * LINE


def test_a_shelf_keeps_to_its_bytes_and_to_its_time() -> None:
    from auto_interleaved.serving.pictures import Shelf

    now = [0.0]
    shelf = Shelf(memory=100, seconds=10, clock=lambda: now[0])
    first = shelf.put(b"1" * 60, "png")
    second = shelf.put(b"2" * 60, "png")
    assert shelf.find(first) is None
    assert shelf.find(f"http://anywhere:1{second}") == (b"2" * 60, "png")
    now[0] = 11
    assert shelf.find(second) is None
    shelf.put(b"3", "png")
    assert shelf.nbytes == 1


@pytest.mark.slow  # litellm is large, and not in requirements.txt
def test_litellm_reads_texts_and_pictures(served: Running) -> None:
    litellm = pytest.importorskip("litellm", reason="requirements-clients.txt has it")
    given: dict[str, Any] = {
        "model": "openai/picturebook",
        "api_base": f"{served.url}/v1",
        "api_key": "none",
        "messages": [{"role": "user", "content": DRAW}],
        "seed": 3,
        "extra_body": FEW,
    }
    expected = alone(DRAW, seed=3)
    answer = litellm.completion(**given)
    assert answer.choices[0].message.content == expected.text
    images = [decoded(part["image_url"]["url"]) for part in answer.choices[0].message.images]
    assert same(images, expected.images)  # type: ignore[arg-type]
    items: list[Any] = []
    for chunk in litellm.completion(**given, stream=True):
        delta = chunk.choices[0].delta
        for part in getattr(delta, "images", None) or []:
            items.append(decoded(part["image_url"]["url"]))
        if delta.content and items and isinstance(items[-1], str):
            items[-1] += delta.content
        elif delta.content:
            items.append(delta.content.removeprefix("\n"))
    assert same(items, expected)


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const few = { num_timesteps: 4, seed: 3 };
const prompt = process.argv[3];
const messages = [{ role: "user", content: prompt }];
const streamed = [];
const stream = await client.chat.completions.create(
  { model: "picturebook", messages, stream: true, ...few });
for await (const chunk of stream) {
  const delta = chunk.choices[0]?.delta ?? {};
  for (const part of delta.images ?? []) streamed.push({ image: part.image_url.url });
  if (delta.content) {
    const last = streamed.at(-1);
    if (last?.text !== undefined) last.text += delta.content;
    else streamed.push({ text: delta.content });
  }
}
const response = await client.responses.create({ model: "picturebook", input: prompt, ...few });
const typed = response.output.map((item) =>
  item.type === "message" ? { text: item.content[0].text } : { image: item.result });
const next = await client.responses.create({ model: "picturebook", ...few,
  input: "What colour is the square?", previous_response_id: response.id });
const made = await client.images.generate({ model: "picturebook", prompt: "A fox.", ...few });
console.log(JSON.stringify({ streamed, typed, next: next.output_text,
  picture: made.data[0].b64_json.length }));
"""


@pytest.mark.slow  # it needs a folder in which `npm install openai` was run; see docs/serving.md
def test_the_package_for_node_reads_texts_and_pictures(served: Running, tmp_path: Path) -> None:
    folder, node = os.environ.get("NODE_CLIENTS"), shutil.which("node")
    if folder is None or node is None:
        pytest.skip("NODE_CLIENTS must name a folder in which `npm install openai` was run")
    (tmp_path / "node_modules").symlink_to(Path(folder, "node_modules").resolve())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "read.js").write_text(NODE)
    done = subprocess.run(
        [node, "read.js", served.url, DRAW],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name in ("streamed", "typed"):
        items = [
            entry["text"].removeprefix("\n") if "text" in entry else decoded(entry["image"])
            for entry in told[name]
        ]
        assert same(items, alone(DRAW, seed=3))
    assert told["next"] == "The square is blue."
    assert told["picture"] > 100


@pytest.mark.slow  # a minute, by a package that is not in requirements.txt
def test_schemathesis_finds_no_answer_that_is_no_answer(served: Running) -> None:
    pytest.importorskip("schemathesis", reason="requirements-clients.txt has it")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{served.url}/openapi.json",
            "--checks=not_a_server_error,content_type_conformance,response_headers_conformance",
            "--max-examples=25",
            "--max-time=60",
            "--phases=examples,coverage,fuzzing",
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def test_base64_of_an_answer_is_a_whole_file(served: Running) -> None:
    told = httpx.post(f"{served.url}/v1/images/generations", json={"prompt": "A fox.", **FEW})
    file = base64.b64decode(told.json()["data"][0]["b64_json"], validate=True)
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (64, 64))
