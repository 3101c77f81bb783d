"""Replicas without a cluster: what one of them keeps, another one goes on from."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from auto_interleaved.run.standing import Item, Rules, Standing
from auto_interleaved.serving.app import build
from auto_interleaved.serving.archive import Archive, SharedShelf
from auto_interleaved.serving.kept import OutOfReachError
from auto_interleaved.serving.keys import Keys
from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.store import Entry, Store
from auto_interleaved.serving.worker import Worker
from auto_interleaved_inference import AutoInterleavedInferencer
from tests.serving import DRAW, FEW, decoded, same

CIRCLE = "Draw a red circle."
BLUE = "Make it blue."
LIMITS = Limits()
Answer = dict[str, Any]


class Replica:
    """A server whose requests are made without a port, and whose store may be out of reach."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store = store
        self.is_cut_off = False
        self.asked: Counter[str] = Counter()
        self.sent = 0
        inferencer = AutoInterleavedInferencer.from_pretrained(dtype=torch.float32)
        self.worker = Worker(inferencer, LIMITS).start()
        self._app = build(
            inferencer,
            self.worker,
            LIMITS,
            name="picturebook",
            keys=keys,
            archive=Archive(self.ask),
            shelf=SharedShelf(LIMITS, self.ask_now),
        )

    async def ask(self, method: str, *given: Any) -> Any:
        return self.ask_now(method, *given)

    def ask_now(self, method: str, *given: Any) -> Any:
        if self.is_cut_off:
            raise OutOfReachError("it is cut off")
        self.asked[method] += 1
        carried = pickle.dumps(given)
        answer = pickle.dumps(getattr(self.store, method)(*pickle.loads(carried)))
        self.sent += len(carried) + len(answer)
        return pickle.loads(answer)

    def call(self, method: str, path: str, body: Any = None, key: str = "one") -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self._app), base_url="http://localhost"
            ) as client:
                headers = {"Authorization": f"Bearer {key}"}
                return await client.request(method, path, json=body, headers=headers, timeout=60)

        return asyncio.run(call())

    def respond(self, words: Any, key: str = "one", **given: Any) -> httpx.Response:
        return self.call("POST", "/v1/responses", {"input": words, "seed": 3, **FEW, **given}, key)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Replica, Replica]]:
    store, keys = Store(LIMITS), Keys(["one", "other"])
    replicas = Replica(store, keys), Replica(store, pickle.loads(pickle.dumps(keys)))
    yield replicas
    for replica in replicas:
        replica.worker.stop(10)


def items(answer: Answer) -> list[Any]:
    return [
        item["content"][0]["text"] if item["type"] == "message" else decoded(item["result"])
        for item in answer["output"]
    ]


