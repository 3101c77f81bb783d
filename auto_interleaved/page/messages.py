"""Messages of the chat: what gradio is handed for the exchanges of a talk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Literal

import gradio as gr
from gradio.components.chatbot import MetadataDict

from auto_interleaved.page.shown_pictures import ShownPictures
from auto_interleaved.page.tabs import Exchange
from data.output import InterleavedOutput
from data.output.captions import ALT_LIMIT, printable, shorten
from data.output.pages import figure
from data.output.pictures import jpeg_uri
from data.output.views import Drawing, Drawn, Part, Thought, Written

_LEAST_WIDTH = 384  # pixels of the place where a picture is to come


def messages_of(exchanges: Iterable[Exchange], pictures: ShownPictures) -> list[gr.ChatMessage]:
    """Return the messages of a talk.

    Args:
        exchanges: what was said.
        pictures: where its pictures are to be had, and its answers.
    """
    messages: list[gr.ChatMessage] = []
    for exchange in exchanges:
        messages += _said(exchange.message, pictures, "user")
        messages += _said(exchange.answer, pictures, "assistant")
        for note in exchange.notes:
            said = _alarm(note.text) if note.is_error else _quiet(note.text)
            messages.append(_assistant(_html(said)))
        if exchange.output is not None:
            footer = _footer(exchange.output, f"{pictures.base}/{exchange.number}")
            messages.append(_assistant(_html(footer)))
        elif not exchange.answer:
            messages.append(_assistant(_html('<p class="quiet">…</p>')))
    return messages


def notice(text: str) -> gr.ChatMessage:
    """Return the message of a refusal, in the library's words."""
    return _assistant(_html(_alarm(text)))


def _said(
    parts: Iterable[Part], pictures: ShownPictures, role: Literal["user", "assistant"]
) -> Iterator[gr.ChatMessage]:
    text = ""
    for part in parts:
        if isinstance(part, Thought):
            status: Literal["pending", "done"] = "pending" if part.open else "done"
            metadata: MetadataDict = {"title": "Thoughts", "status": status}
            yield gr.ChatMessage(role=role, content=_plain(part.plan), metadata=metadata)
        elif isinstance(part, Written):
            text = part.text
            yield gr.ChatMessage(role=role, content=_plain(text))
        else:
            for html in _shown(part, pictures, text):
                yield gr.ChatMessage(role=role, content=_html(html))


def _shown(part: Drawn | Drawing, pictures: ShownPictures, before: str) -> Iterator[str]:
    """Yield the HTML of what is no text."""
    match part:
        case Drawn(image=image):
            url = pictures.url(image)
            alt = shorten(before, ALT_LIMIT) or "Image"
            yield f'<a href="{url}" target="_blank">{figure(image, _source(url), alt)}</a>'
        case Drawing(preview=preview, size=(width, height)):
            if preview is None:
                style = f"aspect-ratio:{width}/{height};width:{max(width, _LEAST_WIDTH)}px"
                yield f'<figure><div class="blank" style="{style}"></div></figure>'
            else:  # within the page: it is small, and soon another one
                yield figure(preview, _source(jpeg_uri(preview)), "", part.size)
            # Apart from the picture, which is sent again only where it has changed.
            yield _quiet(part.told)


def _source(url: str) -> str:
    return f'src="{url}"'


def _footer(output: InterleavedOutput, url: str) -> str:
    """Return the line under an answer: what it took, and where it is to be had."""
    usage = output.usage
    facts = [f"{usage.seconds:.1f} s", f"{usage.text_tokens + usage.thought_tokens} tokens"]
    facts += [f"seed {output.seed}"] if isinstance(output.seed, int) else []
    if output:
        kinds = (("html", "page"), ("zip", "folder"))
        links = (f'<a href="{url}.{kind}" download>{name}</a>' for kind, name in kinds)
        facts.append(f"save: {', '.join(links)}")
    return f'<p class="quiet">{" · ".join(facts)}</p>'


def _quiet(text: str) -> str:
    return f'<p class="quiet">{escape(printable(text))}</p>'


def _alarm(text: str) -> str:
    return f'<p class="alarm">{escape(printable(text))}</p>'


def _plain(text: str) -> Any:
    # Gradio takes a text for HTML also where it renders no markdown; and as a string, rather than
    # in a dictionary, its indents for those of a docstring.
    return {"type": "text", "text": escape(printable(text), quote=False)}


def _html(text: str) -> gr.HTML:
    return gr.HTML(text, padding=False)


def _assistant(content: Any) -> gr.ChatMessage:
    return gr.ChatMessage(role="assistant", content=content)
