"""The members of OpenAI requests that TrustGate reads. All others pass through unread.

Strict: a member named here has the type of the OpenAI API reference or the request is refused with the member's
name. ``null`` means "not given", as the SDKs send it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Tokens = Annotated[int, msgspec.Meta(ge=0)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=128)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Part(msgspec.Struct, frozen=True):
    """One part of a multimodal message; what it holds besides text is the upstream's to read."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and text completions share."""

    model: ModelName
    max_tokens: Tokens | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None


class ChatRequest(Generation, frozen=True, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None


class CompletionRequest(Generation, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    best_of: Choices | None = None
    logprobs: int | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName
    input: str | list[str | int | list[int]]
    dimensions: Count | None = None
    encoding_format: str | None = None
    user: str | None = None


class ModelOnly(msgspec.Struct, frozen=True):
    """What can be read of a request that is otherwise wrong."""

    model: Any = None
