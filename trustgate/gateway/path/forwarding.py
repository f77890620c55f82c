"""The request that goes upstream: which headers travel on, and the body as each target wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from trustgate import __version__
from trustgate.gateway.api.call import Call
from trustgate.gateway.api.dialects import ANTHROPIC
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.api.large_body import DIRECT_BYTES, LargeBody
from trustgate.gateway.api.members import BOUNDS
from trustgate.gateway.api.uploads import Payload, Upload
from trustgate.gateway.path.accounting import Request
from trustgate.gateway.path.arrival import Arrival
from trustgate.gateway.path.json_edit import outgoing
from trustgate.gateway.path.large_answer import take_apart
from trustgate.gateway.path.profiling import capped_defaults
from trustgate.models.upstream.client import Outgoing
from trustgate.models.upstream.targets import Target
from trustgate.models.upstream.to_events import Form
from trustgate.observe.traces import Tracing

#: What travels from the client to the upstream besides the body. The credential never does.
_FORWARDED = (b"accept", b"openai-beta", b"idempotency-key", b"accept-language")
_ANTHROPIC_FORWARDED = (b"anthropic-version", b"anthropic-beta")
#: Anthropic's servers answer nothing without a version; this is the one that every SDK sends.
ANTHROPIC_VERSION = "2023-06-01"


#: The API whose documents and streams an endpoint's answers are in.
_FORMS: dict[str, Form] = {
    "chat.completions": "chat",
    "completions": "completion",
    "responses": "response",
    "messages": "message",
}
#: What is no answer without a byte; a recording may hold no words.
_NEVER_EMPTY = frozenset({"audio.speech"})


class _Body(msgspec.Struct, frozen=True, eq=False):
    """A request's body, as each target wants it."""

    request: Request
    #: As the caller's profile has it.
    body: Payload
    #: The same, where it goes as it came to a target that calls the model as the client does and adds nothing.
    plain: Payload | None
    #: The most that one completion may get, in tokens, where it is sent along.
    bounded: int | None
    #: The stream's usage is asked for, since the client did not.
    asks_usage: bool

    def of_target(self, target: Target) -> bytes | tuple[bytes, ...] | AsyncIterator[bytes]:
        plain = self.plain
        if (
            isinstance(plain, bytes)
            and target.model == self.request.call.model
            and not target.passport.default_parameters
        ):
            return plain
        return self._changed(target)

    def _changed(self, target: Target) -> bytes | tuple[bytes, ...] | AsyncIterator[bytes]:
        """As ``of_target``, of one in which something may change."""
        endpoint, caller, call = self.request.endpoint, self.request.caller, self.request.call
        body, bounded = self.body, self.bounded
        if isinstance(body, Upload):
            return body.outgoing(target.model if endpoint.has_model else "")
        if endpoint.body == "none":
            return b""
        merges: dict[str, dict[str, Any]] = {}
        lowered: dict[str, Any] = {}
        defaults = dict(target.passport.default_parameters) if endpoint.takes_defaults else {}
        if caller.profile is not None and defaults:
            defaults = capped_defaults(caller.profile.rules, defaults)
        if bounded is not None:
            _lower(call, endpoint, bounded, lowered, merges)
            if not endpoint.is_bounded_by(call.bounds):
                _bound_by_default(defaults, _max_tokens_member(endpoint, target), bounded)
        if self.asks_usage and target.takes_stream_options:
            merges["stream_options"] = {"include_usage": True}
        # A resource's call may name no model.
        sets_model = endpoint.has_model and (target.model or not endpoint.is_unmetered)
        is_as_read = endpoint.is_model_named and target.model == call.model and not (lowered or defaults or merges)
        if is_as_read and isinstance(body, bytes):
            return body  # nothing in it changes
        changes = {"model": target.model, **lowered} if sets_model else lowered
        if isinstance(body, LargeBody):
            return body.restored(outgoing(body.skeleton, changes, defaults, merges))
        return outgoing(body, changes, defaults, merges)


