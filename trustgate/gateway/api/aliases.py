"""Other paths of the endpoints: without ``/v1``, in Azure's form, with a slash at the end; and what is not served.

Owns what a client may have meant by a path: those that mean one thing are served as that; for others the error names
the path that there is. Sources: Azure OpenAI REST API reference (``/openai/deployments/{deployment-id}/…``,
``/openai/v1/…``); LiteLLM proxy (paths without ``/v1``).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from trustgate.errors import InvalidRequest, NotFound, PermissionDenied, TrustGateError, UpgradeRequired
from trustgate.gateway.api.endpoints import ENDPOINTS

#: In a request's scope: the model that its path names.
MODEL_IN_PATH = "trustgate.model"

_SHOWN_PATH_CHARACTERS = 100
_OWN = ("/v1/models", "/v1/models/{id}", "/v1/usage", "/v1/receipts", "/v1/credits")
_TEMPLATES = tuple(dict.fromkeys((*(endpoint.path for endpoint in ENDPOINTS), *_OWN)))
_KNOWN = re.compile("|".join(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) for path in _TEMPLATES))
#: What the paths below ``/v1`` begin with.
_ROOTS = frozenset(path.split("/")[2] for path in _TEMPLATES if path.startswith("/v1/"))
_DEPLOYMENTS = "/openai/deployments/"
_SEGMENTS_MOST = 12
_REALTIME = ("/v1/realtime", "/v1/chatkit")
_OPERATORS = re.compile(r"/v1/(organization|projects|fine_tuning/checkpoints)(/|$)")


class MeantPath(NamedTuple):
    """What a path stands for: the endpoint's own path, and the model that it names."""

    path: str
    model: str = ""


def alias_of(path: str) -> MeantPath | None:
    """Returns what a path stands for that is none of the gateway's own; None where it is its own, or means nothing."""
    if path.startswith(_DEPLOYMENTS):
        return _of_deployment(path.removeprefix(_DEPLOYMENTS))
    if path.startswith("/openai/v1/"):
        return MeantPath(_without_slash(path.removeprefix("/openai")))
    if path.startswith("/openai/"):
        return MeantPath(_without_slash("/v1" + path.removeprefix("/openai")))
    root = path.split("/", 2)[1] if path.startswith("/") else ""
    if root in _ROOTS:
        plain = _without_slash("/v1" + path)
        return MeantPath(plain) if _KNOWN.fullmatch(plain) or root == "models" else None
    plain = _without_slash(path)
    return MeantPath(plain) if plain != path and _KNOWN.fullmatch(plain) else None


def _of_deployment(path: str) -> MeantPath | None:
    """Returns what a path in Azure's form stands for. A model's name may have slashes: up to a path that is served."""
    parts = path.split("/")
    if not parts[0]:
        return None
    for end in range(1, min(len(parts), _SEGMENTS_MOST)):
        meant = _without_slash("/v1/" + "/".join(parts[end:]))
        if _KNOWN.fullmatch(meant):
            return MeantPath(meant, "/".join(parts[:end]))
    # Refused, as the path that it would be.
    return MeantPath(_without_slash("/v1/" + "/".join(parts[1:])), parts[0]) if len(parts) > 1 else None


def _without_slash(path: str) -> str:
    # A model's name may end with one: GET /v1/models/{id}.
    return path if path.startswith("/v1/models/") else path.rstrip("/")


class Aliased:
    """An ASGI application that serves the aliases of another's paths as these."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        alias = alias_of(scope["path"]) if scope["type"] in ("http", "websocket") else None
        if alias is not None:
            parts = scope["query_string"].split(b"&")
            query = b"&".join(part for part in parts if not part.startswith(b"api-version="))
            scope = {**scope, "path": alias.path, "raw_path": alias.path.encode(), "query_string": query}
            if alias.model:
                scope[MODEL_IN_PATH] = alias.model
        await self._app(scope, receive, send)


def refusal_of(method: str, path: str, upgrade: bytes) -> TrustGateError:
    """Returns the error for a path that is not served: what to do instead, where that is known."""
    shown = path[:_SHOWN_PATH_CHARACTERS]
    if upgrade.lower() == b"websocket":
        return UpgradeRequired(
            f"WebSockets are served on /v1/responses alone, not on {shown}: send the request over HTTP, with "
            "stream: true for events.",
            headers={"upgrade": "HTTP/1.1", "connection": "upgrade"},
        )
    if _OPERATORS.match(path):
        return PermissionDenied(
            f"{shown} is the operator's: tenants, keys and usage are managed here with the command trustgate.",
            code="operators_only",
        )
    if path.startswith(_REALTIME):
        return InvalidRequest(
            f"{shown} is not served: the use of such a session could not be metered. "
            "Use /v1/responses or /v1/chat/completions.",
            code="not_served",
        )
    meant = _meant(path)
    advice = ""
    if meant is not None:
        advice = f" There is {meant}: set the client's base URL to this server's address with /v1 at its end, once."
    return NotFound(f"Unknown request URL: {method} {shown}.{advice}", code="unknown_url")


def _meant(path: str) -> str | None:
    """Returns the endpoint's path that ends a path with too much before it (``/v1/v1/…``, ``/api/v1/…``)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > _SEGMENTS_MOST:
        return None
    for start in range(len(parts)):
        meant = "/v1/" + "/".join(parts[start:])
        if _KNOWN.fullmatch(meant):
            return meant[:_SHOWN_PATH_CHARACTERS]
    return None
