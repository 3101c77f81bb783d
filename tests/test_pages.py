"""The pages: safe whatever a model writes, complete, and readable."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from output_samples import NASTY, image, picture, story, text
from PIL import Image

from data.output import InterleavedOutput, Segment, Usage
from data.output.pictures import THUMBNAIL_SIDE

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "article", "p", "br"),
    *("figure", "img", "details", "summary", "dl", "dt", "dd", "script", "div"),
}
ATTRIBUTES = {
    *("charset", "name", "content", "http-equiv", "class", "dir", "open", "src", "alt", "width"),
    *("height", "style", "hidden", "data-picture", "type", "id"),
}


class Page(HTMLParser):
    """All tags, attributes and visible text of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style", "title"} & set(self._open):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def saved_page(output, folder):
    return output.save(folder / "page.html").read_text("utf-8")


@pytest.fixture(params=["page", "notebook"])
def nasty_html(request, tmp_path):
    """A run in which every text is hostile, as a page and as notebooks show it."""
    output = story(NASTY)
    return saved_page(output, tmp_path) if request.param == "page" else output._repr_html_()


def test_no_text_becomes_a_tag_or_an_attribute(nasty_html):
    page = Page(nasty_html)
    assert {tag for tag, _ in page.tags} <= TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= ATTRIBUTES


def test_nothing_is_executed_and_nothing_is_fetched(nasty_html):
    page = Page(nasty_html)
    assert [script["type"] for script in page.all("script")] in ([], ["application/json"])
    assert nasty_html.lower().count("<script") == len(page.all("script"))
    assert all(img["src"].startswith("data:image/") for img in page.all("img"))
    style = re.search(r"<style>(.*?)</style>", nasty_html, re.DOTALL)
    assert not re.search(r"url\(|@import|expression|//", style[1] if style else "")


def test_the_page_forbids_itself_scripts_and_the_network(tmp_path):
    policies = [
        meta["content"]
        for meta in Page(saved_page(story(), tmp_path)).all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_whole_text_can_be_read_on_the_page(nasty_html):
    visible = "".join(Page(nasty_html).words)
    for line in NASTY.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        assert re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800]", "\ufffd", line) in visible


def test_line_breaks_and_paragraphs_are_kept():
    html = InterleavedOutput(["one\ntwo\r\n\r\n  three & four"])._repr_html_()
    assert '<p dir="auto">one<br>two</p>\n<p dir="auto">  three &amp; four</p>' in html
    html = InterleavedOutput([" \n  one\r\ntwo\rthree \n\t"])._repr_html_()
    assert '\n<p dir="auto">  one<br>two<br>three</p>\n' in html


def test_every_picture_has_alternative_text(tmp_path):
    output = InterleavedOutput.from_segments(
        [text('A "red"\nball <b>', "prompt"), image(1), text("It  rolls."), image(2)],
        finish_reason="stop",
    )
    for html in (saved_page(output, tmp_path), output._repr_html_()):
        alts = [img["alt"] for img in Page(html).all("img")]
        assert alts == ['A "red" ball <b>', "It rolls."]


def test_the_title_is_the_beginning_of_the_prompt(tmp_path):
    html = saved_page(story("word " * 100), tmp_path)
    title = re.search("<title>(.*?)</title>", html)[1]
    assert title.startswith("Tell a story: word word")
    assert len(title) <= 90
    assert "<title>Text and images</title>" in saved_page(InterleavedOutput(["a"]), tmp_path)


def test_the_prompt_is_shown_unless_the_title_says_it_all(tmp_path):
    short = InterleavedOutput.from_segments([text("A story", "prompt")], finish_reason="stop")
    assert "<summary>Prompt</summary>" not in saved_page(short, tmp_path)
    assert "<details open><summary>Prompt</summary>" in saved_page(story(), tmp_path)
    long = InterleavedOutput.from_segments([text("word " * 50, "prompt")], finish_reason="stop")
    assert "<details><summary>Prompt</summary>" in saved_page(long, tmp_path)


def test_a_plan_is_shown_without_the_tags_around_it(tmp_path):
    planned = text("<think>Small first, then large.</think>", "thought")
    output = InterleavedOutput.from_segments([planned, text("A dot.")], finish_reason="stop")
    assert output.thoughts == ["<think>Small first, then large.</think>"]
    for page in (saved_page(output, tmp_path), written_markdown(output, tmp_path)):
        assert "Small first, then large." in page
        assert "think>" not in page
        assert "think&gt;" not in page


def test_thoughts_and_the_facts_of_the_run_are_folded_away(tmp_path):
    html = saved_page(story(), tmp_path)
    assert '<details><summary>Thoughts</summary>\n<p dir="auto">I plan' in html
    facts = html[html.index("<details><summary>About this run</summary>") :]
    for fact in (
        "error",
        f"{2**63 - 1}, 8",
        "14 prompt, 1 thought, 4 text",
        "native",
        "(0.4, 1.0)",
    ):
        assert f"<dd>{fact}</dd>" in facts