class Forwarding:
    def __init__(self, further_headers: Iterable[str], tracing: Tracing | None) -> None:
        """``tracing``: where it is given and ``traceparent`` travels on, it names this gateway's span as the parent."""
        named = (*_FORWARDED, *(name.lower().encode() for name in further_headers))
        #: Each once, without the request's id, which is sent in any case.
        self._forwarded = tuple(name for name in dict.fromkeys(named) if name != b"x-request-id")
        self._tracing = tracing if b"traceparent" in self._forwarded else None
        #: What is the same for every request of an endpoint, by its identity: to hash one costs more than the rest.
        self._known: dict[int, tuple[Endpoint, Outgoing]] = {}

    def outgoing(
        self, request: Request, path: str, bound: int | None, headers: Sequence[tuple[str, str, str]] = ()
    ) -> Outgoing:
        """Returns the request for the targets of a call.

        Args:
            request: the client's.
            path: below a target's base URL, with its query.
            bound: the most that one completion may get, in tokens, where the caller is held to that; it is sent along.
            headers: further ones, in place of the client's of the same names: name, value, and the provider whose
                servers alone get it ("": all).
        """
        arrival, endpoint, caller, call = request.arrival, request.endpoint, request.caller, request.call
        body = request.body if request.sent is None else request.sent
        asks_usage = call.stream and endpoint.asks_usage and not call.include_usage
        bounded = bound if endpoint.generates else None
        is_bytes = isinstance(body, bytes)
        plain = body if is_bytes and endpoint.is_model_named and not asks_usage and bounded is None else None
        kept = self._of_head(endpoint, arrival, body)
        request_id = arrival.request_id.decode()
        own: tuple[tuple[str, str], ...] = ()
        if headers:
            own = (*kept.headers, ("x-request-id", request_id))  # which a profile may set to something else
            kept, request_id = replace(kept, headers=_for_provider("", own, headers)), ""
        made = replace(
            kept,
            path=path,
            request_id=request_id,
            is_ordinary=is_bytes and not (headers or endpoint.at_root),
            body_for=_Body(request, body, plain, bounded, asks_usage).of_target,
            caller=caller.tenant.id,
            model=call.model,
            prompt_tokens=call.prompt_tokens,
            stream=call.stream,
            asks_usage=asks_usage,
        )
        if headers and any(provider for _, _, provider in headers):
            made = replace(made, headers_for=lambda target: _for_provider(target.passport.provider, own, headers))
        if isinstance(body, Upload):
            return replace(made, fault=lambda: body.fault, length_for=_length_for(arrival, body, endpoint))
        return made

    def _of_endpoint(self, endpoint: Endpoint) -> Outgoing:
        known = self._known.get(id(endpoint))
        if known is None:
            known = self._known[id(endpoint)] = endpoint, _outgoing_of(endpoint)
        return known[1]

    def _of_head(self, endpoint: Endpoint, arrival: Arrival, body: Payload) -> Outgoing:
        """Returns what is the same for every request of an endpoint with this head.

        What was made before, where the request's head is the same object as an earlier one's.
        """
        head = arrival.head
        if head is None or self._tracing is not None or isinstance(body, Upload):
            return replace(self._of_endpoint(endpoint), headers=self._headers(endpoint, arrival, body))
        kept = head.forwarded
        if kept is not None and kept[0] is self:
            of_endpoint, outgoing_of_head = kept[1]
            if of_endpoint is endpoint:
                found: Outgoing = outgoing_of_head
                return found
        made = replace(self._of_endpoint(endpoint), headers=self._headers(endpoint, arrival, body))
        head.forwarded = self, (endpoint, made)
        return made

    def _headers(self, endpoint: Endpoint, arrival: Arrival, body: Payload) -> tuple[tuple[str, str], ...]:
        """Returns the headers of a request without its id."""
        headers = [("accept-encoding", "identity")]
        if b"user-agent" not in self._forwarded or b"user-agent" not in arrival.headers:
            headers.append(("user-agent", f"trustgate/{__version__}"))
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
                if value is not None and name not in self._forwarded:
                    headers.append((name.decode(), value.decode("latin-1")))
            if b"anthropic-version" not in arrival.headers:
                headers.append(("anthropic-version", ANTHROPIC_VERSION))
        return tuple(headers)


def _outgoing_of(endpoint: Endpoint) -> Outgoing:
    """Returns what is the same for every request of an endpoint."""
    return Outgoing(
        method=endpoint.method,
        path=endpoint.upstream_path,
        at_root=endpoint.at_root,
        headers=(),
        body_for=_nothing_for,
        retries=endpoint.retries,
        form=_FORMS.get(endpoint.name, "") if endpoint.generates else "",
        takes_any=endpoint.answers == "any",
        may_be_empty=endpoint.name not in _NEVER_EMPTY,
        is_look=not endpoint.has_model or endpoint.is_unmetered,
        meter=endpoint.meter,
        take_apart=partial(take_apart, drops_vectors=not endpoint.generates),
        plain_bytes=DIRECT_BYTES,
        stream_meter=endpoint.dialect.meter,
        anthropic=endpoint.dialect is ANTHROPIC,
    )


def _nothing_for(target: Target) -> bytes:
    return b""


def _for_provider(
    provider: str, own: tuple[tuple[str, str], ...], further: Sequence[tuple[str, str, str]]
) -> tuple[tuple[str, str], ...]:
    """Returns the headers for the servers of one provider ("": for any)."""
    return _with(own, [(name, value) for name, value, whose in further if whose in ("", provider.lower())])


def _with(own: tuple[tuple[str, str], ...], further: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    named = dict(further)
    return (*(header for header in own if header[0] not in named), *named.items()) if named else own


def _length_for(arrival: Arrival, body: Payload, endpoint: Endpoint) -> Any:
    """Returns the length of a form that still arrives, by target, where it is known: not every server takes chunks."""
    declared = arrival.headers.get(b"content-length")
    if not isinstance(body, Upload) or body.is_whole or declared is None:
        return None
    return lambda target: int(declared) + body.growth(target.model if endpoint.has_model else "")


def _lower(
    call: Call, endpoint: Endpoint, bound: int, changes: dict[str, Any], merges: dict[str, dict[str, Any]]
) -> None:
    """Set every bound in the body that is above ``bound``, or means "no bound", to it."""
    for name, value in call.bounds:
        if not endpoint.keeps_bound(value, bound):
            outer, dot, inner = name.partition(".")
            if dot:
                merges.setdefault(outer, {})[inner] = bound
            else:
                changes[name] = bound


def _bound_by_default(defaults: dict[str, Any], member: str, bound: int) -> None:
    """Add a bound to a passport's default parameters: under the name that the passport uses, or ``member``."""
    names = [name for name in defaults if name in BOUNDS] or [member]
    for name in names:
        value = defaults.get(name)
        defaults[name] = min(value, bound) if isinstance(value, int) and value > 0 else bound


def _max_tokens_member(endpoint: Endpoint, target: Target) -> str:
    """OpenAI's own newer models refuse ``max_tokens``; most other servers know nothing else."""
    base_url = target.upstream.base_url
    if endpoint.openai_max_tokens_member and ("api.openai.com" in base_url or ".openai.azure.com" in base_url):
        return endpoint.openai_max_tokens_member
    return endpoint.max_tokens_member
