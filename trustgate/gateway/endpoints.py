"""The endpoints the path serves, each described once: route, wire type, what to hold and what to gate.

Owns the reading of a request body into a ``Call``: the few facts that plan, quota and routing decide by. A body that
is JSON but breaks the wire type still gives a ``Call`` (with what could be read) and the refusal, which the path
delivers at its sixth step, after authentication, plan and quota have spoken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from trustgate.errors import InvalidRequest
from trustgate.gateway.wire import ChatRequest, CompletionRequest, EmbeddingRequest, ModelOnly
from trustgate.models.estimate import estimate_chat, estimate_input


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, as far as the gateway must know."""

    model: str
    stream: bool = False
    #: The client's own bound on one completion, in tokens; None when it set none.
    max_tokens: int | None = None
    choices: int = 1
    prompt_tokens: int = 0
    features: tuple[str, ...] = ()
    #: The client itself asked for the usage chunk at the end of its stream.
    include_usage: bool = False
    #: Set when the body breaks the wire type: what the sixth step raises.
    invalid: InvalidRequest | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One route of the path. ``name`` is what plans and receipts call it."""

    name: str
    path: str
    #: Where the upstream serves it, below its base URL.
    upstream_path: str
    decoder: msgspec.json.Decoder[Any]
    read: Callable[[Any, int], Call]
    #: Whether the answer holds generated tokens that a bound applies to.
    generates: bool = True
    #: The member that bounds the completion when the gateway has to set one.
    max_tokens_member: str = "max_tokens"

    def peek(self, body: bytes) -> Call:
        """Read a body once. Raises ``InvalidRequest`` when it is not a JSON object in UTF-8."""
        try:
            return self.read(self.decoder.decode(body), len(body))
        except msgspec.ValidationError as error:
            return Call(
                model=_readable_model(body), prompt_tokens=estimate_tokens_of_bytes(len(body)), invalid=_invalid(error)
            )
        except RecursionError:
            raise InvalidRequest("The JSON body is nested too deeply.", code="invalid_json") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"We could not parse the JSON body of your request: {_json_fault(body, error)}.", code="invalid_json"
            ) from None


def estimate_tokens_of_bytes(size_bytes: int) -> int:
    return -(-size_bytes // 4)


# reading each wire type


def _read_chat(request: ChatRequest, size_bytes: int) -> Call:
    texts: list[str] = []
    images = 0
    features = []
    part_types: set[str] = set()
    for message in request.messages:
        content = message.content
        if isinstance(content, str):
            texts.append(content)
        elif content is not None:
            for part in content:
                part_types.add(part.type)
                if part.text is not None:
                    texts.append(part.text)
                elif part.type in _VISION_PARTS:
                    images += 1
    tools_bytes = 0
    if request.tools or request.functions:
        features.append("tools")
        tools_bytes = sum(map(len, map(bytes, (*(request.tools or ()), *(request.functions or ())))))
    for message in request.messages:
        if message.tool_calls:
            tools_bytes += sum(map(len, map(bytes, message.tool_calls)))
    if part_types:
        if not part_types.isdisjoint(_VISION_PARTS):
            features.append("vision")
        if "input_audio" in part_types:
            features.append("audio")
        if "file" in part_types:
            features.append("files")
    if request.modalities and "audio" in request.modalities and "audio" not in features:
        features.append("audio")
    if request.response_format is not None and request.response_format.get("type") != "text":
        features.append("structured_outputs")
    if request.logprobs:
        features.append("logprobs")
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    prompt_tokens = estimate_chat(texts, messages=len(request.messages), images=images, tools_bytes=tools_bytes)
    return _generation(request, features, limit, prompt_tokens, request.n or 1)


def _read_completion(request: CompletionRequest, size_bytes: int) -> Call:
    features = ["logprobs"] if request.logprobs else []
    prompts = len(request.prompt) if isinstance(request.prompt, list) and request.prompt else 1
    if isinstance(request.prompt, list) and request.prompt and isinstance(request.prompt[0], int):
        prompts = 1
    choices = max(request.n or 1, request.best_of or 1) * prompts
    return _generation(request, features, request.max_tokens, estimate_input(request.prompt or ""), choices)


def _read_embedding(request: EmbeddingRequest, size_bytes: int) -> Call:
    return Call(model=request.model, prompt_tokens=estimate_input(request.input), choices=0)


def _generation(
    request: ChatRequest | CompletionRequest,
    features: list[str],
    max_tokens: int | None,
    prompt_tokens: int,
    choices: int,
) -> Call:
    stream = request.stream is True
    if stream:
        features.append("streaming")
    if (request.n or 1) > 1:
        features.append("multiple_choices")
    options = request.stream_options
    return Call(
        model=request.model,
        stream=stream,
        max_tokens=max_tokens,
        choices=choices,
        prompt_tokens=prompt_tokens,
        features=tuple(features),
        include_usage=options is not None and options.include_usage is True,
    )


_VISION_PARTS = frozenset({"image_url", "input_image", "image"})


# explaining what is wrong


def _readable_model(body: bytes) -> str:
    try:
        model = msgspec.json.decode(body, type=ModelOnly).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""


_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec's ``Expected `int`, got `str` - at `$.max_tokens``` as an error that names the member."""
    text = str(error)
    where = _PATH.search(text)
    # msgspec does not tell the key of a mapping: ``metadata[...]`` becomes ``metadata[]``.
    param = where.group(1).replace("[...]", "[]") if where else None
    message = text[: where.start()] if where else text
    missing = re.search(r"missing required field `(\w+)`", message)
    if missing:
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if param:
        return InvalidRequest(f"Invalid value for '{param}': {message}.", param=param, code="invalid_value")
    return InvalidRequest(f"The body must be a JSON object with the request's parameters: {message}.")


def _json_fault(body: bytes, error: Exception) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as unicode_error:
        return f"it is not valid UTF-8 (byte {unicode_error.start})"
    if re.search(rb"\\u[dD][89a-fA-F]", body) and "truncated" in str(error):
        return "a string holds half of a surrogate pair"
    if not body.strip():
        return "it is empty"
    return str(error).removeprefix("JSON is malformed: ")


# the table

ENDPOINTS = (
    Endpoint(
        name="chat.completions",
        path="/v1/chat/completions",
        upstream_path="/chat/completions",
        decoder=msgspec.json.Decoder(ChatRequest),
        read=_read_chat,
        max_tokens_member="max_completion_tokens",
    ),
    Endpoint(
        name="completions",
        path="/v1/completions",
        upstream_path="/completions",
        decoder=msgspec.json.Decoder(CompletionRequest),
        read=_read_completion,
    ),
    Endpoint(
        name="embeddings",
        path="/v1/embeddings",
        upstream_path="/embeddings",
        decoder=msgspec.json.Decoder(EmbeddingRequest),
        read=_read_embedding,
        generates=False,
    ),
)