def test_a_failed_run_says_so_on_the_page(tmp_path):
    assert "ended early: MemoryError: no room" in saved_page(story(), tmp_path)
    assert "ended early" not in saved_page(InterleavedOutput(["a"]), tmp_path)


def test_a_picture_on_the_page_is_lossless_and_stored_once(tmp_path):
    html = saved_page(story(), tmp_path)
    sources = [img["src"] for img in Page(html).all("img")]
    assert len(sources) == len(set(sources)) == 3
    assert all(html.count(source) == 1 for source in sources)
    data = base64.b64decode(sources[1].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as first:
        assert first.tobytes() == picture(10).tobytes()


@pytest.mark.parametrize(
    ("size", "shown", "crisp"),
    [((64, 64), 384, True), ((24, 16), 384, True), ((500, 90), 500, False)],
)
def test_small_pictures_are_enlarged_by_a_whole_factor_with_crisp_pixels(size, shown, crisp):
    html = InterleavedOutput([picture(1, size)])._repr_html_()
    (img,) = Page(html).all("img")
    assert img["width"] == str(shown)
    assert f"width:{shown}px;max-width:100%;height:auto" in img["style"]
    assert ("image-rendering:pixelated" in img["style"]) is crisp


def test_notebooks_get_small_jpegs():
    html = InterleavedOutput([picture(1, (2000, 500)).convert("RGBA")])._repr_html_()
    (img,) = Page(html).all("img")
    data = base64.b64decode(img["src"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as small:
        assert (small.format, small.size) == ("JPEG", (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 4))


def test_settings_and_errors_cannot_inject_markup_either(tmp_path):
    output = InterleavedOutput(
        ["a"],
        error=ValueError("<script>alert(1)</script>"),
        config={"<i onclick=x>": "<script>alert(1)</script>"},
        segments=[Segment(kind="image", role="generated", error="<script>")],
        usage=Usage(images=1),
    )
    assert {tag for tag, _ in Page(saved_page(output, tmp_path)).tags} <= TAGS
    assert "<i" not in output.save(tmp_path / "a.md").read_text("utf-8")


def written_markdown(output, folder):
    return output.save(folder / "page.md").read_text("utf-8")


def test_markdown_shows_pictures_from_the_folder_beside_it(tmp_path):
    output = InterleavedOutput(["A [red] ball.", picture(1)])
    lines = output.save(tmp_path / "my (first) page.md").read_text("utf-8").split("\n")
    assert "A \\[red\\] ball." in lines
    link = "my%20%28first%29%20page_images/001_image.png"
    assert f"![A \\[red\\] ball.]({link})" in lines


def test_markdown_leaves_prose_readable(tmp_path):
    prose = "He said: “3.5 is more than 2 (two), isn't it?” Yes! 50% #1 = best - really; so/so."
    assert prose in written_markdown(InterleavedOutput([prose]), tmp_path)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("a\nb\n\nc", "a  \nb\n\nc"),
        (
            "# h\n- l\n+ l\n2. l\n3) l\n---\n== =",
            "\\# h  \n\\- l  \n\\+ l  \n2\\. l  \n3\\) l  \n\\---  \n\\== =",
        ),
        ("![x](http://y) www.z", "!\\[x\\](http\\://y) www\\.z"),
        ("`a` *b* _c_ ~d~ |e| $f$ \\g", "\\`a\\` \\*b\\* \\_c\\_ \\~d\\~ \\|e\\| \\$f\\$ \\\\g"),
        ("a\n    b\n\tc", "a  \n\u00a0\u00a0\u00a0\u00a0b  \n\u00a0\u00a0\u00a0\u00a0c"),
        ("> q", "&gt; q"),
    ],
)
def test_markdown_escapes_what_would_be_markup(tmp_path, words, written):
    assert f"\n\n{written}\n\n---\n" in written_markdown(InterleavedOutput([words]), tmp_path)


def test_no_html_of_a_text_survives_in_markdown(tmp_path):
    page = written_markdown(story(NASTY), tmp_path)
    ours = {"<details>", "</details>", "<summary>", "</summary>"}
    assert set(re.findall("<[^>]*>", page)) <= ours
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", page)
    assert len(links) == 3
    assert all(link.startswith("page_images/") for link in links)


def test_a_quoted_prompt_keeps_its_lines_in_markdown(tmp_path):
    output = InterleavedOutput.from_segments([text("a\nb\n\nc", "prompt")], finish_reason="stop")
    assert "\n\n> a  \n> b\n>\n> c\n\n" in written_markdown(output, tmp_path)
