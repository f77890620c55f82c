"""Anthropic's Messages of the built-in model.

Owns their form, whole and streamed. Sources: Anthropic API reference, "Messages", "Count tokens", "Streaming messages",
"Tool use", "Structured outputs".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from trustgate.models.echo.answering import EchoAnswer, EchoPrompt, EchoTool, answer, bytes_of
from trustgate.models.echo.forms import (
    ECHO_MODEL,
    EchoRefusal,
    check_model,
    check_range,
    decode,
    event_frames,
    json_response,
    made_id,
    stream_response,
)

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "stop_sequence": "stop_sequence"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

_Content = str | list[dict[str, Any]]


class _Turn(msgspec.Struct):
    role: str
    content: _Content


class _Counted(msgspec.Struct, kw_only=True):
    model: str
    messages: list[_Turn]
    system: _Content | None = None
    tools: list[dict[str, Any]] | None = None


class _Request(_Counted, kw_only=True):
    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Request)
_count_decoder = msgspec.json.Decoder(_Counted)


def message(body: bytes) -> httpx.Response:
    """Returns a message. Raises ``EchoRefusal``."""
    request = decode(body, _decoder)
    asked = _read(request)
    check_range("max_tokens", request.max_tokens, 0)
    choice = request.tool_choice or {}
    kind = str(choice.get("type", "auto"))
    asked.choice = f"={choice.get('name')}" if kind == "tool" else _CHOICES.get(kind, "auto")
    asked.parallel = choice.get("disable_parallel_tool_use") is not True
    asked.limit = request.max_tokens
    asked.stops = request.stop_sequences or []
    asked.schema = _schema(request.output_format or (request.output_config or {}).get("format"))
    answered = answer(asked)
    usage = {
        "input_tokens": asked.prompt_tokens(),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": answered.tokens(),
    }
    whole = {
        "id": made_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": ECHO_MODEL,
        "content": _blocks(answered),
        "stop_reason": _STOP_REASONS[answered.ending],
        "stop_sequence": answered.stopped_by,
        "usage": usage,
    }
    return stream_response(event_frames(_events(whole, answered))) if request.stream else json_response(whole)


def count_message(body: bytes) -> httpx.Response:
    """Returns what the prompt of a message counts: the same as its usage would be. Raises ``EchoRefusal``."""
    return json_response({"input_tokens": _read(decode(body, _count_decoder)).prompt_tokens()})


def _read(request: _Counted) -> EchoPrompt:
    check_model(request.model)
    if not request.messages:
        raise EchoRefusal(400, "messages must not be empty.", "empty_array", "messages")
    asked = EchoPrompt(messages=len(request.messages), tools_bytes=bytes_of(request.tools))
    asked.tools = [
        # Tools of Anthropic's own servers and of their clients have a type and no schema.
        EchoTool(str(tool.get("name", "")), tool.get("input_schema") or {})
        for tool in request.tools or ()
    ]
    if request.system is not None:
        asked.messages += 1
        asked.texts.append(_text(request.system, asked))
    for turn in request.messages:
        text = _text(turn.content, asked)
        asked.texts.append(text)
        if turn.role == "user" and text.strip():
            asked.user_text = text
    last = request.messages[-1]
    if last.role == "user" and isinstance(last.content, list):
        results = [block for block in last.content if block.get("type") == "tool_result"]
        asked.results = [_text(block.get("content") or "", EchoPrompt()) for block in results] or None
    return asked


def _text(content: Any, asked: EchoPrompt) -> str:
    """Returns the text blocks of a content, and counts its other blocks."""
    if isinstance(content, str):
        return content
    texts = []
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text", "")))
            case "image" | "document":
                asked.images += 1
            case "tool_use":
                asked.tools_bytes += bytes_of([block.get("input")])
            case "tool_result":
                asked.texts.append(_text(block.get("content"), asked))
    return "\n".join(texts)


def _schema(output_format: Any) -> Any:
    match output_format:
        case {"type": "json_schema", "schema": schema}:
            return schema
    return None


def _blocks(answered: EchoAnswer) -> list[dict[str, Any]]:
    if answered.calls:
        return [
            {"type": "tool_use", "id": made_id("toolu"), "name": call.name, "input": json.loads(call.arguments)}
            for call in answered.calls
        ]
    return [{"type": "text", "text": answered.text}] if answered.words else []


def _events(whole: dict[str, Any], answered: EchoAnswer) -> Iterator[dict[str, Any]]:
    usage = whole["usage"]
    begun = {**whole, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(whole["content"]):
        place = {"index": index}
        if block["type"] == "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": word} for word in answered.words]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": answered.calls[index].arguments}]
        yield {"type": "content_block_start", **place, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", **place, "delta": delta}
        yield {"type": "content_block_stop", **place}
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    yield {"type": "message_delta", "delta": ended, "usage": usage}
    yield {"type": "message_stop"}
