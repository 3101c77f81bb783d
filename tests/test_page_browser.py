"""The page in a real browser: Chromium without a window, driven by Playwright.

Needs requirements-page.txt, and Debian's package `chromium` or a browser named by CHROMIUM.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from auto_interleaved.serving.limits import Limits
from auto_interleaved.serving.sockets import bound
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from tests.serving import wait_until

pytest.importorskip("gradio", reason="gradio is in requirements-page.txt")
sync_api = pytest.importorskip("playwright.sync_api", reason="it is in requirements-page.txt")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,  # a browser starts, and each page of it takes seconds
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]

STORY = "Draw a red circle, then add a blue square to its right."


@contextmanager
def hosting(**given: Any) -> Iterator[str]:
    """Host a page of the bundled model; yield its URL."""
    from auto_interleaved.page.host import hosted

    inferencer = AutoInterleavedInferencer.from_pretrained()
    inferencer.set_progress_bar_config(disable=True)
    limits, listening = Limits(**given.pop("limits", {})), bound("127.0.0.1", 0)
    with hosted(inferencer, limits, name="picturebook", **given) as server:
        named = {"sockets": [listening]}
        thread = threading.Thread(target=server.run, kwargs=named, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with hosting(limits={"max_pixels": 10**6}) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A browser tab on the page, and what it asked for elsewhere or in vain."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.url = url
        self.elsewhere: list[str] = []
        self.failed: list[str] = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.on("response", self._note)
        self.page.goto(url)
        sync_api.expect(self.box).to_be_enabled(timeout=30_000)
        self.choose("num_timesteps", "4")

    def _route(self, route: Any) -> None:
        if route.request.url.startswith((self.url, "data:", "blob:")):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def _note(self, response: Any) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")

    @property
    def box(self) -> Any:
        return self.page.get_by_placeholder("A message; pictures can be dropped in")

    @property
    def talk(self) -> Any:
        return self.page.locator(".talk")

    def choose(self, name: str, value: str) -> None:
        field = self.page.get_by_label(name).first
        field.fill(value)
        field.press("Tab")

    def send(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def answered(self, count: int = 1) -> None:
        """Wait until there are so many answers, each of which can be saved."""
        links = self.talk.locator("a[download]")
        sync_api.expect(links).to_have_count(2 * count, timeout=60_000)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def saved(self, kind: str, folder: Path) -> Path:
        with self.page.expect_download() as download:
            self.talk.locator("a[download]", has_text=kind).last.click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Visit]:
    visit = Visit(browser, url)
    yield visit
    visit.context.close()
    assert visit.elsewhere == []
    assert visit.failed == []


def expect(locator: Any) -> Any:
    return sync_api.expect(locator)


def test_somebody_chats_and_saves_the_answer(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_label("think").check()
    visit.choose("seed", "7")
    visit.send(STORY)
    visit.answered()
    expect(visit.talk).to_contain_text("seed 7")
    expect(visit.talk.locator("figure img")).to_have_count(2)
    for picture in visit.talk.locator("figure img").all():
        assert picture.get_attribute("alt")
        assert picture.evaluate("image => image.naturalWidth") == 64
    thoughts = visit.talk.get_by_text("red circle", exact=False).first
    visit.talk.get_by_text("Thoughts").click()
    expect(thoughts).to_be_visible()
    output = InterleavedOutput.load(visit.saved("page", tmp_path))
    assert output.seed == 7
    assert output.thoughts
    packed = visit.saved("folder", tmp_path)
    assert packed.name == "answer-1.zip"
    zipfile.ZipFile(packed).extractall(tmp_path)
    assert InterleavedOutput.load(tmp_path / "answer") == output


def test_an_example_is_one_click(visit: Visit) -> None:
    visit.page.get_by_text("Explain the water cycle").click()
    visit.answered()
    assert visit.talk.locator("figure img").count() >= 2


def test_pictures_grow_and_stop_keeps_what_exists(visit: Visit) -> None:
    visit.choose("num_timesteps", "100")
    visit.send(STORY)
    expect(visit.talk).to_contain_text("drawing picture 1: step", timeout=30_000)
    preview = visit.talk.locator("figure img[src^='data:image/jpeg']")
    preview.first.wait_for(timeout=30_000)
    visit.page.locator("button[aria-label='Stop'], button.stop-button").first.click()
    expect(visit.talk).to_contain_text("Stopped. What exists is kept here", timeout=30_000)
    expect(visit.talk).to_contain_text("circle")
    visit.choose("num_timesteps", "4")
    visit.send("Draw a blue star.")
    visit.answered(2)


def test_an_error_is_told_in_the_librarys_words_and_can_be_mended(visit: Visit) -> None:
    visit.choose("height", "63")
    visit.choose("width", "64")
    visit.send(STORY)
    expect(visit.talk.locator(".alarm")).to_have_text(
        "height must be a positive multiple of 16, got 63; try 64"
    )
    expect(visit.box).to_have_value(STORY)
    visit.choose("height", "64")
    visit.box.press("Enter")
    visit.answered()
    expect(visit.talk.locator(".alarm")).to_have_count(0)


def test_a_picture_that_is_dropped_in_is_read(visit: Visit, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "green").save(tmp_path / "green.png")
    visit.page.set_input_files("input[type=file]", tmp_path / "green.png")
    visit.page.get_by_role("button", name="Remove").first.wait_for()
    visit.send("Put a red heart on it.<|vision_start|>")
    visit.answered()
    assert visit.talk.locator("figure img").count() >= 2
    expect(visit.talk).to_contain_text("<|vision_start|>")
    visit.click("Take back")
    expect(visit.box).to_have_value("Put a red heart on it.<|vision_start|>")
    visit.box.press("Enter")
    visit.answered()


def test_a_picture_of_too_many_pixels_is_refused(visit: Visit, tmp_path: Path) -> None:
    Image.new("RGB", (1001, 1000)).save(tmp_path / "large.png")
    visit.page.set_input_files("input[type=file]", tmp_path / "large.png")
    visit.page.get_by_role("button", name="Remove").first.wait_for()
    visit.send(STORY)
    expect(visit.talk.locator(".alarm")).to_contain_text("more than 1000000 pixels")


def test_a_talk_is_taken_back_and_forked(visit: Visit) -> None:
    visit.send(STORY)
    visit.answered()
    visit.click("Fork")
    expect(visit.page.get_by_label("fork of talk")).to_be_checked()
    visit.send("Make it winter.")
    visit.answered(2)
    visit.page.get_by_label("talk", exact=True).check()
    visit.answered(1)
    visit.click("Take back")
    visit.answered(0)
    expect(visit.box).to_have_value(STORY)
    visit.page.get_by_label("fork of talk").check()
    visit.answered(2)
    visit.click("New talk")
    visit.answered(0)


def test_what_a_visitor_writes_is_text_and_no_markup(visit: Visit) -> None:
    attack = "<img src=x onerror=\"document.title='broken'\"> ![a](http://example.com/a.png) **b**"
    visit.send(attack)
    visit.answered()
    expect(visit.talk).to_contain_text(attack)
    assert visit.page.title() == "auto-interleaved: picturebook"


def test_two_tabs_have_talks_of_their_own(browser: Any, url: str, visit: Visit) -> None:
    other = Visit(browser, url)
    visit.send(STORY)
    other.send("Draw a blue star.")
    visit.answered()
    other.answered()
    expect(visit.talk).not_to_contain_text("blue star")
    expect(other.talk).not_to_contain_text("red circle")
    other.context.close()


def test_a_key_is_asked_for(browser: Any) -> None:
    with hosting(keys=["secret"]) as url:
        assert httpx.get(url).status_code == 401
        credentials = {"username": "me", "password": "secret"}
        visit = Visit(browser, url, http_credentials=credentials)
        visit.send("Draw a blue star.")
        visit.answered()
        visit.context.close()


# Whoever speaks to the page without a browser.


def asked(url: str, path: str, **message: Any) -> dict[str, Any]:
    """Send a message that names a file; return what came of it."""
    config = httpx.get(f"{url}/config").json()
    [submit] = [
        function
        for function in config["dependencies"]
        if any(event == "submit" for _, event in function["targets"])
    ]
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    data = [values[part] for part in submit["inputs"]]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data[:2] = [None, {"text": "What is it?", "files": [file]}]
    session = {"session_hash": "abcdefgh"}
    named = {"data": data, "fn_index": submit["id"], **session}
    assert httpx.post(f"{url}/gradio_api/queue/join", json=named).status_code == 200
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params=session) as events:
        for line in events.iter_lines():
            event = json.loads(line.removeprefix("data:")) if line else {}
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("it did not end")


def test_no_file_and_no_url_of_a_message_is_opened(url: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with bound("127.0.0.1", 0) as never_called:
        never_called.listen()
        never_called.settimeout(0.1)
        port = never_called.getsockname()[1]
        for path in (str(tmp_path / "a.png"), "/etc/passwd", f"http://127.0.0.1:{port}/a.png"):
            told = asked(url, path)
            assert not told["success"]
            assert "no other file is opened" in told["output"]["error"]
            assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404)
        with pytest.raises(TimeoutError):
            never_called.accept()
