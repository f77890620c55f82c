"""Reading a decoded request of each wire type into a ``Call`` (``api.call``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from trustgate.gateway.api.body_faults import missing
from trustgate.gateway.api.body_ids import items_named
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.members import largest
from trustgate.gateway.api.schemas import (
    BatchRequest,
    ChatRequest,
    CompletionRequest,
    ContainerFileRequest,
    CountTokensRequest,
    EmbeddingRequest,
    FileRequest,
    Identified,
    ImageRequest,
    ItemsRequest,
    MessageBatchRequest,
    MessagesRequest,
    Modelled,
    ModelRequired,
    ModerationRequest,
    Nothing,
    RerankRequest,
    ResponsesRequest,
    SpeechRequest,
    TokenizeRequest,
    TranscriptionRequest,
    VariationRequest,
    VoiceRequest,
)
from trustgate.models.estimate import estimate_chat, estimate_input, estimate_tokens
from trustgate.models.prices import CONDITION_MOST
from trustgate.models.stand_in import characters_in
from trustgate.types import PROMPT_PREFIX

# chat, completions, embeddings


def read_chat(request: ChatRequest) -> Call:
    messages = request.messages
    texts: list[str] = []
    images = tools_bytes = 0
    features: list[str] = []
    part_types: set[str] = set()
    for message in messages:
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
        if message.tool_calls:
            tools_bytes += _size(message.tool_calls)
    if request.tools or request.functions:
        features.append("tools")
        tools_bytes += _size((*(request.tools or ()), *(request.functions or ())))
    if part_types:
        features += _features_of(part_types)
    if request.modalities and "audio" in request.modalities and "audio" not in features:
        features.append("audio")
    if request.response_format is not None and request.response_format.get("type") != "text":
        features.append("structured_outputs")
    if request.logprobs:
        features.append("logprobs")
    prompt_tokens = estimate_chat(texts, messages=len(messages), images=images, tools_bytes=tools_bytes)
    bounds = _NO_BOUNDS
    if request.max_tokens is not None or request.max_completion_tokens is not None:
        bounds = _given(max_tokens=request.max_tokens, max_completion_tokens=request.max_completion_tokens)
    return _generation(
        request,
        features,
        bounds,
        prompt_tokens,
        int(request.n or 1),
        messages=len(messages),
        has_parts=bool(part_types),
        stored=bool(request.store),
        inner_models=_models_of(tool for tool in request.tools if not _is_function(bytes(tool)))
        if request.tools
        else (),
    )


Bounds = tuple[tuple[str, float], ...]
_NO_BOUNDS: Bounds = ()


def _given(**bounds: float | None) -> Bounds:
    return tuple((name, value) for name, value in bounds.items() if value is not None)


def read_completion(request: CompletionRequest) -> Call:
    features = ["logprobs"] if request.logprobs else []
    prompts = len(request.prompt) if isinstance(request.prompt, list) and request.prompt else 1
    if isinstance(request.prompt, list) and request.prompt and isinstance(request.prompt[0], int):
        prompts = 1
    choices = int(max(request.n or 1, request.best_of or 1)) * prompts
    bounds = _given(max_tokens=request.max_tokens)
    return _generation(request, features, bounds, estimate_input(request.prompt or ""), choices)


def read_embedding(request: EmbeddingRequest) -> Call:
    return Call(model=request.model, prompt_tokens=estimate_input(request.input), choices=0)


def _generation(
    request: ChatRequest | CompletionRequest,
    features: list[str],
    bounds: Bounds,
    prompt_tokens: int,
    choices: int,
    *,
    messages: int = 0,
    has_parts: bool = False,
    stored: bool = False,
    inner_models: tuple[str, ...] = (),
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
        max_tokens=largest(bounds) if bounds else None,
        bounds=bounds,
        choices=choices,
        messages=messages,
        has_parts=has_parts,
        stored=stored,
        inner_models=inner_models,
        prompt_tokens=prompt_tokens,
        features=tuple(features),
        include_usage=options is not None and options.include_usage is True,
        service_tier=(request.service_tier or "")[:CONDITION_MOST],
    )


# responses and messages


def read_response(request: ResponsesRequest) -> Call:
    items: list[Any] = request.input if isinstance(request.input, list) else [request.input]
    walk = _Walk([*items, request.instructions])
    features = walk.features
    if request.tools:
        features.append("tools")
    if (request.text or {}).get("format") and (request.text or {})["format"] != {"type": "text"}:
        features.append("structured_outputs")
    if request.top_logprobs:
        features.append("logprobs")
    if request.background:
        features.append("background")
    if request.stream:
        features.append("streaming")
    previous = request.previous_response_id
    conversation = request.conversation.id if isinstance(request.conversation, Identified) else request.conversation
    bounds = _given(max_output_tokens=request.max_output_tokens)
    prompt = None if request.prompt is None else request.prompt.get("id")
    # A stored prompt's own model is known to its upstream alone. So it is asked with the one that is known here by the
    # prompt's id: what is allowed, held and priced is what answers (OpenAI API reference, "Create a response").
    model = request.model or (PROMPT_PREFIX + prompt if isinstance(prompt, str) and prompt else "")
    return Call(
        model=model,
        invalid=None if model else missing("model"),
        stream=request.stream is True,
        max_tokens=largest(bounds),
        bounds=bounds,
        prompt_tokens=walk.prompt_tokens(len(items), request.tools or ()),
        features=tuple(features),
        service_tier=(request.service_tier or "")[:CONDITION_MOST],
        inner_models=_models_of(request.tools or ()),
        uses=(
            *((("response", previous),) if previous else ()),
            *((("conversation", conversation),) if conversation else ()),
            *items_named(items),
        ),
        # A stored prompt is its operator's: it is made where the gateway does not see it.
        steering=("prompt",) if prompt is not None else (),
    )


def _is_function(tool: bytes) -> bool:
    """Returns whether a tool of a chat request is the caller's own function, as nearly all are, from how it begins.

    One with two ``type`` members is another to a server that takes the last: the type that has a model is looked for.
    """
    return tool.startswith(_FUNCTION) and b"image_generation" not in tool and b"\\u" not in tool


_FUNCTION = (b'{"type":"function"', b'{"type": "function"')


def _models_of(tools: Iterable[msgspec.Raw]) -> tuple[str, ...]:
    """Returns the models that an upstream's own tools are to use (images that are made, advice)."""
    found: dict[str, None] = {}
    for tool in tools:
        raw = bytes(tool)
        if raw[:1] == b"{" and (b"model" in raw or b"\\" in raw):
            members = msgspec.json.decode(raw)
            if isinstance(members.get("model"), str):
                found[members["model"]] = None
    return tuple(found)


