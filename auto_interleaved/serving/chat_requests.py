"""Requests for chat completions: their fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from auto_interleaved.serving.fields import Several, Strict, Told, with_options
from auto_interleaved.serving.inputs import Input, Picture, Text


class TextPart(Strict):
    """A text."""

    type: Literal["text"]
    text: str
    cache_control: Any = None


class ImageUrl(Strict):
    """Where a picture is: in a `data:` URL."""

    url: str
    detail: str | None = None


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl | str
    index: int | None = None
    size: str | None = None
    seed: int | None = None


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Strict):
    """A message: of the client's, or an earlier answer as it came.

    What else an answer has is no part of what is read: plans, and notes of other servers.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Several[Part] | None = None
    images: Several[ImagePart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)

    def inputs(self, place: str) -> Iterator[Input]:
        """Yield what is read of it, in order."""
        if isinstance(self.content, str):
            yield Text(text=self.content, place=f"{place}.content")
        parts = self.content if isinstance(self.content, list) else []
        for name, several in (("content", parts), ("images", self.images or [])):
            for number, part in enumerate(several):
                where = f"{place}.{name}[{number}]"
                if isinstance(part, TextPart):
                    yield Text(text=part.text, place=where)
                else:
                    url = part.image_url
                    yield Picture(source=url if isinstance(url, str) else url.url, place=where)


class ImageConfig(Strict):
    """What pictures are to be like."""

    aspect_ratio: str | None = None


class StreamOptions(Strict):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatFields(Told):
    """A request for a chat completion. Options of the library may stand beside these fields."""

    messages: Several[Message] = Field(min_length=1)
    modalities: Several[Literal["text", "image"]] | None = None
    content_format: Literal["text", "parts"] = Field(
        "text", description='"parts": content is a list of texts and pictures in order'
    )
    image_config: ImageConfig | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | Several[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    store: bool | None = None
    reasoning_effort: str | None = None


ChatRequest = with_options(ChatFields)

# Values of fields that a format knows and this server does not do, that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "store": (False,),
    "reasoning_effort": ("none",),
}
