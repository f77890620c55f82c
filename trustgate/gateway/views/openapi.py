"""``/openapi.json``: the served routes as an OpenAPI 3.1 document, made from the table that serves them.

Owns the form. What a request may hold beyond the members that the gateway reads is the upstream's to say, so every
request's schema lets further members pass. Source: OpenAPI Specification 3.1.0.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from trustgate import __version__
from trustgate.gateway.api.dialects import ANTHROPIC
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.http.sending import send_body

#: The refusals that any route of the path can answer with, and what each means.
_REFUSALS = {
    400: "The request is wrong; param names the member.",
    401: "The API key is missing, wrong, expired or revoked.",
    402: "The caller must pay first; the header payment-required says how.",
    403: "The plan or the key does not include this.",
    404: "There is no such model, or no such object of the caller's.",
    405: "The route does not have this method.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    429: "A quota is used up; see retry-after.",
    502: "The upstream failed.",
    503: "The gateway or the model is not available right now; see retry-after.",
    504: "The upstream did not answer in time.",
}

#: path, summary, the query's parameters with their schemas
_READS: tuple[tuple[str, str, dict[str, dict[str, Any]]], ...] = (
    ("/v1/models", "List the models the caller may use.", {"available": {"enum": ["true", "false", "all"]}}),
    ("/v1/models/{model}", "Retrieve a model.", {}),
    (
        "/v1/usage",
        "Usage of the caller's tenant.",
        {"since": {"type": "string", "format": "date"}, "by": {"enum": ["day", "model", "key"]}},
    ),
    ("/v1/receipts/{receipt}", "A receipt of the caller's tenant, with the secret that opens it.", {}),
)


def document() -> dict[str, Any]:
    """Returns the document. It is the same for everybody: no plan, no model and no upstream shows in it."""
    wires = list(dict.fromkeys(endpoint.wire for endpoint in ENDPOINTS if endpoint.body != "none"))
    schemas, components = msgspec.json.schema_components(wires, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(wires, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operations = paths.setdefault(endpoint.path, {})
        operations[endpoint.method.lower()] = _operation(endpoint, schema_of.get(endpoint.wire))
    for path, summary, query in _READS:
        parameters = [
            {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in query.items()
        ]
        paths[path] = {"get": _described(path, summary, "reads", parameters, {"application/json": _OBJECT}, _ERROR)}
    for path, summary in (("/health", "Whether the process answers."), ("/openapi.json", "This document.")):
        paths[path] = {"get": {"summary": summary, "security": [], "responses": {"200": _ok({_JSON: _OBJECT})}}}
    ready = {
        "200": _ok({_JSON: _OBJECT}),
        "503": {"description": "Not ready.", "content": {_JSON: {"schema": _OBJECT}}},
    }
    paths["/ready"] = {
        "get": {"summary": "Whether the gateway can serve requests.", "security": [], "responses": ready}
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "TrustGate", "version": __version__},
        "paths": paths,
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {**components, "Error": _ERROR_SCHEMA, "AnthropicError": _ANTHROPIC_ERROR_SCHEMA},
        },
    }


_JSON = "application/json"
_OBJECT = {"type": "object"}
_ERROR = {"$ref": "#/components/schemas/Error"}
_ANTHROPIC_ERROR = {"$ref": "#/components/schemas/AnthropicError"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
        }
    },
}
_ANTHROPIC_ERROR_SCHEMA = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}


def _operation(endpoint: Endpoint, schema: Any) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: _OBJECT}
    if endpoint.generates or "stream" in endpoint.wire.__struct_fields__ or endpoint.names == "response":
        content["text/event-stream"] = {}  # what an event holds is the upstream's to say
    if endpoint.answers == "any":
        content["*/*"] = {}
    error = _ANTHROPIC_ERROR if endpoint.dialect is ANTHROPIC else _ERROR
    operation = _described(endpoint.path, endpoint.summary, endpoint.name, [], content, error)
    if endpoint.body != "none":
        kind = _JSON if endpoint.body == "json" else "multipart/form-data"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    if endpoint.dialect is ANTHROPIC:
        operation["security"] = [{"bearer": []}, {"anthropic": []}]
    return operation


def _described(
    path: str, summary: str, tag: str, query: list[dict[str, Any]], content: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    refusals = {
        str(status): {"description": text, "content": {_JSON: {"schema": error}}} for status, text in _REFUSALS.items()
    }
    operation: dict[str, Any] = {"summary": summary, "tags": [tag], "responses": {"200": _ok(content), **refusals}}
    # Whatever else an upstream refuses with, in the same form.
    operation["responses"]["4XX"] = {"description": "The upstream refused.", "content": {_JSON: {"schema": error}}}
    if parameters or query:
        operation["parameters"] = [*parameters, *query]
    return operation


def _ok(content: dict[str, Any]) -> dict[str, Any]:
    return {"description": "Done.", "content": {kind: {"schema": schema} for kind, schema in content.items()}}


class OpenApi:
    """``GET /openapi.json``: no key needed."""

    def __init__(self) -> None:
        self._body = msgspec.json.encode(document())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"public, max-age=300")]
        await send_body(send, 200, headers, self._body)
