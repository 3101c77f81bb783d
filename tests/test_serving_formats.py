"""The formats, as OpenAI's own client reads them: all in order, nothing lost, errors told."""

from __future__ import annotations

import io
import re
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image

from data.output.captions import without_tags
from data.output.events import ImageDone
from tests.builders import picture
from tests.serving import (
    DRAW,
    FEW,
    STORY,
    Running,
    alike,
    alone,
    as_url,
    decoded,
    order,
    running,
    same,
)

MODEL = "picturebook"


@pytest.fixture(scope="module")
def client(served: Running) -> OpenAI:
    return served.client()


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def post(served: Running, path: str, body: Any, **given: Any) -> httpx.Response:
    return httpx.post(f"{served.url}{path}", json=body, timeout=120, **given)


def items_of(parts: list[Any]) -> list[Any]:
    """Return texts and pictures of a list of parts."""
    return [
        part["text"] if part["type"] == "text" else decoded(part["image_url"]["url"])
        for part in parts
    ]


# A and B: chat completions.


def test_a_chat_completion_has_its_texts_and_its_pictures(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=3, extra_body=FEW
    )
    expected = alone(DRAW, seed=3)
    [choice] = answer.choices
    assert choice.message.content == expected.text
    images = [decoded(part["image_url"]["url"]) for part in choice.message.images]  # type: ignore[attr-defined]
    assert same(images, expected.images)  # type: ignore[arg-type]
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    used = expected.usage
    assert answer.usage.prompt_tokens == used.prompt_tokens
    assert answer.usage.completion_tokens == used.text_tokens + used.image_tokens
    assert [part["size"] for part in choice.message.images] == ["64x64"] * 2  # type: ignore[attr-defined]


def test_a_stream_tells_texts_and_pictures_in_their_order(client: OpenAI) -> None:
    items: list[Any] = []
    last: Any = None
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=said(DRAW),
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=FEW,
    ):
        last = chunk
        for choice in chunk.choices:
            if choice.delta.content:
                if items and isinstance(items[-1], str):
                    items[-1] += choice.delta.content
                else:
                    items.append(choice.delta.content)
            for part in getattr(choice.delta, "images", None) or []:
                items.append(decoded(part["image_url"]["url"]))
            reason = choice.finish_reason
    expected = alone(DRAW, seed=3)
    assert same([i.removeprefix("\n") if isinstance(i, str) else i for i in items], expected)
    assert "".join(item for item in items if isinstance(item, str)) == expected.text
    assert reason == "stop"
    assert last.usage.prompt_tokens == expected.usage.prompt_tokens


def test_content_in_parts_keeps_the_order_in_one_message(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=said(STORY), seed=5, extra_body={**FEW, "content_format": "parts"}
    )
    content: Any = answer.choices[0].message.content
    assert same(items_of(content), alone(STORY, seed=5))


def test_messages_with_pictures_are_read_as_the_library_reads_them(client: OpenAI) -> None:
    given = alone("A red circle at the top left, by the blue sea.<|vision_start|>", seed=1)
    image = given.images[0]
    question = "What colour is the circle?"
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Look."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": as_url(image)}},
                    {"type": "text", "text": question},
                ],
            },
        ],
        extra_body=FEW,
    )
    assert answer.choices[0].message.content == alone(["Look.", image, question], seed=0).text
    assert "red" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("content_format", ["text", "parts"])
def test_an_answer_can_be_sent_back_as_it_came(client: OpenAI, content_format: str) -> None:
    first = client.chat.completions.create(
        model=MODEL,
        messages=said(DRAW),
        seed=3,
        extra_body={**FEW, "content_format": content_format},
    )
    message: Any = first.choices[0].message.model_dump(warnings=False)
    again = client.chat.completions.create(
        model=MODEL,
        messages=[*said(DRAW), message, *said("What colour is the square?")],
        extra_body=FEW,
    )
    assert again.choices[0].message.content == "The square is blue."


