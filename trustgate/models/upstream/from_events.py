"""A stream of events as the one document that its client asked for, where the upstream streamed all the same.

Owns what the events of each API add up to. Sources: OpenAI API reference, "Streaming" (chat completions, completions)
and "Streaming events" (Responses); Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from trustgate.models.upstream.to_events import Form

_Object = dict[str, Any]


def as_document(form: Form, payloads: Sequence[bytes]) -> bytes | None:
    """Returns the document that a stream adds up to; None where the payloads of its frames are none of this form.

    Args:
        form: of the endpoint that was asked.
        payloads: of the stream's frames, in order; those that are no JSON objects are passed over.
    """
    events = [event for event in map(_decoded, payloads) if event is not None]
    make = _MAKERS.get(form)
    document = make(events) if make is not None and events else None
    return None if document is None else json.dumps(document, separators=(",", ":")).encode()


def _decoded(payload: bytes) -> _Object | None:
    try:
        value = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _dict(value: object) -> _Object:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


# chat completions, completions


def _chat(chunks: list[_Object]) -> _Object | None:
    choices: dict[Any, _Object] = {}
    for chunk in chunks:
        for each in _list(chunk.get("choices")):
            piece = _dict(each)
            choice = choices.setdefault(piece.get("index", 0), {"index": piece.get("index", 0), "message": {}})
            _add_delta(choice["message"], _dict(piece.get("delta") or piece.get("message")))
            _add_choice(choice, piece, ("index", "delta", "message"))
    if not choices:
        return None
    for choice in choices.values():
        message = choice["message"]
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        if "tool_calls" in message:
            message["tool_calls"] = [message["tool_calls"][index] for index in sorted(message["tool_calls"], key=str)]
    return {**_shared(chunks), "object": "chat.completion", "choices": _in_order(choices)}


def _completion(chunks: list[_Object]) -> _Object | None:
    choices: dict[Any, _Object] = {}
    for chunk in chunks:
        for each in _list(chunk.get("choices")):
            piece = _dict(each)
            choice = choices.setdefault(piece.get("index", 0), {"index": piece.get("index", 0), "text": ""})
            text = piece.get("text")
            choice["text"] += text if isinstance(text, str) else ""
            _add_choice(choice, piece, ("index", "text"))
    return {**_shared(chunks), "object": "text_completion", "choices": _in_order(choices)} if choices else None


def _in_order(choices: dict[Any, _Object]) -> list[_Object]:
    return [choices[index] for index in sorted(choices, key=str)]


def _shared(chunks: list[_Object]) -> _Object:
    """Returns the members beside the choices: of each the last that is not empty."""
    shared: _Object = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in shared):
                shared[name] = value
    return shared


def _add_choice(choice: _Object, piece: _Object, but: tuple[str, ...]) -> None:
    for name, value in piece.items():
        if name in but:
            continue
        known = choice.get(name)
        if name == "logprobs" and isinstance(known, dict) and isinstance(value, dict):
            choice[name] = {
                each: _list(known.get(each)) + _list(value.get(each)) for each in dict.fromkeys([*known, *value])
            }
        elif value is not None or name not in choice:
            choice[name] = value


def _add_delta(message: _Object, delta: _Object) -> None:
    """Texts are put together, lists of parts too; calls of tools by their index; of all else the last counts."""
    for name, value in delta.items():
        known = message.get(name)
        if name == "tool_calls":
            calls = message.setdefault(name, {})
            for number, call in enumerate(_list(value)):
                _add_call(calls.setdefault(_dict(call).get("index", number), {}), _dict(call))
        elif name == "function_call":
            _add_call(message.setdefault(name, {}), _dict(value))
        elif isinstance(value, str | list) and type(known) is type(value) and name not in ("role", "name", "id"):
            message[name] = known + value  # type: ignore[operator]
        elif value is not None or name not in message:
            message[name] = value


def _add_call(call: _Object, piece: _Object) -> None:
    for name, value in piece.items():
        if name == "function":
            _add_call(call.setdefault(name, {}), _dict(value))
        elif name == "arguments" and isinstance(value, str):
            call[name] = call.get(name, "") + value
        elif name != "index" and value is not None and value != "":
            call[name] = value


# Responses


def _response(events: list[_Object]) -> _Object | None:
    """Returns the response of the last event that holds one: the terminal one has all of it."""
    said = next((event["response"] for event in reversed(events) if isinstance(event.get("response"), dict)), None)
    if said is not None and not said.get("output"):
        items = [event.get("item") for event in events if event.get("type") == "response.output_item.done"]
        return {**said, "output": items}
    return said


# Anthropic's Messages


def _message(events: list[_Object]) -> _Object | None:
    message: _Object | None = None
    blocks: dict[Any, _Object] = {}
    inputs: dict[Any, str] = {}
    for event in events:
        index = event.get("index", 0)
        match event.get("type"):
            case "message_start":
                message = {**_dict(event.get("message"))}
                blocks = {number: {**_dict(block)} for number, block in enumerate(_list(message.get("content")))}
            case "content_block_start":
                blocks[index] = {**_dict(event.get("content_block"))}
            case "content_block_delta":
                _add_to_block(blocks.setdefault(index, {}), inputs, index, _dict(event.get("delta")))
            case "message_delta" if message is not None:
                message.update(_dict(event.get("delta")))
                known = {name: count for name, count in _dict(event.get("usage")).items() if count is not None}
                message["usage"] = {**_dict(message.get("usage")), **known}
    if message is None:
        return None
    for index, text in inputs.items():
        blocks[index]["input"] = _decoded(text.encode()) or {}
    return {**message, "content": [blocks[index] for index in sorted(blocks, key=str)]}


def _add_to_block(block: _Object, inputs: dict[Any, str], index: object, delta: _Object) -> None:
    for name in ("text", "thinking", "signature"):
        if isinstance(delta.get(name), str):
            known = block.get(name)
            block[name] = (known if isinstance(known, str) else "") + delta[name]
    block.setdefault("type", "thinking" if "thinking" in delta else "text")
    if isinstance(delta.get("partial_json"), str):
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
    if isinstance(delta.get("citation"), dict):
        block["citations"] = [*_list(block.get("citations")), delta["citation"]]


_MAKERS: dict[str, Callable[[list[_Object]], _Object | None]] = {
    "chat": _chat,
    "completion": _completion,
    "response": _response,
    "message": _message,
}