def test_another_replica_goes_on_as_the_one_that_began(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    first = here.respond(CIRCLE).json()["id"]
    mine, theirs = (each.respond(BLUE, previous_response_id=first).json() for each in pair)
    assert len(items(mine)) >= 2
    assert same(items(theirs), items(mine))
    again, more = (
        each.respond("What colour is the circle?", previous_response_id=theirs["id"]).json()
        for each in pair
    )
    assert items(again) == items(more)
    assert items(more)[0].startswith("The circle is ")


def test_what_was_read_travels_once(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    first = here.respond(CIRCLE).json()["id"]
    there.respond(BLUE, previous_response_id=first)
    before = there.asked["read"], there.sent
    there.respond("What colour is the circle?", previous_response_id=first)
    assert there.asked["read"] == before[0]
    assert there.sent - before[1] < 64 * 64 * 3  # bytes of a picture


def test_a_response_is_for_its_own_key_at_every_replica(pair: tuple[Replica, Replica]) -> None:
    first = pair[0].respond(DRAW).json()["id"]
    for replica in pair:
        refused = replica.respond("More.", key="other", previous_response_id=first)
        assert refused.status_code == 404
        assert replica.call("DELETE", f"/v1/responses/{first}", key="other").status_code == 404
    assert pair[1].respond("More.", previous_response_id=first).status_code == 200


def test_a_response_that_one_replica_forgets_is_forgotten(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    first = here.respond(DRAW).json()["id"]
    assert there.respond("More.", previous_response_id=first).status_code == 200
    assert there.call("DELETE", f"/v1/responses/{first}").json()["deleted"]
    for replica in pair:
        assert replica.respond("More.", previous_response_id=first).status_code == 404
        assert replica.call("DELETE", f"/v1/responses/{first}").status_code == 404


def test_a_response_without_store_is_at_no_replica(pair: tuple[Replica, Replica]) -> None:
    first = pair[0].respond(DRAW, store=False).json()["id"]
    for replica in pair:
        assert replica.respond("More.", previous_response_id=first).status_code == 404


def test_every_replica_has_the_pictures_of_all(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    answer = here.respond(DRAW, image_delivery="url").text
    url = next(word for word in answer.split('"') if "/pictures/" in word)
    assert there.call("GET", url).content == here.call("GET", url).content
    parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "More."}]
    answered = there.respond([{"role": "user", "content": parts}])
    assert answered.status_code == 200
    unknown = url.replace(url[-20:-4], "A" * 16)
    assert there.call("GET", unknown).status_code == 404


def test_without_the_store_answers_are_given_and_none_is_continued(
    pair: tuple[Replica, Replica],
) -> None:
    here, _ = pair
    before = here.respond(DRAW).json()
    here.is_cut_off = True
    try:
        answer = here.respond(DRAW, image_delivery="url")
        assert answer.status_code == 200
        url = next(word for word in answer.text.split('"') if "/pictures/" in word)
        assert here.call("GET", url).status_code == 200
        assert here.call("GET", "/pictures/" + "A" * 43 + ".png").status_code == 503
        refused = here.respond("More.", previous_response_id=before["id"])
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert here.call("DELETE", f"/v1/responses/{before['id']}").status_code == 503
    finally:
        here.is_cut_off = False
    assert here.respond("More.", previous_response_id=before["id"]).status_code == 200


def entry(*parts: str) -> Entry:
    return Entry(owner="me", parts=parts, length=1, position=1, input_size=None)


def test_a_store_keeps_within_its_limits_and_what_is_used_last() -> None:
    store = Store(Limits(kept_responses=2, kept_memory=100))
    assert store.keep("a", entry("x"), {"x": b"1" * 40}) == []
    assert store.keep("b", entry("x", "y"), {"y": b"2" * 40}) == []
    assert store.nbytes == 80  # what both have read is there once
    assert store.find("a", "me") is not None
    assert store.keep("c", entry("x", "z"), {"z": b"3" * 40}) == []
    assert store.find("b", "me") is None
    assert (len(store), store.nbytes) == (2, 80)
    store.keep("d", entry("w"), {"w": b"4" * 101})
    assert (len(store), store.nbytes) == (0, 0)


def test_a_store_says_what_it_lacks_and_keeps_nothing_by_halves() -> None:
    store = Store(LIMITS)
    assert store.keep("a", entry("x", "y"), {"x": b"1"}) == ["y"]
    assert store.find("a", "me") is None
    assert store.nbytes == 0
    assert store.read(["x"]) == [None]
    assert store.keep("a", entry("x", "y"), {"x": b"1", "y": b"2"}) == []
    assert store.find("a", "me") == entry("x", "y")
    assert store.find("a", "you") is None
    assert not store.forget("a", "you")
    assert store.forget("a", "me")
    assert store.nbytes == 0


def test_what_has_left_the_store_is_sent_again() -> None:
    """A replica that had sent it once believed that it was still there."""
    stores = [Store(LIMITS)]

    async def ask(method: str, *given: Any) -> Any:
        return getattr(stores[-1], method)(*given)

    async def keep_twice() -> Standing:
        standing = Standing(items=(Item(kind="prompt", rules=Rules(), ids=(1, 2)),), length=2)
        archive = Archive(ask)
        await archive.keep("a", "me", standing)
        stores.append(Store(LIMITS))
        await archive.keep("b", "me", standing)
        return await Archive(ask).find("b", "me")

    found = asyncio.run(keep_twice())
    assert [item.ids for item in found.items] == [(1, 2)]
    assert found.length == 2
