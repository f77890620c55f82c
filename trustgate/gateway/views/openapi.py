"""``/openapi.json``: the served routes as an OpenAPI 3.1 document, made from the table that serves them.

Owns the form. What a request may hold beyond the members that the gateway reads is the upstream's to say, so every
request's schema lets further members pass. What callers without a key can buy has a price (``x-payment-info``) and
needs no key. Sources: OpenAPI Specification 3.1.0; Agentcash Discovery specification 1.0, sections 6 to 8.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from trustgate import __version__
from trustgate.gateway.api.dialects import ANTHROPIC
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.views.storefront import OpenSale, Storefront
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
#: Those that a route which only reads what the gateway itself has can answer with.
_READ_REFUSALS = (400, 401, 404, 405, 503)

_JSON = "application/json"
_TEXT = "text/plain"
_OBJECT: dict[str, Any] = {"type": "object"}
_STRING: dict[str, Any] = {"type": "string"}
_LIMIT = {"limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}}
_AFTER = {"after": _STRING}
_DATE = {"type": "string", "format": "date"}
_GLOBS = {"type": "array", "items": _STRING}
_KEY_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": _STRING,
        "models": _GLOBS,
        "endpoints": _GLOBS,
        "features": _GLOBS,
        "expires_at": {"type": ["integer", "null"]},
        "limits": {"type": "object", "additionalProperties": {"type": ["integer", "number", "string", "null"]}},
    },
}
_KEY_REFUSALS = (400, 401, 403, 404, 405, 408, 409, 413, 503)


class _Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route beside the path: what the gateway answers itself."""

    path: str
    summary: str
    method: str = "get"
    tag: str = "reads"
    query: dict[str, dict[str, Any]] = {}
    #: The answer's content type.
    answers: str = _JSON
    body: dict[str, Any] | None = None
    needs_key: bool = True
    status: int = 200
    #: Statuses besides it, where they are not those of every reading route.
    refusals: tuple[int, ...] = _READ_REFUSALS