def test_several_answers_have_seeds_that_follow_one_another(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=8, n=2, temperature=1.0, extra_body=FEW
    )
    for place, choice in enumerate(answer.choices):
        expected = alone(DRAW, seed=8 + place, do_sample=True, text_temperature=1.0)
        assert choice.message.content == expected.text
        assert choice.seed == 8 + place  # type: ignore[attr-defined]
    chunks = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=8, n=2, stream=True, extra_body=FEW
    )
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: alone(DRAW, seed=8).text, 1: alone(DRAW, seed=9).text}


def test_limits_of_the_format_are_the_librarys(client: OpenAI) -> None:
    cut = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=3, max_tokens=5, extra_body=FEW
    )
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].message.content == "First, a red circle"
    stopped = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=3, stop=["circle"], extra_body=FEW
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == "First, a red "
    assert stopped.choices[0].native_finish_reason == "stop_string"  # type: ignore[attr-defined]


def test_text_alone_is_one_of_the_modalities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=said(DRAW), seed=3, modalities=["text"], extra_body=FEW
    )
    assert answer.choices[0].message.content == alone(DRAW, seed=3, max_images=0).text
    assert not hasattr(answer.choices[0].message, "images")


@pytest.mark.parametrize(("ratio", "size"), [("1:1", "64x64"), ("16:9", "64x32"), ("2:3", "48x64")])
def test_an_aspect_ratio_gives_the_nearest_size_and_tells_it(
    served: Running, ratio: str, size: str
) -> None:
    body = {"messages": said(DRAW), "max_images": 1, "image_config": {"aspect_ratio": ratio}}
    told = post(served, "/v1/chat/completions", {**FEW, **body}).json()
    [part] = told["choices"][0]["message"]["images"]
    assert part["size"] == size
    assert decoded(part["image_url"]["url"]).size == tuple(map(int, size.split("x")))


def test_thoughts_are_told_apart(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=said(DRAW),
        seed=3,
        extra_body={**FEW, "think": True, "max_think_token_n": 4},
    )
    expected = alone(DRAW, seed=3, think=True, max_think_token_n=4)
    message: Any = answer.choices[0].message
    assert message.reasoning_content == without_tags(expected.thoughts[0])
    assert message.content == expected.text
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4


def test_previews_are_small_jpegs(served: Running, client: OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=said(DRAW),
        stream=True,
        extra_body={"num_timesteps": 7, "preview_every": 2, "max_images": 1},
    )
    previews = [
        preview
        for chunk in chunks
        for choice in chunk.choices
        for preview in getattr(choice.delta, "image_previews", None) or []
    ]
    assert [preview["step"] for preview in previews] == [2, 4, 6]
    assert all(preview["url"].startswith("data:image/jpeg") for preview in previews)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_come_by_url_for_who_asks(served: Running, kind: str) -> None:
    body = {"messages": said(DRAW), "seed": 3, "image_delivery": "url", "image_format": kind}
    told = post(served, "/v1/chat/completions", {**FEW, **body}).json()
    urls = [part["image_url"]["url"] for part in told["choices"][0]["message"]["images"]]
    assert all(url.startswith(f"{served.url}/pictures/") for url in urls)
    got = httpx.get(urls[0])
    assert got.headers["content-type"] == f"image/{kind}"
    image = Image.open(io.BytesIO(got.content))
    if kind == "png":
        assert alike(image, alone(DRAW, seed=3).images[0])
    assert image.size == (64, 64)
    assert httpx.get(urls[0].replace("/pictures/", "/pictures/x")).status_code == 404


# C: responses.


def test_a_response_is_typed_and_in_order(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input=DRAW, extra_body={**FEW, "seed": 3})
    expected = alone(DRAW, seed=3)
    items: list[Any] = []
    for item in response.output:
        if item.type == "message":
            items.append(item.content[0].text)  # type: ignore[union-attr]
        elif item.type == "image_generation_call":
            items.append(decoded(item.result or ""))
    assert same(items, expected)
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.input_tokens == expected.usage.prompt_tokens


