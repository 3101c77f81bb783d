"""The gate of the page: who gets in, by which key, and to which paths."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from fastapi.responses import PlainTextResponse
from starlette.testclient import TestClient

from auto_interleaved.page.gate import Gate
from auto_interleaved.serving.door import Door
from auto_interleaved.serving.keys import Keys

HERE = "http://127.0.0.1:7860"


async def page(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("the page")(scope, receive, send)


def visitor(*keys: str, **more: Any) -> TestClient:
    return TestClient(Gate(Door(page, Keys(keys), 1000, **more)), base_url=HERE)


def basic(key: str, name: str = "me") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()}


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/config", "/theme.css", "/assets/index-a1.js", "/static/img/logo.svg"),
        *("/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/upload"),
        *("/answers/aB-_9/0.html", "/answers/aB-_9/x_-Y.png", "/gradio_api/file=/tmp/a/b.png"),
    ],
)
def test_what_the_page_asks_for_gets_through(path: str) -> None:
    assert visitor().get(path).text == "the page"


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=http://127.0.0.1:1/x", "/gradio_api/file=https://example.com/x.png"),
        *("/gradio_api/proxy=https://example.com", "/gradio_api/runs", "/monitoring", "/docs"),
        *("/openapi.json", "/health", "/answers/a/0.json", "/login", "/gradio_api/stream/x"),
        *("/gradio_api/queue/status", "/gradio_api/call/enter", "/static/%0a"),
    ],
)
def test_nothing_else_does(path: str) -> None:
    answer = visitor().get(path)
    assert (answer.status_code, answer.text) == (404, "there is nothing here")


def test_a_browser_is_asked_for_the_key_and_gives_it_as_the_password() -> None:
    client = visitor("secret")
    for headers in ({}, basic("wrong"), basic(""), {"Authorization": "Basic !"}, basic("x:secret")):
        answer = client.get("/", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="auto-interleaved"'
    assert client.get("/", headers=basic("secret")).text == "the page"
    assert client.get("/", headers=basic("secret", name="")).text == "the page"
    assert client.get("/", headers={"Authorization": "Bearer secret"}).text == "the page"


def test_a_key_with_a_colon_is_a_key() -> None:
    assert visitor("a:b").get("/", headers=basic("a:b")).status_code == 200


def test_another_sites_page_may_ask_nothing() -> None:
    for origin in ("http://example.com", "null", "http://127.0.0.1:7861"):
        assert visitor().get("/config", headers={"Origin": origin}).status_code == 403
    assert visitor().get("/config", headers={"Origin": HERE}).status_code == 200


def test_without_a_key_it_answers_to_its_own_names_only() -> None:
    assert visitor().get("/", headers={"Host": "example.com"}).status_code == 403
    named = visitor(hosts=("page.example",))
    assert named.get("/", headers={"Host": "page.example"}).status_code == 200


def test_a_body_that_is_too_large_is_refused() -> None:
    assert visitor().post("/gradio_api/upload", content=b"x" * 1001).status_code == 413
