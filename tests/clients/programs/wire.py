"""What is tried over plain HTTP, whatever carries it: the features of a program that knows no API but HTTP itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from tests.clients.programs.report import CALLS, HELLO, REPLY, TEXT, TOOLS, equal, given, report


class Answer(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> bytes: ...


#: method, path, JSON body or None, further headers, key → the answer.
Ask = Callable[[str, str, Any, dict[str, str], str], Answer]


def events(body: bytes) -> list[Any]:
    """The payloads of a stream, ``[DONE]`` left out."""
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def features(ask: Ask) -> dict[str, Callable[[], None]]:
    def get(path: str, key: str = given.key) -> Answer:
        return ask("GET", path, None, {}, key)

    def post(path: str, body: Any, key: str = given.key, status: int = 200, **headers: str) -> Any:
        answer = ask("POST", path, body, headers, key)
        equal(answer.status, status)
        return answer.body

    def models() -> None:
        assert b'"scripted"' in get("/v1/models").body

    def chat() -> None:
        answer = json.loads(post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO}))
        equal(answer["choices"][0]["message"]["content"], REPLY)

    def stream() -> None:
        body = post("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO, "stream": True})
        assert body.endswith(b"data: [DONE]\n\n"), body[-80:]
        deltas = [choice["delta"] for event in events(body) for choice in event["choices"]]
        equal("".join(delta.get("content") or "" for delta in deltas), TEXT)

    def usage() -> None:
        options = {"include_usage": True}
        asked = {"model": "gpt-4o", "messages": HELLO, "stream": True, "stream_options": options}
        assert events(post("/v1/chat/completions", asked))[-1]["usage"]["total_tokens"] > 0

    def tools() -> None:
        answer = json.loads(post("/v1/chat/completions", {"model": "scripted", "messages": HELLO, "tools": TOOLS}))
        calls = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
        equal([(call["name"], json.loads(call["arguments"])) for call in calls], CALLS)

    def completions() -> None:
        answer = json.loads(post("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello"}))
        equal(answer["choices"][0]["text"], REPLY)

    def embeddings() -> None:
        answer = json.loads(post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "one"}))
        equal(answer["data"][0]["embedding"], [0.25, -0.5, 0.125])

    def responses() -> None:
        answer = json.loads(post("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello"}))
        equal(answer["output"][0]["content"][0]["text"], REPLY)

    def responses_stream() -> None:
        body = post("/v1/responses", {"model": "scripted", "input": "Hello", "stream": True})
        equal(events(body)[-1]["type"], "response.completed")

    def messages() -> None:
        answer = json.loads(post("/v1/messages", {"model": "gpt-4o-mini", "max_tokens": 64, "messages": HELLO}))
        equal(answer["content"][0]["text"], REPLY)

    def messages_stream() -> None:
        asked = {"model": "scripted", "max_tokens": 64, "messages": HELLO, "stream": True}
        equal(events(post("/v1/messages", asked))[-1]["type"], "message_stop")

    def moderations() -> None:
        answer = json.loads(post("/v1/moderations", {"model": "scripted", "input": "one"}))
        equal(answer["results"][0]["flagged"], False)

    def images() -> None:
        assert json.loads(post("/v1/images/generations", {"model": "scripted", "prompt": "A cat"}))["data"]

    def speech() -> None:
        sound = post("/v1/audio/speech", {"model": "scripted", "voice": "alloy", "input": "Hello"})
        equal((sound[:4], len(sound)), (b"RIFF", 4 + 256 * 64))

    def rerank() -> None:
        asked = {"model": "scripted", "query": "one", "documents": ["one", "two"]}
        equal([result["index"] for result in json.loads(post("/v1/rerank", asked))["results"]], [0, 1])

    def wrong_key() -> None:
        refused = post("/v1/embeddings", {"model": "m", "input": "one"}, given.wrong_key, 401)
        equal(json.loads(refused)["error"]["code"], "invalid_api_key")

    def quota() -> None:
        refused = post("/v1/chat/completions", {"model": "scripted", "messages": HELLO}, given.spent_key, 429)
        assert json.loads(refused)["error"]["code"] in ("insufficient_quota", "rate_limit_exceeded")

    def broken_stream() -> None:
        body = post("/v1/chat/completions", {"model": "breaks-off", "messages": HELLO, "stream": True})
        assert events(body)[-1]["error"]["message"]

    return {
        "models": models,
        "chat": chat,
        "stream": stream,
        "usage": usage,
        "tools": tools,
        "completions": completions,
        "embeddings": embeddings,
        "responses": responses,
        "responses_stream": responses_stream,
        "messages": messages,
        "messages_stream": messages_stream,
        "moderations": moderations,
        "images": images,
        "speech": speech,
        "rerank": rerank,
        "wrong_key": wrong_key,
        "quota": quota,
        "broken_stream": broken_stream,
    }


def report_all(ask: Ask, **more: Callable[[], None]) -> None:
    report({**features(ask), **more})
