"""Chat completions and completions of the built-in model.

Owns the forms of both, whole and streamed. Sources: OpenAI API reference, "Chat Completions", "Streaming",
"Completions".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from trustgate.models.echo.answering import EchoAnswer, EchoPrompt, EchoTool, answer, audio_tokens, bytes_of
from trustgate.models.echo.forms import (
    ECHO_MODEL,
    EchoRefusal,
    check_model,
    check_range,
    data_frames,
    decode,
    json_response,
    made_id,
    stream_response,
)
from trustgate.models.estimate import estimate_input

_MAX_CHOICES = 128

#: A text, several, token ids, or several lists of them.
TextInput = str | list[str | int | list[int]]
_FINISHES = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tools": "tool_calls"}


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""
    input_audio: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    def parts(self) -> list[_Part]:
        return self.content if isinstance(self.content, list) else []


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Generation(msgspec.Struct):
    """What chats and completions have in common."""

    model: str
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    def word_limit(self) -> int | None:
        return self.max_tokens

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class _Chat(_Generation, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    def word_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class _Completion(_Generation, kw_only=True):
    prompt: TextInput


class _Form(msgspec.Struct, frozen=True):
    """How chats and completions differ on the wire."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    chat: bool

    def whole_choice(self, index: int, answered: EchoAnswer) -> dict[str, Any]:
        content: dict[str, Any] = {"text": answered.text}
        if self.chat:
            said = {"role": "assistant", "content": None if answered.calls else answered.text, "refusal": None}
            content = {"message": {**said, "tool_calls": _tool_calls(answered)} if answered.calls else said}
        return {"index": index, **content, "logprobs": None, "finish_reason": _FINISHES[answered.ending]}

    def chunk_choices(self, index: int, answered: EchoAnswer) -> Iterator[dict[str, Any]]:
        """Yields the choice in chunks: the role (of a chat), its words or calls, and why it ended."""
        pieces: list[dict[str, Any]]
        if self.chat:
            content = None if answered.calls else ""
            pieces = [{"delta": {"role": "assistant", "content": content, "refusal": None}}]
            pieces += [{"delta": {"content": word}} for word in answered.words]
            for number, call in enumerate(_tool_calls(answered)):
                arguments = call["function"]["arguments"]
                begun = {"index": number, **call, "function": {**call["function"], "arguments": ""}}
                pieces.append({"delta": {"tool_calls": [begun]}})
                pieces.append({"delta": {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}})
            end: dict[str, Any] = {"delta": {}}
        else:
            pieces = [{"text": word} for word in answered.words]
            end = {"text": ""}
        for piece in pieces:
            yield {"index": index, **piece, "logprobs": None, "finish_reason": None}
        yield {"index": index, **end, "logprobs": None, "finish_reason": _FINISHES[answered.ending]}


_CHAT_FORM = _Form("chatcmpl", "chat.completion", "chat.completion.chunk", True)
_COMPLETION_FORM = _Form("cmpl", "text_completion", "text_completion", False)