def test_a_streamed_response_tells_of_everything_in_order(client: OpenAI) -> None:
    stream = client.responses.create(
        model=MODEL,
        input=DRAW,
        stream=True,
        tools=[{"type": "image_generation", "partial_images": 2, "size": "64x64"}],
        extra_body={"num_timesteps": 7, "seed": 3},
    )
    events: list[Any] = list(stream)
    expected = alone(DRAW, seed=3, num_timesteps=7)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    texts = [event.text for event in events if event.type == "response.output_text.done"]
    assert texts == [item for item in expected if isinstance(item, str)]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "".join(texts)
    previews = [e for e in events if e.type == "response.image_generation_call.partial_image"]
    assert [event.partial_image_index for event in previews] == [0, 1, 0, 1]
    assert decoded(previews[0].partial_image_b64).format == "JPEG"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    kinds = ["message", "image_generation_call"] * 2 + ["message"]
    assert [item.type for item in done] == kinds
    assert [item.type for item in events[-1].response.output] == kinds
    assert [item.id for item in events[-1].response.output] == [item.id for item in done]
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [event.output_index for event in added] == list(range(5))
    images = [decoded(item.result) for item in done if item.type == "image_generation_call"]
    assert same(images, expected.images)  # type: ignore[arg-type]


def test_a_response_is_continued_by_its_id_or_by_its_items(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=DRAW, extra_body={**FEW, "seed": 3})
    question = "What colour is the square?"
    by_id = client.responses.create(
        model=MODEL, input=question, previous_response_id=first.id, extra_body=FEW
    )
    assert by_id.output_text == "The square is blue."
    by_items = client.responses.create(
        model=MODEL,
        input=[
            {"role": "user", "content": DRAW},
            *[item.model_dump() for item in first.output],  # type: ignore[list-item]
            {"role": "user", "content": [{"type": "input_text", "text": question}]},
        ],
        extra_body=FEW,
    )
    assert by_items.output_text == "The square is blue."
    again = client.responses.create(
        model=MODEL,
        input="What colour is the circle?",
        previous_response_id=by_id.id,
        store=False,
        extra_body=FEW,
    )
    assert again.output_text == "The circle is red."
    for gone in (again.id, "resp_nobody"):
        with pytest.raises(openai.NotFoundError, match="no response .* is kept"):
            client.responses.create(model=MODEL, input="And?", previous_response_id=gone)


def test_a_picture_by_url_can_be_put_back_too(client: OpenAI) -> None:
    first = client.responses.create(
        model=MODEL, input=DRAW, extra_body={**FEW, "seed": 3, "image_delivery": "url"}
    )
    again = client.responses.create(
        model=MODEL,
        input=[
            *[item.model_dump() for item in first.output],  # type: ignore[list-item]
            {"role": "user", "content": "What colour is the square?"},
        ],
        extra_body=FEW,
    )
    assert again.output_text == "The square is blue."


def test_a_response_may_be_forgotten(served: Running, client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=DRAW, extra_body=FEW)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)


def test_a_response_that_a_limit_ended_is_incomplete(client: OpenAI) -> None:
    cut = client.responses.create(
        model=MODEL, input=DRAW, max_output_tokens=20, extra_body={**FEW, "seed": 3}
    )
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert [item.type for item in cut.output][:2] == ["message", "image_generation_call"]


def test_plans_are_items_of_their_own(client: OpenAI) -> None:
    body = {**FEW, "think": True, "seed": 3}
    response = client.responses.create(model=MODEL, input=DRAW, extra_body=body)
    [thought] = alone(DRAW, seed=3, think=True).thoughts
    first: Any = response.output[0]
    assert first.type == "reasoning"
    assert f"<think>{first.summary[0].text}</think>" == thought


# D: images.


