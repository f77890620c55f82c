"""A whole answer as the stream of events that its client asked for, where the upstream took no notice of ``stream``.

Owns the events of each API, from the document that they would add up to. Sources: OpenAI API reference, "Streaming"
(chat completions, completions) and "Streaming events" (Responses); Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

#: Whose documents and streams an endpoint speaks; "": none that is converted.
Form = Literal["", "chat", "completion", "response", "message"]

_Object = dict[str, Any]


def as_events(form: Form, document: bytes) -> bytes | None:
    """Returns a stream with the content of ``document``; None where it is none of this form."""
    make = _MAKERS.get(form)
    try:
        value = json.loads(document.decode("utf-8", "replace"))
        return b"".join(make(value)) if make is not None and isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def _data(value: _Object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _event(value: _Object) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


def _objects(value: object) -> list[_Object]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# chat completions, completions


def _chat(value: _Object) -> Iterator[bytes]:
    shared = {name: member for name, member in value.items() if name not in ("choices", "usage", "object")}
    shared["object"] = "chat.completion.chunk"
    choices = _objects(value.get("choices"))
    begun, ended = [], []
    for number, choice in enumerate(choices):
        message = choice.get("message")
        delta: _Object = {"role": "assistant", **message} if isinstance(message, dict) else {"role": "assistant"}
        calls = _objects(delta.get("tool_calls"))
        if calls:
            delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
        further = {name: member for name, member in choice.items() if name not in ("message", "finish_reason", "index")}
        index = choice.get("index", number)
        begun.append({"index": index, "delta": delta, **further, "finish_reason": None})
        ended.append({"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"})
    yield _data({**shared, "choices": begun})
    yield _data({**shared, "choices": ended})
    yield from _usage_and_end(value, shared)


def _completion(value: _Object) -> Iterator[bytes]:
    shared = {name: member for name, member in value.items() if name not in ("choices", "usage")}
    choices = [{"index": number, **choice} for number, choice in enumerate(_objects(value.get("choices")))]
    for choice in choices:
        choice["finish_reason"] = choice.get("finish_reason") or "stop"
    yield _data({**shared, "choices": choices})
    yield from _usage_and_end(value, shared)


def _usage_and_end(value: _Object, shared: _Object) -> Iterator[bytes]:
    if value.get("usage"):
        yield _data({**shared, "choices": [], "usage": value["usage"]})
    yield b"data: [DONE]\n\n"


# Responses


def _response(value: _Object) -> Iterator[bytes]:
    begun = {**value, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    ended = "response.incomplete" if value.get("status") == "incomplete" else "response.completed"
    events: list[_Object] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(_objects(value.get("output"))):
        empty = {name: [] if name in ("content", "summary") else member for name, member in item.items()}
        if "arguments" in item:
            empty["arguments"] = ""
        if "status" in item:
            empty["status"] = "in_progress"
        events.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        events += _item_events({"item_id": item.get("id", ""), "output_index": index}, item)
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": ended, "response": value})
    for number, event in enumerate(events):
        yield _event({**event, "sequence_number": number})


def _item_events(place: _Object, item: _Object) -> Iterator[_Object]:
    for index, part in enumerate(_objects(item.get("content"))):
        yield from _part_events({**place, "content_index": index}, part)
    for index, part in enumerate(_objects(item.get("summary"))):
        text, at = _text(part.get("text")), {**place, "summary_index": index}
        yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
        yield {"type": "response.reasoning_summary_text.delta", **at, "delta": text}
        yield {"type": "response.reasoning_summary_text.done", **at, "text": text}
        yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
    if item.get("type") == "function_call":
        arguments = _text(item.get("arguments"))
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}


#: Of the parts of a message and of reasoning: the name in the events, and the member with the text.
_PARTS = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
}


def _part_events(place: _Object, part: _Object) -> Iterator[_Object]:
    name, member = _PARTS.get(_text(part.get("type")), ("", ""))
    if not name:
        return
    text = _text(part.get(member))
    yield {"type": "response.content_part.added", **place, "part": {**part, member: ""}}
    yield {"type": f"response.{name}.delta", **place, "delta": text}
    yield {"type": f"response.{name}.done", **place, member: text}
    yield {"type": "response.content_part.done", **place, "part": part}


# Anthropic's Messages


def _message(value: _Object) -> Iterator[bytes]:
    usage = value.get("usage") if isinstance(value.get("usage"), dict) else {}
    assert isinstance(usage, dict)
    begun = {**value, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    yield _event({"type": "message_start", "message": begun})
    for index, block in enumerate(_objects(value.get("content"))):
        empty, deltas = _block(block)
        yield _event({"type": "content_block_start", "index": index, "content_block": empty})
        for delta in deltas:
            yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": value.get("stop_reason") or "end_turn", "stop_sequence": value.get("stop_sequence")}
    yield _event({"type": "message_delta", "delta": ended, "usage": usage})
    yield _event({"type": "message_stop"})


def _block(block: _Object) -> tuple[_Object, list[_Object]]:
    """Returns how a block begins, and the deltas that fill it. Of kinds without deltas it begins whole."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": _text(block.get("text"))}]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": _text(block.get("thinking"))}]
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use":
            arguments = json.dumps(block.get("input") or {}, separators=(",", ":"))
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": arguments}]
    return block, []


_MAKERS: dict[str, Callable[[_Object], Iterator[bytes]]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "message": _message,
}
