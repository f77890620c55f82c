"""The request that goes upstream: which headers travel on, and the body as each target wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from trustgate import __version__
from trustgate.gateway.api.dialects import ANTHROPIC
from trustgate.gateway.api.endpoints import Call, Endpoint
from trustgate.gateway.api.uploads import Payload, Upload
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.json_edit import outgoing
from trustgate.models.upstream.client import Outgoing
from trustgate.models.upstream.targets import Target
from trustgate.observe.traces import Tracing

#: What travels from the client to the upstream besides the body. The credential never does.
_FORWARDED = (b"accept", b"openai-beta", b"idempotency-key", b"accept-language")
_ANTHROPIC_FORWARDED = (b"anthropic-version", b"anthropic-beta")
#: Anthropic's servers answer nothing without a version; this is the one that every SDK sends.
_ANTHROPIC_VERSION = "2023-06-01"


class Forwarding:
    def __init__(self, further_headers: Iterable[str], tracing: Tracing | None = None) -> None:
        """``tracing``: where it is given and ``traceparent`` travels on, it names this gateway's span as the parent."""
        self._forwarded = (*_FORWARDED, *(name.lower().encode() for name in further_headers))
        self._tracing = tracing if b"traceparent" in self._forwarded else None

    def outgoing(
        self, endpoint: Endpoint, arrival: Arrival, call: Call, body: Payload, path: str, cap: int | None
    ) -> Outgoing:
        """The request for the targets of a call. ``cap``: the plan's bound on a completion, tokens."""
        merges: dict[str, dict[str, Any]] = {}
        if endpoint.asks_usage and call.stream and not call.include_usage:
            merges["stream_options"] = {"include_usage": True}
        sets_cap = endpoint.generates and call.max_tokens is None and cap is not None

        def body_for(target: Target) -> bytes | AsyncIterator[bytes]:
            if isinstance(body, Upload):
                return body.outgoing(target.model)
            if endpoint.body == "none":
                return b""
            defaults = dict(target.passport.default_parameters) if endpoint.takes_defaults else {}
            if sets_cap:
                defaults[_max_tokens_member(endpoint, target)] = cap
            return outgoing(body, {"model": target.model} if endpoint.has_model else {}, defaults, merges)

        return Outgoing(
            method=endpoint.method,
            path=path,
            headers=self._headers(endpoint, arrival, body),
            body_for=body_for,
            retries=endpoint.retries,
            takes_any=endpoint.answers == "any",
            anthropic=endpoint.dialect is ANTHROPIC,
            fault=(lambda: body.fault) if isinstance(body, Upload) else None,
            length_for=_length_for(arrival, body),
        )

    def _headers(self, endpoint: Endpoint, arrival: Arrival, body: Payload) -> list[tuple[str, str]]:
        headers = [
            ("accept-encoding", "identity"),
            ("user-agent", f"trustgate/{__version__}"),
            ("x-request-id", arrival.request_id.decode()),
        ]
        if isinstance(body, Upload):
            headers.append(("content-type", body.content_type.decode("latin-1")))
        elif endpoint.body == "json":
            headers.append(("content-type", "application/json"))
        for name in self._forwarded:
            value = arrival.headers.get(name)
            if value is not None:
                headers.append((name.decode(), value.decode("latin-1")))
        if self._tracing is not None:
            context = self._tracing.context(arrival.headers, arrival.receipt_id)
            headers = [header for header in headers if header[0] != "traceparent"]
            headers.append(("traceparent", context.traceparent()))
        if endpoint.dialect is ANTHROPIC:
            for name in _ANTHROPIC_FORWARDED:
                value = arrival.headers.get(name)
                if value is not None:
                    headers.append((name.decode(), value.decode("latin-1")))
            if b"anthropic-version" not in arrival.headers:
                headers.append(("anthropic-version", _ANTHROPIC_VERSION))
        return headers


def _length_for(arrival: Arrival, body: Payload) -> Any:
    """How to tell the length of a form that still arrives, where its client told it: not every server takes chunks."""
    declared = arrival.headers.get(b"content-length")
    if not isinstance(body, Upload) or body.is_whole or declared is None:
        return None
    return lambda target: int(declared) + body.growth(target.model)


def _max_tokens_member(endpoint: Endpoint, target: Target) -> str:
    """OpenAI's own newer models refuse ``max_tokens``; most other servers know nothing else."""
    if endpoint.openai_max_tokens_member and "api.openai.com" in target.upstream.base_url:
        return endpoint.openai_max_tokens_member
    return endpoint.max_tokens_member
