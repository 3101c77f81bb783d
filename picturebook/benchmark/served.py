"""A model behind an OpenAI-compatible server, asked as one at hand is.

What a server needs to be told beside the prompt goes with every request as it is given. Answers are
asked for as ordered parts (`"content_format": "parts"`); from a server that refuses the field, or
answers with text and pictures apart, so that their order is lost, they are taken as a stream.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from data.data_utils import pil_img2rgb
from data.output import FinishReason, InterleavedOutput, Segment
from picturebook.world import PICTURE_SIZE

Item = str | Image.Image

_ENDINGS: Mapping[Any, FinishReason] = {"stop": "stop", "length": "length"}
_BOTH, _TEXT = ["image", "text"], ["text"]


class Served:
    """Stands where an `AutoInterleavedInferencer` does, for runs in the loop.

    Args:
        url: where the API begins, as `http://127.0.0.1:8000/v1`.
        api_key: of the server; any word where it asks for none.
        model: its name; None takes the first that the server has.
        extra: fields for every request.
        kept: a folder in which answers are kept, so that none is asked for twice.

    Raises:
        ImportError: if the package openai is not installed.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "none",
        *,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
        kept: Path | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "a server is asked with the package openai: pip install openai"
            ) from error
        self._refused = openai.BadRequestError
        self._client = openai.OpenAI(base_url=url, api_key=api_key, max_retries=5, timeout=3600)
        self._extra = dict(extra or {})
        self._kept = kept
        self._in_parts = True
        self.model = model or next(iter(self._client.models.list())).id

    def auto_interleaved_generation(
        self, prompt: Any, *, seed: int = 0, max_images: int | None = None, **_: Any
    ) -> InterleavedOutput:
        """Ask for the answer to a prompt.

        Args:
            prompt: a text, or a list of texts and pictures.
            seed: as the server takes it.
            max_images: 0 asks for text alone.
            **_: what a model at hand is told besides: a server has it from `extra`.
        """
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(prompt)}],
            "seed": seed,
            "extra_body": {"modalities": _TEXT if max_images == 0 else _BOTH, **self._extra},
        }
        place = self._place(request)
        if place is not None and place.exists():
            return InterleavedOutput.load(place)
        output = self._answer(request)
        if place is not None:
            output.save(place)
        return output

    def _place(self, request: Mapping[str, Any]) -> Path | None:
        if self._kept is None:
            return None
        said = json.dumps([str(self._client.base_url), request], sort_keys=True)
        return self._kept / f"{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"

    def _answer(self, request: Mapping[str, Any]) -> InterleavedOutput:
        if self._in_parts:
            asked = {**request["extra_body"], "content_format": "parts"}
            with suppress(self._refused):
                told = self._client.chat.completions.create(**{**request, "extra_body": asked})
                message, ending = told.choices[0].message, told.choices[0]
                if not (isinstance(message.content, str) and getattr(message, "images", None)):
                    thought = getattr(message, "reasoning_content", None)
                    return _output(_parts(message), thought, _reason(ending))
            self._in_parts = False
        return _streamed(self._client.chat.completions.create(**request, stream=True))


def _content(prompt: Any) -> str | list[Mapping[str, Any]]:
    if isinstance(prompt, str):
        return prompt
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": _data_url(part)}}
        for part in prompt
    ]


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _parts(message: Any) -> Iterator[Item]:
    if isinstance(message.content, str):
        yield message.content
        return
    for part in message.content or ():
        yield part["text"] if part["type"] == "text" else _picture(part)


def _streamed(chunks: Iterable[Any]) -> InterleavedOutput:
    items: list[Item] = []
    thought, reason = "", "error"
    for chunk in chunks:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            if choice.delta.content:
                items.append(choice.delta.content)
            items.extend(map(_picture, getattr(choice.delta, "images", None) or ()))
            if choice.finish_reason is not None:
                reason = _reason(choice)
    return _output(items, thought, reason)


def _picture(part: Any) -> Image.Image:
    """Return a picture as the judge reads it, whatever its size.

    Raises:
        ValueError: if the server gives an address in place of the picture.
    """
    url = part["image_url"]["url"]
    head, comma, content = url.partition(",")
    if not (comma and head.startswith("data:")):
        raise ValueError(f"pictures must come as data: URLs, got {url[:60]!r}")
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        picture = pil_img2rgb(opened)
    size = (PICTURE_SIZE, PICTURE_SIZE)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)


def _reason(choice: Any) -> FinishReason:
    """Return why an answer ended, in our words; a server of ours says it in them."""
    own = getattr(choice, "native_finish_reason", None)
    if own in get_args(FinishReason):
        return own
    return _ENDINGS.get(choice.finish_reason, "error")


def _output(items: Iterable[Item], thought: str | None, reason: FinishReason) -> InterleavedOutput:
    segments = [Segment(kind="text", role="thought", text=thought)] if thought else []
    segments += [
        Segment(kind="text", role="generated", text=item)
        if isinstance(item, str)
        else Segment(kind="image", role="generated", image=item)
        for item in items
    ]
    return InterleavedOutput.from_segments(segments, finish_reason=reason)
