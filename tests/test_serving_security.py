"""A server against those who mean it ill: nothing is fetched, opened, guessed or blown up."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.builders import picture
from tests.serving import FEW, Running, as_url, running

OPENED: list[str] = []
_watching: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "socket.connect", "socket.getaddrinfo", "os.listdir"):
        OPENED.append(f"{event} {arguments}")


sys.addaudithook(_hear)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """What Python opens or connects to meanwhile, in any thread."""
    OPENED.clear()
    _watching.append(True)
    yield OPENED
    _watching.clear()


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    """A server with two keys, and limits that an attack reaches quickly."""
    with running(keys=["first-key", "second-key"], max_body=200_000) as server:
        yield server


def asked(url: str, **given: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "Go."}], "max_tokens": 1, **FEW, **given}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def with_picture(server: Running, source: str) -> httpx.Response:
    part = {"type": "image_url", "image_url": {"url": source}}
    return asked(server.url, messages=[{"role": "user", "content": [part]}])


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# Nothing of this machine or of others is read.


@pytest.mark.parametrize("form", ["{path}", "file://{path}", " file:{path}", "{path}\u0000", "~"])
def test_no_path_is_opened(served: Running, tmp_path: Path, opened: list[str], form: str) -> None:
    file = tmp_path / "secret.png"
    picture(16, 16).save(file)
    opened.clear()
    source = form.format(path=file)
    error = error_of(with_picture(served, source), 400)
    assert error["code"] == "invalid_image_url"
    responses = httpx.post(
        f"{served.url}/v1/responses",
        json={
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": source}]},
                {"type": "image_generation_call", "url": source},
            ]
        },
    )
    error_of(responses, 400)
    # As a text it is words, and nobody looks whether there is such a file.
    assert asked(served.url, messages=[{"role": "user", "content": str(file)}]).status_code == 200
    assert not [event for event in opened if "secret" in event]


def test_parts_of_other_libraries_that_name_paths_are_unknown(served: Running) -> None:
    for part in ({"type": "image", "path": "/etc/passwd"}, {"type": "image_url", "path": "/x"}):
        error_of(asked(served.url, messages=[{"role": "user", "content": [part]}]), 400)


def test_no_url_is_fetched(served: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/cat.png"
        for source in (url, url.replace("http", "ftp"), f"//{url[7:]}", f"data:{url}"):
            error = error_of(with_picture(served, source), 400)
            assert "http" not in error["code"]
        with pytest.raises(TimeoutError):
            trap.accept()


def test_a_name_under_our_own_paths_leads_to_nothing_else(served: Running) -> None:
    for path in ("/pictures/..%2f..%2fsetup.py", "/pictures/" + "A" * 43 + ".png", "/../setup.py"):
        assert httpx.get(f"{served.url}{path}").status_code == 404
    error_of(with_picture(served, f"https://elsewhere/pictures/{'A' * 43}.png"), 400)


# What is small and becomes large.


def bomb(width: int, height: int) -> str:
    """Return a PNG of so many white pixels, which takes next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    data = packer.compress(b"\0" * min((width + 1) * height, 10**6))
    file = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", data + packer.flush())
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 1), (9_000, 9_000), (0, 0)])
def test_a_bomb_is_not_unpacked(
    served: Running, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr("auto_interleaved.serving.inputs.pil_img2rgb", loaded.append)
    error = error_of(with_picture(served, bomb(*size)), 400)
    assert error["code"] == "invalid_image"
    assert not loaded


def test_pixels_are_counted_over_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(max_pixels=1000, max_pictures=3) as server:
        part = {"type": "image_url", "image_url": {"url": as_url(picture(20, 20))}}

        def several(count: int) -> httpx.Response:
            return asked(server.url, messages=[{"role": "user", "content": [part] * count}])

        assert several(2).status_code == 200
        assert "more than 1000 pixels" in error_of(several(3), 400)["message"]
        assert "at most 3 pictures" in error_of(several(4), 413)["message"]


@pytest.mark.parametrize(
    "source",
    [
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64,!!",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:;base64,JSFQUw==",
    ],
)
def test_what_is_no_picture_is_refused(served: Running, source: str) -> None:
    assert error_of(with_picture(served, source), 400)["code"] == "invalid_image"


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA", "PCX"])
def test_rare_formats_are_not_even_tried(served: Running, kind: str) -> None:
    assert (
        "is not read here"
        in error_of(with_picture(served, as_url(picture(), kind)), 400)["message"]
        or kind == "TGA"
    )


# Bodies.


def test_a_body_has_a_size_however_it_comes(locked: Running) -> None:
    headers = {"Authorization": "Bearer first-key"}
    url = f"{locked.url}/v1/chat/completions"
    error_of(httpx.post(url, content=b"x" * 200_001, headers=headers), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"[" * 10_000

    answer = httpx.post(
        url, content=chunks(), headers=headers | {"Content-Type": "application/json"}
    )
    error_of(answer, 413)


def test_ten_megabytes_of_json_are_read_or_refused_and_others_go_on(served: Running) -> None:
    for body in (
        json.dumps({"messages": [{"role": "user", "content": "a" * 10**7}]}),
        '{"messages": [' + "1," * 5 * 10**6 + "1]}",
        '{"messages": ' + "[" * 10**6 + "]" * 10**6 + "}",
        '{"' + "k" * 10**7 + '": 1, "messages": []}',
        json.dumps({f"key {n}": n for n in range(400_000)}),
        '{"seed": ' + "9" * 10**6 + ', "messages": []}',
    ):
        started = time.monotonic()
        answer = httpx.post(
            f"{served.url}/v1/chat/completions",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert answer.status_code in (400, 413), answer.text[:200]
        assert len(answer.text) < 10_000
        assert time.monotonic() - started < 30
    assert asked(served.url).status_code == 200


def test_a_hundred_thousand_parts_are_too_many(served: Running) -> None:
    part = {"type": "text", "text": "a"}
    content = [{"role": "user", "content": [part] * 5000}] * 20
    error = error_of(asked(served.url, messages=content), 413)
    assert "at most 1024 parts, got 100000" in error["message"]
    error_of(asked(served.url, messages=[{"role": "user", "content": [part] * 100_000}]), 400)


def test_characters_that_nobody_can_write_are_told_and_not_failed_at(served: Running) -> None:
    for given in (
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"\ud800": 1},
        {"model": "\ud800"},
        {"stop": ["\ud800"]},
        {"protocol": "\ud800\x1b[31m"},
        {"temperature": float("nan")},
        {"cfg_text_scale": float("inf")},
    ):
        body = {"messages": [{"role": "user", "content": "Go."}], **given}
        answer = httpx.post(
            f"{served.url}/v1/chat/completions",
            content=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (400, 404), answer.text
        assert "\x1b" not in answer.text


def test_a_body_that_does_not_come_is_not_waited_for(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auto_interleaved.serving.door._BODY_SECONDS", 0.2)
    told = raw(
        served,
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    )
    assert told.startswith(b"HTTP/1.1 408")
    assert b'"code":"too_slow"' in told


def raw(server: Running, request: bytes) -> bytes:
    """Send bytes as they are; return the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        told = b""
        while chunk := connection.recv(65536):
            told += chunk
            if told.endswith(b"}") or b"\r\n\r\nInvalid" in told:
                break
        return told


# What is asked for.


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_timesteps", 10**6),
        ("max_text_length", 10**6),
        ("max_think_token_n", 10**6),
        ("max_images", 1000),
        ("max_interleaved_blocks", 10**6),
        ("num_candidates", 1000),
        ("image_shape", [16 * 10**4, 16 * 10**4]),
        ("n", 10**6),
    ],
)
def test_nobody_asks_for_the_world(served: Running, option: str, value: Any) -> None:
    error = error_of(asked(served.url, **{option: value}), 400)
    assert "at most" in error["message"]


def test_an_input_that_is_large_gives_no_picture_that_is_larger_than_may_be_drawn(
    served: Running,
) -> None:
    part = {"type": "image_url", "image_url": {"url": as_url(Image.new("RGB", (2000, 2000)))}}
    told = asked(served.url, messages=[{"role": "user", "content": [part]}], image_shape="input")
    assert "at most 2097152 pixels" in error_of(told, 400)["message"]


def test_pictures_that_a_prompt_asks_for_are_counted_too() -> None:
    with running(max_images=2) as server:
        body = {"messages": [{"role": "user", "content": "A fox.<|vision_start|>" * 50}], **FEW}
        told = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
        [choice] = told["choices"]
        assert len(choice["message"]["images"]) == 2
        assert choice["native_finish_reason"] == "max_images"


# Who asks.


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "first-key",
        "Bearer first-key,second-key",
        "Bearer \xe9",
    ],
)
def test_a_wrong_key_opens_nothing(locked: Running, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/v1/nothing"):
        answer = httpx.get(f"{locked.url}{path}", headers=headers)  # type: ignore[arg-type]
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert "first" not in answer.text
    assert httpx.get(f"{locked.url}/health").status_code == 200
    assert httpx.get(f"{locked.url}/ready").status_code == 200


def test_keys_are_compared_to_their_ends_and_all_of_them(
    locked: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("auto_interleaved.serving.keys.hmac.compare_digest", watched)
    for key in ("first-key", "second-key", "f", "x" * 1000):
        compared.clear()
        httpx.get(f"{locked.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert len(compared) == 2
        assert {len(part) for pair in compared for part in pair} == {16}


def test_without_a_key_no_body_is_read(locked: Running) -> None:
    told = raw(
        locked,
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100000\r\n\r\n",
    )
    assert told.startswith(b"HTTP/1.1 401")


def test_a_response_belongs_to_its_key(locked: Running) -> None:
    first, second = locked.client("first-key"), locked.client("second-key")
    made = first.responses.create(input="Draw a red circle.", extra_body={"max_images": 0})
    body = {"input": "And?", "previous_response_id": made.id, "max_images": 0}

    def answer(key: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(
            f"{locked.url}/v1/responses", json={**body, **given}, headers=headers, timeout=60
        )

    stolen = error_of(answer("second-key"), 404)
    unknown = error_of(answer("first-key", previous_response_id="resp_x"), 404)
    assert stolen["message"].replace(made.id, "") == unknown["message"].replace("resp_x", "") or (
        stolen["code"] == unknown["code"]
    )
    with pytest.raises(Exception, match="404"):
        second.responses.delete(made.id)
    assert answer("first-key").status_code == 200


def test_ids_are_not_to_be_guessed(served: Running) -> None:
    client = served.client()
    made = [
        client.responses.create(
            input="Draw a red circle.",
            extra_body={"num_timesteps": 2, "max_images": 1, "image_delivery": "url", "seed": 1},
        )
        for _ in range(3)
    ]
    ids = {response.id for response in made}
    urls = {item.url for response in made for item in response.output if hasattr(item, "url")}
    assert len(ids) == len(urls) == 3
    assert all(len(name.removeprefix("resp_")) >= 43 for name in ids)
    assert all(len(url.rpartition("/")[2]) >= 43 for url in urls)
    for name in (next(iter(ids))[:-1], "", "resp_", "../x", "*", "%"):
        answer = httpx.post(
            f"{served.url}/v1/responses", json={"input": "x", "previous_response_id": name}
        )
        assert answer.status_code == 404


# Headers.


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_page_of_another_site_gets_nothing_from_an_open_server(
    served: Running, host: str
) -> None:
    answer = httpx.get(f"{served.url}/v1/models", headers={"Host": host})
    assert error_of(answer, 403)["code"] == "invalid_host"
    for answer in (asked(served.url), httpx.get(f"{served.url}/v1/models")):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    simple = httpx.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps({"messages": [{"role": "user", "content": "Go."}]}),
        headers={"Content-Type": "text/plain"},
    )
    error_of(simple, 400)


def test_urls_of_pictures_begin_as_the_server_is_called(served: Running) -> None:
    body = {"prompt": "A fox.", "response_format": "url", **FEW}
    told = httpx.post(
        f"{served.url}/v1/images/generations",
        json=body,
        headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"},
        timeout=60,
    ).json()
    assert told["data"][0]["url"].startswith(served.url)
    for host in (b"a/b", b"a\\b", b'a"b', b"a b", b"", b"a@b", b"<x>"):
        answer = raw(served, b"GET /v1/models HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 40")


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: 99999999999999999999",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
    ],
)
def test_lengths_that_lie_are_refused(served: Running, header: bytes) -> None:
    told = raw(
        served,
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\n" + header + b"\r\n\r\n0\r\n\r\n",
    )
    assert told[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 501")


def test_forms_have_limits_too(served: Running) -> None:
    url = f"{served.url}/v1/images/edits"
    file = ("x.png", base64.b64decode(as_url(picture()).partition(",")[2]), "image/png")
    many = [("image", file)] * 17
    error_of(httpx.post(url, files=many, data={"prompt": "x"}), 400)
    fields = {f"field{number}": "1" for number in range(200)}
    error_of(httpx.post(url, files=[("image", file)], data={"prompt": "x", **fields}), 400)
    for files, data in (
        ([("image", file)], {"prompt": "x", "numtimesteps": "3"}),
        ([("image", file), ("mask", file)], {"prompt": "x"}),
        ([("image", ("x.png", b"no picture", "image/png"))], {"prompt": "x"}),
        ([("image", file)], {"prompt": "x", "n": "many"}),
    ):
        error_of(httpx.post(url, files=files, data=data), 400)
    error_of(httpx.post(url, json={"prompt": "x"}), 400)
    error_of(httpx.post(url, content=b"--x", headers={"Content-Type": "multipart/form-data"}), 400)
