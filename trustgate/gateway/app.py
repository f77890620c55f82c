"""The public ASGI application: which path leads where, and OpenAI-shaped answers for those that lead nowhere.

Routing reads ``scope["path"]`` alone, never a URL built from the Host header.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from trustgate.errors import MethodNotAllowed, TrustGateError
from trustgate.gateway.api.aliases import Aliased, refusal_of
from trustgate.gateway.api.dialects import ANTHROPIC, OPENAI, is_anthropics
from trustgate.gateway.api.endpoints import ENDPOINTS, Endpoint
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.pipeline import Pipeline
from trustgate.gateway.path.responses_socket import ResponsesSockets
from trustgate.gateway.views.account import Reads
from trustgate.gateway.views.credit_webhooks import CreditWebhooks
from trustgate.gateway.views.credits import Credits
from trustgate.gateway.views.discovery import Discovery
from trustgate.gateway.views.health import Health
from trustgate.gateway.views.keys import TenantKeys
from trustgate.gateway.views.log import Transparency
from trustgate.gateway.views.openapi import OpenApi
from trustgate.gateway.views.page import Page
from trustgate.gateway.views.payments import Payments
from trustgate.gateway.views.statements import TenantStatements
from trustgate.gateway.views.storefront import Storefront
from trustgate.observe.metrics import Metrics

_SHOWN_PATH_CHARACTERS = 100
_MODEL = "/v1/models/{id}"
_RESPONSES = "/v1/responses"
#: Where a client may open a WebSocket.
WEBSOCKET_PATHS = frozenset(path.encode() for path in (_RESPONSES, "/responses", "/openai/v1/responses"))
#: As it is customary, and as it has been proposed.
_WELL_KNOWN = ("/.well-known/x402", "/.well-known/x402.json")
#: The response headers that pages may read.
_EXPOSED = (
    *("x-request-id", "x-trustgate-receipt", "retry-after", "x-should-retry"),
    *("payment-required", "payment-response", "x-payment-response"),
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)


class _ByMethod:
    """What one path serves, by method, as an ASGI application of its own: no request object is made for it."""

    def __init__(self, serve: Mapping[str, ASGIApp]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serve = self._serve.get(scope["method"])
        if serve is None:
            # Starlette lets HEAD pass where GET does.
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self._serve))})
        await serve(scope, receive, send)


class _Direct:
    """The endpoints whose path is fixed, without the router's search, which costs as much as the path's first steps."""

    def __init__(self, pipeline: Pipeline, by_path: dict[str, list[Endpoint]], others: ASGIApp) -> None:
        self._endpoints = {
            (path, endpoint.method): endpoint
            for path, endpoints in by_path.items()
            for endpoint in endpoints
            if "{" not in path
        }
        self._pipeline = pipeline
        self._others = others

    def serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application."""
        endpoint = self._endpoints.get((scope["path"], scope["method"])) if scope["type"] == "http" else None
        if endpoint is None:
            others = self._others
            return others(scope, receive, send)
        return self._pipeline.serve(endpoint, scope, receive, send)


class _Plain:
    def __init__(self, handler: object) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope, receive, send)  # type: ignore[operator]


class Views(NamedTuple):
    """What is read, not forwarded, and the pages."""

    reads: Reads
    credits: Credits
    payments: Payments
    statements: TenantStatements
    keys: TenantKeys
    health: Health
    log: Transparency
    metrics: Metrics
    page: Page
    storefront: Storefront
    webhooks: CreditWebhooks


def make_app(pipeline: Pipeline, views: Views, extra: Sequence[BaseRoute], cors_origins: Sequence[str]) -> ASGIApp:
    """Returns the application.

    Args:
        pipeline: serves the endpoints.
        views: serve the rest.
        extra: further routes.
        cors_origins: the origins whose web pages may call the gateway from a browser; by default none.
    """
    routes = [*make_routes(pipeline, views), *extra]
    starlette = Starlette(routes=routes, exception_handlers={HTTPException: _Refusing(views.reads)})
    # A redirect would be built from the Host header, and no client of an API follows one for a POST.
    starlette.router.redirect_slashes = False
    app = Aliased(starlette)
    if not cors_origins:
        return _Direct(pipeline, _by_path(), app).serve
    # Keys travel in headers that a page sets itself: never with credentials of the browser's own.
    return CORSMiddleware(
        app,
        allow_origins=cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=3600,
    )