def test_pictures_alone(client: OpenAI) -> None:
    prompt = "A red circle at the top left, by the blue sea."
    made = client.images.generate(
        model=MODEL, prompt=prompt, n=2, size="64x48", extra_body={**FEW, "seed": 4}
    )
    assert made.data is not None
    for place, entry in enumerate(made.data):
        expected = alone(f"{prompt}<|vision_start|>", seed=4 + place, image_shape=(48, 64))
        assert alike(decoded(entry.b64_json or ""), expected.images[0])
    assert made.size == "64x48"
    by_url = client.images.generate(
        model=MODEL, prompt=prompt, response_format="url", extra_body=FEW
    )
    assert by_url.data is not None
    assert httpx.get(by_url.data[0].url or "").headers["content-type"] == "image/png"


def test_an_edit_begins_with_the_pictures(client: OpenAI) -> None:
    image = alone("A red circle at the top left, by the blue sea.<|vision_start|>").images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    prompt = "Make the circle green."
    made = client.images.edit(
        model=MODEL,
        image=("photo.png", file.getvalue(), "image/png"),
        prompt=prompt,
        extra_body={"num_timesteps": 4, "seed": 7},
    )
    expected = alone([image, f"{prompt}<|vision_start|>"], seed=7)
    assert made.data is not None
    assert alike(decoded(made.data[0].b64_json or ""), expected.images[0])


# E: how it is.