_ROUTES = (
    _Route(
        path="/v1/models",
        summary="List the models the caller may use, with their prices.",
        query={"available": {"enum": ["true", "false", "all"]}},
    ),
    _Route(path="/v1/models/{id}", summary="Retrieve a model, with its price."),
    _Route(path="/v1/account", summary="The caller's plan, and where its limits and budgets stand."),
    _Route(path="/v1/keys", tag="keys", summary="List the living keys of the caller's tenant."),
    _Route(
        path="/v1/keys",
        method="post",
        tag="keys",
        summary="Make a key where the plan allows it; the only answer with its secret.",
        status=201,
        body=_KEY_BODY,
        refusals=_KEY_REFUSALS,
    ),
    _Route(path="/v1/keys/{key}", tag="keys", summary="A key of the caller's tenant."),
    _Route(
        path="/v1/keys/{key}",
        method="post",
        tag="keys",
        summary="Change a key that the tenant has made.",
        body=_KEY_BODY,
        refusals=_KEY_REFUSALS,
    ),
    _Route(
        path="/v1/keys/{key}",
        method="delete",
        tag="keys",
        summary="Revoke a key that the tenant has made.",
        refusals=_KEY_REFUSALS,
    ),
    _Route(
        path="/v1/usage",
        summary="Usage of the caller's tenant.",
        query={"since": {"type": "string", "format": "date"}, "by": {"enum": ["day", "model", "key", "end_user"]}},
    ),
    _Route(path="/v1/credits", tag="payments", summary="The balance of the caller's tenant."),
    _Route(
        path="/v1/credits",
        method="post",
        tag="payments",
        summary="Pay into the balance that the tenant's requests draw on.",
        body={"type": "object", "properties": {"amount_usd": {"type": ["number", "string"]}}},
        refusals=(400, 401, 402, 403, 405, 408, 409, 413, 429, 503),
    ),
    _Route(
        path="/v1/credit-webhooks/{form}",
        method="post",
        tag="payments",
        summary="Signed events of a shop (stripe, standard) that add credit; 404 unless the operator takes them.",
        body=_OBJECT,
        needs_key=False,
        refusals=(400, 401, 404, 405, 408, 409, 413, 503),
    ),
    _Route(
        path="/v1/payments",
        tag="payments",
        summary="List the payments of the caller's tenant, the newest first.",
        query=_AFTER | _LIMIT,
    ),
    _Route(path="/v1/payments/{payment}", tag="payments", summary="How a payment of the caller's tenant stands."),
    _Route(
        path="/v1/receipts",
        tag="receipts",
        summary="List the receipts of the caller's tenant.",
        query=_AFTER
        | _LIMIT
        | {
            "order": {"enum": ["asc", "desc"], "default": "desc"},
            "model": _STRING,
            "key": _STRING,
            "status": {"enum": ["ok", "failed"]},
            "since": _DATE,
            "before": _DATE,
        },
    ),
    _Route(
        path="/v1/receipts/{receipt}",
        tag="receipts",
        summary="A receipt of the caller's tenant, with the secret that opens it.",
    ),
    _Route(
        path="/v1/receipts/{receipt}/proof",
        tag="receipts",
        summary="The proof that the log includes a receipt (C2SP tlog-proof).",
        answers=_TEXT,
    ),
    _Route(
        path="/v1/receipts/{receipt}/bundle",
        tag="receipts",
        summary="A receipt with its proof, checkpoint and anchor in one document that anybody can verify.",
    ),
    _Route(path="/v1/statements", tag="statements", summary="List the months of the caller's tenant."),
    _Route(
        path="/v1/statements/{month}",
        tag="statements",
        summary="The statement of a month (UTC, 2026-10) with the receipts and proofs of its sums.",
        query={"format": {"enum": ["json", "html", "csv"], "default": "json"}},
    ),
    _Route(
        path="/log/checkpoint",
        tag="log",
        summary="The log's signed size and root (C2SP tlog-checkpoint).",
        answers=_TEXT,
        needs_key=False,
        refusals=(405,),
    ),
    _Route(
        path="/log/tile/{path}",
        tag="log",
        summary="Hashes of the log (C2SP tlog-tiles): LEVEL/INDEX, or LEVEL/INDEX.p/WIDTH; INDEX may have slashes.",
        answers="application/octet-stream",
        needs_key=False,
        refusals=(404, 405),
    ),
    _Route(
        path="/log/keys",
        tag="log",
        summary="The log's name and verifier key, and those it had before.",
        needs_key=False,
        refusals=(405,),
    ),
    _Route(path="/health", tag="status", summary="Whether the process answers.", needs_key=False, refusals=(405,)),
    _Route(
        path="/ready",
        tag="status",
        summary="Whether the gateway can serve requests.",
        needs_key=False,
        refusals=(405, 503),
    ),
    _Route(
        path="/metrics",
        tag="status",
        summary="Counters in Prometheus' text format; the operator may require a token.",
        answers=_TEXT,
        needs_key=False,
        refusals=(401, 404, 405),
    ),
    _Route(path="/openapi.json", tag="discovery", summary="This document.", needs_key=False, refusals=(405,)),
    *(
        _Route(
            path=path,
            tag="discovery",
            summary="What is sold to callers without a key, and how it is paid (x402); 404 while nothing is.",
            needs_key=False,
            refusals=(404, 405),
        )
        for path in ("/.well-known/x402", "/.well-known/x402.json")
    ),
    _Route(
        path="/llms.txt",
        tag="discovery",
        summary="How to use this gateway, for readers of text.",
        answers=_TEXT,
        needs_key=False,
        refusals=(405,),
    ),
    _Route(
        path="/",
        tag="status",
        summary="The page for people; the operator may switch it off.",
        answers="text/html",
        needs_key=False,
        refusals=(404, 405),
    ),
)


