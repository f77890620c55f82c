"""Responses of the built-in model.

Owns their form, whole and streamed, and the responses that can be gone on with: they are kept in memory, the newest of
them up to a size, until the process ends. Sources: OpenAI API reference, "Responses", "Streaming events".
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx
import msgspec

from trustgate.models.echo.answering import EchoAnswer, EchoPrompt, EchoTool, answer, audio_tokens, bytes_of
from trustgate.models.echo.forms import (
    ECHO_MODEL,
    EchoRefusal,
    check_model,
    check_range,
    decode,
    encode,
    event_frames,
    json_response,
    made_id,
    stream_response,
)

_KEPT_MOST = 1_000
_KEPT_MOST_BYTES = 16 * 1024 * 1024
_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text"})
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output", "local_shell_call_output"})
_CALLS = frozenset({"function_call", "custom_tool_call"})

_Item = dict[str, Any]


class _Request(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[_Item] | None = None
    instructions: str | list[_Item] | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    truncation: str | None = None


_decoder = msgspec.json.Decoder(_Request)


class _Kept(msgspec.Struct, frozen=True):
    document: dict[str, Any]
    #: What the response was given, those before it included, and what it added.
    given: list[_Item]
    made: list[_Item]
    size: int


class KeptResponses:
    """Answers requests for Responses, and keeps the latest answers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0

    def respond(self, body: bytes) -> httpx.Response:
        """Returns a response. Raises ``EchoRefusal``."""
        request = decode(body, _decoder)
        check_model(request.model)
        check_range("max_output_tokens", request.max_output_tokens, 1)
        if request.background:
            raise EchoRefusal(400, f"{ECHO_MODEL} answers at once; leave background out.", "unsupported", "background")
        items = self._items(request)
        asked = _read(request, items)
        answered = answer(asked)
        response = _document(request, asked, answered)
        if request.store is not False:
            self._keep(response, items)
        return stream_response(event_frames(_events(response, answered))) if request.stream else json_response(response)

    def count(self, body: bytes) -> httpx.Response:
        """Returns what the prompt of a response counts: the same as its usage would be. Raises ``EchoRefusal``."""
        request = decode(body, _decoder)
        check_model(request.model)
        tokens = _read(request, self._items(request)).prompt_tokens()
        return json_response({"object": "response.input_tokens", "input_tokens": tokens})

    def look(self, method: str, response_id: str, below: str = "", *further: str) -> httpx.Response | None:
        """Returns a kept response, what it was given, or that it is deleted now; None for another path."""
        if further or (method, below) not in (("GET", ""), ("GET", "input_items"), ("DELETE", "")):
            return None
        kept = self._found(response_id, 404, "response_id")
        if below:
            items = [_with_id(item) for item in reversed(kept.given)]
            edges = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
            return json_response({"object": "list", "data": items, **edges, "has_more": False})
        if method == "GET":
            return json_response(kept.document)
        self._size -= self._kept.pop(response_id).size
        return json_response({"id": response_id, "object": "response.deleted", "deleted": True})

    def _found(self, response_id: str, status: int, param: str) -> _Kept:
        kept = self._kept.get(response_id)
        if kept is None:
            message = (
                f"{ECHO_MODEL} has no response {response_id!r}: it keeps its newest ones in memory, until it is "
                "restarted. Send the whole conversation as input instead."
            )
            raise EchoRefusal(status, message, "previous_response_not_found", param)
        return kept

    def _items(self, request: _Request) -> list[_Item]:
        given = request.input if request.input is not None else []
        items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
        if request.previous_response_id is None:
            return items
        before = self._found(request.previous_response_id, 400, "previous_response_id")
        return [*before.given, *before.made, *items]

    def _keep(self, response: dict[str, Any], items: list[_Item]) -> None:
        size = len(encode(items)) + len(encode(response))
        if size > _KEPT_MOST_BYTES:
            return
        self._kept[response["id"]] = _Kept(response, items, response["output"], size)
        self._size += size
        while self._size > _KEPT_MOST_BYTES or len(self._kept) > _KEPT_MOST:
            self._size -= self._kept.popitem(last=False)[1].size


def _with_id(item: _Item) -> _Item:
    """Returns an item of the input as it is listed: with an id, and a text in a part."""
    content = item.get("content")
    parts = {"content": [{"type": "input_text", "text": content}]} if isinstance(content, str) else {}
    return {"id": made_id("msg"), "type": "message", **item, **parts}


# Reading