def test_a_server_tells_how_it_is(served: Running, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/ready").status_code == 200
    told = httpx.get(f"{served.url}/metrics").text
    assert 'auto_interleaved_requests_total{path="/v1/models",status="200"}' in told
    for name in ("tokens_total", "images_total", "run_seconds_total", "running", "kept_bytes"):
        assert f"auto_interleaved_{name}" in told
    page = httpx.get(f"{served.url}/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) > 2
    for path in loaded:
        assert path.startswith("/"), "nothing comes from elsewhere"
        assert httpx.get(f"{served.url}{path}").status_code == 200


def test_the_description_names_every_option(served: Running) -> None:
    schemas = httpx.get(f"{served.url}/openapi.json").json()["components"]["schemas"]
    for name in ("Chat", "Response", "Images"):
        properties = schemas[name]["properties"]
        assert properties["num_timesteps"]["type"] == "integer"
        assert "native" in properties["protocol"]["enum"]
        assert not {"generator", "logits_processor", "on_error"} & set(properties)


# Errors.


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("chat/completions", {"num_timestep": 4}, "num_timestep", "did you mean 'num_timesteps'"),
        ("chat/completions", {"max_token": 4}, "max_token", "did you mean 'max_tokens'"),
        ("chat/completions", {"generator": 1}, "generator", "unknown option"),
        ("chat/completions", {"num_timesteps": "4"}, "num_timesteps", "must be an integer"),
        ("chat/completions", {"protocol": "nativ"}, None, "native"),
        ("chat/completions", {"messages": []}, "messages", "at least 1 item"),
        ("chat/completions", {"messages": None}, "messages", "is missing"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "not supported"),
        ("chat/completions", {"logprobs": True}, "logprobs", "not supported"),
        ("chat/completions", {"temperature": 5.0}, "temperature", "less than or equal to 2"),
        ("chat/completions", {"modalities": ["image"]}, "modalities", "images/generations"),
        ("chat/completions", {"temperature": 1.0, "text_temperature": 1.0}, None, "two names"),
        ("chat/completions", {"n": 99}, "n", "at most 8"),
        ("chat/completions", {"image_config": {"aspect_ratio": "99:1"}}, None, "from 1:8 to 8:1"),
        ("chat/completions", {"image_shape": [40, 40]}, None, "nearest is image_shape"),
        ("chat/completions", {"extra_body": {"seed": 1}, "seed": 2}, None, "given twice"),
        ("responses", {"tools": [{"type": "web_search"}]}, None, "image_generation"),
        ("responses", {"tool": []}, "tool", "did you mean 'tools'"),
        ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, None, "input"),
        ("responses", {"tool_choice": "required"}, "tool_choice", "not supported"),
        ("images/generations", {"size": "big"}, "size", "WIDTHxHEIGHT"),
        ("images/generations", {"size": "40x40"}, None, "nearest is image_shape"),
        ("images/generations", {"quality": "hd"}, "quality", "not supported"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    served: Running, path: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    least: dict[str, Any] = {
        "chat/completions": {"messages": said("Go.")},
        "responses": {"input": "Go."},
        "images/generations": {"prompt": "Go."},
    }[path]
    before = served.worker.state.rounds
    for stream in (False, True):
        given = {**least, **body} | ({"stream": True} if stream and "images" not in path else {})
        answer = post(served, f"/v1/{path}", given)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert message in error["message"]
        if param is not None:
            assert error["param"] == param
    assert served.worker.state.rounds == before


def test_unknown_models_paths_and_verbs_are_told_in_the_same_shape(
    served: Running, client: OpenAI
) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model") as raised:
        client.chat.completions.create(model="gpt", messages=said("Go."))
    assert raised.value.code == "model_not_found"
    for answer, code in (
        (httpx.get(f"{served.url}/v1/nothing"), 404),
        (httpx.get(f"{served.url}/v1/chat/completions"), 405),
        (httpx.post(f"{served.url}/v1/responses", content=b"{"), 400),
        (httpx.post(f"{served.url}/v1/responses", content=b"[1]"), 400),
    ):
        assert answer.status_code == code
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server whose second picture fails."""
    with running() as server:
        inferencer = server.worker._runs._inferencer
        decode, drawn = inferencer.decode_images, []

        def broken(latents: Any, shape: Any) -> Any:
            drawn.append(latents)
            if len(drawn) % 2 == 0:
                raise RuntimeError("broken on purpose")
            return decode(latents, shape)

        monkeypatch.setattr(inferencer, "decode_images", broken)
        yield server


def test_what_was_made_before_a_failure_is_in_the_answer(failing: Running) -> None:
    told = post(failing, "/v1/chat/completions", {**FEW, "messages": said(DRAW)}).json()
    [choice] = told["choices"]
    assert choice["finish_reason"] == "error"
    assert choice["message"]["content"].startswith("First, a red circle")
    assert len(choice["message"]["images"]) == 1
    assert "broken on purpose" in told["error"]["message"]
    response = post(failing, "/v1/responses", {**FEW, "input": DRAW}).json()
    assert response["status"] == "incomplete"
    assert response["error"]["code"] == "server_error"
    statuses = [(item["type"], item["status"]) for item in response["output"]]
    assert statuses[:3] == [
        ("message", "completed"),
        ("image_generation_call", "completed"),
        ("message", "completed"),
    ]
    assert statuses[3:] == [("image_generation_call", "failed")]


def test_a_failure_inside_a_stream_is_told_and_then_it_is_done(failing: Running) -> None:
    body = {**FEW, "messages": said(DRAW), "stream": True}
    lines = post(failing, "/v1/chat/completions", body).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    assert '"error":{"message":"generation failed' in lines[-2]
    assert '"finish_reason":"error"' in lines[-3]
    assert any('"images"' in line for line in lines)
    with pytest.raises(openai.APIError, match="broken on purpose"):
        list(
            failing.client().chat.completions.create(
                model=MODEL, messages=said(DRAW), stream=True, extra_body=FEW
            )
        )
    events: list[Any] = list(
        failing.client().responses.create(model=MODEL, input=DRAW, stream=True, extra_body=FEW)
    )
    assert [event.type for event in events[-2:]] == ["error", "response.incomplete"]
    assert "broken on purpose" in events[-2].message


def test_a_server_used_by_program_sees_what_the_worker_sees(served: Running) -> None:
    ordered = order(served.worker)
    ordered.until(ImageDone)
    assert ordered.over.reason == "stop"


def test_pictures_of_a_request_may_be_of_any_common_kind(served: Running) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        part = {"type": "image_url", "image_url": {"url": as_url(picture(20, 10), kind)}}
        body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1, **FEW}
        assert post(served, "/v1/chat/completions", body).status_code == 200
