"""The page: its components, what they look like, and which of the desk's doings each one starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from auto_interleaved.page.controls import Controls
from auto_interleaved.page.desk import Desk, Shown
from auto_interleaved.page.messages import messages_of, notice
from auto_interleaved.page.tabs import Tab

EXAMPLES = (
    "Write a short story about a robot's adventure in space with illustrations.",
    "Create a recipe for chocolate chip cookies with images showing key steps.",
    "Explain the water cycle with diagrams for each stage.",
    "Draw a red circle, then add a blue square to its right.",
)
_OLD_UPLOADS = (600, 3600)  # every so many seconds, those older than so many
_SYSTEM = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")

STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
.quiet { color: var(--body-text-color-subdued); font-size: 0.8rem; line-height: 1.4; margin: 0; }
.quiet a { color: inherit; text-decoration: underline; margin: 0; padding: 0; }
.talk .alarm { color: #b3261e; border-left: 3px solid; padding-left: 0.7rem; margin: 0; }
.dark .talk .alarm { color: #f2a49c; }
.talk figure { margin: 0.4rem 0; }
.talk figure img { max-width: min(100%, 32rem) !important; max-height: none !important;
  margin: 0 !important; border-radius: 6px; display: block; }
.talk .blank { max-width: min(100%, 32rem); border-radius: 6px;
  background: var(--background-fill-secondary); border: 1px dashed var(--border-color-primary); }
"""


def build(desk: Desk, *, name: str) -> gr.Blocks:
    """Return the page of a model.

    Args:
        desk: what it does.
        name: of the model.
    """
    with gr.Blocks(
        title=f"auto-interleaved: {name}",
        analytics_enabled=False,
        delete_cache=_OLD_UPLOADS,
    ) as blocks:
        _Page(desk, name).lay_out(blocks)
    return blocks


def theme() -> gr.themes.Base:
    """Return how it looks, with fonts that are on every machine: none is fetched."""
    fonts: dict[str, Any] = {"font": _SYSTEM, "font_mono": _MONO}
    grey = "*neutral_500"  # its own is too pale to read
    return gr.themes.Default(**fonts).set(block_info_text_color=grey, body_text_color_subdued=grey)


class _Page:
    def __init__(self, desk: Desk, name: str) -> None:
        self._desk = desk
        self._name = name
        self._controls = Controls(desk.inferencer.image_shape)

    def lay_out(self, blocks: gr.Blocks) -> None:
        """Make the components, and say what each one does."""
        self._tab = gr.State(None, delete_callback=self._leave)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_talk()
            with gr.Column(scale=1, min_width=300):
                self._controls.lay_out()
        self._outputs = [self._chat, self._box, self._talks, self._back, self._fork, self._new]
        self._listen(blocks)

    def _lay_out_talk(self) -> None:
        self._chat = gr.Chatbot(
            elem_classes=["talk"],
            show_label=False,
            height="max(20rem, calc(100vh - 12rem))",
            render_markdown=False,  # what a model writes is text, never markup
            buttons=["copy_all"],
            layout="panel",
            examples=[{"text": text} for text in EXAMPLES],
            feedback_options=None,
        )
        self._box = gr.MultimodalTextbox(
            placeholder="A message; pictures can be dropped in",
            file_count="multiple",
            file_types=["image"],
            show_label=False,
            interactive=False,  # until the page has its tab
            max_plain_text_length=self._desk.limits.max_characters,
        )
        self._talks = gr.Radio([], label="talks", visible=False)
        small: dict[str, Any] = {"size": "sm", "min_width": 80}
        with gr.Row():
            self._back = gr.Button("Take back", interactive=False, **small)
            self._fork = gr.Button("Fork", interactive=False, **small)
            self._new = gr.Button("New talk", **small)

    def _listen(self, blocks: gr.Blocks) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        everything = {**quiet, "outputs": self._outputs}
        sending = {**everything, "concurrency_limit": self._desk.limits.max_running}
        values = self._controls.components
        blocks.load(self._enter, None, [self._tab, self._box], **quiet)
        self._box.submit(self._send, [self._tab, self._box, *values], **sending)
        self._chat.example_select(self._send_example, [self._tab, *values], **sending)
        self._box.stop(self._stop, self._tab, None, queue=False, **quiet)
        self._back.click(self._take_back, self._tab, **everything)
        self._fork.click(self._forked, self._tab, **everything)
        gr.on([self._new.click, self._chat.clear], self._begin, self._tab, **everything)
        self._talks.input(self._turn_to, [self._tab, self._talks], **everything)

    def _enter(self) -> tuple[Tab, Any]:
        return self._desk.enter(), gr.update(interactive=True)

    def _leave(self, tab: Tab | None) -> None:
        if tab is not None:
            tab.stop()

    async def _send(self, tab: Tab, message: dict[str, Any], *values: Any) -> AsyncIterator[Any]:
        options = self._controls.options(values)
        text, files = message["text"], message["files"]
        async for shown in self._desk.send(_present(tab), text, files, options):
            yield self._update(tab, shown)

    async def _send_example(
        self, chosen: gr.SelectData, tab: Tab, *values: Any
    ) -> AsyncIterator[Any]:
        message = {"text": EXAMPLES[int(chosen.index)], "files": []}
        async for update in self._send(tab, message, *values):
            yield update

    def _stop(self, tab: Tab | None) -> None:
        _present(tab).stop()

    def _take_back(self, tab: Tab) -> Any:
        def take_back() -> tuple[str, list[Any]]:
            text, pictures = tab.rewind()
            return text, [self._desk.written(picture) for picture in pictures]

        return self._done(tab, take_back)

    def _forked(self, tab: Tab) -> Any:
        return self._done(tab, tab.fork)

    def _begin(self, tab: Tab) -> Any:
        return self._done(tab, tab.begin)

    def _turn_to(self, tab: Tab, name: str) -> Any:
        return self._done(tab, lambda: tab.turn_to(name))

    def _done(self, tab: Tab, action: Callable[[], tuple[str, list[Any]] | None]) -> Any:
        """Do something that takes no time, and show how the talk stands then."""
        try:
            _present(tab)
            unsent = action()
        except (ValueError, RuntimeError) as error:
            gr.Warning(str(error))
            return [gr.skip() for _ in self._outputs]
        return self._update(tab, Shown(exchanges=tab.exchanges(), unsent=unsent))

    def _update(self, tab: Tab, shown: Shown) -> list[Any]:
        """Return what each of the outputs becomes."""
        messages = messages_of(shown.exchanges, tab.pictures)
        if shown.notice is not None:
            messages.append(notice(shown.notice))
        text, files = shown.unsent or ("", [])
        running, some = shown.is_running, bool(shown.exchanges)
        box: dict[str, Any] = {"submit_btn": not running, "stop_btn": running}
        if not running or not shown.exchanges[-1].answer:  # what is typed meanwhile stays
            box["value"] = {"text": text, "files": [str(path) for path in files]}
        several = len(tab.talks) > 1
        return [
            messages,
            gr.update(**box),
            gr.update(choices=list(tab.talks), value=tab.current, visible=several),
            gr.update(interactive=some and not running),
            gr.update(interactive=some and not running),
            gr.update(interactive=not running),
        ]


def _present(tab: Tab | None) -> Tab:
    if tab is None:
        words = "the page has not begun yet, or was left for too long: load it again"
        raise gr.Error(words, print_exception=False)
    return tab