def read_count(request: CountTokensRequest) -> Call:
    return msgspec.structs.replace(_read_messages(request), choices=0)


def read_messages(request: MessagesRequest) -> Call:
    call = _read_messages(request)
    features = (*call.features, "streaming") if request.stream else call.features
    return msgspec.structs.replace(
        call,
        max_tokens=int(request.max_tokens),
        bounds=(("max_tokens", request.max_tokens),),
        stream=request.stream is True,
        features=features,
    )


def _read_messages(request: CountTokensRequest) -> Call:
    walk = _Walk([request.system, *(message.content for message in request.messages)])
    features = [*walk.features, *(["tools"] if request.tools else [])]
    prompt_tokens = walk.prompt_tokens(len(request.messages), request.tools or ())
    return Call(
        model=request.model,
        prompt_tokens=prompt_tokens,
        messages=len(request.messages),
        has_parts=any(not isinstance(message.content, str) for message in request.messages),
        inner_models=_models_of(request.tools or ()),
        features=tuple(features),
    )


class _Walk:
    """Every text in a request's items and what kinds of parts they have, however deep they stand."""

    def __init__(self, values: list[Any]) -> None:
        self._texts: list[str] = []
        self._images = 0
        types: set[str] = set()
        # A list of what is left instead of recursion: callers choose the depth.
        left = list(values)
        while left:
            value = left.pop()
            if isinstance(value, str):
                self._texts.append(value)
            elif isinstance(value, list):
                left.extend(value)
            elif isinstance(value, dict):
                kind = value.get("type")
                if isinstance(kind, str):
                    types.add(kind)
                    self._images += kind in _VISION_PARTS
                left.extend(value[name] for name in _TEXT_MEMBERS if name in value)
        self.features = _features_of(types)

    def prompt_tokens(self, messages: int, tools: Sequence[msgspec.Raw]) -> int:
        return estimate_chat(self._texts, messages=messages, images=self._images, tools_bytes=_size(tools))