def document(url: str = "", sale: OpenSale | None = None) -> dict[str, Any]:
    """Returns the document. It is the same for everybody: no plan, no tenant and no upstream shows in it.

    Args:
        url: What clients call the gateway; "" leaves the servers out.
        sale: What is sold to callers without a key; None: nothing.
    """
    wires = list(dict.fromkeys(endpoint.wire for endpoint in ENDPOINTS if endpoint.body != "none"))
    schemas, components = msgspec.json.schema_components(wires, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(wires, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operations = paths.setdefault(endpoint.path, {})
        operations[endpoint.method.lower()] = _operation(endpoint, schema_of.get(endpoint.wire))
    for route in _ROUTES:
        paths.setdefault(route.path, {})[route.method] = _own(route)
    for item in sale.items if sale is not None else ():
        paths[item.endpoint.path][item.endpoint.method.lower()] |= {
            "security": [{}, {"bearer": []}],
            "x-payment-info": {"price": item.price, "protocols": [{"x402": {}}]},
        }
    if sale is not None:
        # Where something is sold, what it is and what became of it can be read without a key.
        for path in _READ_KEYLESS:
            paths[path]["get"]["security"] = [{}, {"bearer": []}]
    published: dict[str, Any] = {"servers": [{"url": url}]} if url else {}
    if url:
        published["x-agentcash-guidance"] = {"llmsTxtUrl": f"{url}/llms.txt"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TrustGate",
            "version": __version__,
            "description": "An OpenAI-compatible gateway that writes a receipt for every request.",
        },
        **published,
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


#: What callers without a key may read, by id or whole, where something is sold to them (gateway.app).
_READ_KEYLESS = (
    *("/v1/models", "/v1/models/{id}", "/v1/payments/{payment}"),
    *("/v1/receipts/{receipt}", "/v1/receipts/{receipt}/proof", "/v1/receipts/{receipt}/bundle"),
)

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
    """Returns the operation of a route of the path."""
    content: dict[str, Any] = {_JSON: _OBJECT}
    if endpoint.generates or "stream" in endpoint.wire.__struct_fields__ or endpoint.names == "response":
        content["text/event-stream"] = {}  # what an event holds is the upstream's to say
    if endpoint.answers == "any":
        content["*/*"] = {}
    query = {"model": _STRING} if endpoint.body == "none" and endpoint.has_model else {}
    error = _ANTHROPIC_ERROR if endpoint.dialect is ANTHROPIC else _ERROR
    operation = _described(endpoint.path, endpoint.method, endpoint.summary, endpoint.name, query, content)
    operation["responses"] |= _refusals(tuple(_REFUSALS), error)
    # Whatever else an upstream refuses with, in the same form.
    operation["responses"]["4XX"] = {"description": "The upstream refused.", "content": {_JSON: {"schema": error}}}
    if endpoint.body != "none":
        kind = _JSON if endpoint.body == "json" else "multipart/form-data"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    if endpoint.dialect is ANTHROPIC:
        operation["security"] = [{"bearer": []}, {"anthropic": []}]
    return operation


def _own(route: _Route) -> dict[str, Any]:
    """Returns the operation of a route that the gateway answers itself."""
    schema = _OBJECT if route.answers == _JSON else _STRING if route.answers.startswith("text/") else {}
    operation = _described(route.path, route.method, route.summary, route.tag, route.query, {route.answers: schema})
    operation["responses"] = {str(route.status): operation["responses"]["200"]} | _refusals(route.refusals, _ERROR)
    if route.body is not None:
        operation["requestBody"] = {"required": False, "content": {_JSON: {"schema": route.body}}}
    if not route.needs_key:
        operation["security"] = []
    return operation


def _described(
    path: str,
    method: str,
    summary: str,
    tag: str,
    query: dict[str, dict[str, Any]],
    content: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    parts = [part for part in path.split("/") if part]
    names = [part[1:-1] for part in parts if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _STRING} for name in names
    ]
    parameters += [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in query.items()]
    words = [part.strip("{}").replace(".", "_") for part in parts] or ["page"]
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": summary,
        "tags": [tag],
        "responses": {"200": _ok(content)},
    }
    if parameters:
        operation["parameters"] = parameters
    return operation


def _refusals(statuses: tuple[int, ...], error: dict[str, Any]) -> dict[str, Any]:
    return {
        str(status): {
            "description": _REFUSALS.get(status, "The payment was used for another request."),
            "content": {_JSON: {"schema": error}},
        }
        for status in statuses
    }


def _ok(content: dict[str, Any]) -> dict[str, Any]:
    return {"description": "Done.", "content": {kind: {"schema": schema} for kind, schema in content.items()}}


class OpenApi:
    """``GET /openapi.json``: no key needed."""

    def __init__(self, storefront: Storefront) -> None:
        self._storefront = storefront
        #: What was described last, and the sale in it. Half a megabyte: made when it is asked for.
        self._made: tuple[OpenSale | None, bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sale = self._storefront.sale()
        if self._made is None or self._made[0] is not sale:
            # In a thread: it takes some 20 ms.
            self._made = sale, await asyncio.to_thread(self._describe, sale)
        body = self._made[1]
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"public, max-age=60")]
        await send_body(send, 200, headers, body)

    def _describe(self, sale: OpenSale | None) -> bytes:
        return msgspec.json.encode(document(self._storefront.public_url, sale))