def make_routes(pipeline: Pipeline, views: Views) -> list[BaseRoute]:
    """Returns what is served to the public; ``/openapi.json`` describes each of them."""
    endpoints = [
        _route(path, {endpoint.method: partial(pipeline.serve, endpoint) for endpoint in endpoints})
        for path, endpoints in _by_path().items()
        if path != _MODEL
    ]
    reads, keys, payments, statements, log = views.reads, views.keys, views.payments, views.statements, views.log
    balance = reads.app(views.credits.show)
    listed, shown = reads.app(keys.list), reads.app(keys.show)
    # A model's name may have slashes in it.
    model: dict[str, ASGIApp] = {"GET": reads.app(reads.model, takes_keyless=True)}
    model |= {each.method: partial(pipeline.serve, each) for each in ENDPOINTS if each.path == _MODEL}
    discovery = Discovery(views.storefront)
    responses = next(each for each in ENDPOINTS if each.path == _RESPONSES)
    return [
        *endpoints,
        WebSocketRoute(_RESPONSES, ResponsesSockets(pipeline, responses)),
        Route("/v1/models", reads.app(reads.models, takes_keyless=True), methods=["GET"]),
        _route("/v1/models/{id:path}", model),
        Route("/v1/account", reads.app(reads.account), methods=["GET"]),
        _route("/v1/keys", {"GET": listed, "HEAD": listed, "POST": _Plain(keys.create)}),
        _route(
            "/v1/keys/{key}",
            {"GET": shown, "HEAD": shown, "POST": _Plain(keys.change), "DELETE": _Plain(keys.revoke)},
        ),
        Route("/v1/usage", reads.app(reads.usage), methods=["GET"]),
        _route("/v1/credits", {"GET": balance, "HEAD": balance, "POST": _Plain(views.credits.top_up)}),
        Route("/v1/credit-webhooks/{form}", _Plain(views.webhooks), methods=["POST"]),
        Route("/v1/payments", reads.app(payments.list), methods=["GET"]),
        Route("/v1/payments/{payment}", reads.app(payments.show, takes_keyless=True), methods=["GET"]),
        Route("/v1/receipts", reads.app(reads.receipts), methods=["GET"]),
        Route("/v1/receipts/{receipt}", reads.app(reads.receipt, takes_keyless=True), methods=["GET"]),
        Route("/v1/receipts/{receipt}/proof", reads.app(reads.proof, takes_keyless=True), methods=["GET"]),
        Route("/v1/receipts/{receipt}/bundle", reads.app(reads.bundle, takes_keyless=True), methods=["GET"]),
        Route("/v1/statements", reads.app(statements.list), methods=["GET"]),
        Route("/v1/statements/{month}", reads.app(statements.show), methods=["GET"]),
        Route("/log/checkpoint", _Plain(log.checkpoint), methods=["GET"]),
        Route("/log/tile/{path:path}", _Plain(log.tile), methods=["GET"]),
        Route("/log/keys", _Plain(log.keys), methods=["GET"]),
        Route("/openapi.json", OpenApi(views.storefront), methods=["GET"]),
        *(Route(path, _Plain(discovery.well_known), methods=["GET"]) for path in _WELL_KNOWN),
        Route("/llms.txt", _Plain(discovery.llms), methods=["GET"]),
        Route("/health", _Plain(views.health.alive), methods=["GET"]),
        Route("/ready", _Plain(views.health.ready), methods=["GET"]),
        Route("/metrics", _Plain(views.metrics), methods=["GET"]),
        Route("/", _Plain(views.page), methods=["GET"]),
    ]


def _route(path: str, serve: Mapping[str, ASGIApp]) -> Route:
    """Returns one route for all methods of a path: two would each name its own alone as allowed."""
    return Route(path, _ByMethod(serve), methods=list(serve))


def _by_path() -> dict[str, list[Endpoint]]:
    found: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        found.setdefault(endpoint.path, []).append(endpoint)
    return found


class _Refusing:
    """Refuses what Starlette's router does: an unknown path, or a method that a path does not have."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def __call__(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for HTTPException alone"
        scope = request.scope
        path = scope["path"]
        shown = path[:_SHOWN_PATH_CHARACTERS]
        method = request.method[:_SHOWN_PATH_CHARACTERS]
        arrival = Arrival.of(scope)
        upgrade = arrival.headers.get(b"upgrade", b"")
        refusal: TrustGateError
        if error.status_code == 405 and not upgrade:
            refusal = MethodNotAllowed(f"Not allowed to {method} on {shown}.")
        else:
            refusal = refusal_of(method, path, upgrade)
        request_id = arrival.request_id.decode()
        self._reads.on_refusal(refusal, f"{method} {shown}", request_id)
        headers = {
            **(error.headers or {}),
            **refusal.headers,
            "content-type": "application/json",
            "x-request-id": request_id,
        }
        is_anthropic = path.startswith("/v1/messages") or is_anthropics(scope["headers"])
        dialect = ANTHROPIC if is_anthropic else OPENAI
        if dialect.id_header is not None:
            headers[dialect.id_header.decode()] = request_id
        return Response(dialect.body(refusal, request_id), refusal.status, headers)
