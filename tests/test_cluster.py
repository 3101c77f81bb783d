"""A real Ray of this machine: two replicas, of which one dies while it answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.serving import DRAW, FEW, alone, decoded, same, wait_until

ray = pytest.importorskip("ray", reason="no Ray: see requirements-cluster.txt")

from ray import serve  # noqa: E402

from auto_interleaved.serving.cluster import Arguments, Near, app  # noqa: E402
from auto_interleaved.terminal.arguments import ArgumentError  # noqa: E402

KEY = "a key"
LONG: dict[str, Any] = {"num_timesteps": 30}
MODEL = "picturebook"
GIVEN = {"replicas": "2", "dtype": "float32", "device": "cpu"}

# Slow: Ray takes half a minute to start processes that load a model, and seconds to replace one.
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("AUTO_INTERLEAVED_API_KEY", KEY)
    from tests.serving import bound

    with bound("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(GIVEN))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        environment.undo()


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    wait_until(lambda: len(actors("Replica")) == 2 and actors("Store"), 120)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=5, timeout=120)


def actors(deployment: str) -> list[str]:
    """Name the actors of a deployment that live."""
    status = serve.status().applications["default"].deployments[deployment]
    if status.replica_states != {"RUNNING": sum(status.replica_states.values())}:
        return []
    named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in named if name.startswith(f"SERVE_REPLICA::default#{deployment}#")]


def kill(deployment: str) -> None:
    """Let an actor of a deployment die at once, whatever it does."""
    ray.kill(ray.get_actor(actors(deployment)[0], namespace="serve"))


def tries_while_a_replica_dies(
    ask: Callable[[int], tuple[list[Any], int]], count: int
) -> list[int]:
    """Ask with so many seeds at once, see that all answers are right, and return their tries."""
    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(ask, range(count))
        time.sleep(1)  # they take several seconds, on both replicas
        kill("Replica")
        told = list(answers)
    for seed, (answer, _) in enumerate(told):
        assert same(answer, alone(DRAW, seed=seed, **LONG))
    return [tries for _, tries in told]


def items(content: list[Any]) -> list[Any]:
    return [
        part["text"] if part["type"] == "text" else decoded(part["image_url"]["url"])
        for part in content
    ]


def made(response: Any) -> list[Any]:
    return [
        item.content[0].text if item.type == "message" else decoded(item.result)
        for item in response.output
    ]


@slow
def test_answers_that_a_dying_replica_owed_come_with_a_retry(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[list[Any], int]:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": DRAW}],
            seed=seed,
            extra_body={**LONG, "content_format": "parts"},
        )
        content: Any = raw.parse().choices[0].message.content
        return items(content), raw.retries_taken

    retries = tries_while_a_replica_dies(ask, 12)
    assert any(retries), "nobody was answered by the one that died"


@slow
def test_a_stream_that_a_dying_replica_breaks_is_no_whole_answer(client: openai.OpenAI) -> None:
    """It ends in an error, not in an ending, and the same request gives the answer once more."""

    def ask(seed: int) -> tuple[list[Any], int]:
        for tries in range(8):
            try:
                return follow(seed), tries
            except (openai.APIError, httpx.HTTPError):
                time.sleep(0.5)
        raise AssertionError("no try was answered")

    def follow(seed: int) -> list[Any]:
        told: list[Any] = []
        ending = None
        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": DRAW}],
            stream=True,
            seed=seed,
            extra_body=LONG,
        ):
            delta: Any = chunk.choices[0].delta if chunk.choices else None
            if delta is not None and getattr(delta, "images", None):
                told.append(decoded(delta.images[0]["image_url"]["url"]))
            elif delta is not None and delta.content:
                text = delta.content.removeprefix("\n")
                told[-1:] = (
                    [told[-1] + delta.content]
                    if told and isinstance(told[-1], str)
                    else [*told[-1:], text]
                )
            ending = chunk.choices[0].finish_reason if chunk.choices else ending
        if ending is None:
            raise openai.APIConnectionError(request=httpx.Request("POST", "/"))
        return told

    assert any(tries_while_a_replica_dies(ask, 8)), "no stream was broken"


@slow
def test_responses_and_pictures_outlive_the_replica_that_made_them(client: openai.OpenAI) -> None:
    def go_on(name: str) -> Any:
        return client.responses.create(
            model=MODEL,
            input="Make it blue.",
            previous_response_id=name,
            extra_body={**FEW, "seed": 5},
        )

    firsts = [
        client.responses.create(
            model=MODEL,
            input="Draw a red circle.",
            extra_body={**FEW, "seed": seed, "image_delivery": "url"},
        )
        for seed in range(4)
    ]
    before = [made(go_on(first.id)) for first in firsts]
    [picture, *_] = [item.url for item in firsts[0].output if item.type == "image_generation_call"]
    kill("Replica")
    for first, expected in zip(firsts, before, strict=True):
        assert same(made(go_on(first.id)), expected)
    for _ in range(4):
        assert httpx.get(picture).status_code == 200
    other = openai.OpenAI(base_url=client.base_url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        other.responses.create(model=MODEL, input="More.", previous_response_id=firsts[0].id)
    client.responses.delete(firsts[0].id)
    for _ in range(4):
        with pytest.raises(openai.NotFoundError, match="no response .* is kept"):
            go_on(firsts[0].id)


@slow
def test_without_the_store_requests_are_answered_until_it_is_back(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="Draw a red circle.", extra_body=FEW)
    kill("Store")
    answer = client.responses.create(model=MODEL, input=DRAW, extra_body={**FEW, "seed": 3})
    assert same(made(answer), alone(DRAW, seed=3))
    with pytest.raises(openai.NotFoundError):  # what it knew has gone with it; 503 before, retried
        client.responses.create(
            model=MODEL, input="More.", previous_response_id=first.id, extra_body=FEW
        )
    new = client.responses.create(model=MODEL, input="Draw a red circle.", extra_body=FEW)
    client.responses.create(model=MODEL, input="More.", previous_response_id=new.id, extra_body=FEW)


@slow
def test_answers_that_run_come_to_their_end_where_replicas_are_replaced(
    client: openai.OpenAI,
) -> None:
    once = client.with_options(max_retries=0)

    def ask(seed: int) -> list[Any]:
        return made(
            once.responses.create(model=MODEL, input=DRAW, extra_body={**LONG, "seed": seed})
        )

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(ask, range(4))
        time.sleep(1)
        serve.run(app({**GIVEN, "replicas": "1"}))
        for seed, answer in enumerate(answers):
            assert same(answer, alone(DRAW, seed=seed, **LONG))


def test_arguments_are_those_of_the_single_server() -> None:
    given = {"replicas": 3, "gpus": "0.5", "max-running": "4", "kept_memory": "1GB"}
    read = Arguments.read({**given, "api_key": ["one", "two"], "local_files_only": True})
    assert (read.replicas, read.cpus, read.gpus) == (3, 1, 0.5)
    assert read.request.limits.max_running == 4
    assert read.request.limits.kept_memory == 10**9
    assert read.keys.owner("Bearer two") is not None
    assert read.keys.owner("Bearer three") is None
    assert not any("one" in word or "two" in word for word in read.words)
    assert "--local-files-only" in read.words


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": "0.0.0.0"}, "host is Ray's"),
        ({"replicas": "0"}, "replicas must be at least 1"),
        ({"replicas": "two"}, "replicas: "),
        ({"gpus": "-1"}, "not negative"),
        ({"cpus": "nan"}, "not negative"),
        ({"max_runing": "4"}, "max-runing"),
        ({"max_running": "0"}, "--max-running must be"),
    ],
)
def test_arguments_that_cannot_be_are_told_of(given: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Arguments.read(given)


@pytest.mark.parametrize(("client", "status"), [("127.0.0.1", 200), ("192.0.2.7", 403)])
def test_without_a_key_only_the_machine_of_the_proxy_is_let_in(client: str, status: int) -> None:
    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=Near(inside), client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:
            return await caller.get("/")

    assert asyncio.run(ask()).status_code == status