def _read(request: _Request, items: list[_Item]) -> EchoPrompt:
    asked = EchoPrompt(tools_bytes=bytes_of(request.tools), limit=request.max_output_tokens)
    for item in request.instructions if isinstance(request.instructions, list) else [{"content": request.instructions}]:
        if text := _text(item.get("content"), asked):
            asked.texts.append(text)
            asked.messages += 1
    results: list[str] = []
    for item in items:
        kind = str(item.get("type", "message"))
        if kind in _RESULTS:
            results.append(_text(item.get("output"), asked))
            asked.texts.append(results[-1])
            continue
        results = [] if kind != "reasoning" else results
        if kind in _CALLS:
            asked.tools_bytes += bytes_of([item.get("arguments", item.get("input"))])
            continue
        text = _text(item.get("content"), asked)
        asked.texts.append(text)
        asked.messages += 1
        if item.get("role") == "user" and text.strip():
            asked.user_text = text
    asked.results = results or None
    asked.tools = [tool for given in request.tools or () if (tool := _tool(given)) is not None]
    asked.choice = _choice(request.tool_choice)
    asked.parallel = request.parallel_tool_calls is not False
    asked.schema = _schema((request.text or {}).get("format"))
    return asked


def _text(content: Any, asked: EchoPrompt) -> str:
    """Returns the texts of a content, and counts its other parts."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else ():
        kind = str(part.get("type")) if isinstance(part, dict) else None
        if kind in _TEXT_PARTS:
            texts.append(str(part.get("text", part.get("refusal", ""))))
        elif kind in ("input_image", "input_file"):
            asked.images += 1
        elif kind == "input_audio":
            recording = part.get("input_audio")
            asked.audio_tokens += audio_tokens(recording.get("data") if isinstance(recording, dict) else None)
    return "\n".join(texts)


def _tool(given: dict[str, Any]) -> EchoTool | None:
    """Returns a tool of the client's; None for one of the servers' own, such as ``web_search``."""
    match given.get("type"):
        case "function":
            return EchoTool(str(given.get("name", "")), given.get("parameters") or {})
        case "custom":
            return EchoTool(str(given.get("name", "")), None)
    return None


def _choice(choice: str | dict[str, Any] | None) -> str:
    match choice:
        case {"type": "function" | "custom", "name": name}:
            return f"={name}"
        case {"type": "allowed_tools", "mode": "required"}:
            return "required"
        case str():
            return choice
    return "auto"


def _schema(text_format: Any) -> Any:
    match text_format:
        case {"type": "json_schema", "schema": schema}:
            return schema
        case {"type": "json_object"}:
            return {}
    return None


# Answering


def _document(request: _Request, asked: EchoPrompt, answered: EchoAnswer) -> dict[str, Any]:
    prompt_tokens, completion_tokens = asked.prompt_tokens(), answered.tokens()
    is_cut = answered.ending == "length"
    now_s = int(time.time())
    return {
        "id": made_id("resp"),
        "object": "response",
        "created_at": now_s,
        "completed_at": None if is_cut else now_s,
        "status": "incomplete" if is_cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": ECHO_MODEL,
        "output": _output(answered),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **(request.reasoning or {})},
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": {"type": "text"}, **(request.text or {})},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "usage": {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + completion_tokens,
        },
        "user": None,
        "metadata": request.metadata or {},
    }


def _output(answered: EchoAnswer) -> list[_Item]:
    if not answered.calls:
        status = "incomplete" if answered.ending == "length" else "completed"
        part = {"type": "output_text", "text": answered.text, "annotations": [], "logprobs": []}
        return [{"id": made_id("msg"), "type": "message", "status": status, "role": "assistant", "content": [part]}]
    output: list[_Item] = []
    for call in answered.calls:
        named = {"call_id": made_id("call"), "name": call.name}
        if call.is_text:
            output.append({"id": made_id("ctc"), "type": "custom_tool_call", **named, "input": call.arguments})
        else:
            item = {"id": made_id("fc"), "type": "function_call", "status": "completed", **named}
            output.append({**item, "arguments": call.arguments})
    return output


def _events(response: dict[str, Any], answered: EchoAnswer) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    begun["incomplete_details"] = None
    events = chain(
        [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}],
        *(_item_events(index, item, answered) for index, item in enumerate(response["output"])),
        [{"type": f"response.{response['status']}", "response": response}],
    )
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _item_events(index: int, item: _Item, answered: EchoAnswer) -> Iterator[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": index}
    emptied = {name: type(item[name])() for name in ("content", "arguments", "input") if name in item}
    status = {"status": "in_progress"} if "status" in item else {}
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, **emptied, **status}}
    match item["type"]:
        case "message":
            part, at = item["content"][0], {**place, "content_index": 0}
            yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
            for word in answered.words:
                yield {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
            yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
            yield {"type": "response.content_part.done", **at, "part": part}
        case "function_call":
            done = {**place, "name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **done}
        case "custom_tool_call":
            yield {"type": "response.custom_tool_call_input.delta", **place, "delta": item["input"]}
            yield {"type": "response.custom_tool_call_input.done", **place, "input": item["input"]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
