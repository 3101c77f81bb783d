"""Requests for responses: their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from auto_interleaved.serving.errors import bad_request
from auto_interleaved.serving.fields import Several, Strict, Told, with_options
from auto_interleaved.serving.inputs import Input, Picture, Text


class TextContent(Strict):
    """A text, of the client's or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ImageContent(Strict):
    """A picture, in a `data:` URL."""

    type: Literal["input_image"]
    image_url: str
    detail: str | None = None
    file_id: None = None


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Several[Content]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    def inputs(self, place: str) -> Iterator[Input]:
        """Yield what is read of it, in order."""
        if isinstance(self.content, str):
            yield Text(text=self.content, place=f"{place}.content")
            return
        for number, part in enumerate(self.content):
            where = f"{place}.content[{number}]"
            if isinstance(part, TextContent):
                yield Text(text=part.text, place=where)
            else:
                yield Picture(source=part.image_url, place=where)


class ImageItem(Strict):
    """A picture that was drawn, as an earlier response gave it."""

    type: Literal["image_generation_call"]
    id: str | None = None
    status: str | None = None
    result: str | None = None
    url: str | None = None
    size: str | None = None
    seed: int | None = None
    output_format: str | None = None
    quality: str | None = None
    background: str | None = None
    action: str | None = None
    revised_prompt: str | None = None

    def inputs(self, place: str) -> Iterator[Input]:
        """Yield the picture."""
        if self.result is not None:
            yield Picture(source=f"data:;base64,{self.result}", place=f"{place}.result")
        elif self.url is not None:
            yield Picture(source=self.url, place=f"{place}.url")
        elif self.status != "failed":
            raise bad_request(f"{place} has no result: a picture must come with it", place)


class ReasoningItem(Strict):
    """A plan of an earlier response; it is not read again."""

    type: Literal["reasoning"]
    id: str | None = None
    status: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None

    def inputs(self, _: str) -> Iterator[Input]:
        """Yield nothing."""
        yield from ()


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, Mapping) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ImageItem, Tag("image_generation_call")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


class ImageTool(Strict):
    """How pictures are to be drawn."""

    type: Literal["image_generation"]
    size: str | None = None
    partial_images: int | None = Field(None, ge=0, le=3)
    output_format: Literal["png", "jpeg", "webp"] | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_compression: int | None = None
    input_fidelity: str | None = None
    model: str | None = None
    action: str | None = None


class ResponseFields(Told):
    """A request for a response. Options of the library may stand beside these fields."""

    input: str | Several[Item]
    instructions: str | None = None
    tools: list[ImageTool] | None = Field(None, max_length=1)
    tool_choice: Any = None
    max_tool_calls: int | None = Field(None, ge=1)
    previous_response_id: str | None = Field(None, max_length=200)
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    truncation: str | None = None
    include: Several[str] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    service_tier: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    top_logprobs: int | None = None


ResponseRequest = with_options(ResponseFields)

# Values of fields that a format knows and this server does not do, that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("auto", "none"),
    "truncation": ("disabled",),
    "include": ([],),
    "reasoning": ({}, {"effort": "none"}, {"effort": None, "summary": None}),
    "text": ({}, {"format": {"type": "text"}}),
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "top_logprobs": (0,),
}
TOOL_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quality": ("auto",),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_compression": (100,),
    "input_fidelity": (),
    "action": ("auto",),
}
