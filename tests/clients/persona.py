"""What the scripted upstream answers to clients: a model's server that does everything its clients can ask for.

Owns what is said; tests.support.upstream sends it. Each answer follows from the request alone, so that clients may ask
in any order and at the same time. Sources of the forms: OpenAI API reference, Anthropic API reference.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from typing import Any

from tests.support import answers
from tests.support.answers import event
from tests.support.upstream import (
    CLOSE,
    DONE,
    HANG,
    USAGE,
    Recorded,
    Reply,
    answer_like_openai,
    completion,
    delta,
    encode,
    usage_chunk,
)

TEXT = "Grüße aus Köln, 你好 👋"
SPEECH = b"RIFF" + bytes(range(256)) * 64
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

#: Names that make it do something else than answer.
BREAKS_OFF = "breaks-off"
ENDLESS = "endless"


#: Ids belong to the tenant whose request made them, so each is given out once.
_numbers = itertools.count(1)


def answer(request: Recorded) -> Reply:
    """The reply to any request of a client."""
    if request.method != "POST":
        return _kept(request)
    kind = request.path.removeprefix("/v1/")
    if request.header("content-type") != "application/json":
        return _form(kind)
    asked = request.json()
    if asked.get("model") == BREAKS_OFF:
        return Reply.sse([*_first_frames(kind), CLOSE])
    if asked.get("model") == ENDLESS:
        return Reply.sse([*_first_frames(kind), HANG])
    match kind:
        case "chat/completions":
            return _chat(asked)
        case "responses":
            return _response(asked)
        case "responses/compact":
            return Reply.json(_compacted())
        case "messages":
            return _message(asked)
        case "messages/count_tokens":
            return Reply.json({"input_tokens": 9})
        case "moderations":
            return Reply.json(
                {"id": "modr-1", "model": "omni-moderation-latest", "results": [_harmless() for _ in _inputs(asked)]}
            )
        case "images/generations":
            return Reply.json({"created": 1, "data": [{"b64_json": base64.b64encode(PNG).decode()}]})
        case "audio/speech":
            return Reply.body(SPEECH, content_type="audio/mpeg")
        case "rerank":
            return Reply.json(_ranking(asked))
        case "batches":
            return Reply.json(_batch(f"batch_{next(_numbers)}", asked["input_file_id"]))
    return answer_like_openai(request)


def _first_frames(kind: str) -> list[Any]:
    match kind:
        case "responses":
            return answers.response_stream(object_id=f"resp_{next(_numbers)}")[:5]
        case "messages":
            return answers.message_stream()[:4]
    return [delta("", role="assistant"), delta("Hel")]


# chat


def _chat(asked: dict[str, Any]) -> Reply:
    last = asked["messages"][-1]
    tools = [] if last["role"] == "tool" else [tool["function"] for tool in asked.get("tools") or ()]
    form = (asked.get("response_format") or {}).get("json_schema")
    text = encode(example(form["schema"])).decode() if form else TEXT
    calls = [_call(number, tool) for number, tool in enumerate(tools)]
    if asked.get("stream"):
        with_usage = (asked.get("stream_options") or {}).get("include_usage")
        return Reply.sse([*_chat_frames(text, calls), *([usage_chunk(USAGE)] if with_usage else []), DONE])
    whole = completion(text)
    message = {**whole["choices"][0]["message"], "annotations": []}
    if calls:
        message |= {"content": None, "tool_calls": calls}
    choice = {
        "message": message,
        "finish_reason": "tool_calls" if calls else "stop",
        "logprobs": _logprobs(text) if asked.get("logprobs") else None,
    }
    choices = [{"index": number, **choice} for number in range(asked.get("n") or 1)]
    return Reply.json({**whole, "model": asked["model"], "choices": choices})


def _chat_frames(text: str, calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield delta("", role="assistant")
    if not calls:
        yield from (delta(piece) for piece in _pieces(text))
        yield delta(None, finish_reason="stop")
        return
    for number, call in enumerate(calls):
        yield _call_delta({**call, "index": number, "function": {**call["function"], "arguments": ""}})
        for piece in _pieces(call["function"]["arguments"]):
            yield _call_delta({"index": number, "function": {"arguments": piece}})
    yield delta(None, finish_reason="tool_calls")


def _call(number: int, tool: dict[str, Any]) -> dict[str, Any]:
    arguments = encode(example(tool.get("parameters") or {})).decode()
    return {"id": f"call_{number}", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}


def _call_delta(call: dict[str, Any]) -> dict[str, Any]:
    frame = delta(None)
    frame["choices"][0]["delta"] = {"tool_calls": [call]}
    return frame


def _logprobs(text: str) -> dict[str, Any]:
    token = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {"content": [{**token, "top_logprobs": [token]}], "refusal": None}


# Responses


def _response(asked: dict[str, Any]) -> Reply:
    form = (asked.get("text") or {}).get("format") or {}
    text = encode(example(form["schema"])).decode() if form.get("type") == "json_schema" else TEXT
    object_id = f"resp_{next(_numbers)}"
    if asked.get("stream"):
        return Reply.sse(answers.response_stream(_pieces(text), object_id=object_id))
    whole = answers.response(text, object_id=object_id)
    functions = [tool for tool in asked.get("tools") or () if tool.get("type") == "function"]
    if functions:
        calls = (_call(number, tool) for number, tool in enumerate(functions))
        whole["output"] = [
            {"id": f"fc_{call['id']}", "type": "function_call", "status": "completed", "call_id": call["id"]}
            | call["function"]
            for call in calls
        ]
    return Reply.json(whole)


def _compacted() -> dict[str, Any]:
    """A conversation made shorter, which only its maker can read."""
    summary = {"type": "compaction", "id": f"cmp_{next(_numbers)}", "encrypted_content": "c2hvcnRlcg=="}
    return {
        "id": f"resp_{next(_numbers)}",
        "object": "response.compaction",
        "created_at": 1_700_000_000,
        "output": [summary],
        "usage": answers.RESPONSE_USAGE,
    }


# Messages


def _message(asked: dict[str, Any]) -> Reply:
    blocks = [_use(number, tool) for number, tool in enumerate(asked.get("tools") or ())]
    reason = "tool_use" if blocks else "end_turn"
    blocks = blocks or [{"type": "text", "text": TEXT, "citations": None}]
    if not asked.get("stream"):
        return Reply.json({**answers.message(), "content": blocks, "stop_reason": reason})
    plain = answers.message_stream(_pieces(TEXT))
    middle = [frame for index, block in enumerate(blocks) for frame in _block_events(index, block)]
    ending = event(
        "message_delta",
        delta={"stop_reason": reason, "stop_sequence": None},
        usage={"output_tokens": answers.MESSAGE_USAGE["output_tokens"]},
    )
    return Reply.sse([plain[0], *middle, ending, event("message_stop")])


def _use(number: int, tool: dict[str, Any]) -> dict[str, Any]:
    called = {"id": f"toolu_{number}", "name": tool["name"], "input": example(tool["input_schema"])}
    return {"type": "tool_use", **called, "caller": {"type": "direct"}}


def _block_events(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    if block["type"] == "text":
        empty, kind, member, text = {**block, "text": ""}, "text_delta", "text", block["text"]
    else:
        empty, kind, member, text = (
            {**block, "input": {}},
            "input_json_delta",
            "partial_json",
            encode(block["input"]).decode(),
        )
    yield event("content_block_start", index=index, content_block=empty)
    for piece in _pieces(text):
        yield event("content_block_delta", index=index, delta={"type": kind, member: piece})
    yield event("content_block_stop", index=index)


# the other endpoints


def _form(kind: str) -> Reply:
    if kind == "files":
        return Reply.json(_file(f"file-{next(_numbers)}"))
    if kind == "images/edits":
        return Reply.json({"created": 1, "data": [{"b64_json": base64.b64encode(PNG).decode()}]})
    return Reply.json({"text": TEXT, "usage": {"type": "duration", "seconds": 3}})


def _kept(request: Recorded) -> Reply:
    kind, _, object_id = request.path.removeprefix("/v1/").partition("/")
    if request.method == "DELETE":
        return Reply.json({"id": object_id, "object": kind.removesuffix("s"), "deleted": True})
    if kind == "responses":
        return Reply.json(answers.response(TEXT, object_id=object_id))
    return Reply.json(_file(object_id) if kind == "files" else _batch(object_id, "file-1"))


def _file(object_id: str) -> dict[str, Any]:
    return {
        "id": object_id,
        "object": "file",
        "bytes": 120,
        "created_at": 1_700_000_000,
        "filename": "batch.jsonl",
        "purpose": "batch",
        "status": "processed",
    }


def _batch(object_id: str, file_id: str) -> dict[str, Any]:
    return {
        "id": object_id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": file_id,
        "completion_window": "24h",
        "status": "validating",
        "created_at": 1_700_000_000,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }


def _inputs(asked: dict[str, Any]) -> list[Any]:
    return asked["input"] if isinstance(asked["input"], list) else [asked["input"]]


def _harmless() -> dict[str, Any]:
    names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
    return {
        "flagged": False,
        "categories": dict.fromkeys(names, False),
        "category_scores": dict.fromkeys(names, 0.001),
        "category_applied_input_types": {name: ["text"] for name in names},
    }


def _ranking(asked: dict[str, Any]) -> dict[str, Any]:
    results = [{"index": number, "relevance_score": 1 / (1 + number)} for number in range(len(asked["documents"]))]
    return {
        "id": "rerank-1",
        "model": asked["model"],
        "object": "list",
        "results": results,
        "usage": {"total_tokens": 12, "prompt_tokens": 12},
        "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 12}},
    }


# text


def _pieces(text: str) -> list[str]:
    return [text[start : start + 5] for start in range(0, len(text), 5)]


def example(schema: dict[str, Any], definitions: dict[str, Any] | None = None) -> Any:
    """A value that fits a JSON schema of the kind that clients send for tools and structured outputs."""
    definitions = definitions or schema.get("$defs") or {}
    if "$ref" in schema:
        return example(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            kinds = [kind for kind in schema[several] if kind.get("type") != "null"]
            return example(kinds[0], definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(one for one in kind if one != "null")
    match kind:
        case "string":
            return "Köln"
        case "integer":
            return 3
        case "number":
            return 1.5
        case "boolean":
            return True
        case "array":
            return [example(schema.get("items") or {"type": "string"}, definitions)]
    return {name: example(inner, definitions) for name, inner in (schema.get("properties") or {}).items()}