#: Members of items and parts that hold text, or further parts.
_TEXT_MEMBERS = ("content", "text", "output", "arguments", "summary", "input", "thinking", "refusal")
_VISION_PARTS = frozenset({"image_url", "input_image", "image"})
_FEATURE_OF_PART = {
    **dict.fromkeys(_VISION_PARTS, "vision"),
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
    "document": "files",
}


def _features_of(part_types: set[str]) -> list[str]:
    found = {_FEATURE_OF_PART[kind] for kind in part_types if kind in _FEATURE_OF_PART}
    return [feature for feature in ("vision", "audio", "files") if feature in found]


def _size(raws: Sequence[msgspec.Raw]) -> int:
    return sum(map(len, map(bytes, raws)))


# the others


def read_moderation(request: ModerationRequest) -> Call:
    walk = _Walk([request.input])
    return Call(model=request.model, prompt_tokens=walk.prompt_tokens(0, ()), features=tuple(walk.features), choices=0)


def read_rerank(request: RerankRequest) -> Call:
    documents = sum(estimate_tokens(document) for document in _texts_of(request.documents))
    query = sum(estimate_tokens(text) for text in _texts_of([request.query]))
    return Call(model=request.model, prompt_tokens=documents + query * len(request.documents), choices=0)


def _texts_of(values: Sequence[str | dict[str, Any]]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            yield from (text for text in value.values() if isinstance(text, str))


def read_image(request: ImageRequest) -> Call:
    return Call(
        model=request.model,
        stream=request.stream is True,
        prompt_tokens=estimate_tokens(request.prompt),
        choices=0,
        images=int(request.n or 1),
        image_size=(request.size or "")[:CONDITION_MOST],
        image_quality=(request.quality or "")[:CONDITION_MOST],
        features=("streaming",) if request.stream else (),
    )


def read_speech(request: SpeechRequest) -> Call:
    stream = request.stream_format == "sse"
    return Call(
        model=request.model,
        stream=stream,
        prompt_tokens=estimate_tokens(request.input),
        choices=0,
        characters=characters_in(request.input),
        features=("audio", "streaming") if stream else ("audio",),
    )


def read_transcription(request: TranscriptionRequest) -> Call:
    return Call(
        model=request.model,
        stream=request.stream is True,
        prompt_tokens=estimate_tokens(request.prompt or ""),
        choices=0,
        features=("audio", "streaming") if request.stream else ("audio",),
    )


def read_file(request: FileRequest) -> Call:
    return Call(model="", choices=0, features=("files",))


def read_batch(request: BatchRequest) -> Call:
    return Call(model="", choices=0, uses=(("file", request.input_file_id),))


def read_message_batch(request: MessageBatchRequest) -> Call:
    """What its requests ask for is read of each by itself (``path.batch_lines``)."""
    return Call(model="", choices=0)


def read_tokenize(request: TokenizeRequest) -> Call:
    walk = _Walk([request.prompt, request.content, *(message.get("content") for message in request.messages or ())])
    texts = walk.prompt_tokens(len(request.messages or ()), request.tools or ())
    return Call(model=request.model, prompt_tokens=texts + len(request.tokens or ()), choices=0)


def read_variation(request: VariationRequest) -> Call:
    return Call(
        model=request.model, choices=0, images=int(request.n or 1), image_size=(request.size or "")[:CONDITION_MOST]
    )


def read_resource(request: Nothing | Modelled | ModelRequired) -> Call:
    stream = getattr(request, "stream", None) is True
    return Call(
        model=getattr(request, "model", None) or "",
        stream=stream,
        choices=0,
        features=("streaming",) if stream else (),
    )


def read_items(request: ItemsRequest) -> Call:
    return Call(model="", choices=0, uses=items_named(request.items or ()))


def read_container_file(request: ContainerFileRequest) -> Call:
    return Call(model="", choices=0, uses=(("file", request.file_id),) if request.file_id else ())


def read_voice(request: VoiceRequest) -> Call:
    return Call(model="", choices=0, uses=(("voice_consent", request.consent),))


def read_nothing(request: Nothing) -> Call:
    return Call(model="", choices=0)
