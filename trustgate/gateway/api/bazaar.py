"""What a directory of paid services is told of an endpoint: how to call it, and what comes back (x402 "bazaar").

Owns one example and one short JSON Schema for each endpoint that callers without a key can buy. The declaration travels
in the header of every 402 such a caller gets, so it has the members that a first request needs and no more; the whole
schema is in ``/openapi.json``. Source: x402 specification v2, extension "bazaar".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint

EXTENSION: Final = "bazaar"
#: Combinations of endpoint and model to keep; clients choose the names.
_KEPT = 1_000
_MAX_TOKENS = 256

_STRING: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 1}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_MESSAGES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "object", "properties": {"role": _STRING, "content": {}}, "required": ["role", "content"]},
}
_HELLO = [{"role": "user", "content": "Hello!"}]
_USAGE = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}


class _Use(NamedTuple):
    """How an endpoint is used: members of a first request besides ``model``, their schemas, and a short answer."""

    example: dict[str, Any]
    properties: dict[str, Any]
    required: tuple[str, ...]
    #: None: the answer is no JSON.
    answer: dict[str, Any] | None


_USES: dict[str, _Use] = {
    "chat.completions": _Use(
        {"messages": _HELLO, "max_tokens": _MAX_TOKENS},
        {"messages": _MESSAGES, "max_tokens": _COUNT, "stream": _BOOLEAN, "tools": {"type": "array"}},
        ("messages",),
        {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
            "usage": _USAGE,
        },
    ),
    "completions": _Use(
        {"prompt": "Once upon a time", "max_tokens": _MAX_TOKENS},
        {"prompt": {"type": ["string", "array"]}, "max_tokens": _COUNT, "stream": _BOOLEAN},
        ("prompt",),
        {"object": "text_completion", "choices": [{"index": 0, "text": " …", "finish_reason": "length"}]},
    ),
    "embeddings": _Use(
        {"input": "Hello!"},
        {"input": {"type": ["string", "array"]}, "dimensions": _COUNT},
        ("input",),
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.01, -0.02]}]},
    ),
    "messages": _Use(
        {"messages": _HELLO, "max_tokens": _MAX_TOKENS},
        {"messages": _MESSAGES, "max_tokens": _COUNT, "system": {}, "stream": _BOOLEAN},
        ("messages", "max_tokens"),
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello!"}]},
    ),
    "moderations": _Use(
        {"input": "Hello!"},
        {"input": {"type": ["string", "array"]}},
        ("input",),
        {"results": [{"flagged": False, "categories": {}, "category_scores": {}}]},
    ),
    "rerank": _Use(
        {"query": "a capital", "documents": ["Berlin", "bread"]},
        {"query": _STRING, "documents": {"type": "array", "minItems": 1}, "top_n": _COUNT},
        ("query", "documents"),
        {"results": [{"index": 0, "relevance_score": 0.98}]},
    ),
    "images.generations": _Use(
        {"prompt": "A lighthouse at dawn"},
        {"prompt": _STRING, "n": _COUNT, "size": _STRING},
        ("prompt",),
        {"data": [{"b64_json": ""}]},
    ),
    "audio.speech": _Use(
        {"input": "Hello!", "voice": "alloy"},
        {"input": _STRING, "voice": _STRING, "response_format": _STRING},
        ("input",),
        None,
    ),
}

#: The endpoints that callers without a key can buy.
SOLD_KEYLESS: Final = tuple(endpoint for endpoint in ENDPOINTS if endpoint.sells_keyless and endpoint.name in _USES)


def example(endpoint: Endpoint, model: str) -> dict[str, Any]:
    """Returns the body of a first request."""
    return {"model": model, **_USES[endpoint.name].example}


@lru_cache(maxsize=_KEPT)
def bazaar(endpoint: Endpoint, model: str) -> dict[str, Any]:
    """Returns the extensions of a challenge: the declaration of the endpoint, with this model in its example."""
    use = _USES.get(endpoint.name)
    if use is None:
        return {}
    answer: dict[str, Any] = (
        {"type": "json", "example": use.answer} if use.answer is not None else {"type": "binary", "format": "audio"}
    )
    body = {
        "type": "object",
        "properties": {"model": _STRING, **use.properties},
        "required": ["model", *use.required],
    }
    return {
        EXTENSION: {
            "info": {
                "input": {
                    "type": "http",
                    "method": endpoint.method,
                    "bodyType": "json",
                    "body": example(endpoint, model),
                },
                "output": answer,
            },
            "schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "input": {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "const": "http"},
                            "method": {"type": "string", "enum": [endpoint.method]},
                            "bodyType": {"type": "string", "enum": ["json"]},
                            "body": body,
                        },
                        "required": ["type", "method", "bodyType", "body"],
                        "additionalProperties": False,
                    },
                    "output": {
                        "type": "object",
                        "properties": {"type": {"type": "string"}, "format": {"type": "string"}, "example": {}},
                        "required": ["type"],
                    },
                },
                "required": ["input"],
            },
        }
    }
