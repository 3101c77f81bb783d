"""The events of a response: typed and ordered, each output item opened, filled and closed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from auto_interleaved.serving.answers import Cost, Drawn, Piece, Preview, ended, failure
from auto_interleaved.serving.orders import Over
from data.output.events import ImageStarted, TextDelta, ThoughtDelta

Event = dict[str, Any]


class ResponseEvents:
    """Folds what a run tells of into a response, and tells each step of it.

    Args:
        name: the response's id.
        about: what the response says of its request.
        most_previews: of a picture; more are not told.
    """

    def __init__(self, name: str, about: Mapping[str, Any], most_previews: int) -> None:
        self._most_previews = most_previews
        self._number = 0
        self._open: dict[str, Any] | None = None  # the text or plan that goes on
        self._pictures: dict[int, dict[str, Any]] = {}  # those that are drawn, by their index
        self._previews: dict[int, int] = {}
        self._output: list[dict[str, Any]] = []
        self.response: dict[str, Any] = {
            "id": name,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            **about,
            "output": [],
            "usage": None,
        }

    def begin(self) -> Iterator[Event]:
        """Tell that the response has begun."""
        yield self._event("response.created", response=dict(self.response))
        yield self._event("response.in_progress", response=dict(self.response))

    def take(self, piece: Piece) -> Iterator[Event]:
        """Take what is told next, and tell it in the format's words."""
        if isinstance(piece, TextDelta):
            if piece.own:
                yield from self._text("message", piece.own)
        elif isinstance(piece, ThoughtDelta):
            yield from self._text("reasoning", piece.text)
        elif isinstance(piece, ImageStarted):
            yield from self._close()
            yield from self._start(piece.index)
        elif isinstance(piece, Preview):
            yield from self._preview(piece)
        elif isinstance(piece, Drawn):
            yield from self._drawn(piece)
        else:
            yield from self._over(piece)

    def _event(self, kind: str, **told: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **told}

    def _added(self, item: dict[str, Any]) -> Event:
        self._output.append(item)
        return self._event(
            "response.output_item.added", output_index=len(self._output) - 1, item=dict(item)
        )

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return which item an event is about."""
        place = next(n for n, known in enumerate(self._output) if known is item)
        return {"item_id": item["id"], "output_index": place}

    def _done(self, item: dict[str, Any]) -> Event:
        place = self._place(item)["output_index"]
        return self._event("response.output_item.done", output_index=place, item=dict(item))

    def _text(self, kind: str, text: str) -> Iterator[Event]:
        """Tell of more text or plan, in an item that is opened where none is open."""
        if self._open is not None and self._open["type"] != kind:
            yield from self._close()
        if self._open is None:
            yield from self._opened(kind)
        assert self._open is not None
        item = self._open
        names = _NAMES[kind]
        part = item[names["parts"]][0]
        part["text"] += text
        more: Event = {"logprobs": []} if kind == "message" else {}
        place = {**self._place(item), names["index"]: 0}
        yield self._event(f"response.{names['delta']}.delta", **place, delta=text, **more)

    def _opened(self, kind: str) -> Iterator[Event]:
        names = _NAMES[kind]
        item: dict[str, Any] = {"type": kind, "id": _id(names["prefix"]), "status": "in_progress"}
        if kind == "message":
            item["role"] = "assistant"
        item[names["parts"]] = []
        yield self._added({**item, names["parts"]: []})
        self._open = self._output[-1]
        part = dict(names["part"])
        self._open[names["parts"]] = [part]
        place = {**self._place(self._open), names["index"]: 0}
        yield self._event(f"response.{names['added']}.added", **place, part=dict(part))

    def _close(self) -> Iterator[Event]:
        """Tell that the text or plan that is open is whole."""
        if self._open is None:
            return
        item, self._open = self._open, None
        item["status"] = "completed"
        names = _NAMES[item["type"]]
        part = item[names["parts"]][0]
        place = {**self._place(item), names["index"]: 0}
        more: Event = {"logprobs": []} if item["type"] == "message" else {}
        yield self._event(f"response.{names['delta']}.done", **place, text=part["text"], **more)
        yield self._event(f"response.{names['added']}.done", **place, part=dict(part))
        yield self._done(item)

    def _start(self, index: int) -> Iterator[Event]:
        item = {
            "type": "image_generation_call",
            "id": _id("ig"),
            "status": "in_progress",
            "result": None,
        }
        yield self._added(item)
        self._pictures[index] = item
        yield self._event("response.image_generation_call.in_progress", **self._place(item))
        yield self._event("response.image_generation_call.generating", **self._place(item))

    def _preview(self, preview: Preview) -> Iterator[Event]:
        count = self._previews.get(preview.index, 0)
        if count == self._most_previews:
            return
        self._previews[preview.index] = count + 1
        yield self._event(
            "response.image_generation_call.partial_image",
            **self._place(self._pictures[preview.index]),
            partial_image_index=count,
            partial_image_b64=preview.picture.base64,
            output_format=preview.picture.format,
            size=preview.picture.told_size,
        )

    def _drawn(self, drawn: Drawn) -> Iterator[Event]:
        item = self._pictures.pop(drawn.index)
        item |= {
            "status": "completed",
            "result": drawn.picture.base64,
            "size": drawn.picture.told_size,
            "output_format": drawn.picture.format,
            "seed": drawn.seed,
        }
        if drawn.picture.base64 is None:
            item["url"] = drawn.picture.url
        yield self._event("response.image_generation_call.completed", **self._place(item))
        yield self._done(item)

    def _over(self, over: Over) -> Iterator[Event]:
        """Tell that nothing follows; what was made is in the last event."""
        yield from self._close()
        for item in self._pictures.values():  # begun, and never to be whole
            item["status"] = "failed"
            yield self._done(item)
        response, refusal = self.response, failure(over)
        made = any(item["status"] == "completed" for item in self._output)
        response["output"] = self._output
        response["usage"] = Cost.of([over]).told("input", "output")
        response["native_finish_reason"] = over.reason
        response["status"] = "completed"
        if refusal is not None:
            told = refusal.body()["error"]
            response["status"] = "incomplete" if made else "failed"
            response["error"] = {"code": "server_error", "message": told["message"]}
            named = {name: told[name] for name in ("code", "message", "param")}
            yield self._event("error", **named)
        elif ended(over) == "length":
            response["status"] = "incomplete"
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        yield self._event(f"response.{response['status']}", response=response)


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_urlsafe(18)}"


_NAMES: dict[str, dict[str, Any]] = {
    "message": {
        "prefix": "msg",
        "parts": "content",
        "part": {"type": "output_text", "text": "", "annotations": []},
        "index": "content_index",
        "delta": "output_text",
        "added": "content_part",
    },
    "reasoning": {
        "prefix": "rs",
        "parts": "summary",
        "part": {"type": "summary_text", "text": ""},
        "index": "summary_index",
        "delta": "reasoning_summary_text",
        "added": "reasoning_summary_part",
    },
}
