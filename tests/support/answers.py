"""Answers of the younger APIs in the forms of their servers: Responses, Anthropic's Messages, audio, images.

Owns the forms alone; tests.support.upstream sends them. Sources: OpenAI API reference, Anthropic API reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.upstream import encode

RESPONSE_USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 6,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}
MESSAGE_USAGE: dict[str, Any] = {
    "input_tokens": 8,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": None,
    "server_tool_use": None,
    "service_tier": "standard",
    "inference_geo": None,
}


def event(kind: str, /, **members: Any) -> bytes:
    """A server-sent event that says its type twice, as both companies' do."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **members}))


def response(
    text: str = "Hello!", *, object_id: str = "resp_1", status: str = "completed", usage: Any = RESPONSE_USAGE
) -> dict[str, Any]:
    """A response object of OpenAI's Responses API."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    return {
        "id": object_id,
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_001 if status == "completed" else None,
        "status": status,
        "background": False,
        "service_tier": "default",
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "max_tool_calls": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-4o",
        "output": [message] if status == "completed" else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage if status == "completed" else None,
        "user": None,
        "metadata": {},
    }


def response_stream(texts: Sequence[str] = ("Hel", "lo!"), *, object_id: str = "resp_1") -> list[bytes]:
    """The events of a response, from the first to the last."""
    whole = "".join(texts)
    begun = response(object_id=object_id, status="in_progress")
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    place: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    done = response(whole, object_id=object_id)
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.content_part.added", {**place, "part": part}),
        *(("response.output_text.delta", {**place, "delta": text, "logprobs": []}) for text in texts),
        ("response.output_text.done", {**place, "text": whole, "logprobs": []}),
        ("response.content_part.done", {**place, "part": {**part, "text": whole}}),
        ("response.output_item.done", {"output_index": 0, "item": done["output"][0]}),
        ("response.completed", {"response": done}),
    ]
    return [event(kind, **members, sequence_number=number) for number, (kind, members) in enumerate(events)]


def message(text: str = "Hello!") -> dict[str, Any]:
    """A message of Anthropic's Messages API."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": text, "citations": None}],
        "container": None,
        "stop_reason": "end_turn",
        "stop_details": None,
        "stop_sequence": None,
        "usage": MESSAGE_USAGE,
    }


def message_stream(texts: Sequence[str] = ("Hel", "lo!")) -> list[bytes]:
    """The events of a message, from the first to the last."""
    begun = {
        **message(),
        "content": [],
        "stop_reason": None,
        "usage": {**MESSAGE_USAGE, "output_tokens": 1},
    }
    return [
        event("message_start", message=begun),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": MESSAGE_USAGE["output_tokens"]},
        ),
        event("message_stop"),
    ]
