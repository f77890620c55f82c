"""The members of OpenAI requests that TrustGate reads. All others pass through unread.

Strict: a member named here has the type of the OpenAI API reference or the request is refused with the member's
name. ``null`` means "not given", as the SDKs send it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

#: JSON Schema's integers: 100.0 is one (draft 2020-12, validation, section 6.1.1).
Integer = int | Annotated[float, msgspec.Meta(multiple_of=1)]
Count = Annotated[int, msgspec.Meta(ge=1)] | Annotated[float, msgspec.Meta(ge=1, multiple_of=1)]
#: A bound in tokens, as servers take it: -1 is "no bound" (llama.cpp, Ollama), a float must be whole (100.0).
Tokens = Annotated[int, msgspec.Meta(ge=-1, le=2**53)] | Annotated[float, msgspec.Meta(ge=-1, le=2**53, multiple_of=1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=128)] | Annotated[float, msgspec.Meta(ge=1, le=128, multiple_of=1)]
#: Of members for which 0 means "not given".
MaybeChoices = Annotated[int, msgspec.Meta(ge=0, le=128)] | Annotated[float, msgspec.Meta(ge=0, le=128, multiple_of=1)]
#: OpenAI API reference, "Metadata": texts. Other servers take plain numbers and booleans as well.
Metadata = dict[str, str | int | float | bool | None]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Identified(msgspec.Struct, frozen=True):
    """An object of an upstream's, named by its id."""

    id: str


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
    service_tier: str | None = None


class ChatRequest(Generation, frozen=True, kw_only=True):
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    store: bool | None = None


class CompletionRequest(Generation, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    best_of: MaybeChoices | None = None
    logprobs: Integer | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName
    input: str | list[str | int | list[int]]
    dimensions: Count | None = None
    encoding_format: str | None = None
    user: str | None = None


class ModelOnly(msgspec.Struct, frozen=True):
    """What can be read of a request that is otherwise wrong."""

    model: Any = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/responses``. Its input's items have many shapes; what matters of them is found by walking them."""

    #: Absent where a stored prompt is to say it.
    model: ModelName | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | list[dict[str, Any]] | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | Identified | None = None
    prompt: dict[str, Any] | None = None
    tools: list[msgspec.Raw] | None = None
    text: dict[str, Any] | None = None
    top_logprobs: Integer | None = None
    temperature: float | None = None
    top_p: float | None = None
    service_tier: str | None = None


class InputTokensRequest(ResponsesRequest, frozen=True, kw_only=True):
    """``POST /v1/responses/input_tokens`` and ``/compact``: neither generates an answer that a bound applies to."""


class AnthropicMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[dict[str, Any]]


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/messages/count_tokens`` (Anthropic API reference, "Messages")."""

    model: ModelName
    messages: Annotated[list[AnthropicMessage], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[msgspec.Raw] | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """``POST /v1/messages``."""

    max_tokens: (
        Annotated[int, msgspec.Meta(ge=0, le=2**53)] | Annotated[float, msgspec.Meta(ge=0, le=2**53, multiple_of=1)]
    )
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None


class MessageBatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/messages/batches`` (Anthropic API reference, "Message Batches")."""

    requests: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=100_000)]


class BatchedMessage(msgspec.Struct, frozen=True):
    """One of its requests."""

    custom_id: str
    params: msgspec.Raw


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /tokenize`` and ``/detokenize``, as vLLM has them; ``content``: llama.cpp's word for the text."""

    model: ModelName
    prompt: str | None = None
    content: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[msgspec.Raw] | None = None
    tokens: list[int] | None = None


class ModerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName = "omni-moderation-latest"
    input: str | list[str | dict[str, Any]]


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/rerank``, as Cohere, Jina, vLLM and LiteLLM have it."""

    model: ModelName
    query: str | dict[str, Any]
    documents: Annotated[list[str | dict[str, Any]], msgspec.Meta(min_length=1)]
    top_n: Count | None = None


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/images/generations`` and, as a form, ``/v1/images/edits``. Defaults: OpenAI API reference."""

    model: ModelName = "dall-e-2"
    prompt: str
    n: Choices | None = None
    stream: bool | None = None
    size: str | None = None
    quality: str | None = None
    response_format: str | None = None


class VariationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form of ``/v1/images/variations``."""

    model: ModelName = "dall-e-2"
    n: Choices | None = None
    size: str | None = None
    response_format: str | None = None


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName
    input: str
    voice: str | dict[str, Any] | None = None
    response_format: str | None = None
    stream_format: str | None = None
    speed: float | None = None


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form of ``/v1/audio/transcriptions`` and ``/translations``."""

    model: ModelName
    stream: bool | None = None
    response_format: str | None = None
    prompt: str | None = None
    temperature: float | None = None


class FileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form of ``/v1/files``."""

    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    input_file_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    endpoint: str
    completion_window: str


class Nothing(msgspec.Struct, frozen=True):
    """A request without a body, or one whose body does not matter here."""


class Modelled(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the body of a resource whose calls may name a model (``api.resources``)."""

    model: ModelName | None = None


class Streamable(Modelled, frozen=True, kw_only=True):
    stream: bool | None = None


class ModelRequired(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName


class ItemsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of what is put into a conversation."""

    items: list[dict[str, Any]] | None = None


class ContainerFileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the form, or the JSON, of ``/v1/containers/{id}/files``: a file, or the id of one."""

    file_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None


class VoiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form of ``/v1/audio/voices``."""

    #: The id of the speaker's consent.
    consent: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
