"""Refusing at the door: what would be refused for want of room anyway, before anything is begun for it.

A request that comes while its tenant has its share of the gateway is refused by the path's second step. Under overload
most requests are, and what each costs until then (a task, its place among requests that wait to start) is taken from
those that are served. Here the same decision is made from the head alone, in some tens of microseconds.

Owns which requests are judged so: those of the path's own endpoints, of callers whose key is known. Health checks,
metrics and operators' routes never are, and neither is a request with ``origin`` where web pages may call: its refusal
needs the headers of CORS. A tenant that has room goes the whole path, so tenants are treated as they are there.

Requests that were let through are on their way until they take their place in the path (``begun``), a turn of the event
loop later or more, and count as if they had it: all that come together would find the same room otherwise.

A head is read once: a connection gives the same one again where its client sends the same fields again. Whether its key
is good, and whether there is room, is checked each time. Of a refusal all is made before but its ids and its date.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from trustgate.access.directory import Directory
from trustgate.access.keys import hash_secret
from trustgate.errors import AuthenticationFailed, TrustGateError
from trustgate.gateway.api.endpoints import Endpoint
from trustgate.gateway.path.arrival import Arrival, own_request_id, token_in
from trustgate.gateway.path.delivery import OnEnd, RequestOutcome
from trustgate.gateway.path.inflight import InFlight, NoRoom, no_room
from trustgate.http.exchange import whole_answer
from trustgate.http.parser import RequestHead
from trustgate.http.refusals import Refusal
from trustgate.ids import now_us

_REASONS: tuple[NoRoom, ...] = ("draining", "full", "share")


class _Noted(NamedTuple):
    """What is known of a request from its head."""

    endpoint: Endpoint
    token: bytes
    #: SHA-256 of the token.
    digest: bytes
    headers: dict[bytes, bytes]
    #: Its own request id, where that is sane.
    request_id: bytes
    #: The endpoint's refusals by their reason, made as far as they can be; see ``_template``.
    templates: dict[NoRoom, bytes | None]


class Shedding:
    """Judges requests by their head; see the module."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        directory: Directory,
        running: InFlight,
        on_end: OnEnd,
        *,
        count: Callable[[TrustGateError], bool],
        trusts_id: Callable[[], bool],
        has_cors: bool,
    ) -> None:
        """
        Args:
            endpoints: of the path; those whose path is fixed are judged.
            count: counts a refusal, and returns whether nothing else needs it.
            on_end: is called for each request that is refused here, unless ``count`` was enough.
            trusts_id: whether a client's own request id is kept, as the settings have it now.
            has_cors: web pages may call.
        """
        self._endpoints: dict[tuple[str, bytes], Endpoint] = {
            (endpoint.method, endpoint.path.encode()): endpoint for endpoint in endpoints if "{" not in endpoint.path
        }
        self._directory = directory
        self._running = running
        self._on_end = on_end
        self._count = count
        self._trusts_id = trusts_id
        self._has_cors = has_cors
        #: How many requests are on their way, in all and, of those that were looked at, by tenant.
        self._coming = 0
        self._coming_of: dict[str, int] = {}
        self._templates: dict[str, dict[NoRoom, bytes | None]] = {}
        #: No record has the id of a request that is refused here: numbers do, from a random one on.
        self._number = int.from_bytes(os.urandom(9))

    def judge(self, head: RequestHead, queue: Collection[str] = ()) -> NoRoom:
        """Returns why a request has no room; "": it is let through, and ``begun`` is called then.

        ``queue``: the tenants with requests that wait; another one of theirs has no room before those.
        """
        tenant_id = head.judged_as or ""
        if queue or not self._running.shares.has_room_for_all(self._coming):
            noted = head.noted
            if noted is None:
                noted = head.noted = self._note(head)
            if not noted:
                return ""
            try:
                tenant_id = self._directory.authenticate(noted.token, now_us(), noted.digest).tenant.id
            except AuthenticationFailed:
                return ""
            reason = self._running.why_not(tenant_id, self._coming, self._coming_of.get(tenant_id, 0))
            if not reason and tenant_id in queue:
                reason = "share"
            if reason:
                head.judged_as = tenant_id
                return reason
        if tenant_id:
            self._coming_of[tenant_id] = self._coming_of.get(tenant_id, 0) + 1
        self._coming += 1
        head.passed = tenant_id
        return ""

    def waits_for(self, head: RequestHead, reason: NoRoom) -> str | None:
        """Returns the tenant for whose room a request waits that was judged; None: no room will come."""
        return None if reason == "draining" else head.judged_as

    def has_room(self, tenant_id: str) -> bool:
        """Returns whether one more request of the tenant is let through."""
        return self._running.has_room(tenant_id, self._coming, self._coming_of.get(tenant_id, 0))

    def on_room(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever there may be more room than before."""
        self._running.on_room.append(call)

    def off_room(self, call: Callable[[], None]) -> None:
        """Have it called no more."""
        self._running.on_room.remove(call)

    def begun(self, head: RequestHead) -> None:
        """Note that a request which was let through has begun, or that its client has gone before."""
        tenant_id, head.passed = head.passed, None
        if tenant_id is None:
            return
        self._coming -= 1
        if tenant_id:
            left = self._coming_of[tenant_id] - 1
            if left:
                self._coming_of[tenant_id] = left
            else:
                del self._coming_of[tenant_id]
        if self._running.on_room:
            self._running.room_came()  # it may not take its place: its key is no good, or its client has gone

    def _note(self, head: RequestHead) -> _Noted | tuple[()]:
        """Returns what is known from a head; an empty tuple where its request goes the whole path."""
        endpoint = self._endpoints.get((head.method, head.path))
        headers = dict(head.headers)
        if endpoint is None or len(headers) != len(head.headers) or (self._has_cors and b"origin" in headers):
            return ()
        try:
            token = token_in(headers)
        except AuthenticationFailed:
            return ()
        templates = self._templates.setdefault(endpoint.name, {})
        return _Noted(endpoint, token, hash_secret(token), headers, own_request_id(headers), templates)

    def refusal(self, head: RequestHead, reason: NoRoom) -> Refusal:
        """Returns the answer to a request that has no room, which is counted and logged."""
        noted = head.noted
        request_id = self._end(noted, reason)
        return (
            _ERRORS[reason].status,
            [*_FIELDS[reason], (b"x-request-id", request_id)],
            noted.endpoint.dialect.body(_ERRORS[reason], request_id.decode()),
        )

    def answer(self, head: RequestHead, reason: NoRoom, date: bytes) -> bytes:
        """As ``refusal``: the bytes of the answer, on a connection of HTTP/1.1 that goes on."""
        noted: _Noted = head.noted
        template = noted.templates.get(reason)
        if template is None:
            if reason in noted.templates:
                return whole_answer(*self.refusal(head, reason), date)
            template = noted.templates[reason] = _template(noted.endpoint, reason)
            return self.answer(head, reason, date)
        return template % (self._end(noted, reason), date)

    def _end(self, noted: _Noted, reason: NoRoom) -> bytes:
        """Count and log a refusal. Returns the request's id."""
        error = _ERRORS[reason]
        own_id = noted.request_id if noted.request_id and self._trusts_id() else b""
        if self._count(error):
            if own_id:
                return own_id
            self._number += 1
            return b"req_%012x%020x" % (now_us() // 1000, self._number)
        arrival = Arrival.with_headers(noted.headers, trusts_id=bool(own_id))
        self._on_end(RequestOutcome(noted.endpoint, arrival, None, None, error))
        return arrival.request_id


#: By the reason: the error, which is shown and never raised, and the fields of its answer.
_ERRORS = {reason: no_room(reason) for reason in _REASONS}
_FIELDS = {
    reason: [
        (b"content-type", b"application/json"),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    for reason, error in _ERRORS.items()
}


def _template(endpoint: Endpoint, reason: NoRoom) -> bytes | None:
    """Returns a refusal but for its request id and its date; None where its body holds the id too."""
    error, dialect = _ERRORS[reason], endpoint.dialect
    body = dialect.body(error, "")
    if body != dialect.body(error, "x"):
        return None
    answer = whole_answer(error.status, [*_FIELDS[reason], (b"x-request-id", b"{id}")], body, b"{date}")
    return answer.replace(b"%", b"%%").replace(b"{id}", b"%b", 1).replace(b"{date}", b"%b", 1)