def _tool_calls(answered: EchoAnswer) -> list[dict[str, Any]]:
    return [
        {"id": made_id("call"), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answered.calls
    ]


def chat(body: bytes) -> httpx.Response:
    """Returns a chat completion. Raises ``EchoRefusal``."""
    request = decode(body, _chat_decoder)
    if not request.messages:
        raise EchoRefusal(400, "messages must not be empty.", "empty_array", "messages")
    asked = _read_chat(request)
    return _generate(request, [asked], asked.prompt_tokens(), _CHAT_FORM)


def _read_chat(request: _Chat) -> EchoPrompt:
    texts = [message.text() for message in request.messages]
    by_user = [text for message, text in zip(request.messages, texts, strict=True) if message.role == "user"]
    parts = [part for message in request.messages for part in message.parts()]
    results: list[str] = []
    for message, text in zip(reversed(request.messages), reversed(texts), strict=True):
        if message.role not in ("tool", "function"):
            break
        results.insert(0, text)
    earlier = (call for message in request.messages for call in message.tool_calls or ())
    return EchoPrompt(
        texts=texts,
        messages=len(texts),
        images=sum(part.type == "image_url" for part in parts),
        audio_tokens=sum(audio_tokens((part.input_audio or {}).get("data")) for part in parts),
        tools_bytes=bytes_of(request.tools) + bytes_of(earlier),
        user_text=by_user[-1] if by_user else "",
        results=results or None,
        tools=_tools(request.tools),
        choice=_choice(request.tool_choice),
        parallel=request.parallel_tool_calls is not False,
        schema=_schema(request.response_format),
    )


def _tools(tools: list[dict[str, Any]] | None) -> list[EchoTool]:
    functions = (tool.get("function") for tool in tools or ())
    return [
        EchoTool(str(function.get("name", "")), function.get("parameters") or {})
        for function in functions
        if isinstance(function, dict)
    ]


def _choice(choice: str | dict[str, Any] | None) -> str:
    if not isinstance(choice, dict):
        return choice or "auto"
    function = choice.get("function")
    return f"={function.get('name')}" if isinstance(function, dict) else "auto"


def _schema(response_format: dict[str, Any] | None) -> Any:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
        case {"type": "json_object" | "json_schema"}:
            return {}
    return None


def complete(body: bytes) -> httpx.Response:
    """Returns a completion: each prompt repeated. Raises ``EchoRefusal``."""
    request = decode(body, _completion_decoder)
    prompts = [EchoPrompt(user_text=text) for text in texts_of(request.prompt, "prompt")]
    return _generate(request, prompts, estimate_input(request.prompt), _COMPLETION_FORM)


def texts_of(value: TextInput, param: str) -> list[str]:
    """Returns the texts of a prompt or input. Token ids stand for themselves, written out."""
    if isinstance(value, str):
        return [value]
    if not value:
        raise EchoRefusal(400, f"{param} must not be empty.", "empty_array", param)
    token_ids = [item for item in value if isinstance(item, int)]
    if token_ids:
        return [" ".join(map(str, token_ids))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value if not isinstance(item, int)]


def _generate(request: _Generation, asked: list[EchoPrompt], prompt_tokens: int, form: _Form) -> httpx.Response:
    """``n`` choices for each prompt, whole or streamed."""
    check_model(request.model)
    limit = request.word_limit()
    check_range("max_tokens", limit, 1)
    check_range("n", request.n, 1, _MAX_CHOICES)
    choices = []
    for each in asked:
        each.limit, each.stops = limit, request.stops()
        choices += [answer(each)] * (request.n or 1)
    completion_tokens = sum(choice.tokens() for choice in choices)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    head = {"id": made_id(form.id_prefix, "-"), "created": int(time.time()), "model": ECHO_MODEL}
    if not request.stream:
        whole = [form.whole_choice(index, choice) for index, choice in enumerate(choices)]
        return json_response({**head, "object": form.whole_object, "choices": whole, "usage": usage})
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    chunk_head = {**head, "object": form.chunk_object}
    return stream_response(data_frames(_chunks(chunk_head, choices, form, usage if include_usage else None)))


def _chunks(
    head: dict[str, Any], choices: list[EchoAnswer], form: _Form, usage: dict[str, int] | None
) -> Iterator[dict[str, Any]]:
    """Yields every chunk of a stream. As OpenAI does, all carry ``usage`` when it was asked for, null but in the
    last.
    """
    no_usage = {} if usage is None else {"usage": None}
    for index, choice in enumerate(choices):
        for piece in form.chunk_choices(index, choice):
            yield {**head, "choices": [piece], **no_usage}
    if usage is not None:
        yield {**head, "choices": [], "usage": usage}


_chat_decoder = msgspec.json.Decoder(_Chat)
_completion_decoder = msgspec.json.Decoder(_Completion)
