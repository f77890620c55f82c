"""What a client sees of an answer: its text, joined as an SDK joins it, and the failures that its events tell of."""

from __future__ import annotations

import json
from typing import Any

import httpx


def events_of(body: bytes) -> list[Any]:
    """The payloads of a stream, decoded; ``"[DONE]"`` as such. Fails at a payload that is no JSON.

    Cut at line ends as the HTML standard says, section 9.2.6.
    """
    payloads: list[Any] = []
    data: list[str] = []
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for line in [*text.split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            whole = "\n".join(data)
            if whole:
                payloads.append("[DONE]" if whole.strip() == "[DONE]" else json.loads(whole))
            data = []
    return payloads


def is_events(response: httpx.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return content_type.startswith("text/event-stream")


def text_of(path: str, response: httpx.Response) -> str:
    """All text of an answer, in the words of the endpoint at ``path``."""
    read = _WHOLE if not is_events(response) else _STREAMED
    if path.endswith(("/transcriptions", "/translations")) and "json" not in response.headers.get("content-type", ""):
        return response.text if not is_events(response) else read["/transcriptions"](events_of(response.content))
    content = events_of(response.content) if is_events(response) else json.loads(response.content)
    text: str = next(reader for end, reader in read.items() if path.endswith(end))(content)
    return text


def error_events(events: list[Any]) -> list[Any]:
    """The events that tell of a failure, in any API's words."""
    return [event for event in events if isinstance(event, dict) and _tells_failure(event)]


def _tells_failure(event: dict[str, Any]) -> bool:
    return bool(event.get("error")) or event.get("type") in ("error", "response.failed")


def _joined(values: Any) -> str:
    return "".join(value for value in values if isinstance(value, str))


def _chat(answer: dict[str, Any]) -> str:
    return _joined(choice["message"].get("content") for choice in answer["choices"])


def _completion(answer: dict[str, Any]) -> str:
    return _joined(choice.get("text") for choice in answer["choices"])


def _response(answer: dict[str, Any]) -> str:
    parts = [part for item in answer["output"] for part in item.get("content") or ()]
    return _joined(part.get("text") for part in parts)


def _message(answer: dict[str, Any]) -> str:
    return _joined(part.get("text") for part in answer["content"])


def _chunks(events: list[Any], member: str) -> str:
    choices = [choice for event in events if isinstance(event, dict) for choice in event.get("choices") or ()]
    if member == "text":
        return _joined(choice.get("text") for choice in choices)
    return _joined((choice.get("delta") or {}).get(member) for choice in choices)


def _response_events(events: list[Any]) -> str:
    said = [event for event in events if isinstance(event, dict)]
    deltas = _joined(event.get("delta") for event in said if event.get("type") == "response.output_text.delta")
    if deltas:
        return deltas
    last = [event["response"] for event in said if event.get("type") in ("response.completed", "response.incomplete")]
    return _response(last[-1]) if last else ""


def _message_events(events: list[Any]) -> str:
    said = [event for event in events if isinstance(event, dict) and event.get("type") == "content_block_delta"]
    return _joined(event["delta"].get("text") for event in said)


def _transcript_events(events: list[Any]) -> str:
    said = [event for event in events if isinstance(event, dict)]
    return _joined(event.get("delta") for event in said if event.get("type") == "transcript.text.delta")


_WHOLE: dict[str, Any] = {
    "/chat/completions": _chat,
    "/completions": _completion,
    "/responses": _response,
    "/messages": _message,
    "/transcriptions": lambda answer: answer["text"],
    "/translations": lambda answer: answer["text"],
}
_STREAMED: dict[str, Any] = {
    "/chat/completions": lambda events: _chunks(events, "content"),
    "/completions": lambda events: _chunks(events, "text"),
    "/responses": _response_events,
    "/messages": _message_events,
    "/transcriptions": _transcript_events,
    "/translations": _transcript_events,
}
